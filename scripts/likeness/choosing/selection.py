"""The choice of an epoch and a weight by the measurements of the pictures, with the evidence for it.

A cell is one (epoch, weight). All cells have the same prompts with the same seeds, so they are compared picture by
picture. Epoch 0 is the base model without the LoRA: it is reported, but never chosen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from likeness.choosing.choice import listed_words
from likeness.choosing.leaks import leak_likeness, shows_face
from likeness.choosing.scores import CELL, PAIR, SCORED_KINDS, in_chosen_cell, picture_scores, without_leaks
from likeness.core.errors import LikenessError
from likeness.core.manifests import again

ONE_STANDARD_ERROR = 0.683  # the share of a normal distribution that lies within it
DECIMALS = 6  # of every number in choice.json: further ones depend on the processor


def choose(
    scores: pd.DataFrame,
    *,
    beta: float,
    bootstrap: int,
    confidence: float,
    seed: int,
    by_hand: tuple[int, float] | None = None,
) -> dict[str, Any]:
    """Choose a weight and an epoch: of the weights that cannot be distinguished from the best, the one nearest to 1;
    and at this weight the latest epoch near the best.

    `scores` has the columns of scores.tsv. Only rows of a kind in SCORED_KINDS count. The other rows give three
    numbers that are reported of each cell: untrained and two_people (by leaks.leak_likeness, as for the gate), and
    untrained_judge.

    The paired bootstrap draws (prompt, seed) pairs with replacement, `bootstrap` times, with the same pairs for every
    cell. It gives percentile intervals of each cell's difference to the best cell. A cell cannot be distinguished from
    the best if its interval of `confidence` contains 0. A LoRA is trained at weight 1, so another weight is chosen only
    with evidence against the weights nearer to 1. The user asked for the full number of epochs, so the latest epoch
    within one standard error of the best one is chosen (Breiman et al. 1984, for trees). docs/choice.md has the
    measurements of this rule. If all cells that show the person leak, the gate "leak" is ignored. The result does not
    depend on the order of the rows. `by_hand` is the epoch and the weight that a person took instead.

    Returns epoch, weight, score, interval [low, high], indistinguishable [[epoch, weight]...], rule (a sentence),
    measured_choice (epoch, weight and score that the rule takes) and by_hand (whether a person chose), evidence
    ("measured" | "leaking" | "none"), better_than_base (whether the interval of the chosen cell's difference
    to the base model lies above 0), base, beta, confidence, pairs and cells. Raises LikenessError for missing or
    duplicate pictures, for NaN, and if nothing was drawn of the cell `by_hand`.
    """
    rows = _checked(scores[scores["kind"].isin(SCORED_KINDS)])
    score = picture_scores(rows, beta)
    leaking = bool((rows["gate"] == "leak").any() and not score[rows["epoch"] > 0].any())
    rows = rows.assign(score=picture_scores(without_leaks(rows), beta) if leaking else score)
    matrix = rows.pivot(index=CELL, columns=PAIR, values="score")
    values = matrix.to_numpy()  # (cells, pairs); row 0 is the base
    pairs = values.shape[1]
    draws = _draws(pairs, bootstrap, seed)
    means = values.mean(axis=1)
    best = 1 + int(np.argmax(means[1:]))
    # The difference is computed before the mean, so that equal rows differ by exactly 0.
    difference = _interval(draws @ (values - values[best]).T, confidence)
    interval = _interval(draws @ values.T, confidence)
    possible = means > 0  # a cell without any likeness is never chosen, even if there are few pairs
    possible[0] = False
    indistinguishable = possible & (difference[:, 1] >= 0)

    measured = _cells(rows, matrix.index, means, interval, difference)
    leaks = _leak_numbers(scores, matrix.index)
    cells = [cell | more for cell, more in zip(measured, leaks, strict=True)]
    evidence = bool(means[best] > 0)
    by_rule = (
        _latest_near_best(values, draws, _nearest_to_one(matrix.index, indistinguishable))
        if evidence
        else _customary(cells)
    )
    chosen = by_rule if by_hand is None else _position(cells, by_hand)
    gain = _interval(draws @ (values[[chosen]] - values[0]).T, confidence)
    return {
        "epoch": cells[chosen]["epoch"],
        "weight": cells[chosen]["weight"],
        "score": cells[chosen]["score"],
        "interval": cells[chosen]["interval"],
        "indistinguishable": [
            [c["epoch"], c["weight"]] for c, yes in zip(cells, indistinguishable, strict=True) if yes
        ],
        "by_hand": by_hand is not None,
        "measured_choice": {key: cells[by_rule][key] for key in ("epoch", "weight", "score")},
        "rule": _rule(cells, best, pairs, beta, leaking) if evidence else _no_evidence(rows),
        "evidence": "none" if not evidence else "leaking" if leaking else "measured",
        "better_than_base": bool(gain[0, 0] > 0),
        "beta": beta,
        "confidence": confidence,
        "pairs": pairs,
        "base": cells[0],
        "cells": cells[1:],
    }


def _nearest_to_one(index: pd.MultiIndex, candidates: np.ndarray) -> np.ndarray:
    """The positions of all cells at one weight, in the order of epochs. The weight is the one nearest to 1 of the cells
    that `candidates` marks, of two equally near ones the lower."""
    weights = index.get_level_values("weight").to_numpy()
    weight = min(weights[candidates], key=_from_one)
    return np.flatnonzero(weights == weight)


def _latest_near_best(values: np.ndarray, draws: np.ndarray, places: np.ndarray) -> int:
    """The last of the cells at `places` that is within one standard error of the best of them, and shows the person at
    all."""
    means = values[places].mean(axis=1)
    of_weight = values[places] - values[places[np.argmax(means)]]
    near = (means > 0) & (_interval(draws @ of_weight.T, ONE_STANDARD_ERROR)[:, 1] >= 0)
    return int(places[near][-1])


def compare(
    runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping[str, Any]], *, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Compare runs by their chosen cells, and choose the FIRST run that cannot be distinguished from the best one.

    `runs` are tables of `scored_pictures`, and `choices` the results of `choose` for them, both by name and in the
    order of the configuration. Only runs with measured evidence are compared, by the (prompt, seed) pairs that all of
    them have. The paired bootstrap is that of `choose`.

    Returns run (a name, or None if there is nothing to compare), best, alike (names), pairs, differences
    {name: [low, high] to the best}, own_scales (whether the runs' identities had to be brought to one scale) and
    sentence.
    """
    measured = [name for name, choice in choices.items() if choice["evidence"] == "measured"]
    nothing: dict[str, Any] = {
        **{"run": None, "best": None, "alike": [], "pairs": 0, "differences": {}},
        "own_scales": False,
    }
    if not measured:
        return nothing | {"sentence": f"No run counts: {_left_out(choices, '')}."}
    for setting, action in (("beta", "weigh identity"), ("clip", "measure what follows a prompt")):
        if len({choices[name][setting] for name in measured}) > 1:
            return nothing | {
                "sentence": f"The runs {action} differently (select.{setting}), so their scores are no one scale."
            }
    tables, own_scales = _on_one_scale({name: runs[name] for name in measured}, choices[measured[0]]["beta"])
    scores = {name: _chosen_scores(table, choices[name]) for name, table in tables.items()}
    table = pd.concat(scores, axis=1, join="inner").sort_index()
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
        "own_scales": own_scales,
        "sentence": _compared(alike, len(names), pairs, _left_out(choices, " more")),
    }


