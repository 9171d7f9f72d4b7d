// The full-screen view of one picture. Arrow keys go along the two axes of the grid; F and a click flip it in place.

const viewer = document.getElementById("viewer");
let viewed = null; // {spot, place, count, at}: its spot in the grid, its place, the number of flips, the time of the last flip

function openViewer(spot) {
  show(spot);
  if (!viewer.open) viewer.showModal();
}

function show(spot) {
  viewed = { spot, place: placeAt(spot.row, spot.column), count: 0, at: -Infinity };
  drawViewed(viewed.place);
  state.viewed = viewed.place;
  writeLink();
}

function drawViewed(place) {
  const picture = pictureAt(place);
  Object.assign(document.querySelector("#viewer-flip img"), { src: sourceOf(picture), alt: titleOf(place) });
  const base = { ...place, epoch: BASE }, beside = document.getElementById("viewer-base");
  beside.hidden = !state.base || place.epoch === BASE;
  Object.assign(beside.firstElementChild, { src: sourceOf(pictureAt(base)), alt: titleOf(base) });
  document.getElementById("viewer-title").textContent = `${titleOf(place)}: ${picture.label}`;
  document.getElementById("viewer-prompt").textContent = valueLabel("prompt", place.prompt);
  const numbers = run.numbers.map((name, i) => [name, picture.numbers[i]]);
  numbers.push(["this setting without the trigger", settings.get(settingAt(place)).untrained]);
  const known = numbers.filter(([, value]) => value !== null);
  document.getElementById("viewer-numbers").replaceChildren(
    ...known.map(([name, value]) => made("div", {}, made("dt", {}, name), made("dd", {}, name === "faces" ? value : value.toFixed(2)))));
  document.getElementById("viewer-detail").textContent = picture.detail;
  document.getElementById("viewer-axis").textContent = flipLabel(state.flip);
}

function step(direction) {
  const next = stepFrom(viewed.spot, direction);
  if (next) show(next);
}

function flipViewed() {
  const now = performance.now();
  if (now - viewed.at < FLIP_EVERY) return;
  const flips = flipsOf(viewed.place);
  if (!flips.length) return;
  viewed.at = now;
  drawViewed(flips[viewed.count++ % flips.length]);
}

viewer.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() === "f" && !event.ctrlKey && !event.metaKey && !event.altKey) flipViewed();
  const direction = STEPS[event.key];
  if (!direction) return;
  event.preventDefault();
  step(direction);
});
viewer.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "f") show(viewed.spot);
});
document.getElementById("viewer-flip").addEventListener("click", flipViewed);
viewer.querySelector(".steps").addEventListener("click", ({ target }) => {
  const directions = { left: STEPS.ArrowLeft, right: STEPS.ArrowRight, up: STEPS.ArrowUp, down: STEPS.ArrowDown };
  if (target.dataset.step === "close") viewer.close();
  else if (target.dataset.step) step(directions[target.dataset.step]);
});
viewer.addEventListener("close", () => {
  state.viewed = null;
  writeLink();
  focusOn(viewed.spot);
});

// Show the view that the address links to: when the page opens, and when a link is clicked on the open page.
function followLink() {
  if (location.hash === writtenLink || !readLink()) return;
  render();
  if (viewer.open) viewer.close();
  const spot = state.viewed && spotOf(state.viewed);
  if (spot) openViewer(spot);
}

window.addEventListener("hashchange", followLink);
render();
reveal();
document.getElementById("permalink").href = linkTo();
followLink();
