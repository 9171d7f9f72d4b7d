"""Axes and coordinates of the drawings in the report: from data to SVG user units."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# The width and the height of a drawing, and its margins for the axes (left, top, right, bottom).
Plot = Mapping[str, int]
# The low end, the high end and the step of an axis.
Axis = tuple[float, float, float]
PLOT = {"width": 480, "height": 320, "left": 60, "top": 16, "right": 16, "bottom": 44}


def axis(values: Sequence[float]) -> Axis:
    """An axis that contains the values, with 2 to 7 round steps."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    power = 10.0 ** np.floor(np.log10(span))
    step = next(power * f for f in (0.2, 0.5, 1.0, 2.0) if span / (power * f) <= 6)
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)  # a single value may lie on a step, and the axis needs a length
    return float(first * step), float(last * step), float(step)


def x_at(value: float, ends: Sequence[float], plot: Plot = PLOT) -> float:
    """The x coordinate of a value in a plot. `ends` starts with the values at the left and at the right."""
    low, high, *_ = ends
    share = (value - low) / (high - low)
    return round(plot["left"] + share * (plot["width"] - plot["left"] - plot["right"]), 1)


def y_at(value: float, ends: Sequence[float], plot: Plot = PLOT) -> float:
    """The y coordinate of a value in a plot. `ends` starts with the values at the bottom and at the top."""
    low, high, *_ = ends
    share = (high - value) / (high - low)
    return round(plot["top"] + share * (plot["height"] - plot["top"] - plot["bottom"]), 1)


def ticks(axis: Axis, position: Callable[[float, Sequence[float]], float]) -> list[dict[str, Any]]:
    """[{at, label}] for every step of an axis; `position` is x_at or y_at."""
    low, high, step = axis
    values = low + step * np.arange(round((high - low) / step) + 1)
    decimals = 1 - int(np.floor(np.log10(step)))  # one more than the step has; this removes rounding errors
    return [{"at": position(float(value), axis), "label": f"{round(float(value), decimals):g}"} for value in values]