def _on_one_scale(tables: Mapping[str, pd.DataFrame], beta: float) -> tuple[dict[str, pd.DataFrame], bool]:
    """The tables with `identity` and `score` on one scale, and whether they had scales of their own.

    The floor of a scale is partly that of the base model's pictures, so runs that different models draw have different
    floors, and the same face would have different identities. The common floor is the mean of the different ones.
    """
    floors = {float(table["floor"].iloc[0]) for table in tables.values()}
    if len(floors) == 1:
        return dict(tables), False
    floor, rescaled = float(np.mean(sorted(floors))), {}
    for name, table in tables.items():
        raw = table["identity_raw"].to_numpy(float)  # NaN without a face, whose identity is 0
        identity = np.nan_to_num((raw - floor) / (table["ceiling"].to_numpy(float) - floor))
        table = table.assign(identity=identity)
        rescaled[name] = table.assign(score=picture_scores(table, beta))
    return rescaled, True


def _checked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, sorted. Raises LikenessError unless every cell of epochs x weights has every (prompt, seed) exactly
    once, without NaN."""
    if rows.empty:
        raise LikenessError(f"no picture of the subject was scored; expected rows of kind {listed_words(SCORED_KINDS)}")
    for name in ("identity", "prompt_score"):
        bad = rows[~np.isfinite(rows[name].to_numpy(float))]
        if len(bad):
            first = bad.iloc[0]
            raise LikenessError(
                f"{name} of {_where(first)} is not a number ({len(bad)} such); {again('score_checkpoint')}"
            )
    double = rows[rows.duplicated([*CELL, *PAIR])]
    if len(double):
        raise LikenessError(f"{_where(double.iloc[0])} is there twice; expected one row per picture")
    trained = rows[rows["epoch"] > 0]
    if trained.empty or len(trained) == len(rows):
        what = "epochs" if trained.empty else "pictures of the base model (epoch 0)"
        raise LikenessError(f"no {what} in the scores; {again('sample_checkpoint')}")
    cells = {(e, w) for e in trained["epoch"].unique() for w in trained["weight"].unique()} | {(0, 0.0)}
    pairs = set(rows[PAIR].itertuples(index=False, name=None))
    present = set(rows[[*CELL, *PAIR]].itertuples(index=False, name=None))
    missing = sorted((*cell, *pair) for cell in cells for pair in pairs if (*cell, *pair) not in present)
    if missing:
        first = dict(zip([*CELL, *PAIR], missing[0], strict=True))
        raise LikenessError(
            f"no picture of {_where(first)} ({len(missing)} missing); cells are compared picture by picture, "
            f"so {again('sample_checkpoint')}"
        )
    return rows.sort_values([*CELL, *PAIR], ignore_index=True)


def _draws(pairs: int, bootstrap: int, seed: int) -> np.ndarray:
    """The weights of the pairs in each bootstrap sample, (bootstrap, pairs): the sum of a row is 1."""
    return np.random.default_rng(seed).multinomial(pairs, np.full(pairs, 1 / pairs), size=bootstrap) / pairs


def _chosen_scores(table: pd.DataFrame, choice: Mapping[str, Any]) -> pd.Series:
    """The score of every (prompt, seed) in the chosen cell."""
    return table[in_chosen_cell(table, choice)].set_index(PAIR)["score"]


def _left_out(choices: Mapping[str, Mapping[str, Any]], more: str) -> str:
    """How many runs are not compared, and why; empty if all are compared."""
    parts = []
    for evidence, why in (("leaking", "with leaks at every setting"), ("none", "without evidence")):
        if count := sum(choice["evidence"] == evidence for choice in choices.values()):
            parts.append(f"{count}{more} {'run' if count == 1 else 'runs'} {why}")
    return " and ".join(parts)


def _compared(alike: Sequence[str], runs: int, pairs: int, left_out: str) -> str:
    """The sentence about the result of a comparison."""
    on = f"on {pairs} picture{'s' if pairs > 1 else ''} each, of the same prompts from the same seeds"
    if runs == 1:
        sentence = "It is the only run that counts."
    elif len(alike) == 1:
        sentence = f"It is better than {'the other run' if runs == 2 else f'each of the other {runs - 1} runs'}, {on}."
    else:
        sentence = f"{listed_words(alike)} cannot be told apart, {on}; this is the one that is listed first."
    return f"{sentence} Left out: {left_out}." if left_out else sentence


def _interval(samples: np.ndarray, confidence: float) -> np.ndarray:
    """Percentile interval of each column: (draws, cells) -> (cells, 2)."""
    tail = 100 * (1 - confidence) / 2
    return np.percentile(samples, [tail, 100 - tail], axis=0).T


def _cells(
    rows: pd.DataFrame, index: pd.MultiIndex, means: np.ndarray, interval: np.ndarray, difference: np.ndarray
) -> list[dict[str, Any]]:
    """The measurements of each cell, in the order of `index`."""
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


def _leak_numbers(scores: pd.DataFrame, index: pd.MultiIndex) -> list[dict[str, float | None]]:
    """How much each cell shows the person although the prompt does not ask for the person, in the order of `index`;
    None where no picture shows the face that counts."""
    faces = scores[(scores["kind"] == "untrained") & shows_face(scores)]
    likeness = {
        "untrained": leak_likeness(scores, "untrained"),
        "untrained_judge": faces.groupby(CELL)["judge_identity"].mean().to_dict(),
        "two_people": leak_likeness(scores, "two_people"),
    }
    return [{name: _rounded_or_none(of.get(cell, np.nan)) for name, of in likeness.items()} for cell in index]


def _rounded_or_none(value: float) -> float | None:
    return round(float(value), DECIMALS) if np.isfinite(value) else None


def _position(cells: Sequence[Mapping[str, Any]], by_hand: tuple[int, float]) -> int:
    """The position of the cell that a person chose."""
    places = [i for i, cell in enumerate(cells) if (cell["epoch"], cell["weight"]) == by_hand and cell["epoch"]]
    if not places:
        epochs = listed_words(str(epoch) for epoch in sorted({cell["epoch"] for cell in cells[1:]}))
        weights = listed_words(f"{weight:g}" for weight in sorted({cell["weight"] for cell in cells[1:]}))
        raise LikenessError(
            f"decisions.yaml takes epoch {by_hand[0]} at weight {by_hand[1]:g}, of which nothing was drawn; take one "
            f"of epochs {epochs} at weight {weights}"
        )
    return places[0]


def _customary(cells: Sequence[Mapping[str, Any]]) -> int:
    """The position of the cell that people use without evidence: the last epoch at the weight nearest to 1, of two
    equally near ones the lower."""
    last = max(cell["epoch"] for cell in cells)
    candidates = [i for i, cell in enumerate(cells) if cell["epoch"] == last]
    return min(candidates, key=lambda i: _from_one(cells[i]["weight"]))


def _from_one(weight: float) -> tuple[float, float]:
    """A sort key for weights: the nearest to 1 comes first, of two equally near ones the lower."""
    return abs(weight - 1), weight


def _rule(cells: Sequence[Mapping[str, Any]], best: int, pairs: int, beta: float, leaking: bool) -> str:
    """The sentence about the rule of the choice, and about the cell with the highest score."""
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
    """The sentence about the rule of a choice without evidence."""
    trained = rows[rows["epoch"] > 0]
    gates = trained["gate"][trained["gate"] != ""].str.replace("_", " ").value_counts()
    if gates.sum() == len(trained):
        counts = ", ".join(f"{n} {gate}" for gate, n in sorted(gates.items()))
        reason = f"no picture passes the gates ({counts})"
    else:
        reason = "no picture looks more like the person than the base model's do"
    rule = "the last epoch at the weight nearest to 1 is taken, as people do without evidence"
    return f"{reason[0].upper()}{reason[1:]}, so {rule}"


def _where(row: Mapping[str, Any] | pd.Series) -> str:
    return f"epoch {row['epoch']} at weight {row['weight']:g}, prompt {row['prompt']!r}, seed {row['seed']}"
