"""The report of a run: one HTML file that opens from disk, with every picture inside it and nothing fetched."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from likeness.best import best_picture
from likeness.dataset import arithmetic, sizes
from likeness.files import ItemCache
from likeness.provenance import file_sha256
from likeness.report.curves import course
from likeness.report.dataset import dataset_part
from likeness.report.drawing import PLOT, axis, ticks, x_at, y_at
from likeness.report.page import rendered
from likeness.report.pictures import sample_uri
from likeness.selection import advice, picture_label, read_choice, scored_pictures


def report_html(
    photos: Path,
    crops: Path,
    upscaled: Path,
    captions: Path,
    dataset: Path,
    metrics: Path,
    samples: Sequence[Path],
    scores: Path,
    choice: Path,
    *,
    title: str,
    subject: Mapping,
    config: Mapping,
    thumbnails: ItemCache,
    threads: int,
) -> str:
    """The whole page; `config` is shown as it is. Same files, same text.

    The manifests are those of results/{subject} and results/{subject}/{run}; `thumbnails` is made by
    likeness.report.pictures.thumbnail_cache.

    Raises LikenessError if the samples and the scores are not of the same pictures.
    """
    chosen = read_choice(choice)
    table = scored_pictures(samples, scores, chosen["beta"])
    files = {"dataset.json": dataset, "photos.tsv": photos, "captions.tsv": captions, "scores.tsv": scores}
    return rendered(
        "template.html.j2",
        title=title,
        advice=advice(chosen),
        choice=chosen,
        cell=_chosen_cell(chosen),
        prompt=f"<lora:{Path(chosen['lora']).stem}:{chosen['weight']:g}> {subject['trigger']} {subject['class_noun']}",
        scale=table[["floor", "ceiling", "floor_from"]].iloc[0].to_dict(),
        preview=sample_uri(Path(best_picture(table, chosen)["image"])),
        sheets=[sheet(rows, chosen) for _, rows in table.groupby("prompt", sort=False)],
        plot=PLOT,
        scatter=scatter(chosen),
        course=course(metrics, chosen["epoch"]),
        dataset=dataset_part(photos, crops, upscaled, captions, dataset, thumbnails, threads)
        # A run may have its own number of steps; the data set's page tells of the configuration's.
        | {"arithmetic": arithmetic(config["train"], *sizes(json.loads(dataset.read_text())))},
        config=json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False),
        hashes={chosen["lora"]: chosen["sha256"], **{name: file_sha256(path) for name, path in files.items()}},
    )


def sheet(table: pd.DataFrame, choice: Mapping) -> dict:
    """One prompt: {prompt, epochs, base: tiles, rows: [{weight, cells: [{chosen, alike, mean, tiles}]}]}."""
    means = {(c["epoch"], c["weight"]): c["score"] for c in (choice["base"], *choice["cells"])}
    alike = {tuple(cell) for cell in choice["indistinguishable"]}
    epochs = sorted(table["epoch"].unique())
    weights = sorted(table.loc[table["epoch"] > 0, "weight"].unique())
    cells = {
        key: {
            "chosen": key == (choice["epoch"], choice["weight"]),
            "alike": key in alike,
            "mean": means[key],
            "column": epochs.index(key[0]),
            "row": weights.index(key[1]) if key[0] else 0,
            "tiles": [_tile(row) for _, row in rows.sort_values("seed").iterrows()],
        }
        for key, rows in table.groupby(["epoch", "weight"])
    }
    rows = [{"weight": weight, "cells": [cells[epoch, weight] for epoch in epochs[1:]]} for weight in weights]
    return {"prompt": table["prompt"].iloc[0], "epochs": epochs[1:], "base": cells[0, 0.0], "rows": rows}


def scatter(choice: Mapping) -> dict:
    """Cells by mean identity (x) and mean prompt following (y), in the units of PLOT, the chosen one last, on top."""
    alike = {tuple(cell) for cell in choice["indistinguishable"]}
    chosen = (choice["epoch"], choice["weight"])
    cells = sorted((choice["base"], *choice["cells"]), key=lambda c: ((c["epoch"], c["weight"]) == chosen, c["epoch"]))
    x_axis = axis([0.0, 1.0, *(cell["identity"] for cell in cells)])
    y_axis = axis([0.5, 1.0, *(cell["prompt_score"] for cell in cells)])
    points = [
        {
            "x": x_at(cell["identity"], x_axis),
            "y": y_at(cell["prompt_score"], y_axis),
            "r": round(6 + 4 * cell["weight"], 1),
            "label": str(cell["epoch"]) if cell["epoch"] else "B",
            "kind": "chosen" if key == chosen else "alike" if key in alike else "base" if not cell["epoch"] else "",
            "title": f"epoch {cell['epoch']} at weight {cell['weight']:g}: identity {cell['identity']:.2f}, "
            f"prompt following {cell['prompt_score']:.2f}",
        }
        for cell in cells
        for key in [(cell["epoch"], cell["weight"])]
    ]
    return {"points": points, "x_ticks": ticks(x_axis, x_at), "y_ticks": ticks(y_axis, y_at)}


def _chosen_cell(choice: Mapping) -> dict:
    return next(c for c in choice["cells"] if (c["epoch"], c["weight"]) == (choice["epoch"], choice["weight"]))


def _tile(row: pd.Series) -> dict:
    base = "base model" if row["epoch"] == 0 else f"epoch {row['epoch']}, weight {row['weight']:g}"
    measured = [("identity", row["identity"]), ("second recogniser", row["judge_identity"]), ("copy", row["copy"])]
    numbers = [f"{name} {value:.2f}" for name, value in measured if np.isfinite(value)]
    return {
        "seed": row["seed"],
        "label": picture_label(row),
        "gated": bool(row["gate"]),
        "title": f"{base}, seed {row['seed']}",
        "numbers": ", ".join([*numbers, f"prompt following {row['prompt_score']:.2f}: {row['prompt_detail']}"]),
        "uri": sample_uri(Path(row["image"])),
    }
