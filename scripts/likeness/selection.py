"""Choosing the checkpoint and the weight: from one row of measurements per picture to one cell, with its evidence.

A cell is one (epoch, weight). Every cell draws the same prompts from the same seeds, so cells are compared picture by
picture. Epoch 0 is the base model without the LoRA: it is reported beside the others and never chosen.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from likeness.errors import LikenessError
from likeness.leaks import leak_likeness, shows_face
from likeness.manifests import read_json, read_table
from likeness.samples import read_samples

# The kinds of prompts whose pictures are scored: all that name the person alone. The others only hold back a cell.
COUNTED = ("near", "far", "canary")
PAIR = ["prompt", "seed"]
CELL = ["epoch", "weight"]
NUMBERS = (
    *("identity", "identity_raw", "judge_identity", "copy", "prompt_score"),
    *("faces", "second_identity", "sharpness", "yaw", "pitch"),
)
ONE_STANDARD_ERROR = 0.683  # the share of a normal distribution that lies within it
# By so much of identity the mean of a cell's untrained pictures goes up and down by chance. Single strangers do by 0.10
# (otto) to 0.24 (ava): the standard deviation over the 84 photos in resources/calibration and strangers, each person's
# photos as the scale. Four pictures (two prompts, two seeds) halve that.
NOISE = 0.1
DECIMALS = 6  # of every number in choice.json: more is noise of the processor, and would change its bytes


def read_scores(path: Path) -> pd.DataFrame:
    """scores.tsv with numbers as numbers (an empty cell is NaN) and `image` as an absolute path."""
    table = read_table(path, epoch=int, weight=float, seed=int)
    for name in NUMBERS:
        table[name] = pd.to_numeric(table[name], errors="coerce")
    table["image"] = [str(path.parent.resolve() / image) for image in table["image"]]
    return table


def f_beta(identity: np.ndarray, prompt_score: np.ndarray, beta: float) -> np.ndarray:
    """One number per picture, 0 to 1: the weighted harmonic mean in which identity counts `beta` times as much.

    van Rijsbergen's effectiveness, F = (1 + b^2) P R / (b^2 P + R), with prompt following as P and identity as R: a
    large beta tends to identity alone, a small one to prompt following alone, and no beta lets one make up for the
    other at 0. Both are clipped to 0..1 first: more alike than the person's own photos are to one another is no merit.
    """
    recall, precision = np.clip(identity, 0.0, 1.0), np.clip(prompt_score, 0.0, 1.0)
    below = beta**2 * precision + recall
    return np.divide((1 + beta**2) * precision * recall, below, out=np.zeros_like(below), where=below > 0)


def picture_scores(scores: pd.DataFrame, beta: float) -> np.ndarray:
    """F-beta of every row; a picture that a gate holds back scores 0."""
    value = f_beta(scores["identity"].to_numpy(float), scores["prompt_score"].to_numpy(float), beta)
    return np.where(scores["gate"] == "", value, 0.0)


def without_leaks(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows as if no cell leaked, of those that count; what showed the leak stays marked."""
    leaks = scores["kind"].isin(COUNTED) & (scores["gate"] == "leak")
    return scores.assign(gate=scores["gate"].mask(leaks, ""))


def as_chosen(scores: pd.DataFrame, choice: Mapping) -> pd.DataFrame:
    """The rows with the gates that the choice was made by: one of evidence "leaking" let leaks pass."""
    return without_leaks(scores) if choice["evidence"] == "leaking" else scores


def in_chosen_cell(table: pd.DataFrame, choice: Mapping) -> pd.Series:
    """Whether a row is of a picture of the cell that was chosen."""
    return (table["epoch"] == choice["epoch"]) & (table["weight"] == choice["weight"])


