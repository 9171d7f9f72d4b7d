"""The samples of a run as data in the page: the axes of the grid, and every picture with its measurements."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from likeness.choosing.scores import SCORED_KINDS, picture_label

AXES = ("epoch", "weight", "prompt", "seed")
BASE = -1  # the position of the base model on the axis of epochs; it has no weight
# Columns of measured_pictures that are no measurement of a single picture. All other columns with numbers are shown, so
# that a new measurement needs no change here.
NOT_SHOWN = {
    *(*AXES, "kind", "image", "pixels", "face_found", "score", "gate", "prompt_detail"),
    *("floor", "ceiling", "floor_from"),
}
LABELS = {
    **{"identity_raw": "held-out similarity", "copy": "nearest training photo"},
    **{"judge_identity": "identity, second recogniser", "second_identity": "identity of the second face"},
    **{"prompt_score": "prompt following", "yaw": "yaw, degrees", "pitch": "pitch, degrees"},
}
# A prefix of the prompts of each kind. Prompts of the kind "near" are the usual ones and need none.
KIND_LABELS = {
    **{"near": "", "far": "another scene: ", "canary": "unlike the photos: "},
    **{"untrained": "without the trigger: ", "two_people": "two people: "},
}
DECIMALS = 4  # of a number in the page, as in scores.tsv


def samples_part(table: pd.DataFrame, choice: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    """The data that grid.js and blind.js read. `table` is one of scores.measured_pictures, `files` has the file name of
    each row.

    {axes: {axis: values}, numbers: names, chosen: [epoch, weight], alike: [[epoch, weight]...], settings: [[epoch,
    weight, mean score, identity without the trigger or none]...] over all prompts and seeds, pictures: [{place, file,
    score, label, out, numbers, detail}...]}. `place` has the index on every axis, in the order of AXES. `label` is the
    text below the picture. `out` is the gate that excludes the picture, or empty. `score` is none for the kinds of
    prompts that do not count (the untrained class, two people).
    """
    prompts = [KIND_LABELS[kind] + text for kind, text in zip(table["kind"], table["prompt"], strict=True)]
    trained = table[table["epoch"] > 0]
    axes = {
        "epoch": sorted(trained["epoch"].unique().tolist()),
        "weight": sorted(trained["weight"].unique().tolist()),
        "prompt": list(dict.fromkeys(prompts)),
        "seed": sorted(table["seed"].unique().tolist()),
    }
    at = {axis: {value: index for index, value in enumerate(values)} for axis, values in axes.items()}
    axes["seed"] = list(map(str, axes["seed"]))  # JavaScript's numbers have 53 bits
    numbers = _numbers(table)
    return {
        "axes": axes,
        "numbers": [LABELS.get(name, name.replace("_", " ")) for name in numbers],
        "chosen": [choice["epoch"], choice["weight"]],
        "alike": choice["indistinguishable"],
        "settings": [
            [cell["epoch"], cell["weight"], cell["score"], cell["untrained"]]
            for cell in (choice["base"], *choice["cells"])
        ],
        "pictures": [
            {
                "place": [
                    at["epoch"].get(row["epoch"], BASE),
                    at["weight"].get(row["weight"], 0),
                    at["prompt"][prompt],
                    at["seed"][row["seed"]],
                ],
                "file": file,
                "score": round(float(row["score"]), DECIMALS) if row["kind"] in SCORED_KINDS else None,
                "label": picture_label(row),
                "out": row["gate"].replace("_", " "),
                "numbers": values,
                "detail": row["prompt_detail"],
            }
            for row, prompt, file, values in zip(
                table.to_dict("records"), prompts, files, _rounded(numbers), strict=True
            )
        ],
    }


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The columns with measurements of a picture, NaN where there is none."""
    others = table.drop(columns=NOT_SHOWN & set(table)).apply(pd.to_numeric, errors="coerce")
    return others.dropna(axis="columns", how="all")


def _rounded(numbers: pd.DataFrame) -> list[list[float | None]]:
    """The rows of numbers for JSON, None for NaN."""
    return [
        [round(value, DECIMALS) if np.isfinite(value) else None for value in row]
        for row in numbers.to_numpy(float).tolist()
    ]
