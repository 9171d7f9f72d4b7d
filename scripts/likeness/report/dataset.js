const filters = [...document.querySelectorAll(".filters button")];
const cards = [...document.querySelectorAll(".card")];

function showOnly(filter) {
  const tag = filter.dataset.tag;
  for (const other of filters) other.setAttribute("aria-pressed", other === filter);
  for (const card of cards) card.hidden = tag !== "" && !card.dataset.tags.split(" ").includes(tag);
  for (const part of document.querySelectorAll(".group, .group section")) {
    part.hidden = !part.querySelector(".card:not([hidden])");
    if (tag && part.matches("details")) part.open = true;
  }
}

filters.forEach((filter) => filter.addEventListener("click", () => showOnly(filter)));
document.querySelector(".larger").addEventListener("change", (event) =>
  document.querySelector(".cards").classList.toggle("large", event.target.checked));
