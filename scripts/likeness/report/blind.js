// The blind comparison: the user votes which of two pictures is more alike, and the page compares the votes with the score.

const ENOUGH = 10; // votes; with fewer, the interval is wider than 60 percentage points
const QUANTILE = 1.96; // of the normal distribution, for 95 %
const STORAGE_KEY = `likeness votes ${run.id}`;
const rounds = comparable();
let votes = storedVotes(); // one letter per pair, in the order of the pairs: a, b, or n for neither

// The pictures by prompt and seed, for all groups with different scores. Pictures without a score are left out, and so are
// those that a gate holds back: a picture without a face always loses, which does not test the score.
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

// mulberry32, by Tommy Ettinger (public domain): random numbers from 0 to 1. A seed gives the same pairs in every browser.
function generator(seed) {
  let a = seed;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The pair with a number: {a, b}, two pictures of one prompt and seed with different scores, in random order.
function pair(number) {
  const random = generator(number + 1);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const group = pick(rounds);
  const first = pick(group);
  const second = pick(group.filter((other) => other.score !== first.score));
  // The order needs a random number of its own: if good pictures are rare, `second` is mostly the better one.
  return random() < 0.5 ? { a: first, b: second } : { a: second, b: first };
}

function storedVotes() {
  return storedText(STORAGE_KEY).replace(/[^abn]/g, "");
}

function setVotes(text) {
  votes = text;
  storeText(STORAGE_KEY, votes);
  drawBallot();
}

function agrees(number) {
  const { a, b } = pair(number);
  return (votes[number] === "a") === a.score > b.score;
}

// The confidence interval of a share: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
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
  const summary = `You agreed with the score in ${agreed} of ${decided.length} votes${neither ? `, and could not decide in ${neither}` : ""}`;
  if (decided.length < ENOUGH) return `${summary}. From ${ENOUGH} votes on, the confidence interval is shown.`;
  const [low, high] = interval(agreed, decided.length);
  const percent = (value) => Math.round(100 * value);
  const result = `${summary}: ${percent(agreed / decided.length)} %, with 95 % confidence ${percent(low)} to ${percent(high)} %. `;
  if (low > 0.5) return `${result}The score agrees with your eyes.`;
  if (high < 0.5) return `${result}You prefer other pictures than the score: trust your eyes, and choose in the grid.`;
  return `${result}This may still be chance, so vote on more pairs.`;
}

function vote(letter) {
  if (rounds.length) setVotes(votes + letter);
}

function drawBallot() {
  const ballot = document.getElementById("ballot");
  ballot.hidden = !rounds.length;
  document.getElementById("verdict").textContent = rounds.length ? verdict() : "There is nothing to compare: all pictures that count have the same score.";
  document.getElementById("votes").hidden = !votes;
  const list = [...votes].map((letter, number) => made("li", {}, voteText(letter, number)));
  document.querySelector("#votes ol").replaceChildren(...list);
  if (!rounds.length) return;
  const { a, b } = pair(votes.length);
  ballot.querySelector("[data-vote=a] img").src = sourceOf(a);
  ballot.querySelector("[data-vote=b] img").src = sourceOf(b);
  document.getElementById("blind-prompt").textContent = valueLabel("prompt", placeOf(a.place).prompt);
}

function voteText(letter, number) {
  const name = (picture) => `${settingLabel(placeOf(picture.place))} (${picture.score.toFixed(2)})`;
  const { a, b } = pair(number);
  if (letter === "n") return `neither ${name(a)} nor ${name(b)}`;
  const [won, lost] = letter === "a" ? [a, b] : [b, a];
  return `${name(won)} over ${name(lost)}: the score ${agrees(number) ? "agrees" : "does not agree"}`;
}

for (const button of document.querySelectorAll("#ballot .vote")) button.addEventListener("click", () => vote(button.dataset.vote));
// The keys A, B and N vote while the pictures are visible, without a click before.
document.addEventListener("keydown", (event) => {
  const letter = event.key.toLowerCase(), { top, bottom } = document.getElementById("ballot").getBoundingClientRect();
  if (!["a", "b", "n"].includes(letter) || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (top < innerHeight && bottom > 0 && !viewer.open && !event.target.matches("select, input")) vote(letter);
});
document.getElementById("take-back").addEventListener("click", () => setVotes(votes.slice(0, -1)));
document.getElementById("forget").addEventListener("click", () => setVotes(""));
drawBallot();
