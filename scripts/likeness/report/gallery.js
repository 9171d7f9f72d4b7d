// The large view of a portrait, with the arrow keys from picture to picture.

const viewer = document.getElementById("viewer");
const cards = [...document.querySelectorAll(".card")];
let shown = null; // the card whose picture is large

function showLarge(card) {
  const large = card.querySelector("template").content.cloneNode(true);
  const text = large.querySelector(".text") ?? card.querySelector(".text").cloneNode(true);
  const opened = viewer.querySelector(".text details")?.open ?? false; // stays as it was from picture to picture
  text.querySelector("h3").id = "viewer-title";
  text.querySelector("details").open = opened;
  viewer.querySelector(".stage").replaceWith(large.querySelector(".stage"));
  viewer.querySelector(".text").replaceWith(text);
  viewer.querySelector(".about").scrollTop = 0;
  shown = card;
  document.getElementById("viewer-at").textContent = `Picture ${cards.indexOf(card) + 1} of ${cards.length}.`;
  for (const button of viewer.querySelectorAll(".steps [data-step]"))
    button.disabled = button.dataset.step !== "0" && !beside(card, +button.dataset.step, cards);
  if (!viewer.open) viewer.showModal();
  // Up and down move a slider that has the focus, so the keys work at once.
  (viewer.querySelector(".stage input") ?? viewer.querySelector("[data-step='0']")).focus();
}

function beside(card, step, among) {
  return among[among.indexOf(card) + step];
}

function stepOf(event) {
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey && !event.shiftKey;
  return plain ? { ArrowLeft: -1, ArrowRight: 1 }[event.key] : undefined;
}

for (const card of cards) {
  const button = card.querySelector(".open");
  button.addEventListener("click", () => showLarge(card));
  button.addEventListener("keydown", (event) => {
    const step = stepOf(event);
    if (!step) return;
    event.preventDefault();
    const inSight = cards.filter((other) => other.offsetParent); // without those that are folded away
    beside(card, step, inSight)?.querySelector(".open").focus();
  });
}

// Also on a slider, where the browser would move it: up and down do that.
viewer.addEventListener("keydown", (event) => {
  const step = stepOf(event);
  if (!step) return;
  event.preventDefault();
  const next = beside(shown, step, cards);
  if (next) showLarge(next);
});

viewer.querySelector(".steps").addEventListener("click", ({ target }) => {
  const step = target.dataset.step;
  if (step === "0") viewer.close();
  else if (step) showLarge(beside(shown, +step, cards));
});

viewer.addEventListener("close", () => {
  const folded = shown.closest("details");
  if (folded) folded.open = true;
  shown.querySelector(".open").focus();
});

function tellMissing() {
  document.getElementById("missing").hidden = false;
}

document.addEventListener("error", ({ target }) => target.matches("img") && tellMissing(), true);
// Pictures at the top may have failed before this script began.
if ([...document.images].some((picture) => picture.complete && !picture.naturalWidth)) tellMissing();
