"""Curves of a training over its steps: the loss, the validation loss, the preservation of the class, and the learning
rates."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from likeness.core.manifests import read_table
from likeness.report.axes import PLOT, Axis, Plot, axis, ticks, x_at, y_at

CURVE_POINTS = 200  # more are not visible at the width of the page
# The loss of a step depends mostly on its random timesteps. The mean over a tenth of the run shows the trend.
SMOOTHED_OVER = 0.1
# The left margin is wide enough for labels like 0.125, the right margin for half of a step number with five digits, in
# a font size that can be read on a phone.
LOSS_PLOT = PLOT | {"left": 72, "right": 28}
RATES_PLOT = LOSS_PLOT | {"height": 180}  # lower, because a learning rate has a simple shape
RATES = {"lr": "learning rate, U-Net", "lr_text_encoder": "learning rate, text encoder"}
PRESERVATION = {"preservation": "how far the class has moved, mean of a tenth of the run"}


def curves(metrics: Path, chosen_epoch: int) -> dict[str, Any]:
    """The curves of metrics.tsv, in the units of LOSS_PLOT and RATES_PLOT.

    {loss: {plot, raw, smoothed, steps, validation: [{x, y, title}], x_ticks, y_ticks},
    preservation and rates: {plot, lines: [{name, column, points}], unit, x_ticks, y_ticks},
    chosen: the x coordinate of the end of the chosen epoch, or None}. `raw`, `smoothed` and `points` are polylines of
    at most CURVE_POINTS points, empty without metrics; a point of `raw` is the mean of `steps` steps. `preservation`
    has no lines if the training did not preserve the class.

    Raises LikenessError if a column is missing.
    """
    columns = ["epoch", "step", "loss", "validation_loss", *PRESERVATION, *RATES]
    table = read_table(metrics, **dict.fromkeys(columns, str))[columns].replace("", np.nan).astype(float)
    x_axis = axis([0.0, table["step"].max() if len(table) else 1.0])
    ends = table.groupby("epoch")["step"].max()
    # Only some steps have a value: with a batch of one picture every second step.
    preserved = table.dropna(subset="preservation")
    moved = preserved.assign(preservation=_smoothed(preserved["preservation"]))
    return {
        "loss": _loss(table, x_axis),
        "preservation": _lines(moved, PRESERVATION, x_axis),
        "rates": _lines(table, RATES, x_axis),
        "chosen": x_at(ends[chosen_epoch], x_axis, LOSS_PLOT) if chosen_epoch in ends else None,
    }


def _loss(table: pd.DataFrame, x_axis: Axis) -> dict[str, Any]:
    lines = _thinned(table.assign(smoothed=_smoothed(table["loss"]))[["step", "loss", "smoothed"]])
    validation = _thinned(table.loc[table["validation_loss"].notna(), ["step", "epoch", "validation_loss"]])
    shown = [*lines["loss"], *validation["validation_loss"]]
    y_axis = axis(shown or [0.0, 1.0])
    return {
        "plot": LOSS_PLOT,
        "steps": math.ceil(len(table) / CURVE_POINTS),
        "raw": _polyline(lines["step"], lines["loss"], x_axis, y_axis, LOSS_PLOT),
        "smoothed": _polyline(lines["step"], lines["smoothed"], x_axis, y_axis, LOSS_PLOT),
        "validation": [
            {
                "x": x_at(step, x_axis, LOSS_PLOT),
                "y": y_at(loss, y_axis, LOSS_PLOT),
                "title": f"epoch {epoch:g}: validation loss {loss:.4f}",
            }
            for step, epoch, loss in validation.itertuples(index=False)
        ],
        **_ticks(x_axis, y_axis, LOSS_PLOT),
    }


def _smoothed(values: pd.Series) -> pd.Series:
    window = max(1, round(SMOOTHED_OVER * len(values)))
    return values.rolling(window, min_periods=1, center=True).mean()


def _lines(table: pd.DataFrame, names: Mapping[str, str], x_axis: Axis) -> dict[str, Any]:
    """A line for each column of `names` that has a number."""
    measured = [column for column in names if table[column].notna().any()]
    lines = _thinned(table[["step", *measured]])
    largest = max((table[column].max() for column in measured), default=0.0)
    # Labels like 0.00002 are hard to read, so the axis has a unit: 0.2 in units of 1e-4. A rate of 1, which adaptive
    # optimizers have, stays 1.
    unit = 10.0 ** np.floor(np.log10(largest)) if 0 < largest < 0.1 else 1.0
    y_axis = axis([0.0, largest / unit])
    return {
        "plot": RATES_PLOT,
        "unit": f"{unit:.0e}".replace("e-0", "e-") if unit < 1 else "",
        "lines": [
            {
                "name": names[column],
                "column": column,
                "points": _polyline(lines["step"], lines[column] / unit, x_axis, y_axis, RATES_PLOT),
            }
            for column in measured
        ],
        **_ticks(x_axis, y_axis, RATES_PLOT),
    }


def _ticks(x_axis: Axis, y_axis: Axis, plot: Plot) -> dict[str, Any]:
    return {"x_ticks": ticks(x_axis, partial(x_at, plot=plot)), "y_ticks": ticks(y_axis, partial(y_at, plot=plot))}


def _thinned(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, or at most CURVE_POINTS means of neighbouring rows."""
    bins = np.arange(len(table)) * min(CURVE_POINTS, len(table)) // max(1, len(table))
    return table.groupby(bins).mean()


def _polyline(x: pd.Series, y: pd.Series, x_axis: Axis, y_axis: Axis, plot: Plot) -> str:
    return " ".join(f"{x_at(a, x_axis, plot)},{y_at(b, y_axis, plot)}" for a, b in zip(x, y, strict=True))