def choose(scores: pd.DataFrame, *, beta: float, bootstrap: int, confidence: float, seed: int) -> dict[str, object]:
    """The weight nearest to 1 that cannot be told apart from the best, at it the latest epoch near the best, and why.

    `scores` has the columns of scores.tsv; only the rows of a kind in COUNTED take part, and of the others each cell
    reports what the gate went by: untrained, two_people (both by leaks.leak_likeness) and untrained_judge. The paired
    bootstrap draws (prompt, seed) pairs with replacement, `bootstrap` times, the same pairs for every cell, and takes
    percentile intervals of each cell's difference to the best. A cell cannot be told apart from the best when its
    interval of `confidence` contains 0. A LoRA is trained at weight 1, and for as long as was asked: so another weight
    needs evidence against those nearer to 1, and of the epochs at the weight the latest is taken within one standard
    error (Breiman et al. 1984, for trees) of the best there. What was measured of that: docs/choice.md. Where every
    cell that shows the person leaks, it is chosen from those, without that gate. Same rows and seed, same answer,
    whatever the order of the rows.

    Returns epoch, weight, score, interval [low, high], indistinguishable [[epoch, weight]...], rule (a sentence),
    evidence ("measured" | "leaking" | "none"), better_than_base (whether the interval of the chosen cell's difference
    to the base model lies above 0), base, beta, confidence, pairs and cells. Raises LikenessError for missing or double
    pictures and for NaN.
    """
    rows = _checked(scores[scores["kind"].isin(COUNTED)])
    score = picture_scores(rows, beta)
    leaking = bool((rows["gate"] == "leak").any() and not score[rows["epoch"] > 0].any())
    rows = rows.assign(score=picture_scores(without_leaks(rows), beta) if leaking else score)
    matrix = rows.pivot(index=CELL, columns=PAIR, values="score")
    values = matrix.to_numpy()  # (cells, pairs); row 0 is the base
    pairs = values.shape[1]
    draws = _draws(pairs, bootstrap, seed)
    means = values.mean(axis=1)
    best = 1 + int(np.argmax(means[1:]))
    # The difference is taken before the mean, so that equal rows differ by exactly 0.
    difference = _interval(draws @ (values - values[best]).T, confidence)
    interval = _interval(draws @ values.T, confidence)
    possible = means > 0  # a cell without a single likeness is no answer, however few pairs
    possible[0] = False
    alike = possible & (difference[:, 1] >= 0)

    measured, unasked = _cells(rows, matrix.index, means, interval, difference), _unasked(scores, matrix.index)
    cells = [cell | more for cell, more in zip(measured, unasked, strict=True)]
    found = bool(means[best] > 0)
    chosen = _latest_near_best(values, draws, _nearest_to_one(matrix.index, alike)) if found else _customary(cells)
    gain = _interval(draws @ (values[[chosen]] - values[0]).T, confidence)
    return {
        "epoch": cells[chosen]["epoch"],
        "weight": cells[chosen]["weight"],
        "score": cells[chosen]["score"],
        "interval": cells[chosen]["interval"],
        "indistinguishable": [[c["epoch"], c["weight"]] for c, yes in zip(cells, alike, strict=True) if yes],
        "rule": _rule(cells, best, pairs, beta, leaking) if found else _no_evidence(rows),
        "evidence": "none" if not found else "leaking" if leaking else "measured",
        "better_than_base": bool(gain[0, 0] > 0),
        "beta": beta,
        "confidence": confidence,
        "pairs": pairs,
        "base": cells[0],
        "cells": cells[1:],
    }


def _nearest_to_one(index: pd.MultiIndex, alike: np.ndarray) -> np.ndarray:
    """The cells at the weight that is nearest to 1 of those that `alike` has, the lower of two as near: their places,
    in the order of epochs."""
    weights = index.get_level_values("weight").to_numpy()
    weight = min(weights[alike], key=_from_one)
    return np.flatnonzero(weights == weight)


def _latest_near_best(values: np.ndarray, draws: np.ndarray, places: np.ndarray) -> int:
    """Of some cells the last that is within one standard error of the best of them, and shows the person at all."""
    means = values[places].mean(axis=1)
    of_weight = values[places] - values[places[np.argmax(means)]]
    near = (means > 0) & (_interval(draws @ of_weight.T, ONE_STANDARD_ERROR)[:, 1] >= 0)
    return int(places[near][-1])


