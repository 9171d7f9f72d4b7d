// The data of the run in this page: the axes, the pictures by place, and labels for both. A place has an index on every
// axis. The base model is epoch BASE and has no weight.

const run = JSON.parse(document.getElementById("run").textContent);
const AXES = ["epoch", "weight", "prompt", "seed"];
const BASE = -1;
const pictures = new Map(run.pictures.map((picture) => [keyOf(placeOf(picture.place)), picture]));
const settings = new Map(run.settings.map(([epoch, weight, mean, untrained]) => [settingKey(epoch, weight), { mean, untrained }]));
const alike = new Set(run.alike.map(([epoch, weight]) => settingKey(epoch, weight)));
const chosen = settingKey(...run.chosen);

function placeOf(indices) {
  return Object.fromEntries(AXES.map((axis, i) => [axis, indices[i]]));
}

function keyOf(place) {
  return [place.epoch, place.epoch === BASE ? 0 : place.weight, place.prompt, place.seed].join();
}

function settingKey(epoch, weight) {
  return epoch ? `${epoch} ${weight}` : "base";
}

function settingAt(place) {
  return place.epoch === BASE ? "base" : settingKey(run.axes.epoch[place.epoch], run.axes.weight[place.weight]);
}

function pictureAt(place) {
  return pictures.get(keyOf(place));
}

function sourceOf(picture) {
  return `${run.folder}/${picture.file}`;
}

function valueLabel(axis, index) {
  if (axis === "epoch" && index === BASE) return "base model";
  return axis === "prompt" ? run.axes.prompt[index] : `${axis} ${run.axes[axis][index]}`;
}

function settingLabel(place) {
  const parts = place.epoch === BASE ? ["epoch"] : ["epoch", "weight"];
  return parts.map((axis) => valueLabel(axis, place[axis])).join(", ");
}

function titleOf(place) {
  return `${settingLabel(place)}, ${valueLabel("seed", place.seed)}`;
}

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
