"""The square of a photo that is trained on: where it lies, and how it is cut out.

A face is a row of photos.tsv; all px are in the upright picture. With buckets, the square is stretched to a rectangle
of about the same area.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from likeness.photos.images import lanczos

# A photo without room for the configured square gets a tighter one, up to this face height as a share of the side: the
# whole face, hairline to chin, with a margin of an eighth above and below.
TIGHTEST_FACE_FRACTION = 0.8
MAX_SHIFT = 0.15  # of the side; how far the square may be moved to avoid padding
ALLOWED_PADDING = 0.005  # share; allows the small triangles at the corners of a slightly tilted square
FACE_LEVEL = 0.48  # the default of the key crop.face_level; curation decides by it, whatever the key is
UPRIGHT_ENOUGH = 1.0  # degrees; less roll is not corrected, so that the crop has the photo's own pixels


class Square(NamedTuple):
    """A square region of a picture: middle and side in px, rotated clockwise by `roll` degrees.

    `padded` is the share of it that lies outside the picture, `shared` the largest share of another face's box that
    lies inside the square. `stretch` are the factors from its side to its width and its height.
    """

    center_x: float
    center_y: float
    side: int
    roll: float
    padded: float
    shared: float
    stretch: tuple[float, float] = (1.0, 1.0)

    @property
    def extent(self) -> np.ndarray:
        """Width and height in px, int (2,)."""
        return _extent(self.side, self.stretch)


def bucket(width: int, height: int, resolution: int) -> tuple[int, int]:
    """The width and height in px at which a photo of this size is trained, by kohya's buckets: sides are multiples of
    64, and the area is at most that of the resolution's square. Of these shapes, from 1:2 to 2:1, it is the nearest to
    the photo's."""
    shapes = set()
    for long in range(64, 2 * resolution + 1, 64):
        short = resolution**2 // long // 64 * 64
        shapes |= {shape for shape in ((long, short), (short, long)) if 0 < max(shape) <= 2 * min(shape)}
    return min(sorted(shapes), key=lambda shape: abs(math.log(shape[0] / shape[1] * height / width)))


