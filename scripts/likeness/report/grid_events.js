// The event handlers of the grid.

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// The next spot with a picture in a direction [rows down, columns right]; null at the edge.
function stepFrom(spot, [down, right]) {
  let { row, column } = spot;
  do {
    row += down;
    column += right;
    if (!(row in view.rows) || !(column in view.columns)) return null;
  } while (!pictureAt(placeAt(row, column)));
  return { row, column };
}

function fill(id, values) {
  document.getElementById(id).replaceChildren(...values.map(([value, label]) => made("option", { value }, label)));
}

for (const side of ["across", "down"]) {
  fill(side, AXES.map((axis) => [axis, axis]));
  document.getElementById(side).addEventListener("change", (event) => setAxis(side, event.target.value));
}
fill("flip", [...AXES, "base"].map((axis) => [axis, flipLabel(axis)]));
document.getElementById("flip").addEventListener("change", (event) => change({ flip: event.target.value }));
document.getElementById("swap").addEventListener("click", () => setAxis("across", state.down));
document.getElementById("base").addEventListener("change", (event) => change({ base: event.target.checked }));
document.getElementById("heat").addEventListener("change", (event) => change({ heat: event.target.checked }));
document.getElementById("tabs").addEventListener("click", ({ target }) => {
  if (target.matches("button")) turn(target.dataset.axis, indexIn(target.dataset.index));
});
document.getElementById("tabs").addEventListener("change", ({ target }) => turn(target.dataset.axis, indexIn(target.value)));
document.getElementById("put-away").addEventListener("click", ({ target }) => {
  if (target.matches("button")) showAgain(target.dataset.axis, Number(target.dataset.index));
});
phone.addEventListener("change", render);
sheet.addEventListener("scroll", drawRows, { passive: true });
sheet.addEventListener("error", () => (document.getElementById("missing").hidden = false), true);
sheet.addEventListener("pointerover", ({ target }) => (hovered = target.closest("button.tile")));
sheet.addEventListener("pointerleave", () => (hovered = null));
sheet.addEventListener("focusin", ({ target }) => {
  if (target.matches("button.tile")) focused = spotOfTile(target);
});
sheet.addEventListener("click", ({ target }) => {
  const hide = target.closest(".hider"), clicked = target.closest("button.tile");
  if (hide) putAway(hide.dataset.axis, Number(hide.dataset.index));
  if (clicked) openViewer(spotOfTile(clicked));
});
sheet.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step || !event.target.matches("button.tile")) return;
  event.preventDefault();
  const next = stepFrom(spotOfTile(event.target), step);
  if (next) focusOn(next);
});
document.addEventListener("keydown", (event) => {
  if (event.key.toLowerCase() !== "f" || event.ctrlKey || event.metaKey || event.altKey || viewer.open) return;
  const element = hovered ?? (document.activeElement.matches("button.tile") ? document.activeElement : null);
  if (element?.isConnected) flipTile(element);
});
document.addEventListener("keyup", (event) => {
  if (event.key.toLowerCase() === "f") stopFlipping();
});
window.addEventListener("blur", stopFlipping); // this page does not see the key go up then
for (const point of document.querySelectorAll(".scatter .cell")) {
  const go = () => goTo(Number(point.dataset.epoch), Number(point.dataset.weight));
  point.addEventListener("click", go);
  point.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    go();
  });
}
