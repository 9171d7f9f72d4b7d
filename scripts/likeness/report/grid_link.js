// The link to a view of the grid. It is written into the address when the view changes, and read when the page opens.

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
  writtenLink = linkTo();
  history.replaceState(null, "", writtenLink);
  document.getElementById("permalink").href = writtenLink;
}

// Set the view from the address; return whether the address is a link to a view. A link of another run may name values
// that this run does not have: for these, the view stays as it is without a link.
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
