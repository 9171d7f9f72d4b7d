// Flips a picture of the grid in place: through the other pictures along an axis, or to the base model's picture.

// The places that a place is flipped through: those after it along the axis, then those before it, and itself at the end.
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
