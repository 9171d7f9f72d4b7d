"""Advice on what to photograph next: what the training photos lack, or have too much of."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Degrees of yaw: a three-quarter view begins at about 20, the far eye starts to disappear at about 45.
TURNED, PROFILE = 20, 45
DIM = 0.3  # mean luminance below which a face looks underexposed; ordinary portraits had 0.4 to 0.65
GOOD_NUMBER = 15  # photos to train on; guides for faces recommend 15 to 30


def advice(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Sentences on what to photograph next, the most useful first. `rows` are those of photos.tsv."""
    rows = list(rows)
    train = [row for row in rows if row["fate"] == "train"]
    others = sum(row["reason"] == "other_person" for row in rows)
    attributes = [json.loads(row["attributes"] or "{}") for row in train]
    sentences = [
        _number_advice(len(train)),
        f"{others} photos show somebody else; if the wrong person was taken for the subject, name photos of the right "
        "one in the subject's `reference`."
        if others > len(train) / 2
        else "",
        _pose_advice([float(row["yaw"]) for row in train]),
        _light_advice([float(row["brightness"]) for row in train]),
        _share_advice([a.get("glasses") for a in attributes], "with glasses", "without"),
        _share_advice([_sure(a.get("smile"), 0.3, 0.5) for a in attributes], "smiling", "with a serious face"),
        _share_advice([_sure(a.get("smile"), 0.3, 0.5, above=False) for a in attributes], "unsmiling", "with a smile"),
        _background_advice([a["background"] for a in attributes if a.get("background") is not None]),
    ]
    return [sentence for sentence in sentences if sentence]


def _number_advice(photos: int) -> str:
    if photos >= GOOD_NUMBER:
        return ""
    return f"{photos} photos to train on will do; {GOOD_NUMBER} to 30 usually give a better likeness."


def _pose_advice(yaw: Sequence[float]) -> str:
    missing = [
        *(["straight into the camera"] if not any(abs(angle) < TURNED for angle in yaw) else []),
        *(["turned to the left of the picture"] if not any(angle < -TURNED for angle in yaw) else []),
        *(["turned to the right of the picture"] if not any(angle > TURNED for angle in yaw) else []),
    ]
    if missing:
        of_each = " of each" if len(missing) > 1 else ""
        return f"No photo {', none '.join(missing)}: two or three{of_each} would help."
    return "" if any(abs(angle) > PROFILE for angle in yaw) else "No profile views: one from each side would help."


def _light_advice(brightness: Sequence[float]) -> str:
    dim = sum(value < DIM for value in brightness)
    missing = 2 * dim - len(brightness)  # until half of them are well lit
    if missing <= 0:
        return ""
    return f"{dim} of {len(brightness)} are in dim light: {missing} more {_photos(missing)} in daylight would help."


def _share_advice(has: Sequence[bool | None], shown: str, wish: str) -> str:
    """A sentence about something that four fifths or more of the photos show: training learns it as a part of the
    person."""
    known = [value for value in has if value is not None]
    share = sum(known) / max(len(known), 1)
    if len(known) < 5 or share < 0.8:
        return ""
    return f"{share:.0%} {shown}: it becomes a part of the likeness; some photos {wish} would keep it free."


def _background_advice(luminance: Sequence[float]) -> str:
    if len(luminance) < 5 or np.ptp(luminance) >= 0.2:
        return ""
    return "The backgrounds are all alike: some photos before lighter and darker ones would help."


def _sure(value: float | None, low: float, high: float, above: bool = True) -> bool | None:
    """Whether a value is above a band (or below it); None inside the band, where neither is certain."""
    if value is None or low <= value <= high:
        return None
    return (value > high) == above


def _photos(number: int) -> str:
    return "photo" if number == 1 else "photos"
