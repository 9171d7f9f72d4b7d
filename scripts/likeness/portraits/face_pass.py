"""The face pass: one face of a picture is redrawn alone, at the base model's own resolution, and put back.

The steps are those of ADetailer (detect, cut out with surroundings, enlarge, redraw at a low strength, put back), with
three differences: the cut is the square of the training crops, turned upright, so that the LoRA draws the face in the
size and place that it was trained on; the mask is an ellipse around the head instead of a rectangle; and the colours
are matched at its border.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from likeness.faces.crops import Square, crop_face, picture_axes, unmoved_square
from likeness.photos.images import lanczos

Enlarge = Callable[[np.ndarray], np.ndarray]
"""Makes a picture several times larger, such as Real-ESRGAN."""

# How far the mask reaches from the middle of the face, as a share of the face's width or height (hairline to chin):
# sideways with ears and hair, up with the hair, down with the chin alone, because a neck has another place in every
# picture. Where the square ends before, the mask ends there.
SIDEWAYS, UP, DOWN = 0.9, 0.9, 0.7
# The part of the ellipse's radius over which it fades out.
SOFT = 0.3
# The largest difference of colours, of 255, that is matched at the border. A larger one is another thing in the
# background, not another light.
MOST_MATCHED = 40.0
# px of the blur that continues the colours, on a copy that is reduced for it.
FIELD_SIGMA = 8.0


class Framing(NamedTuple):
    """Where the training crops have the face: its height as a share of the crop's side, and the height of its middle as
    a share from the top."""

    face_fraction: float
    face_level: float


def framing_of(crops: Sequence[Mapping[str, Any]]) -> Framing:
    """The median framing of the rows of crops.tsv. A LoRA draws the face as it was trained on it: if photos are tight,
    large, and redrawn in a wider square it would come out too large for the body."""
    places = np.array([json.loads(crop["face"]) for crop in crops])
    return Framing(round(float(np.median(places[:, 3])), 3), round(float(np.median(places[:, 1])), 3))


class FaceToRedraw:
    """A face of a picture, cut out to be redrawn: `cut` is uint8 RGB (resolution, resolution, 3), and `mask` float32
    (resolution, resolution) is 1 where it is redrawn."""

    def __init__(
        self, image: np.ndarray, row: Mapping[str, Any], framing: Framing, resolution: int, enlarge: Enlarge
    ) -> None:
        """`row` is the face (detection.FACE_COLUMNS). A square smaller than the resolution is enlarged by `enlarge`."""
        self._image, self._enlarge = image, enlarge
        square = unmoved_square(row, *framing)
        self.cut = at_side(crop_face(image, square, resolution), resolution, enlarge)
        # Only the part around the head is worked on: the picture may have 100 megapixels.
        rows, columns = _around_head(image.shape[:2], row)
        self._part = rows, columns
        left, top = columns.start, rows.start
        self._square = square._replace(center_x=square.center_x - left, center_y=square.center_y - top)
        self._mask = head_mask(image[self._part].shape[:2], _moved(row, left, top), framing)
        self.mask = _in_square(self._mask, self._square, resolution)

    def placed(self, new: np.ndarray) -> np.ndarray:
        """The picture with the redrawn face: uint8 RGB (height, width, 3). Pixels outside the mask are exactly those of
        the picture. A redrawn face that is smaller than its place is enlarged by `enlarge`."""
        around, mask = self._image[self._part], self._mask
        face = _placed_back(at_side(new, _placed_side(self._square), self._enlarge), self._square, around)
        face = matched(face, around, mask)
        blend = np.rint(mask[..., None] * face + (1 - mask[..., None]) * around).astype(np.uint8)
        result = self._image.copy()
        result[self._part] = np.where(mask[..., None] > 0, blend, around)
        return result


def at_side(picture: np.ndarray, side: int, enlarge: Enlarge) -> np.ndarray:
    """A square picture in (side, side, 3). It is enlarged by `enlarge` if it is smaller."""
    return lanczos(enlarge(picture) if picture.shape[0] < side else picture, side, side)


def head_mask(size: tuple[int, int], row: Mapping[str, Any], framing: Framing) -> np.ndarray:
    """Two halves of ellipses around a face, the upper one higher, in a picture of `size` (height, width): float32
    (height, width), 1 inside, 0 outside, with a soft border. They lie within the square of the framing."""
    axes = picture_axes(float(row["roll"]))
    width, height = float(row["face_width"]), float(row["face_height"])
    side = height / framing.face_fraction
    sideways = min(SIDEWAYS * width, side / 2)
    up, down = min(UP * height, framing.face_level * side), min(DOWN * height, (1 - framing.face_level) * side)
    center = np.array([float(row["center_x"]), float(row["center_y"])])
    x = np.arange(size[1], dtype=np.float32)[None, :] - np.float32(center[0])
    y = np.arange(size[0], dtype=np.float32)[:, None] - np.float32(center[1])
    (right_x, down_x), (right_y, down_y) = axes.astype(np.float32)
    down_face = x * down_x + y * down_y
    down_face /= np.where(down_face < 0, np.float32(up), np.float32(down))
    radius = np.hypot((x * right_x + y * right_y) / np.float32(sideways), down_face)
    inward = np.clip((1 - radius) / np.float32(SOFT), 0, 1)
    return inward * inward * (3 - 2 * inward)  # smoothstep


def _around_head(size: tuple[int, int], row: Mapping[str, Any]) -> tuple[slice, slice]:
    """The rows and columns of a picture of `size` (height, width) that hold the head's mask."""
    reach = max(SIDEWAYS, UP, DOWN) * max(float(row["face_width"]), float(row["face_height"])) + 2
    x, y = float(row["center_x"]), float(row["center_y"])
    rows = slice(max(0, int(y - reach)), min(size[0], int(y + reach) + 1))
    return rows, slice(max(0, int(x - reach)), min(size[1], int(x + reach) + 1))


