// The grid: any two axes, the others by tabs. Only the rows in sight are in the page, so that thousands of pictures
// cost what a screen of them does.

const ALL = "all"; // of a tab: all its values, as groups of rows
const ROWS_BEYOND = 3; // drawn above and below what is in sight, so that scrolling meets no empty row
const FLIP_EVERY = 250; // ms while the key is held: faster, and faces cannot be compared

const sheet = document.getElementById("sheet");
const phone = matchMedia("(max-width: 640px)");
const scores = run.pictures.map((picture) => picture.score).filter((score) => score !== null);
const [coldest, hottest] = [Math.min(...scores), Math.max(...scores)];

let state = startingState();
let view; // what is drawn: {rows, columns, body, height, drawn}, places on the axes across and down
let focused = { row: 0, column: 0 };
let hovered = null;
let flipping = null;
let written = null; // the link that this page wrote itself

function startingState() {
  const at = { epoch: run.axes.epoch.indexOf(run.chosen[0]), weight: run.axes.weight.indexOf(run.chosen[1]), prompt: 0, seed: 0 };
  const hidden = Object.fromEntries(AXES.map((axis) => [axis, new Set()]));
  return { across: "epoch", down: "weight", at, hidden, base: true, heat: false, flip: "epoch", viewed: null };
}

// --- what is shown -----------------------------------------------------------------------------------------------

function visible(axis) {
  return [...run.axes[axis].keys()].filter((index) => !state.hidden[axis].has(index));
}

function tabAxes() {
  return AXES.filter((axis) => axis !== state.across && axis !== state.down);
}

// Where the base model stands: a column or a row of its own where one axis is a setting, else beside each picture.
function baseSide() {
  const isSetting = (axis) => axis === "epoch" || axis === "weight";
  if (!state.base) return "nowhere";
  return isSetting(state.across) ? "left" : isSetting(state.down) ? "top" : "beside";
}

function layout() {
  const side = baseSide();
  const line = (axis) => visible(axis).map((index) => ({ [axis]: index }));
  const columns = [...(side === "left" ? [{ epoch: BASE }] : []), ...line(state.across)];
  let rows = [{}];
  for (const axis of tabAxes().filter((axis) => state.at[axis] === ALL)) {
    rows = rows.flatMap((row) => line(axis).map((value) => ({ ...row, ...value })));
  }
  const inner = [...(side === "top" ? [{ epoch: BASE }] : []), ...line(state.down)];
  return { columns, rows: rows.flatMap((row) => inner.map((value) => ({ ...row, ...value }))) };
}

function placeAt(row, column) {
  return { ...state.at, ...view.rows[row], ...view.columns[column] };
}

// The row and column of a place, or of the first picture that shares its setting; null where it is put away.
function spotOf(place) {
  const found = (same) => {
    for (let row = 0; row < view.rows.length; row++) {
      for (let column = 0; column < view.columns.length; column++) if (same(placeAt(row, column))) return { row, column };
    }
    return null;
  };
  return found((other) => keyOf(other) === keyOf(place)) ?? found((other) => settingAt(other) === settingAt(place));
}

// --- drawing -----------------------------------------------------------------------------------------------------

function render() {
  const scrolled = [sheet.scrollTop, sheet.scrollLeft];
  drawControls();
  stopFlipping();
  view = { ...layout(), drawn: new Map() };
  focused = { row: Math.min(focused.row, view.rows.length - 1), column: Math.min(focused.column, view.columns.length - 1) };
  sheet.className = `sheet base-${baseSide()}${state.heat ? " heat" : ""}`;
  sheet.setAttribute("aria-rowcount", view.rows.length + 1);
  sheet.setAttribute("aria-colcount", view.columns.length + 1);
  view.body = made("div", { className: "body", role: "rowgroup" });
  sheet.replaceChildren(made("div", { className: "headings", role: "rowgroup" }, headings()), view.body);
  const first = drawRow(0);
  view.height = first.offsetHeight;
  view.body.style.height = `${view.rows.length * view.height}px`;
  [sheet.scrollTop, sheet.scrollLeft] = scrolled;
  drawRows();
}

function drawRows() {
  const first = Math.max(0, Math.floor(sheet.scrollTop / view.height) - ROWS_BEYOND);
  const last = Math.min(view.rows.length - 1, Math.ceil((sheet.scrollTop + sheet.clientHeight) / view.height) + ROWS_BEYOND);
  // Where the Tab key enters the grid stays, wherever it is scrolled, and so does a row with the focus.
  if (!view.drawn.has(focused.row)) drawRow(focused.row);
  for (const [row, line] of view.drawn) {
    if ((row < first || row > last) && row !== focused.row && !line.contains(document.activeElement)) {
      line.remove();
      view.drawn.delete(row);
    }
  }
  for (let row = first; row <= last; row++) if (!view.drawn.has(row)) drawRow(row);
}