def compare(
    runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping], *, bootstrap: int, seed: int
) -> dict[str, object]:
    """The FIRST run whose chosen cell cannot be told apart from the best run's, and why.

    `runs` are tables of `scored_pictures` and `choices` what `choose` found in them, both by name and in the order of
    the configuration. Only runs with measured evidence take part, with the (prompt, seed) pairs that all of them drew.
    The paired bootstrap is that of `choose`.

    Returns run (a name, or None where there is nothing to compare), best, alike (names), pairs, differences
    {name: [low, high] to the best} and sentence.
    """
    measured = {
        name: _chosen_scores(runs[name], choice) for name, choice in choices.items() if choice["evidence"] == "measured"
    }
    nothing = {"run": None, "best": None, "alike": [], "pairs": 0, "differences": {}}
    if not measured:
        return nothing | {"sentence": f"No run counts: {_left_out(choices, '')}."}
    for setting, difference in (("beta", "weigh identity"), ("clip", "measure what follows a prompt")):
        if len({choices[name][setting] for name in measured}) > 1:
            return nothing | {
                "sentence": f"The runs {difference} differently (select.{setting}), so their scores are no one scale."
            }
    table = pd.concat(measured, axis=1, join="inner").sort_index()
    pairs = len(table)
    if not pairs:
        return nothing | {"sentence": "The runs share no prompt with the same seed; let them sample the same ones."}
    values = table.to_numpy().T  # (runs, pairs)
    best = int(np.argmax(values.mean(axis=1)))
    confidence = choices[table.columns[best]]["confidence"]
    difference = _interval(_draws(pairs, bootstrap, seed) @ (values - values[best]).T, confidence)
    names = list(table.columns)
    alike = [name for name, (_, high) in zip(names, difference, strict=True) if high >= 0]
    return {
        "run": alike[0],
        "best": names[best],
        "alike": alike,
        "pairs": pairs,
        "differences": dict(zip(names, np.round(difference, DECIMALS).tolist(), strict=True)),
        "sentence": _compared(alike, len(names), pairs, _left_out(choices, " more")),
    }


def measured_pictures(samples: Iterable[Path], scores: Path, choice: Mapping) -> pd.DataFrame:
    """Every picture with what was measured of it, and `score`: F-beta as in the choice, 0 where a gate holds it back.

    Raises LikenessError if the samples and the scores are not of the same pictures.
    """
    key = [*CELL, "kind", *PAIR]
    measured = read_scores(scores).drop(columns="image")
    table = read_samples(samples)[[*key, "image", "pixels"]].merge(measured, on=key, how="left", indicator=True)
    if (table["_merge"] != "both").any() or len(table) != len(measured):
        raise LikenessError(f"{scores}: not of these samples; run snakemake --forcerun score_checkpoint")
    table = as_chosen(table.drop(columns="_merge"), choice)
    return table.assign(score=picture_scores(table, choice["beta"]))


def scored_pictures(samples: Iterable[Path], scores: Path, choice: Mapping) -> pd.DataFrame:
    """Those `measured_pictures` that count."""
    table = measured_pictures(samples, scores, choice)
    return table[table["kind"].isin(COUNTED)].reset_index(drop=True)


def picture_label(row: Mapping) -> str:
    """The score of a picture, or in words why it is out; of one that only holds back a cell, whom its faces are."""
    if row["kind"] in COUNTED or row["gate"] not in ("", "leak"):
        return row["gate"].replace("_", " ") or f"{row['score']:.2f}"
    faces = [f"{face:.2f}" for face in (row["identity"], row["second_identity"]) if np.isfinite(face)]
    return " and ".join(faces) if len(faces) > 1 else f"identity {faces[0]}"


def read_choice(path: Path) -> dict:
    return read_json(path)


def chosen_cell(choice: Mapping) -> dict:
    """What is reported of the cell that was chosen."""
    return next(c for c in choice["cells"] if (c["epoch"], c["weight"]) == (choice["epoch"], choice["weight"]))


def advice(choice: dict) -> tuple[str, str]:
    """Two sentences for a person: what to use, and how sure that is."""
    setting = f"epoch {choice['epoch']} at weight {choice['weight']:g}"
    if choice["evidence"] == "none":
        return f"A guess: {setting}", f"No evidence: {choice['rule'][0].lower()}{choice['rule'][1:]}."
    if choice["evidence"] == "leaking":
        return f"Use {setting}, if you must", (
            "No epoch at any weight shows the person without drawing them also where the prompt does not name them; "
            "this is the best of those that do. Train fewer steps, at a lower rate or with regularisation pictures, "
            "or sample lower weights."
        )
    use = f"Use {setting}"
    alike = choice["indistinguishable"]
    pictures = f"{choice['pairs']} pictures each"
    if len(choice["cells"]) == 1:
        sure = "It is the only setting there is."
    elif choice["pairs"] == 1:
        sure = f"Of {len(choice['cells'])} settings with one picture each none scores higher, which tells little."
    elif len(alike) == 1:
        sure = f"It is better than each of the other {len(choice['cells']) - 1} settings, on {pictures}."
    elif len(epochs := sorted({epoch for epoch, _ in alike})) == 1:
        sure = f"Weights {_listed(f'{w:g}' for _, w in alike)} of it cannot be told apart, on {pictures}."
    else:
        scores_highest = chosen_cell(choice)["score"] == max(cell["score"] for cell in choice["cells"])
        why = "this setting scores highest" if scores_highest else "this is the latest of those nearest to the best"
        sure = f"Epochs {_span(epochs)} cannot be told apart, on {pictures}; {why}, at the weight nearest to 1."
    if not choice["better_than_base"]:
        sure += " Nor can the base model without the LoRA be told apart from it: sample more prompts and seeds."
    return use, sure


