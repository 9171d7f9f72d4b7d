// Buttons on the cards of photos. What they decide is collected as the text of decisions.yaml (docs/decisions.md).
const OVERRULED = ["several_faces", "too_small", "blurred", "bad_exposure", "occluded", "other_person", "near_duplicate"];
const LEAVE_OUT = { label: "Leave out", key: "d", text: "{use: drop}" };
const OFFERED = {
  train: [LEAVE_OUT, { label: "Hold out", key: "h", text: "{use: heldout}" }],
  heldout: [LEAVE_OUT, { label: "Train on it", key: "h", text: "{use: train}" }],
};
const decided = new Map();
const bar = document.getElementById("decided");
const deciding = [...document.querySelectorAll(".card")].map((card) => ({ card, name: card.dataset.name, offers: offersOf(card) }));
const storage = `likeness decisions ${location.pathname}`;

function offersOf(card) {
  const { fate, reason } = card.dataset;
  if (fate !== "dropped") return OFFERED[fate];
  return OVERRULED.includes(reason) ? [{ label: "Keep", key: "k", text: `{keep: ${reason}}` }] : [];
}

function decide(photo, text) {
  if (decided.get(photo.name) === text) decided.delete(photo.name);
  else decided.set(photo.name, text);
  show();
}

function show() {
  for (const { card, name } of deciding) {
    for (const button of card.querySelectorAll(".decide button")) {
      button.setAttribute("aria-pressed", button.dataset.text === decided.get(name));
    }
    card.classList.toggle("decided", decided.has(name));
  }
  // A JSON string is one of YAML, too.
  const lines = [...decided].map(([name, text]) => `  ${JSON.stringify(name)}: ${text}`);
  bar.hidden = !lines.length;
  bar.querySelector("b").textContent = lines.length === 1 ? "1 decision" : `${lines.length} decisions`;
  bar.querySelector("pre").textContent = ["photos:", ...lines, ""].join("\n");
  bar.querySelector(".copy").textContent = "Copy"; // what was copied is no longer all
  storeText(storage, JSON.stringify([...decided]));
}

function moveFocus(from, step) {
  const shown = deciding.map(({ card }) => card).filter((card) => card.offsetParent);
  shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(from) + step))]?.focus();
}

for (const photo of deciding) {
  const buttons = document.createElement("div");
  buttons.className = "decide";
  for (const { label, key, text } of photo.offers) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: label, title: `Key: ${key.toUpperCase()}` });
    button.dataset.text = text;
    button.addEventListener("click", () => decide(photo, text));
    buttons.append(button);
  }
  photo.card.append(buttons);
  photo.card.tabIndex = 0;
  photo.card.addEventListener("keydown", (event) => {
    if (event.target !== photo.card || event.ctrlKey || event.metaKey || event.altKey) return;
    const offer = photo.offers.find(({ key }) => key === event.key.toLowerCase());
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (offer) decide(photo, offer.text);
    if (step) moveFocus(photo.card, step);
    if (offer || step) event.preventDefault();
  });
}

bar.querySelector(".clear").addEventListener("click", () => {
  decided.clear();
  show();
});

// A decision that the page shows by now is no longer offered.
for (const [name, text] of JSON.parse(storedText(storage) || "[]")) {
  const photo = deciding.find((other) => other.name === name);
  if (photo?.offers.some((offer) => offer.text === text)) decided.set(name, text);
}
show();
