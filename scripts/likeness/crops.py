"""Where the square that is trained on lies in a photo, and cutting it out.

A face is a row of photos.tsv; all px are in the upright picture. With buckets a square is stretched to a rectangle of
about its area.
"""

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from likeness.images import lanczos

# A photo that cannot hold the wished square without padding gets a tighter one, down to this face height as a share
# of the side: the whole face, hairline to chin, with a margin of an eighth above and below.
TIGHTEST_FACE_FRACTION = 0.8
MAX_SHIFT = 0.15  # of the side, that the face may leave its place by to avoid padding
FREE_PADDING = 0.005  # share; the small triangles that a slightly tilted square has at its corners
FACE_LEVEL = 0.48  # height of the face's middle in the square, from the top: more shoulder than air above the hair
UPRIGHT_ENOUGH = 1.0  # degrees; less roll is not removed, so that the crop holds the very pixels of the photo


class Square(NamedTuple):
    """A square region of a picture: middle and side in px, rotated clockwise by `roll` degrees.

    `padded` is the share of it that lies outside the picture, `shared` the largest share of another face's box that
    lies inside the square. `stretch` is by how much its width and its height differ from its side.
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
    """Width and height in px that a photo of this size is trained at, by kohya's buckets: sides are multiples of 64,
    the area is at most that of the resolution's square, and of these the shape nearest to the photo's, from 1:2 to
    2:1."""
    shapes = set()
    for long in range(64, 2 * resolution + 1, 64):
        short = resolution**2 // long // 64 * 64
        shapes |= {shape for shape in ((long, short), (short, long)) if 0 < max(shape) <= 2 * min(shape)}
    return min(sorted(shapes), key=lambda shape: abs(math.log(shape[0] / shape[1] * height / width)))


def crop_box(
    row: Mapping, face_fraction: float, face_level: float = FACE_LEVEL, stretch: tuple[float, float] = (1.0, 1.0)
) -> Square:
    """The upright square around a face: its height is `face_fraction` of the side, its middle `face_level` of the side
    from the top, where the picture allows.

    Where the square would leave the picture or show another face it is first moved (the face by at most MAX_SHIFT of
    the side), then made smaller (the face at most TIGHTEST_FACE_FRACTION of it); only what then still lies outside is
    padded, and only what then still shows of others is shared. `row` needs width and height of the picture beside the
    face's own columns; `others` (JSON [[x, y, w, h], ...]), the boxes of the other faces, may be empty or absent.
    """
    face = float(row["face_height"])
    others = json.loads(row.get("others") or "[]")
    # In a wide rectangle the face must not be higher than that either.
    tightest = max(face_fraction, TIGHTEST_FACE_FRACTION) * min(1, stretch[1])
    for fraction in np.unique(np.linspace(min(face_fraction, tightest), tightest, 101)):
        side = max(2, round(face / fraction))
        pushes = _pushes(row, side, face_level, others, stretch)
        squares = [_placed(row, side, face_level, push, others, stretch) for push in pushes]
        square = min(squares, key=lambda s: (s.shared, max(0, s.padded - FREE_PADDING)))
        if square.padded <= FREE_PADDING and square.shared == 0:
            break
    return square


def crop_side(square: Square, resolution: int) -> int:
    """Side in px of the crop that `crop_face` makes of a square: never more than the photo has or is asked for."""
    return min(square.side, resolution)


def crop_face(image: np.ndarray, square: Square, resolution: int) -> np.ndarray:
    """The square cut out upright: uint8 RGB (side, side, 3), stretched as the square is; what lies outside the picture
    is made by reflection.

    An upright square is resampled once by Lanczos where it is larger than `resolution`, else these are the photo's very
    pixels. A tilted one is warped to twice the photo's own scale, then reduced by Lanczos, both for any size: on 6
    portraits with grain, 3 angles, this was within 54.5 to 56.3 dB of a fourfold Lanczos reference where side and
    resolution are close; a warp at the photo's scale within 45.6 to 51.8 dB, reduced by means of k x k within 44 to 48.
    From a twofold reduction on, the photo's own scale is fine enough (56.6 dB and more).
    """
    size = _extent(crop_side(square, resolution), square.stretch)
    to_picture = _to_picture(square.roll)
    middle = np.array([square.center_x, square.center_y])
    reach = np.abs(to_picture) @ square.extent / 2
    if square.roll == 0:
        left, top = np.rint(middle - (square.extent - 1) / 2).astype(int)
        return lanczos(_region(image, left, top, *square.extent), *size)
    # Only the neighbourhood: OpenCV's interpolation reads up to 2 px around.
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


def face_in_crop(row: Mapping, square: Square) -> list[float]:
    """Where the face of a row (hairline to chin) lies in the crop of a square: its middle, its width and its height as
    fractions of the crop's [x, y, width, height], x and y from the top left, rounded to 4 digits."""
    middle = np.array([float(row["center_x"]), float(row["center_y"])]) - (square.center_x, square.center_y)
    place = middle @ _to_picture(square.roll) / square.extent + 0.5
    size = np.array([float(row["face_width"]), float(row["face_height"])]) / square.extent
    return [round(float(value), 4) for value in (*place, *size)]