def separation(choice: Mapping, subject: Mapping) -> str:
    """For a person: whom the class noun draws without the trigger in the chosen cell, and how far that is from the
    limit. Less than NOISE is a stranger for all that can be seen; that close below the limit, other seeds might be over
    it."""
    cell, limit = chosen_cell(choice), choice["leak_limit"]
    found, other = cell["untrained"], cell["two_people"]
    if found is None:
        said = "draws no face, so whom it draws is not known"
    else:
        if found > limit:
            whom = "draws the person"
        elif found > limit - NOISE:
            whom = "nearly draws the person"
        elif found < NOISE:
            whom = "still draws anybody"
        else:
            whom = "draws faces a little like the person"
        said = f"{whom}: likeness {max(found, 0):.2f}, where 0 is a stranger and {limit:g} is the limit"
    sentence = f'Without "{subject["trigger"]}", "{subject["class_noun"]}" {said}.'
    if other is not None:
        over = ", which is over the limit" if other > limit else ""
        sentence += f" Beside the person, somebody else has likeness {max(other, 0):.2f}{over}."
    return sentence


def _checked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, in order, if each cell of a full epochs x weights table has every (prompt, seed) once, and no NaN."""
    if rows.empty:
        raise LikenessError(f"no picture of the subject was scored; expected rows of kind {_listed(COUNTED)}")
    for name in ("identity", "prompt_score"):
        bad = rows[~np.isfinite(rows[name].to_numpy(float))]
        if len(bad):
            first = bad.iloc[0]
            raise LikenessError(
                f"{name} of {_where(first)} is not a number ({len(bad)} such); "
                "run snakemake --forcerun score_checkpoint"
            )
    double = rows[rows.duplicated([*CELL, *PAIR])]
    if len(double):
        raise LikenessError(f"{_where(double.iloc[0])} is there twice; expected one row per picture")
    trained = rows[rows["epoch"] > 0]
    if trained.empty or len(trained) == len(rows):
        missing = "epochs" if trained.empty else "pictures of the base model (epoch 0)"
        raise LikenessError(f"no {missing} in the scores; run snakemake --forcerun sample_checkpoint")
    cells = {(e, w) for e in trained["epoch"].unique() for w in trained["weight"].unique()} | {(0, 0.0)}
    pairs = set(rows[PAIR].itertuples(index=False, name=None))
    present = set(rows[[*CELL, *PAIR]].itertuples(index=False, name=None))
    missing = sorted((*cell, *pair) for cell in cells for pair in pairs if (*cell, *pair) not in present)
    if missing:
        first = dict(zip([*CELL, *PAIR], missing[0], strict=True))
        raise LikenessError(
            f"no picture of {_where(first)} ({len(missing)} missing); cells are compared picture by picture, "
            "so run snakemake --forcerun sample_checkpoint"
        )
    return rows.sort_values([*CELL, *PAIR], ignore_index=True)


def _draws(pairs: int, bootstrap: int, seed: int) -> np.ndarray:
    """Shares of the pairs, drawn with replacement: (bootstrap, pairs)."""
    return np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=bootstrap) / pairs


def _chosen_scores(table: pd.DataFrame, choice: Mapping) -> pd.Series:
    """The score of every (prompt, seed) in the chosen cell."""
    return table[in_chosen_cell(table, choice)].set_index(PAIR)["score"]


def _left_out(choices: Mapping[str, Mapping], more: str) -> str:
    """How many runs take no part in a comparison, and why; empty if all do."""
    said = []
    for evidence, why in (("leaking", "with leaks at every setting"), ("none", "without evidence")):
        if count := sum(choice["evidence"] == evidence for choice in choices.values()):
            said.append(f"{count}{more} {'run' if count == 1 else 'runs'} {why}")
    return " and ".join(said)


def _compared(alike: Sequence[str], runs: int, pairs: int, left_out: str) -> str:
    on = f"on {pairs} picture{'s' if pairs > 1 else ''} each, of the same prompts from the same seeds"
    if runs == 1:
        said = "It is the only run that counts."
    elif len(alike) == 1:
        said = f"It is better than {'the other run' if runs == 2 else f'each of the other {runs - 1} runs'}, {on}."
    else:
        said = f"{_listed(alike)} cannot be told apart, {on}; this is the one that is listed first."
    return f"{said} Left out: {left_out}." if left_out else said


def _interval(samples: np.ndarray, confidence: float) -> np.ndarray:
    """Percentile interval of each column: (draws, cells) -> (cells, 2)."""
    tail = 100 * (1 - confidence) / 2
    return np.percentile(samples, [tail, 100 - tail], axis=0).T


def _cells(
    rows: pd.DataFrame, index: pd.MultiIndex, means: np.ndarray, interval: np.ndarray, difference: np.ndarray
) -> list[dict]:
    """What is reported of each cell, in the order of `index`."""
    groups = dict(list(rows.groupby(CELL)))
    cells = []
    for i, (epoch, weight) in enumerate(index):
        group = groups[epoch, weight]
        gates = group["gate"][group["gate"] != ""].value_counts().sort_index()
        cells.append(
            {
                "epoch": int(epoch),
                "weight": float(weight),
                "score": round(float(means[i]), DECIMALS),
                "interval": np.round(interval[i], DECIMALS).tolist(),
                "difference_to_best": np.round(difference[i], DECIMALS).tolist(),
                "identity": round(float(group["identity"].mean()), DECIMALS),
                "judge_identity": _rounded_or_none(group["judge_identity"].mean()),
                "prompt_score": round(float(group["prompt_score"].mean()), DECIMALS),
                "pictures": len(group),
                "gates": {str(name): int(count) for name, count in gates.items()},
            }
        )
    return cells


def _unasked(scores: pd.DataFrame, index: pd.MultiIndex) -> list[dict]:
    """How much of the person each cell shows unasked, in the order of `index`; None where no picture tells."""
    faces = scores[(scores["kind"] == "untrained") & shows_face(scores)]
    found = {
        "untrained": leak_likeness(scores, "untrained"),
        "untrained_judge": faces.groupby(CELL)["judge_identity"].mean().to_dict(),
        "two_people": leak_likeness(scores, "two_people"),
    }
    return [{name: _rounded_or_none(of.get(cell, np.nan)) for name, of in found.items()} for cell in index]


def _rounded_or_none(value: float) -> float | None:
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def _customary(cells: Sequence[dict]) -> int:
    """What people use without evidence: the last epoch at the weight nearest to 1 (the lower of two as near)."""
    last = max(cell["epoch"] for cell in cells)
    candidates = [i for i, cell in enumerate(cells) if cell["epoch"] == last]
    return min(candidates, key=lambda i: _from_one(cells[i]["weight"]))


def _from_one(weight: float) -> tuple[float, float]:
    """To sort weights by: nearest to 1 first, of two as near the lower one."""
    return abs(weight - 1), weight


def _rule(cells: Sequence[dict], best: int, pairs: int, beta: float, leaking: bool) -> str:
    top = cells[best]
    highest = (
        f"the highest mean F-beta ({top['score']:.2f}, identity counting {beta:g} times) is epoch {top['epoch']} "
        f"at weight {top['weight']:g}"
    )
    if leaking:
        highest += "; leaks are let pass, because no other picture shows the person"
    if pairs == 1:
        return (
            f"The highest score, of equal ones the latest epoch at the weight nearest to 1; {highest}. With one prompt "
            "and one seed there is no interval: only equal scores count as equal"
        )
    return (
        "The weight nearest to 1 that cannot be told apart from the best, and at it the latest epoch within one "
        f"standard error of the best there (paired bootstrap over {pairs} prompt and seed pairs); {highest}"
    )


def _no_evidence(rows: pd.DataFrame) -> str:
    trained = rows[rows["epoch"] > 0]
    gates = trained["gate"][trained["gate"] != ""].str.replace("_", " ").value_counts()
    if gates.sum() == len(trained):
        counts = ", ".join(f"{n} {gate}" for gate, n in sorted(gates.items()))
        found = f"no picture passes the gates ({counts})"
    else:
        found = "no picture looks more like the person than the base model's do"
    rule = "the last epoch at the weight nearest to 1 is taken, as people do without evidence"
    return f"{found[0].upper()}{found[1:]}, so {rule}"


def _where(row: dict | pd.Series) -> str:
    return f"epoch {row['epoch']} at weight {row['weight']:g}, prompt {row['prompt']!r}, seed {row['seed']}"


def _span(numbers: Sequence[int]) -> str:
    """[2, 3, 4] -> "2 to 4"; [2, 4] -> "2 and 4"."""
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return _listed(str(n) for n in numbers)


def _listed(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
