const tabs = [...document.querySelectorAll("[role=tab]")];
const dialog = document.querySelector("dialog");
let shown = null;

function select(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    const sheet = document.getElementById(other.getAttribute("aria-controls"));
    sheet.hidden = other !== tab;
    if (other === tab) reveal(sheet.querySelector("td.chosen"), sheet);
  }
}

function reveal(cell, sheet) {
  sheet.scrollLeft = Math.max(sheet.scrollLeft, cell.offsetLeft + cell.offsetWidth - sheet.clientWidth);
}

function enlarge(tile) {
  shown = tile;
  const picture = tile.querySelector("img");
  Object.assign(dialog.querySelector("img"), { src: picture.src, alt: picture.alt });
  document.getElementById("enlarged-title").textContent = tile.dataset.title + ": " + tile.innerText.trim();
  document.getElementById("enlarged-numbers").textContent = tile.dataset.numbers;
  if (!dialog.open) dialog.showModal();
}

function neighbour(tile, columns, rows) {
  const column = Number(tile.dataset.column) + columns, row = Number(tile.dataset.row) + rows;
  const at = (r) => `.tile[data-column="${column}"][data-row="${r}"][data-seed="${tile.dataset.seed}"]`;
  const sheet = tile.closest(".sheet");
  // The base model has one row, beside all weights.
  return sheet.querySelector(at(row)) ?? (column === 0 && rows === 0 ? sheet.querySelector(at(0)) : null);
}

select(tabs[0]);
tabs.forEach((tab) => tab.addEventListener("click", () => select(tab)));
document.querySelectorAll(".tile").forEach((tile) => tile.addEventListener("click", () => enlarge(tile)));
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const next = step && neighbour(shown, ...step);
  if (step) event.preventDefault();
  if (next) enlarge(next);
});