def _moved(row: Mapping[str, Any], left: int, top: int) -> dict[str, Any]:
    """The row of a face in a part of the picture that begins at (left, top)."""
    return {**row, "center_x": float(row["center_x"]) - left, "center_y": float(row["center_y"]) - top}


def matched(new: np.ndarray, old: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A redrawn picture with the colours of the old one at the mask's border: float (height, width, 3).

    The difference of the two in the soft border is continued smoothly over the mask and added, so that another light on
    the redrawn face makes no seam.
    """
    border = ((mask > 0) & (mask < 1)).astype(np.float32)
    new = new.astype(np.float32)
    if not border.any():
        return new
    difference = border[..., None] * np.clip(old - new, -MOST_MATCHED, MOST_MATCHED)
    sigma = max(1.0, 0.2 * float(np.sqrt((mask > 0).sum())))
    # So smooth a field is computed on a small copy: at full size a face of 800 px would take a minute.
    factor = min(1.0, FIELD_SIGMA / sigma)
    size = [max(1, round(length * factor)) for length in mask.shape[::-1]]
    small = cv2.resize(np.dstack([difference, border]), size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma * factor)
    field = blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-6)
    return np.clip(new + cv2.resize(field, mask.shape[::-1], interpolation=cv2.INTER_LINEAR), 0, 255)


def _placed_side(square: Square) -> int:
    """The side in px at which a square is put back: its own, or twice for a tilted one, which is interpolated."""
    return square.side if square.roll == 0 else 2 * square.side


def _in_square(mask: np.ndarray, square: Square, side: int) -> np.ndarray:
    """A mask of the picture in a square: float32 (side, side)."""
    to_picture = _square_to_picture(square, side)
    return cv2.warpAffine(mask, to_picture, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def _placed_back(new: np.ndarray, square: Square, image: np.ndarray) -> np.ndarray:
    """A picture of a square in its place in a picture of the size of `image`; what lies around it is `image`."""
    to_picture = _square_to_picture(square, new.shape[0])
    height, width = image.shape[:2]
    placed = image.copy()
    # For an upright square of its own side this moves whole px, and cubic interpolation changes nothing.
    return cv2.warpAffine(
        new, to_picture, (width, height), dst=placed, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_TRANSPARENT
    )


def _square_to_picture(square: Square, side: int) -> np.ndarray:
    """The matrix (2, 3) from px of a square's picture of this side to px of the whole picture."""
    turn = picture_axes(square.roll) * (square.side / side)
    middle = np.array([square.center_x, square.center_y])
    return np.column_stack([turn, middle - turn @ np.full(2, (side - 1) / 2)])