function drawRow(row) {
  const line = made("div", { className: "line", role: "row", "aria-rowindex": row + 2 });
  line.style.top = `${row * (view.height ?? 0)}px`;
  line.dataset.row = row;
  line.append(rowHeading(row), ...view.columns.map((_, column) => cell(row, column)));
  const next = [...view.drawn.keys()].filter((other) => other > row).sort((a, b) => a - b)[0];
  view.body.insertBefore(line, view.drawn.get(next) ?? null);
  view.drawn.set(row, line);
  return line;
}

function headings() {
  const line = made("div", { className: "line", role: "row", "aria-rowindex": 1 }, made("span", { className: "side" }));
  for (const column of view.columns) {
    const [[axis, index]] = Object.entries(column);
    const heading = made("div", { className: "heading", role: "columnheader" }, hider(axis, index));
    if (index === BASE) heading.classList.add("of-base");
    line.append(heading);
  }
  return line;
}

function rowHeading(row) {
  const values = Object.entries(view.rows[row]).reverse(); // the innermost group changes from row to row
  return made("div", { className: "side", role: "rowheader" }, ...values.map(([axis, index]) => hider(axis, index)));
}

function hider(axis, index) {
  const label = valueLabel(axis, index);
  const button = made("button", { className: "hider", title: `Put away: ${label}` }, label);
  Object.assign(button.dataset, { axis, index });
  return button;
}

function cell(row, column) {
  const place = placeAt(row, column);
  const element = made("div", { className: place.epoch === BASE ? "cell of-base" : "cell", role: "gridcell" });
  if (baseSide() === "beside") element.append(tile({ ...place, epoch: BASE }, null));
  element.append(tile(place, { row, column }));
  return element;
}

// A picture with its score. One that stands beside another (`spot` null) is only looked at.
function tile(place, spot) {
  const picture = pictureAt(place);
  if (!picture) return made("div", { className: "tile none" }, "not drawn");
  const element = made(spot ? "button" : "div", { className: "tile" });
  const setting = settingAt(place);
  element.classList.toggle("out", picture.out !== "");
  element.classList.toggle("chosen", setting === chosen);
  element.classList.toggle("alike", setting !== chosen && alike.has(setting));
  const scored = picture.score !== null; // else its prompt only holds back a setting
  element.classList.toggle("scored", scored);
  element.style.setProperty("--heat", `${(100 * (picture.score - coldest)) / (hottest - coldest || 1)}%`);
  const image = made("img", { decoding: "async", loading: "lazy", alt: titleOf(place), src: sourceOf(picture) });
  const label = made("span", {}, made("b", {}, picture.label));
  const { mean, untrained } = settings.get(setting);
  if (scored && [state.across, state.down].sort().join() === "epoch,weight") {
    if (!picture.out) label.append(made("small", {}, `mean ${mean.toFixed(2)}`)); // a reason takes the room
    const bar = made("i", { className: "mean" });
    bar.style.width = `${100 * mean}%`;
    label.append(bar);
  }
  element.append(image, label);
  element.title = `${titleOf(place)}, ${valueLabel("prompt", place.prompt)}`;
  if (untrained !== null) element.title += `. Identity of this setting without the trigger: ${untrained.toFixed(2)}`;
  if (spot) {
    Object.assign(element.dataset, spot);
    element.tabIndex = spot.row === focused.row && spot.column === focused.column ? 0 : -1;
  }
  return element;
}

function tileAt({ row, column }) {
  return view.drawn.get(row)?.querySelector(`button.tile[data-column="${column}"]`);
}

function spotOfTile(element) {
  return { row: Number(element.dataset.row), column: Number(element.dataset.column) };
}

// --- controls ----------------------------------------------------------------------------------------------------

function drawControls() {
  for (const id of ["across", "down"]) document.getElementById(id).value = state[id];
  document.getElementById("flip").value = state.flip;
  document.getElementById("base").checked = state.base;
  document.getElementById("heat").checked = state.heat;
  const scale = document.getElementById("scale");
  scale.hidden = !state.heat;
  [scale.firstElementChild.textContent, scale.lastElementChild.textContent] = [coldest, hottest].map((s) => s.toFixed(2));
  const focus = document.activeElement.dataset;
  document.getElementById("tabs").replaceChildren(...tabAxes().map(phone.matches ? chooser : tabs));
  document.querySelector(`#tabs [data-axis="${focus.axis}"][data-index="${focus.index}"]`)?.focus();
  drawPutAway();
}

function choices(axis) {
  const values = [...run.axes[axis].keys()];
  return values.length > 1 ? [...values, ALL] : values;
}

function choiceLabel(axis, index) {
  if (index === ALL) return `all ${run.axes[axis].length}`;
  return String(run.axes[axis][index]);
}