def crop_box(
    row: Mapping[str, Any],
    face_fraction: float,
    face_level: float = FACE_LEVEL,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Square:
    """The upright square around a face. If the picture has room, the face's height is `face_fraction` of the side, and
    its middle is `face_level` of the side from the top.

    A square that would leave the picture or show another face is first moved, by at most MAX_SHIFT of the side, and
    then made smaller, until the face has TIGHTEST_FACE_FRACTION of the side. Only what then still lies outside is
    padded, and only what then still shows of other faces is shared. `row` needs width and height of the picture besides
    the face's own columns. Its column `others` (JSON [[x, y, w, h], ...]), the boxes of the other faces, may be empty
    or absent.
    """
    face = float(row["face_height"])
    others = json.loads(row.get("others") or "[]")
    # The limit also holds for the height of a wide rectangle.
    tightest = max(face_fraction, TIGHTEST_FACE_FRACTION) * min(1, stretch[1])
    for fraction in np.unique(np.linspace(min(face_fraction, tightest), tightest, 101)):
        side = max(2, round(face / fraction))
        pushes = _pushes(row, side, face_level, others, stretch)
        squares = [_placed(row, side, face_level, push, others, stretch) for push in pushes]
        square = min(squares, key=lambda s: (s.shared, max(0, s.padded - ALLOWED_PADDING)))
        if square.padded <= ALLOWED_PADDING and square.shared == 0:
            break
    return square


def unmoved_square(row: Mapping[str, Any], face_fraction: float, face_level: float) -> Square:
    """The square with which `crop_box` begins: the face has this size and height in it, wherever the picture ends and
    whoever stands beside. Upright squares lie on whole px."""
    side = max(2, round(float(row["face_height"]) / face_fraction))
    center, roll = _ideal_middle(row, side, face_level), _crop_roll(row)
    if roll == 0:
        center = np.rint(center - (side - 1) / 2) + (side - 1) / 2
    return Square(float(center[0]), float(center[1]), side, roll, 0.0, 0.0)


def square_by_hand(
    row: Mapping[str, Any], square: Square, crop: Sequence[float] | None, rotation: float | None
) -> Square:
    """The square that a person chose: `crop` is its middle and its side in px, `rotation` how far it is turned
    clockwise in degrees. What is None stays as in `square`, which `crop_box` chose."""
    roll = square.roll if rotation is None else float(rotation)
    x, y, side = (square.center_x, square.center_y, square.side) if crop is None else crop
    extent = _extent(int(side), square.stretch)
    center = np.array([float(x), float(y)])
    if roll == 0:  # whole pixels
        center = np.rint(center - (extent - 1) / 2) + (extent - 1) / 2
    to_picture = picture_axes(roll)
    others = json.loads(row.get("others") or "[]")
    return square._replace(
        center_x=float(center[0]),
        center_y=float(center[1]),
        side=int(side),
        roll=roll,
        padded=_share_outside(center, extent, to_picture, int(row["width"]), int(row["height"])),
        shared=max((_share_inside(box, center, extent, to_picture) for box in others), default=0.0),
    )


def crop_side(square: Square, resolution: int) -> int:
    """Side in px of the crop that `crop_face` makes of a square: that of the square, at most the resolution."""
    return min(square.side, resolution)


def crop_face(image: np.ndarray, square: Square, resolution: int) -> np.ndarray:
    """The square, cut out upright: uint8 RGB (side, side, 3), stretched as the square is. The part outside the picture
    is its reflection.

    An upright square that is larger than `resolution` is resampled once by Lanczos; a smaller one has the photo's own
    pixels. A tilted one is warped to twice the photo's scale, then reduced by Lanczos. On 6 portraits with grain and 3
    angles, where side and resolution are close, this had a PSNR of 54.5 to 56.3 dB to a fourfold Lanczos reference. A
    warp at the photo's scale had 45.6 to 51.8 dB, and a reduction by means of k x k px 44 to 48 dB. From a twofold
    reduction on, a warp at the photo's scale is good enough (56.6 dB and more).
    """
    size = _extent(crop_side(square, resolution), square.stretch)
    to_picture = picture_axes(square.roll)
    middle = np.array([square.center_x, square.center_y])
    reach = np.abs(to_picture) @ square.extent / 2
    if square.roll == 0:
        left, top = np.rint(middle - (square.extent - 1) / 2).astype(int)
        return lanczos(_region(image, left, top, *square.extent), *size)
    # Only the neighbourhood is warped; OpenCV's interpolation reads up to 2 px around a px.
    low, high = np.floor(middle - reach).astype(int) - 3, np.ceil(middle + reach).astype(int) + 4
    times = 1 if square.side >= 2 * resolution else 2
    fine = times * square.extent
    scaled = to_picture / times
    offset = middle - low - scaled @ ((fine - 1) / 2)  # pixel centres are at whole numbers
    warped = cv2.warpAffine(
        _region(image, *low, *(high - low)),
        np.column_stack([scaled, offset]),
        tuple(map(int, fine)),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
    )
    return lanczos(warped, *size)


def face_in_crop(row: Mapping[str, Any], square: Square) -> list[float]:
    """The place of a row's face (hairline to chin) in the crop of a square: [x, y, width, height] as fractions of the
    crop's width and height, rounded to 4 digits. x and y are those of the face's middle, from the top left."""
    middle = np.array([float(row["center_x"]), float(row["center_y"])]) - (square.center_x, square.center_y)
    place = middle @ picture_axes(square.roll) / square.extent + 0.5
    size = np.array([float(row["face_width"]), float(row["face_height"])]) / square.extent
    return [round(float(value), 4) for value in (*place, *size)]


def _extent(side: int, stretch: tuple[float, float]) -> np.ndarray:
    """Width and height of a stretched square in whole px, int (2,)."""
    return np.maximum(np.rint(side * np.array(stretch)), 2).astype(int)


def picture_axes(roll: float) -> np.ndarray:
    """The matrix from the axes of a square to those of the picture: float64 (2, 2)."""
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    return np.array([[cos, -sin], [sin, cos]])


def _region(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A part of a picture; beyond the picture's edges it is reflected."""
    inside = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    above, before = max(-top, 0), max(-left, 0)
    below, after = height - above - inside.shape[0], width - before - inside.shape[1]
    return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REFLECT_101)


def _crop_roll(row: Mapping[str, Any]) -> float:
    roll = float(row["roll"])
    return roll if abs(roll) >= UPRIGHT_ENOUGH else 0.0


def _ideal_middle(row: Mapping[str, Any], height: int, face_level: float) -> np.ndarray:
    """The middle of the square of this height in which the face is at `face_level`."""
    above = np.array([0, (0.5 - face_level) * height])
    return np.array([float(row["center_x"]), float(row["center_y"])]) + picture_axes(_crop_roll(row)) @ above


def _pushes(
    row: Mapping[str, Any],
    side: int,
    face_level: float,
    others: Sequence[Sequence[float]],
    stretch: tuple[float, float],
) -> list[np.ndarray]:
    """The moves of the ideal square by which another face lies just outside of it: px along its axes, the shortest
    first. The first is no move at all."""
    moves, extent = [np.zeros(2)], _extent(side, stretch)
    middle, to_picture = _ideal_middle(row, extent[1], face_level), picture_axes(_crop_roll(row))
    for x, y, w, h in others:
        corners = (np.array([(x, y), (x + w, y), (x, y + h), (x + w, y + h)]) - middle) @ to_picture
        before, after = corners.min(axis=0) - extent / 2, corners.max(axis=0) + extent / 2
        moves += [move for axis in np.eye(2) for move in (axis * before, axis * after)]
    return sorted((m for m in moves if np.hypot(*m) <= MAX_SHIFT * side), key=lambda m: float(np.hypot(*m)))


def _placed(
    row: Mapping[str, Any],
    side: int,
    face_level: float,
    push: np.ndarray,
    others: Sequence[Sequence[float]],
    stretch: tuple[float, float],
) -> Square:
    """The square of this side around the face, moved by `push` and then into the picture, as far as MAX_SHIFT
    allows."""
    width, height, roll = int(row["width"]), int(row["height"]), _crop_roll(row)
    to_picture, extent = picture_axes(roll), _extent(side, stretch)
    ideal = _ideal_middle(row, extent[1], face_level)
    reach = np.abs(to_picture) @ extent / 2  # half the upright box around the tilted square
    # Pixel centres are at whole numbers, so the picture reaches from -0.5 to its width - 0.5.
    middle = np.array([width - 1, height - 1]) / 2
    free = np.maximum(middle + 0.5 - reach, 0)
    shift = np.clip(ideal + to_picture @ push, middle - free, middle + free) - ideal
    shift *= min(1, MAX_SHIFT * side / max(float(np.hypot(*shift)), 1e-9))
    center = ideal + shift
    if roll == 0:  # whole pixels
        center = np.rint(center - (extent - 1) / 2) + (extent - 1) / 2
    padded = _share_outside(center, extent, to_picture, width, height)
    shared = max((_share_inside(box, center, extent, to_picture) for box in others), default=0.0)
    return Square(float(center[0]), float(center[1]), side, roll, padded, shared, stretch)


def _share_outside(center: np.ndarray, extent: np.ndarray, to_picture: np.ndarray, width: int, height: int) -> float:
    """The share of a square that lies outside a picture."""
    # The grid has points on the edges of the square, so that even one row of padding counts. It is accurate to 0.01.
    grid = np.linspace(-0.5, 0.5, 129)
    points = extent * np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) @ to_picture.T + center
    edge = 0.5 + 1e-6  # for rounding
    outside = ((points < -edge) | (points > np.array([width, height]) - 1 + edge)).any(axis=1)
    return round(float(outside.mean()), 4)


def _share_inside(box: Sequence[float], center: np.ndarray, extent: np.ndarray, to_picture: np.ndarray) -> float:
    """The share of a box (x, y, w, h) that lies in a square, counted on 32 x 32 points: an overlap of less than a 64th
    of its width is 0."""
    if np.hypot(box[0] + box[2] / 2 - center[0], box[1] + box[3] / 2 - center[1]) > max(extent) + max(box[2:]):
        return 0.0  # too far away to overlap
    grid = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(box[0] + grid * box[2], box[1] + grid * box[3])
    points = (np.column_stack([x.ravel(), y.ravel()]) - center) @ to_picture
    return round(float((np.abs(points) < extent / 2).all(axis=1).mean()), 4)
