// The grid of pictures. Any two axes are its rows and columns; tabs select the values of the others. Only visible rows are
// in the page, so that thousands of pictures cost no more than a screen of them.

const ALL = "all"; // the value of a tab that shows all values of its axis, as groups of rows
const ROWS_BEYOND = 3; // rows drawn above and below the visible ones, so that scrolling shows no empty row
const FLIP_EVERY = 250; // ms between two flips while the key is held; faster, faces could not be compared

const sheet = document.getElementById("sheet");
const phone = matchMedia("(max-width: 640px)");
const scores = run.pictures.map((picture) => picture.score).filter((score) => score !== null);
const [coldest, hottest] = [Math.min(...scores), Math.max(...scores)];

let state = startingState();
let view; // the drawn grid: {rows, columns, body, height, drawn}; rows and columns are places on their axes
let focused = { row: 0, column: 0 };
let hovered = null;
let flipping = null;
let writtenLink = null; // the link that this page wrote into the address

function startingState() {
  const at = { epoch: run.axes.epoch.indexOf(run.chosen[0]), weight: run.axes.weight.indexOf(run.chosen[1]), prompt: 0, seed: 0 };
  const hidden = Object.fromEntries(AXES.map((axis) => [axis, new Set()]));
  return { across: "epoch", down: "weight", at, hidden, base: true, heat: false, flip: "epoch", viewed: null };
}

// --- layout ------------------------------------------------------------------------------------------------------

function visible(axis) {
  return [...run.axes[axis].keys()].filter((index) => !state.hidden[axis].has(index));
}

function tabAxes() {
  return AXES.filter((axis) => axis !== state.across && axis !== state.down);
}

// The position of the base model: the first column or row if that axis is the epoch or the weight, else beside each picture.
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

// The row and column of a place, else of the first picture with the same setting; null if both are put away.
function spotOf(place) {
  const findSpot = (same) => {
    for (let row = 0; row < view.rows.length; row++) {
      for (let column = 0; column < view.columns.length; column++) if (same(placeAt(row, column))) return { row, column };
    }
    return null;
  };
  return findSpot((other) => keyOf(other) === keyOf(place)) ?? findSpot((other) => settingAt(other) === settingAt(place));
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
  // The row that the Tab key enters and a row with the focus stay in the page, also if they are scrolled out of sight.
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
  const values = Object.entries(view.rows[row]).reverse(); // the innermost group first, because it changes from row to row
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

// A picture with its score. Without a `spot`, as beside another picture, it is not a button.
function tile(place, spot) {
  const picture = pictureAt(place);
  if (!picture) return made("div", { className: "tile none" }, "not drawn");
  const element = made(spot ? "button" : "div", { className: "tile" });
  const setting = settingAt(place);
  element.classList.toggle("out", picture.out !== "");
  element.classList.toggle("chosen", setting === chosen);
  element.classList.toggle("alike", setting !== chosen && alike.has(setting));
  const scored = picture.score !== null; // pictures without a score test for leaks
  element.classList.toggle("scored", scored);
  element.style.setProperty("--heat", `${(100 * (picture.score - coldest)) / (hottest - coldest || 1)}%`);
  const image = made("img", { decoding: "async", loading: "lazy", alt: titleOf(place), src: sourceOf(picture) });
  const label = made("span", {}, made("b", {}, picture.label));
  const { mean, untrained } = settings.get(setting);
  if (scored && [state.across, state.down].sort().join() === "epoch,weight") {
    if (!picture.out) label.append(made("small", {}, `mean ${mean.toFixed(2)}`)); // the reason of a gate leaves no room
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
  // The heading with the focus is gone, so the button that shows it again gets the focus.
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

// Scroll to the chosen setting, to the right only as far as needed.
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
  const chosenPlace = startingState().at;
  return Object.entries(place).every(([axis, index]) => !["epoch", "weight"].includes(axis) || index === chosenPlace[axis]);
}

// Show the setting of a point in a drawing, and focus its first picture.
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