def _extent(side: int, stretch: tuple[float, float]) -> np.ndarray:
    """Whole px of a stretched side: width and height, int (2,)."""
    return np.maximum(np.rint(side * np.array(stretch)), 2).astype(int)


def _to_picture(roll: float) -> np.ndarray:
    """What turns the axes of a square into the picture's: float64 (2, 2)."""
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    return np.array([[cos, -sin], [sin, cos]])


def _region(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A part of a picture; what lies outside is its reflection."""
    inside = image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    above, before = max(-top, 0), max(-left, 0)
    below, after = height - above - inside.shape[0], width - before - inside.shape[1]
    return cv2.copyMakeBorder(inside, above, below, before, after, cv2.BORDER_REFLECT_101)


def _crop_roll(row: Mapping) -> float:
    roll = float(row["roll"])
    return roll if abs(roll) >= UPRIGHT_ENOUGH else 0.0


def _wished(row: Mapping, height: int, face_level: float) -> np.ndarray:
    """The middle of the square of this height that has the face in its place."""
    above = np.array([0, (0.5 - face_level) * height])
    return np.array([float(row["center_x"]), float(row["center_y"])]) + _to_picture(_crop_roll(row)) @ above


def _pushes(row: Mapping, side: int, face_level: float, others: list, stretch: tuple[float, float]) -> list[np.ndarray]:
    """By how much the wished square may be moved to leave another face just outside: px along its axes, least first."""
    moves, extent = [np.zeros(2)], _extent(side, stretch)
    middle, to_picture = _wished(row, extent[1], face_level), _to_picture(_crop_roll(row))
    for x, y, w, h in others:
        corners = (np.array([(x, y), (x + w, y), (x, y + h), (x + w, y + h)]) - middle) @ to_picture
        before, after = corners.min(axis=0) - extent / 2, corners.max(axis=0) + extent / 2
        moves += [move for axis in np.eye(2) for move in (axis * before, axis * after)]
    return sorted((m for m in moves if np.hypot(*m) <= MAX_SHIFT * side), key=lambda m: float(np.hypot(*m)))


def _placed(
    row: Mapping, side: int, face_level: float, push: np.ndarray, others: list, stretch: tuple[float, float]
) -> Square:
    """The square of this side around the face, pushed, then moved into the picture, as far as MAX_SHIFT allows."""
    width, height, roll = int(row["width"]), int(row["height"]), _crop_roll(row)
    to_picture, extent = _to_picture(roll), _extent(side, stretch)
    wished = _wished(row, extent[1], face_level)
    reach = np.abs(to_picture) @ extent / 2  # half the upright box around the tilted square
    # Pixel centres are at whole numbers, so the picture reaches from -0.5 to its width - 0.5.
    middle = np.array([width - 1, height - 1]) / 2
    free = np.maximum(middle + 0.5 - reach, 0)
    shift = np.clip(wished + to_picture @ push, middle - free, middle + free) - wished
    shift *= min(1, MAX_SHIFT * side / max(float(np.hypot(*shift)), 1e-9))
    center = wished + shift
    if roll == 0:  # whole pixels
        center = np.rint(center - (extent - 1) / 2) + (extent - 1) / 2
    padded = _share_outside(center, extent, to_picture, width, height)
    shared = max((_share_inside(box, center, extent, to_picture) for box in others), default=0.0)
    return Square(float(center[0]), float(center[1]), side, roll, padded, shared, stretch)


def _share_outside(center: np.ndarray, extent: np.ndarray, to_picture: np.ndarray, width: int, height: int) -> float:
    """The share of a square that lies outside a picture."""
    # Counted on a grid with points on the very edges, so that not one row of padding goes unseen; right to a hundredth.
    grid = np.linspace(-0.5, 0.5, 129)
    points = extent * np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2) @ to_picture.T + center
    edge = 0.5 + 1e-6  # for rounding
    outside = ((points < -edge) | (points > np.array([width, height]) - 1 + edge)).any(axis=1)
    return round(float(outside.mean()), 4)


def _share_inside(box: tuple, center: np.ndarray, extent: np.ndarray, to_picture: np.ndarray) -> float:
    """The share of a box (x, y, w, h) that lies in a square, by 32 x 32 points: less than a 64th of its width is 0."""
    if np.hypot(box[0] + box[2] / 2 - center[0], box[1] + box[3] / 2 - center[1]) > max(extent) + max(box[2:]):
        return 0.0  # nowhere near
    grid = (np.arange(32) + 0.5) / 32
    x, y = np.meshgrid(box[0] + grid * box[2], box[1] + grid * box[3])
    points = (np.column_stack([x.ravel(), y.ravel()]) - center) @ to_picture
    return round(float((np.abs(points) < extent / 2).all(axis=1).mean()), 4)
