// The blind comparison: which of two pictures is more alike, and whether the score would have said the same.

const ENOUGH = 10; // votes: with fewer, the interval is wider than 60 points and says nothing
const QUANTILE = 1.96; // of the normal distribution, for 95 %
const KEPT = `likeness votes ${run.id}`;
const rounds = comparable();
let votes = keptVotes(); // one letter per pair, in the order of drawing: a, b, or n for neither

// The pictures that can be told apart by their scores, by prompt and seed. Those that a gate holds back are left out:
// that a picture without a face loses is no test of the score. So are those that have none.
function comparable() {
  const groups = new Map();
  for (const picture of run.pictures) {
    const place = placeOf(picture.place);
    if (place.epoch === BASE || picture.out || picture.score === null) continue;
    const key = `${place.prompt} ${place.seed}`;
    groups.set(key, [...(groups.get(key) ?? []), picture]);
  }
  return [...groups.values()].filter((group) => new Set(group.map((picture) => picture.score)).size > 1);
}

// mulberry32, by Tommy Ettinger (public domain): numbers of 0 to 1. The same seed draws the same pairs for everybody.
function generator(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The pair of a number: {a, b}, two pictures of one prompt and seed with different scores, in random order.
function pair(number) {
  const random = generator(number + 1);
  const drawn = (list) => list[Math.floor(random() * list.length)];
  const group = drawn(rounds);
  const first = drawn(group);
  const second = drawn(group.filter((other) => other.score !== first.score));
  // By a draw of its own: where good pictures are rare, the second one drawn is mostly the better.
  return random() < 0.5 ? { a: first, b: second } : { a: second, b: first };
}

function keptVotes() {
  try {
    return (localStorage.getItem(KEPT) ?? "").replace(/[^abn]/g, "");
  } catch {
    return ""; // a browser that keeps nothing for files: the votes last as long as the page
  }
}

function keep(text) {
  votes = text;
  try {
    localStorage.setItem(KEPT, votes);
  } catch {
    // as above
  }
  drawBallot();
}

function agrees(number) {
  const { a, b } = pair(number);
  return (votes[number] === "a") === a.score > b.score;
}

// Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference": the interval of a share.
function interval(count, total) {
  const share = count / total, z = QUANTILE ** 2 / total;
  const middle = (share + z / 2) / (1 + z);
  const half = (Math.sqrt(share * (1 - share) * z + z ** 2 / 4)) / (1 + z);
  return [middle - half, middle + half];
}

function verdict() {
  const decided = [...votes].map((vote, number) => [vote, number]).filter(([vote]) => vote !== "n");
  const neither = votes.length - decided.length;
  if (!votes.length) return "No votes yet.";
  const agreed = decided.filter(([, number]) => agrees(number)).length;
  const said = `You agreed with the score in ${agreed} of ${decided.length} votes${neither ? `, and could not decide in ${neither}` : ""}`;
  if (decided.length < ENOUGH) return `${said}. From ${ENOUGH} on, this says how sure that is.`;
  const [low, high] = interval(agreed, decided.length);
  const percent = (value) => Math.round(100 * value);
  const sure = `${said}: ${percent(agreed / decided.length)} %, with 95 % confidence ${percent(low)} to ${percent(high)} %. `;
  if (low > 0.5) return `${sure}The score sees what you see.`;
  if (high < 0.5) return `${sure}You prefer what the score does not: trust your eyes, and choose by the grid.`;
  return `${sure}That may still be chance, so vote on more.`;
}

function vote(letter) {
  if (rounds.length) keep(votes + letter);
}

function drawBallot() {
  const ballot = document.getElementById("ballot");
  ballot.hidden = !rounds.length;
  document.getElementById("verdict").textContent = rounds.length ? verdict() : "There is nothing to compare: all pictures that count have one score.";
  document.getElementById("votes").hidden = !votes;
  const list = [...votes].map((letter, number) => made("li", {}, votedOn(letter, number)));
  document.querySelector("#votes ol").replaceChildren(...list);
  if (!rounds.length) return;
  const { a, b } = pair(votes.length);
  ballot.querySelector("[data-vote=a] img").src = sourceOf(a);
  ballot.querySelector("[data-vote=b] img").src = sourceOf(b);
  document.getElementById("blind-prompt").textContent = valueLabel("prompt", placeOf(a.place).prompt);
}

function votedOn(letter, number) {
  const named = (picture) => `${settingLabel(placeOf(picture.place))} (${picture.score.toFixed(2)})`;
  const { a, b } = pair(number);
  if (letter === "n") return `neither ${named(a)} nor ${named(b)}`;
  const [won, lost] = letter === "a" ? [a, b] : [b, a];
  return `${named(won)} over ${named(lost)}: the score ${agrees(number) ? "agrees" : "does not"}`;
}

for (const button of document.querySelectorAll("#ballot .vote")) button.addEventListener("click", () => vote(button.dataset.vote));
// The keys count while the pictures are in sight, so that nothing needs to be clicked first.
document.addEventListener("keydown", (event) => {
  const letter = event.key.toLowerCase(), { top, bottom } = document.getElementById("ballot").getBoundingClientRect();
  if (!["a", "b", "n"].includes(letter) || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (top < innerHeight && bottom > 0 && !viewer.open && !event.target.matches("select, input")) vote(letter);
});
document.getElementById("take-back").addEventListener("click", () => keep(votes.slice(0, -1)));
document.getElementById("forget").addEventListener("click", () => keep(""));
drawBallot();
