"""The samples of a run as the page holds them: the axes of its grid, and every picture with what was measured of it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from likeness.selection import COUNTED, picture_label

AXES = ("epoch", "weight", "prompt", "seed")
BASE = -1  # the place of the base model on the axis of epochs; it has no weight
# Columns of measured_pictures that say where a picture stands, what becomes of it, or the same of all. Every other
# column that holds numbers is shown, so that a new measurement needs no change here.
NOT_SHOWN = {
    *(*AXES, "kind", "image", "pixels", "face_found", "score", "gate", "prompt_detail"),
    *("floor", "ceiling", "floor_from"),
}
LABELS = {"identity_raw": "similarity", "judge_identity": "second recogniser", "prompt_score": "prompt following"}
DECIMALS = 4  # of a number in the page: what scores.tsv has


def samples_part(table: pd.DataFrame, choice: Mapping, files: Sequence[str]) -> dict:
    """What grid.js and blind.js read, from a table of selection.measured_pictures and the file name of each row.

    {axes: {axis: values}, numbers: names, chosen: [epoch, weight], alike: [[epoch, weight]...], settings: [[epoch,
    weight, mean score, identity without the trigger or none]...] over all prompts and seeds, pictures: [{place, file,
    score, label, out, numbers, detail}...]}. A place is the index on every axis, in the order of AXES; `label` is what
    stands below the picture, `out` is empty or which gate holds it back; `score` is none where the prompt is there to
    hold back a cell only (the untrained class, two people).
    """
    kinds = table["kind"].nunique()
    prompts = [
        f"{kind.replace('_', ' ')}: {text}" if kinds > 1 else text
        for kind, text in zip(table["kind"], table["prompt"], strict=True)
    ]
    trained = table[table["epoch"] > 0]
    axes = {
        "epoch": sorted(trained["epoch"].unique().tolist()),
        "weight": sorted(trained["weight"].unique().tolist()),
        "prompt": list(dict.fromkeys(prompts)),
        "seed": sorted(table["seed"].unique().tolist()),
    }
    at = {axis: {value: index for index, value in enumerate(values)} for axis, values in axes.items()}
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
                "score": round(float(row["score"]), DECIMALS) if row["kind"] in COUNTED else None,
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
    """The columns that are measurements of a picture, NaN where there is none."""
    others = table.drop(columns=NOT_SHOWN & set(table)).apply(pd.to_numeric, errors="coerce")
    return others.dropna(axis="columns", how="all")


def _rounded(numbers: pd.DataFrame) -> list[list[float | None]]:
    return [
        [round(value, DECIMALS) if np.isfinite(value) else None for value in row]
        for row in numbers.to_numpy(float).tolist()
    ]
