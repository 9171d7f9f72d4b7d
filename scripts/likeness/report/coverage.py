"""Drawings of the poses and the light that the photos cover, which show what is missing.

The zones have the limits that captions and advice use, so that the page agrees with both.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from likeness.captions.wording import BRIGHT, DARK, DOWN, SIDE_LIGHT, UP
from likeness.faces.photo_advice import DIM, PROFILE, TURNED
from likeness.report.axes import x_at, y_at

POSE = {"width": 400, "height": 300, "left": 40, "top": 24, "right": 4, "bottom": 22}
BARS = {"width": 400, "height": 96, "left": 4, "top": 20, "right": 4, "bottom": 12}
# The edges of the zones in degrees. Values beyond the outer edges are drawn at the edge.
YAW = (-75, -PROFILE, -TURNED, TURNED, PROFILE, 75)
PITCH = (UP - 30, UP, DOWN, DOWN + 30)
YAW_ENDS, PITCH_ENDS = (YAW[0], YAW[-1]), (PITCH[-1], PITCH[0])  # chin down is positive, and drawn below
COLUMNS = ("left profile", "left", "front", "right", "right profile")
ROWS = ("up", "level", "down")
# The edges of the bars. The edges of the zones are among them.
LUMINANCE = np.linspace(0, 1, 21)
SIDES = SIDE_LIGHT * np.arange(-13, 14, 2) / 7


def pose_chart(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Yaw (x) against pitch (y) of every kept photo, in the units of POSE, and the number of photos in each zone.

    {plot, columns: [{at, label}], rows: [{at, label}], edges: [{at, label}], zones: [{x, y, width, height, name,
    count}], points: [{x, y, fate, title}]}
    """
    measured = [row for row in rows if row["yaw"] and row["pitch"]]
    poses = [(float(row["yaw"]), float(row["pitch"])) for row in measured]
    places = [(_zone(yaw, YAW), _zone(pitch, PITCH)) for yaw, pitch in poses]
    across = [x_at(edge, YAW_ENDS, POSE) for edge in YAW]
    down = [y_at(edge, PITCH_ENDS, POSE) for edge in PITCH]
    zones = [
        {
            "x": across[column],
            "y": down[row],
            "width": round(across[column + 1] - across[column], 1),
            "height": round(down[row + 1] - down[row], 1),
            "name": f"{COLUMNS[column]}, {ROWS[row]}",
            "count": places.count((column, row)),
        }
        for row in range(len(ROWS))
        for column in range(len(COLUMNS))
    ]
    points = [
        {
            "x": x_at(_within(yaw, YAW), YAW_ENDS, POSE),
            "y": y_at(_within(pitch, PITCH), PITCH_ENDS, POSE),
            "fate": row["fate"],
            "title": f"{row['name']}: yaw {yaw:.0f}°, pitch {pitch:.0f}°",
        }
        for row, (yaw, pitch) in zip(measured, poses, strict=True)
    ]
    return {
        "plot": POSE,
        "columns": [{"at": _middle(across, i), "label": name} for i, name in enumerate(COLUMNS)],
        "rows": [{"at": _middle(down, i), "label": name} for i, name in enumerate(ROWS)],
        "edges": [
            {"at": at, "label": f"{edge}°".replace("-", "−")} for at, edge in zip(across[1:-1], YAW[1:-1], strict=True)
        ],
        "zones": zones,
        "points": points,
    }


def light_charts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Histograms of the brightness of the faces, the side that their light comes from, and the brightness of the
    background."""
    attributes = [json.loads(row["attributes"] or "{}") for row in rows]
    brightness = [float(row["brightness"]) if row["brightness"] else None for row in rows]
    sides, backgrounds = ([a.get(name) for a in attributes] for name in ("light_side", "background"))
    dim = [("dim", 0, DIM), ("", DIM, 1)]
    even = [("from the left", SIDES[0], -SIDE_LIGHT), ("even", -SIDE_LIGHT, SIDE_LIGHT)]
    even += [("from the right", SIDE_LIGHT, SIDES[-1])]
    dark = [("dark", 0, DARK), ("", DARK, BRIGHT), ("bright", BRIGHT, 1)]
    return [
        _bars("Light on the face", rows, brightness, LUMINANCE, dim, shaded=True),
        _bars("Side of the light", rows, sides, SIDES, even),
        _bars("Background", rows, backgrounds, LUMINANCE, dark, shaded=True),
    ]


def _bars(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    values: Sequence[float | None],
    edges: np.ndarray,
    zones: Sequence[tuple[str, float, float]],
    *,
    shaded: bool = False,
) -> dict[str, Any]:
    """A histogram of the photos to train on, with the held-out ones on top. `zones` are named parts of the axis."""
    ends = float(edges[0]), float(edges[-1])
    known = [(row["fate"], float(v)) for row, v in zip(rows, values, strict=True) if v is not None]
    counts = {
        fate: np.histogram([np.clip(v, *ends) for f, v in known if f == fate], edges)[0]
        for fate in ("train", "heldout")
    }
    height = 0, max(1, int(np.sum(list(counts.values()), axis=0).max()))
    bars = []
    for i, (left, right) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        x, bottom = x_at(left, ends, BARS), 0
        for fate, count in counts.items():
            top = bottom + int(count[i])
            if top > bottom:
                y = y_at(top, height, BARS)
                bars.append(
                    {
                        "x": round(x + 1, 1),
                        "width": round(x_at(right, ends, BARS) - x - 2, 1),
                        "y": y,
                        "height": round(y_at(bottom, height, BARS) - y, 1),
                        "fate": fate,
                    }
                )
            bottom = top
    return {
        "plot": BARS,
        "title": title,
        "unknown": len(rows) - len(known),
        "bars": bars,
        "shades": _shades(edges) if shaded else [],
        "zones": [_bar_zone(name, a, b, known, ends) for name, a, b in zones],
    }


def _bar_zone(
    name: str, start: float, end: float, known: Sequence[tuple[str, float]], ends: tuple[float, float]
) -> dict[str, Any]:
    """A zone of a histogram, and the number of photos in it."""
    x, right = x_at(start, ends, BARS), x_at(end, ends, BARS)
    # A zone at an end of the axis also has the photos beyond this end. So each photo is in one zone.
    inside = [v for _, v in known if (start <= ends[0] or v >= start) and (end >= ends[1] or v < end)]
    return {"x": x, "width": round(right - x, 1), "name": name, "count": len(inside)}


def _shades(edges: np.ndarray) -> list[dict[str, Any]]:
    """The grey of each bar's brightness, for a strip below the bars."""
    grey = [round(255 * (a + b) / 2) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    x = [x_at(edge, (edges[0], edges[-1]), BARS) for edge in edges]
    return [{"x": x[i], "width": round(x[i + 1] - x[i], 1), "grey": grey[i]} for i in range(len(grey))]


def _zone(value: float, edges: Sequence[float]) -> int:
    """The index of the zone that a value is in; the outer zones have no end."""
    return int(np.searchsorted(edges[1:-1], value, side="right"))


def _within(value: float, edges: Sequence[float]) -> float:
    return min(max(value, edges[0]), edges[-1])


def _middle(positions: Sequence[float], i: int) -> float:
    return round((positions[i] + positions[i + 1]) / 2, 1)
