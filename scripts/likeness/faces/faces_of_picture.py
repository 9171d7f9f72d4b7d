"""Which face of a picture is the subject's, or becomes it. A face is a row with detection.FACE_COLUMNS."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from likeness.core.errors import LikenessError

Row = Mapping[str, Any]
AnyRow = TypeVar("AnyRow", bound=Row)


def face_at(rows: Sequence[AnyRow], where: str | int | Sequence[float]) -> AnyRow:
    """The face that `where` names, of faces of which the largest is the first: "largest"; a number, counted from 1 from
    the left to the right; or the nearest to a point (x, y) in px. Raises LikenessError if the picture has fewer faces,
    or none at that point."""
    if isinstance(where, str):
        return rows[0]
    if isinstance(where, int):
        if where > len(rows):
            raise LikenessError(f"has {_faces(len(rows))}, so there is no face {where}")
        return sorted(rows, key=lambda row: float(row["center_x"]))[where - 1]
    x, y = where
    row = min(rows, key=lambda row: np.hypot(float(row["center_x"]) - x, float(row["center_y"]) - y))
    if not contains(row, x, y):
        raise LikenessError(f"has no face at {x:g}, {y:g}; the nearest is at {row['center_x']}, {row['center_y']}")
    return row


def contains(row: Row, x: float, y: float) -> bool:
    """Whether a face's box contains a point in px."""
    left, top, width, height = (float(row[key]) for key in "xywh")
    return left <= x <= left + width and top <= y <= top + height


def most_alike(similarities: Sequence[float]) -> int:
    """The number of the face that is the subject's, by each face's similarity to the subject's photos, the largest face
    first: the highest similarity, and the larger face of two with the same."""
    return int(np.argmax(similarities))


def box_of(row: Row) -> list[float]:
    """x, y, width and height of a face's box in px."""
    return [float(row[key]) for key in "xywh"]


def _faces(count: int) -> str:
    return "one face" if count == 1 else f"{count} faces"