function tabs(axis) {
  const group = made("div", { className: "tabs", role: "group", "aria-label": axis }, made("span", { className: "faint" }, axis));
  for (const index of choices(axis)) {
    const label = choiceLabel(axis, index);
    const tab = made("button", { "aria-pressed": state.at[axis] === index, title: label }, label);
    Object.assign(tab.dataset, { axis, index });
    group.append(tab);
  }
  return group;
}

function chooser(axis) {
  const select = made("select", { "aria-label": axis });
  for (const index of choices(axis)) {
    select.append(made("option", { value: index, selected: state.at[axis] === index }, choiceLabel(axis, index)));
  }
  select.dataset.axis = axis;
  return made("div", { className: "tabs" }, made("span", { className: "faint" }, axis), select);
}

function drawPutAway() {
  const list = document.getElementById("put-away");
  const away = AXES.flatMap((axis) => [...state.hidden[axis]].sort((a, b) => a - b).map((index) => [axis, index]));
  list.hidden = !away.length;
  list.replaceChildren("Put away: ");
  for (const [axis, index] of away) {
    const label = valueLabel(axis, index);
    const button = made("button", { className: "plain", title: `Show again: ${label}` }, `${label} ↺`);
    Object.assign(button.dataset, { axis, index });
    list.append(button, " ");
  }
  if (away.length > 1) list.append(made("button", { className: "plain", id: "show-all" }, "Show all"));
}

function indexIn(text) {
  return text === ALL ? ALL : Number(text);
}

function change(changes) {
  Object.assign(state, changes);
  writeLink();
  render();
}

function turn(axis, index) {
  change({ at: { ...state.at, [axis]: index } });
}

function setAxis(side, axis) {
  const other = side === "across" ? "down" : "across";
  const swapped = state[other] === axis ? { [other]: state[side] } : {};
  const at = { ...state.at };
  for (const name of AXES) if (at[name] === ALL && (name === axis || name === state[other])) at[name] = startingState().at[name];
  change({ [side]: axis, at, ...swapped });
  reveal();
}

function putAway(axis, index) {
  if (index === BASE) return change({ base: false });
  if (visible(axis).length > 1) state.hidden[axis].add(index);
  change({});
  // The heading that had the focus is gone: the keyboard goes on where it can be taken back.
  document.querySelector(`#put-away [data-axis="${axis}"][data-index="${index}"]`)?.focus({ preventScroll: true });
}

function showAgain(axis, index) {
  if (axis) state.hidden[axis].delete(index);
  else for (const away of Object.values(state.hidden)) away.clear();
  change({});
  (document.querySelector("#put-away button") ?? tileAt(focused))?.focus({ preventScroll: true });
}

// --- places ------------------------------------------------------------------------------------------------------

