"""The report of a run: one HTML file that opens from disk, with every picture inside it and nothing fetched."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from likeness.best import best_picture
from likeness.errors import LikenessError
from likeness.files import read_table
from likeness.images import read_photo
from likeness.marking import marked_jpeg
from likeness.provenance import file_sha256
from likeness.selection import advice, picture_label, read_choice, scored_pictures

LARGE, SMALL = 384, 144  # px on the long side: a sample when enlarged; a photo among many
QUALITY = 82  # of JPEG: 240 samples are then about 6 MB
CURVE_POINTS = 200  # more cannot be told apart at the width of the page
# In user units of the drawings: width, height, and room for the axes (left, top, right, bottom).
PLOT = {"width": 480, "height": 320, "left": 60, "top": 16, "right": 16, "bottom": 44}


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
) -> str:
    """The whole page; `config` is shown as it is. Same files, same text.

    The manifests are those of results/{subject} and results/{subject}/{run}.

    Raises LikenessError if the samples and the scores are not of the same pictures.
    """
    chosen = read_choice(choice)
    table = scored_pictures(samples, scores, chosen["beta"])
    files = {"dataset.json": dataset, "photos.tsv": photos, "captions.tsv": captions, "scores.tsv": scores}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:.2f}"
    return environment.get_template("template.html.j2").render(
        title=title,
        advice=advice(chosen),
        choice=chosen,
        cell=_chosen_cell(chosen),
        prompt=f"<lora:{Path(chosen['lora']).stem}:{chosen['weight']:g}> {subject['trigger']} {subject['class_noun']}",
        scale=table[["floor", "ceiling", "floor_from"]].iloc[0].to_dict(),
        preview=_sample_uri(Path(best_picture(table, chosen)["image"])),
        sheets=[sheet(rows, chosen) for _, rows in table.groupby("prompt", sort=False)],
        plot=PLOT,
        scatter=scatter(chosen),
        curve=loss_curve(metrics, chosen["epoch"]),
        photos=photo_fates(photos),
        path=training_images(photos, crops, upscaled, captions),
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
    x_axis = _axis([0.0, 1.0, *(cell["identity"] for cell in cells)])
    y_axis = _axis([0.5, 1.0, *(cell["prompt_score"] for cell in cells)])
    points = [
        {
            "x": _x(cell["identity"], x_axis),
            "y": _y(cell["prompt_score"], y_axis),
            "r": round(6 + 4 * cell["weight"], 1),
            "label": str(cell["epoch"]) if cell["epoch"] else "B",
            "kind": "chosen" if key == chosen else "alike" if key in alike else "base" if not cell["epoch"] else "",
            "title": f"epoch {cell['epoch']} at weight {cell['weight']:g}: identity {cell['identity']:.2f}, "
            f"prompt following {cell['prompt_score']:.2f}",
        }
        for cell in cells
        for key in [(cell["epoch"], cell["weight"])]
    ]
    return {"points": points, "x_ticks": _ticks(x_axis, _x), "y_ticks": _ticks(y_axis, _y)}


def loss_curve(metrics: Path, chosen_epoch: int) -> dict:
    """The loss over the steps, averaged to CURVE_POINTS, and where the chosen epoch ends; no points without metrics."""
    table = read_table(metrics, epoch=int, step=int, loss=float)
    if table.empty:
        return {"points": "", "chosen": None, "x_ticks": [], "y_ticks": []}
    bins = np.arange(len(table)) * min(CURVE_POINTS, len(table)) // len(table)
    curve = table.groupby(bins)[["step", "loss"]].mean()
    x_axis, y_axis = _axis([0.0, float(table["step"].max())]), _axis([0.0, float(curve["loss"].max())])
    ends = table.groupby("epoch")["step"].max()
    return {
        "points": " ".join(f"{_x(step, x_axis)},{_y(loss, y_axis)}" for step, loss in curve.itertuples(index=False)),
        "chosen": _x(float(ends[chosen_epoch]), x_axis) if chosen_epoch in ends else None,
        "x_ticks": _ticks(x_axis, _x),
        "y_ticks": _ticks(y_axis, _y),
    }


def photo_fates(photos: Path) -> list[dict]:
    """Every photo of the folder with a thumbnail (None if it cannot be read), kept ones first."""
    order = {"train": 0, "heldout": 1, "dropped": 2}
    rows = read_table(photos).to_dict("records")
    rows.sort(key=lambda row: (order[row["fate"]], row["photo"]))
    return [
        {
            "name": Path(row["photo"]).name,
            "fate": {"heldout": "held out"}.get(row["fate"], row["fate"]),
            "reason": row["reason"].replace("_", " "),
            "detail": row["detail"],
            "thumbnail": _photo_uri(photos.parent / row["photo"]),
        }
        for row in rows
    ]


def training_images(photos: Path, crops: Path, upscaled: Path, captions: Path) -> list[dict]:
    """Photo -> crop -> training image -> caption, one entry per crop; a held-out photo ends at its crop."""
    upscales = {row["photo"]: row for row in read_table(upscaled).to_dict("records")}
    texts = {row["photo"]: row for row in read_table(captions).to_dict("records")}
    entries = []
    for row in read_table(crops).sort_values(["fate", "photo"], ascending=[False, True]).to_dict("records"):
        upscale, caption = upscales.get(row["photo"]), texts.get(row["photo"])
        entries.append(
            {
                "name": Path(row["photo"]).name,
                "crop": _photo_uri(crops.parent / row["crop"]),
                "side": row["side"],
                "image": _photo_uri(upscaled.parent / upscale["image"]) if upscale else None,
                "how": _how(upscale) if upscale else "",
                "caption": caption["text"] if caption else "",
                "source": caption["source"] if caption else "",
            }
        )
    return entries


def _how(upscale: Mapping) -> str:
    method = {"realesrgan": "Real-ESRGAN", "lanczos": "Lanczos"}.get(upscale["method"], upscale["method"])
    return f"{method}. {upscale['detail']}".rstrip(". ") + "." if upscale["detail"] else method


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
        "uri": _sample_uri(Path(row["image"])),
    }


def _sample_uri(path: Path) -> str:
    """A generated picture: marked as such here too."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    return _uri(marked_jpeg(np.asarray(image), QUALITY))


def _photo_uri(path: Path) -> str | None:
    try:
        image = Image.fromarray(read_photo(path))
    except LikenessError:
        return None
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return _uri(buffer.getvalue())


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _axis(values: Sequence[float]) -> tuple[float, float, float]:
    """(low, high, step) of an axis that holds the values, with 2 to 7 round steps."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    power = 10.0 ** np.floor(np.log10(span))
    step = next(power * f for f in (0.2, 0.5, 1.0, 2.0) if span / (power * f) <= 6)
    return float(np.floor(low / step) * step), float(np.ceil(high / step) * step), float(step)


def _x(value: float, axis: tuple[float, float, float]) -> float:
    share = (value - axis[0]) / (axis[1] - axis[0])
    return round(PLOT["left"] + share * (PLOT["width"] - PLOT["left"] - PLOT["right"]), 1)


def _y(value: float, axis: tuple[float, float, float]) -> float:
    share = (axis[1] - value) / (axis[1] - axis[0])
    return round(PLOT["top"] + share * (PLOT["height"] - PLOT["top"] - PLOT["bottom"]), 1)


def _ticks(axis: tuple[float, float, float], position) -> list[dict]:
    low, high, step = axis
    values = low + step * np.arange(round((high - low) / step) + 1)
    return [{"at": position(float(value), axis), "label": f"{round(float(value), 6):g}"} for value in values]
