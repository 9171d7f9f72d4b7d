// A slider divides two pictures in one place: left of it is the one before, right of it the one after.

document.addEventListener("input", ({ target }) => {
  if (target.matches(".compare input")) target.parentElement.style.setProperty("--at", target.value + "%");
});
