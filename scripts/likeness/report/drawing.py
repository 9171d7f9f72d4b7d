"""Where things go in the drawings of the report: SVG user units, from the data's own."""

from collections.abc import Callable, Sequence

import numpy as np

# Width and height of a drawing, and the room left for its axes (left, top, right, bottom).
PLOT = {"width": 480, "height": 320, "left": 60, "top": 16, "right": 16, "bottom": 44}


def axis(values: Sequence[float]) -> tuple[float, float, float]:
    """(low, high, step) of an axis that holds the values, with 2 to 7 round steps."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    power = 10.0 ** np.floor(np.log10(span))
    step = next(power * f for f in (0.2, 0.5, 1.0, 2.0) if span / (power * f) <= 6)
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)  # one value alone lies on a step
    return float(first * step), float(last * step), float(step)


def x_at(value: float, ends: Sequence[float], plot: dict = PLOT) -> float:
    """How far right a value lies in a plot; `ends` begins with the values at the left and at the right."""
    low, high, *_ = ends
    share = (value - low) / (high - low)
    return round(plot["left"] + share * (plot["width"] - plot["left"] - plot["right"]), 1)


def y_at(value: float, ends: Sequence[float], plot: dict = PLOT) -> float:
    """How far down a value lies in a plot; `ends` begins with the values at the bottom and at the top."""
    low, high, *_ = ends
    share = (high - value) / (high - low)
    return round(plot["top"] + share * (plot["height"] - plot["top"] - plot["bottom"]), 1)


def ticks(axis: tuple[float, float, float], position: Callable[[float, Sequence[float]], float]) -> list[dict]:
    """[{at, label}] for every step of an axis; `position` is x_at or y_at."""
    low, high, step = axis
    values = low + step * np.arange(round((high - low) / step) + 1)
    decimals = 1 - int(np.floor(np.log10(step)))  # one more than the steps have, without what floats add
    return [{"at": position(float(value), axis), "label": f"{round(float(value), decimals):g}"} for value in values]