function focusOn(spot) {
  const old = tileAt(focused);
  focused = spot;
  if (old) old.tabIndex = -1;
  const top = spot.row * view.height, room = sheet.clientHeight - sheet.firstElementChild.offsetHeight;
  if (top < sheet.scrollTop) sheet.scrollTop = top;
  if (top + view.height > sheet.scrollTop + room) sheet.scrollTop = top + view.height - room;
  drawRows();
  const element = tileAt(spot);
  if (!element) return;
  element.tabIndex = 0;
  element.focus({ preventScroll: true });
  element.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// The chosen setting is in sight, as far right of the headings as it must.
function reveal() {
  const [row, column] = [view.rows, view.columns].map((line) => Math.max(0, line.findIndex((place) => holdsChosen(place))));
  focused = { row, column };
  render();
  const element = tileAt(focused);
  if (!element) return;
  const box = element.getBoundingClientRect(), edges = sheet.getBoundingClientRect();
  if (box.right > edges.right) sheet.scrollLeft += box.right - edges.right + 8;
}

function holdsChosen(place) {
  const wanted = startingState().at;
  return Object.entries(place).every(([axis, index]) => !["epoch", "weight"].includes(axis) || index === wanted[axis]);
}

// Where a point of the drawing leads: the setting is shown, and its first picture has the focus.
function goTo(epoch, weight) {
  const place = epoch ? { epoch: run.axes.epoch.indexOf(epoch), weight: run.axes.weight.indexOf(weight) } : { epoch: BASE };
  const at = { ...state.at };
  for (const [axis, index] of Object.entries(place)) {
    state.hidden[axis].delete(index);
    if (tabAxes().includes(axis) && at[axis] !== ALL && index !== BASE) at[axis] = index;
  }
  change({ at, base: state.base || !epoch });
  document.getElementById("grid").scrollIntoView();
  const spot = spotOf({ ...state.at, ...place });
  if (spot) focusOn(spot);
}

// --- flipping in place -------------------------------------------------------------------------------------------

// What a place is flipped through: the pictures along an axis that follow it, and itself at the end.
function flipsOf(place) {
  if (state.flip === "base") return [{ ...place, epoch: BASE }, place];
  const values = visible(state.flip);
  const from = values.indexOf(place[state.flip]);
  const line = [...values.slice(from + 1), ...values.slice(0, from + 1)].map((index) => ({ ...place, [state.flip]: index }));
  return line.filter((other) => pictureAt(other));
}

function flipLabel(axis) {
  return axis === "base" ? "base model" : axis;
}

function flipTile(element) {
  const now = performance.now();
  if (flipping?.element !== element) {
    stopFlipping();
    const spot = spotOfTile(element);
    flipping = { element, spot, flips: flipsOf(placeAt(spot.row, spot.column)), count: 0, at: -Infinity };
  }
  if (now - flipping.at < FLIP_EVERY || !flipping.flips.length) return;
  const place = flipping.flips[flipping.count++ % flipping.flips.length];
  const picture = pictureAt(place);
  flipping.at = now;
  element.classList.add("flipped");
  element.querySelector("img").src = sourceOf(picture);
  const axis = state.flip === "base" ? "epoch" : state.flip;
  element.querySelector("span").replaceChildren(made("b", {}, picture.label), made("small", {}, valueLabel(axis, place[axis])));
}

function stopFlipping() {
  if (!flipping) return;
  const { element, spot } = flipping;
  flipping = null;
  if (!element.isConnected) return;
  const fresh = tile(placeAt(spot.row, spot.column), spot);
  element.querySelector("img").src = fresh.querySelector("img").src;
  element.querySelector("span").replaceWith(fresh.querySelector("span"));
  element.classList.remove("flipped");
}

// --- the link to a view ------------------------------------------------------------------------------------------

function nameOf(axis, index) {
  if (index === ALL) return ALL;
  if (index === BASE) return "base";
  return String(axis === "prompt" ? index + 1 : run.axes[axis][index]);
}

function indexOf(axis, name) {
  if (name === ALL || (name === "base" && axis === "epoch")) return name === ALL ? ALL : BASE;
  const index = axis === "prompt" ? Number(name) - 1 : run.axes[axis].findIndex((value) => String(value) === name);
  return index in run.axes[axis] ? index : null;
}

function linkTo() {
  const link = new URLSearchParams({ across: state.across, down: state.down });
  for (const axis of tabAxes()) link.set(axis, nameOf(axis, state.at[axis]));
  for (const axis of AXES) {
    const away = [...state.hidden[axis]].map((index) => nameOf(axis, index));
    if (away.length) link.set(`without-${axis}`, away.join());
  }
  link.set("base", Number(state.base));
  link.set("heat", Number(state.heat));
  link.set("flip", state.flip);
  if (state.viewed) link.set("view", AXES.map((axis) => nameOf(axis, state.viewed[axis])).join());
  return `#${link}`;
}

function writeLink() {
  written = linkTo();
  history.replaceState(null, "", written);
  document.getElementById("permalink").href = written;
}

// Whether the address is a link to a view. One from elsewhere may name what this run does not have: that part is as it
// is without a link.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (!link.has("across")) return false;
  const read = startingState();
  for (const side of ["across", "down"]) if (AXES.includes(link.get(side))) read[side] = link.get(side);
  if (read.across === read.down) read.down = AXES.find((axis) => axis !== read.across);
  for (const axis of AXES) {
    const index = link.has(axis) ? indexOf(axis, link.get(axis)) : null;
    if (index !== null && index !== BASE) read.at[axis] = index;
    const away = (link.get(`without-${axis}`) ?? "").split(",").map((name) => indexOf(axis, name));
    read.hidden[axis] = new Set(away.filter((index) => index !== null).slice(0, run.axes[axis].length - 1));
  }
  for (const axis of [read.across, read.down]) if (read.at[axis] === ALL) read.at[axis] = startingState().at[axis];
  if (link.has("base")) read.base = link.get("base") === "1";
  read.heat = link.get("heat") === "1";
  if ([...AXES, "base"].includes(link.get("flip"))) read.flip = link.get("flip");
  const names = (link.get("view") ?? "").split(",");
  const viewed = placeOf(AXES.map((axis, i) => indexOf(axis, names[i] ?? "")));
  read.viewed = AXES.every((axis) => viewed[axis] !== null && viewed[axis] !== ALL) && pictureAt(viewed) ? viewed : null;
  state = read;
  return true;
}

// --- listening ---------------------------------------------------------------------------------------------------

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// The next place with a picture in a direction; null at the edge.
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
window.addEventListener("blur", stopFlipping); // the key is then let go elsewhere
for (const point of document.querySelectorAll(".scatter .cell")) {
  const go = () => goTo(Number(point.dataset.epoch), Number(point.dataset.weight));
  point.addEventListener("click", go);
  point.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    go();
  });
}
