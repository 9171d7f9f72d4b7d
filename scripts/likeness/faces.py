"""Finding faces, measuring them, and cutting out the square that is trained on.

A face is a row: a dict with the keys of FACE_COLUMNS, as numbers when fresh from `Detector.faces` and as strings when
read back from faces.tsv; every function here takes both. All px are in the upright picture.
"""

import json
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from likeness.models import FACE_DETECTION_FULL_RANGE, FACE_DETECTION_SHORT_RANGE, FACE_LANDMARKER, model_path
from likeness.provenance import canonical

# x, y, w, h: the box around the face from hairline to chin. face_height: the same along the face's own axis, and
# center_x, center_y its middle, so that a crop does not depend on how the head is tilted in the picture.
FACE_COLUMNS = [
    *("score", "x", "y", "w", "h", "landmarks", "center_x", "center_y", "face_height"),
    *("yaw", "pitch", "roll", "sharpness", "brightness", "attributes"),
]

# In MediaPipe's mesh of 478 points: right iris, left iris, nose tip, right and left mouth corner (of the person).
FIVE_POINTS = [468, 473, 1, 61, 291]

DETECTION_SIDE = 640  # px; the detectors work at 128 and 192 px themselves, reducing in two steps avoids aliasing
LANDMARK_SIDE = 640  # px; the landmarker works on 256 px of face, which is half of a confirmation crop
MIN_CONFIDENCE = 0.5  # of a candidate box; what is no face is left to the landmarker to refuse
MIN_FACE_SHARE = 0.02  # of the picture's short side; smaller boxes were mostly false in the trials
# At 30 degrees of roll the detector is as sure of the picture as of one turned by 90 degrees the other way, to within
# 0.06; at 90 degrees the right turn leads by 0.12 or more.
UNTURNED_BONUS = 0.06
MIN_TILE = 160  # px; a smaller tile would only be enlarged
# A tile reaches to 0.75 and to 0.375 of the short side, a quarter of it shared with the next: the full-range model
# finds faces down to about 7 % of what it is shown.
TILE_SHARES = (0.75, 0.375)
TILE_STEP = 0.75

SHARPNESS_SIDE = 256  # px; the face size at which sharpness is compared

# A photo that cannot hold the wished square without padding gets a tighter one, down to this face height as a share
# of the side: the whole face, hairline to chin, with a margin of an eighth above and below.
TIGHTEST_FACE_FRACTION = 0.8
MAX_SHIFT = 0.15  # of the side, that the face may leave its place by to avoid padding
FREE_PADDING = 0.005  # share; the small triangles that a slightly tilted square has at its corners
FACE_LEVEL = 0.48  # height of the face's middle in the square, from the top: more shoulder than air above the hair
UPRIGHT_ENOUGH = 1.0  # degrees; less roll is not removed, so that the crop holds the very pixels of the photo


class Square(NamedTuple):
    """A square region of a picture: middle and side in px, rotated clockwise by `roll` degrees.

    `padded` is the share of it that lies outside the picture.
    """

    center_x: float
    center_y: float
    side: int
    roll: float
    padded: float


class Candidate(NamedTuple):
    """A box in px that may hold a face, and how sure the detector is."""

    x: float
    y: float
    w: float
    h: float
    score: float


class Detector:
    """BlazeFace finds candidates, MediaPipe's face landmarker confirms and measures them.

    `models` is the folder made by fetch_models. Raises LikenessError if a model file is missing.
    """

    def __init__(self, models: Path):
        with _quiet():
            from mediapipe import Image, ImageFormat
            from mediapipe.tasks.python import BaseOptions, vision

            def options(name: str) -> BaseOptions:
                return BaseOptions(model_asset_path=str(model_path(models, name)))

            self._picture = lambda array: Image(image_format=ImageFormat.SRGB, data=np.ascontiguousarray(array))
            self._short, self._full = (
                vision.FaceDetector.create_from_options(
                    vision.FaceDetectorOptions(base_options=options(name), min_detection_confidence=MIN_CONFIDENCE)
                )
                for name in (FACE_DETECTION_SHORT_RANGE, FACE_DETECTION_FULL_RANGE)
            )
            self._landmarker = vision.FaceLandmarker.create_from_options(
                vision.FaceLandmarkerOptions(
                    base_options=options(FACE_LANDMARKER),
                    # The candidate box already says that there is a face; here it only has to be found again.
                    min_face_detection_confidence=0.3,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            # MediaPipe's own __del__ fails loudly when it comes after its thread pool is gone; this hook, the one by
            # which thread pools stop, comes before. There is no public one.
            for task in (self._short, self._full, self._landmarker):
                threading._register_atexit(task.close)
            self.faces(np.zeros((MIN_TILE, MIN_TILE, 3), np.uint8))  # the first picture is the one that is chatty

    def faces(self, image: np.ndarray) -> list[dict[str, Any]]:
        """One row per face in uint8 RGB (height, width, 3), the widest first."""
        height, width = image.shape[:2]
        rows = self._confirmed(image, self._candidates(image, (0, 0, width, height), (self._short, self._full)))
        if not rows:  # tiles cost a third of a second, and beside a face that was found they only add bystanders
            tiles = _tiles(height, width)
            rows = self._confirmed(
                image, [found for tile in tiles for found in self._candidates(image, tile, (self._full,))]
            )
        return sorted(rows, key=lambda row: (-row["w"], row["x"], row["y"]))

    def _candidates(self, image: np.ndarray, tile: tuple[int, int, int, int], detectors: tuple) -> list[Candidate]:
        """What the detectors find in one tile (x, y, w, h) of the image."""
        left, top, width, height = tile
        view, scale = _reduced(image[top : top + height, left : left + width], DETECTION_SIDE)
        picture, candidates = self._picture(view), []
        for found in (found for detector in detectors for found in detector.detect(picture).detections):
            box = found.bounding_box
            x, y, w, h = (value / scale for value in (box.origin_x, box.origin_y, box.width, box.height))
            candidates.append(Candidate(left + x, top + y, w, h, found.categories[0].score))
        return candidates

    def _confirmed(self, image: np.ndarray, candidates: list[Candidate]) -> list[dict[str, Any]]:
        smallest = MIN_FACE_SHARE * min(image.shape[:2])
        rows: list[dict[str, Any]] = []
        for candidate in _distinct([c for c in candidates if c.w >= smallest]):
            row = self._measured(image, candidate)
            # Two candidates may lead to the same face.
            if row and not any(_same_place(_box(row), _box(other)) for other in rows):
                rows.append(row)
        return rows

    def _measured(self, image: np.ndarray, candidate: Candidate) -> dict[str, Any] | None:
        """The row of the face in a candidate box, None if the landmarker sees none there."""
        x, y, w, h, score = candidate
        side = 2 * max(w, h)
        left, top = max(0, round(x + w / 2 - side / 2)), max(0, round(y + h / 2 - side / 2))
        right, bottom = round(x + w / 2 + side / 2), round(y + h / 2 + side / 2)
        view, scale = _reduced(image[top:bottom, left:right], LANDMARK_SIDE)
        # The landmarker is at a loss with a face on its side, and makes up an upright one over one upside down; the
        # short-range detector finds both, but is surest of an upright one.
        sureness = [self._confidence(np.rot90(view, turns)) for turns in range(4)]
        sureness[0] += UNTURNED_BONUS
        turns = int(np.argmax(sureness))
        found = self._landmarker.detect(self._picture(np.rot90(view, turns)))
        if not found.face_landmarks:
            return None
        mesh = np.array([(p.x, p.y) for p in found.face_landmarks[0]])
        for _ in range(turns):
            mesh = np.column_stack([1 - mesh[:, 1], mesh[:, 0]])  # back, clockwise
        mesh = mesh * (view.shape[1], view.shape[0]) / scale + (left, top)
        if not _inside(mesh.mean(axis=0), candidate):
            return None  # it found a neighbour instead
        blendshapes = {shape.category_name: shape.score for shape in found.face_blendshapes[0]}
        return _face_row(image, mesh, score, blendshapes, found.facial_transformation_matrixes[0])

    def _confidence(self, view: np.ndarray) -> float:
        """How sure the short-range detector is of the surest face in a view; 0 where it sees none."""
        found = self._short.detect(self._picture(view)).detections
        return max((detection.categories[0].score for detection in found), default=0.0)


def crop_box(row: Mapping, face_fraction: float) -> Square:
    """The upright square around a face: its height is `face_fraction` of the side where the picture allows.

    Where the square would leave the picture it is first moved (the face by at most MAX_SHIFT of the side), then made
    smaller (the face at most TIGHTEST_FACE_FRACTION of it); only what then still lies outside is padded.
    `row` needs width and height of the picture beside the face's own columns.
    """
    face = float(row["face_height"])
    tightest = max(face_fraction, TIGHTEST_FACE_FRACTION)
    for fraction in np.linspace(face_fraction, tightest, 101):
        square = _placed(row, max(2, round(face / fraction)))
        if square.padded <= FREE_PADDING:
            break
    return square


def crop_side(square: Square, max_side: int) -> int:
    """Side in px of the crop that `crop_face` makes of a square."""
    return square.side // math.ceil(square.side / (2 * max_side))


def crop_face(image: np.ndarray, row: Mapping, face_fraction: float, max_side: int) -> tuple[np.ndarray, float]:
    """The face cut out upright: uint8 RGB (side, side, 3), and the share of it made by reflection (0 to 1).

    The pixels are interpolated once, at the photo's own resolution. A square of more than twice `max_side` px is then
    reduced by a whole number, to between one and two times `max_side`: a plain mean of k x k px, which neither aliases
    nor costs the next stage detail, and keeps the files small.
    """
    square = crop_box(row, face_fraction)
    side = crop_side(square, max_side)
    k = square.side // side
    cos, sin = math.cos(math.radians(square.roll)), math.sin(math.radians(square.roll))
    to_picture = np.array([[cos, -sin], [sin, cos]])
    middle = (side * k - 1) / 2  # pixel centres are at whole numbers
    offset = np.array([square.center_x, square.center_y]) - to_picture @ (middle, middle)
    crop = cv2.warpAffine(
        np.ascontiguousarray(image),
        np.column_stack([to_picture, offset]),
        (side * k, side * k),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if k > 1:
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    return crop, square.padded


def landmarks(row: Mapping) -> np.ndarray:
    """float64 (5, 2) px: the person's right eye, left eye, nose tip, right and left mouth corner."""
    return np.array(json.loads(row["landmarks"]), dtype=float)


def sharpness(gray: np.ndarray) -> float:
    """0 (blurred) to 1 of a uint8 (height, width) picture: how much of its detail a further blur takes away.

    1 - the no-reference blur metric of Crete et al. 2007, "The Blur Effect: Perception and Estimation with a New
    No-Reference Perceptual Blur Metric": unlike the variance of a Laplacian it does not depend on contrast.
    """
    picture = gray.astype(np.float32)
    lost = []
    for axis, kernel in ((0, (1, 9)), (1, (9, 1))):  # 9 px, the paper's filter
        blurred = cv2.blur(picture, kernel)
        before, after = (np.abs(np.diff(p, axis=axis)) for p in (picture, blurred))
        lost.append(float(np.maximum(0, before - after).sum()) / max(float(before.sum()), 1e-6))
    return min(lost)


def _face_row(image: np.ndarray, mesh: np.ndarray, score: float, shapes: dict, matrix: np.ndarray) -> dict[str, Any]:
    """Everything faces.tsv says about one face. `mesh` is (478, 2) px, `matrix` MediaPipe's 4 x 4 pose."""
    five = mesh[FIVE_POINTS]
    roll = math.degrees(math.atan2(*(five[1] - five[0])[::-1]))
    low, high = mesh.min(axis=0), mesh.max(axis=0)
    # The same box along the face's own axes.
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    axes = np.array([[cos, sin], [-sin, cos]])
    along = mesh @ axes.T
    center = (along.min(axis=0) + along.max(axis=0)) / 2 @ axes
    gray = cv2.cvtColor(_clipped(image, low, high), cv2.COLOR_RGB2GRAY)
    attributes = {
        "smile": _mean(shapes, "mouthSmileLeft", "mouthSmileRight"),
        "eyes_closed": _mean(shapes, "eyeBlinkLeft", "eyeBlinkRight"),
        "mouth_open": round(shapes["jawOpen"], 3),
        "glasses": None,  # no model here tells glasses reliably
        "background": _background(image, low, high, five[0, 1], roll),
    }
    return {
        "score": round(score, 3),
        **dict(zip("xywh", (round(float(v), 1) for v in (*low, *(high - low))), strict=True)),
        "landmarks": canonical(np.round(five, 2).tolist()),
        "center_x": round(float(center[0]), 2),
        "center_y": round(float(center[1]), 2),
        "face_height": round(float(np.ptp(along[:, 1])), 2),
        **_turn(matrix),
        "roll": round(roll, 1),
        "sharpness": round(sharpness(_reduced(gray, SHARPNESS_SIDE)[0]), 3),
        "brightness": round(float(gray.mean()) / 255, 3),
        "attributes": canonical(attributes),
    }


def _turn(matrix: np.ndarray) -> dict[str, float]:
    """yaw (positive: turned to the picture's right) and pitch (positive: chin down) in degrees, out of R = Rz Ry Rx.

    The roll in it is left aside: curation and crops mean the eye line's.
    """
    yaw = math.atan2(-matrix[2, 0], math.hypot(matrix[2, 1], matrix[2, 2]))
    pitch = math.atan2(matrix[2, 1], matrix[2, 2])
    return {"yaw": round(math.degrees(yaw), 1), "pitch": round(math.degrees(pitch), 1)}


def _background(image: np.ndarray, low: np.ndarray, high: np.ndarray, eye_level: float, roll: float) -> float | None:
    """Mean luminance (0 to 1) beside and above the head: from one face height above it down to the eyes, the columns
    from a quarter to one and a half face widths away. None where the head is tilted or the photo shows too little."""
    left, top, right = *low, high[0]
    width, height = high - low
    if abs(roll) > 30:
        return None
    rows = slice(max(0, int(top - height)), max(0, int(eye_level)))
    columns = (
        slice(max(0, int(left - 1.5 * width)), max(0, int(left - 0.25 * width))),
        slice(int(right + 0.25 * width), int(right + 1.5 * width)),
    )
    sides = np.concatenate([image[rows, c].reshape(-1, 3) for c in columns])
    if len(sides) < 0.05 * width * height:
        return None
    return round(float(cv2.cvtColor(sides[None], cv2.COLOR_RGB2GRAY).mean()) / 255, 3)


def _placed(row: Mapping, side: int) -> Square:
    """The square of this side around the face, moved into the picture as far as MAX_SHIFT allows."""
    width, height, roll = int(row["width"]), int(row["height"]), float(row["roll"])
    roll = roll if abs(roll) >= UPRIGHT_ENOUGH else 0.0
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    wished = np.array([float(row["center_x"]), float(row["center_y"])]) + (0.5 - FACE_LEVEL) * side * np.array(
        [-sin, cos]
    )
    reach = side / 2 * (abs(cos) + abs(sin))  # half the upright box around the tilted square
    # Pixel centres are at whole numbers, so the picture reaches from -0.5 to its width - 0.5.
    middle = np.array([width - 1, height - 1]) / 2
    free = np.maximum(middle + 0.5 - reach, 0)
    inside = np.clip(wished, middle - free, middle + free)
    shift = inside - wished
    shift *= min(1, MAX_SHIFT * side / max(float(np.hypot(*shift)), 1e-9))
    center = wished + shift
    if roll == 0:  # whole pixels
        center = np.rint(center - (side - 1) / 2) + (side - 1) / 2
    # Counted on a grid with points on the very edges, so that not one row of padding goes unseen; right to a hundredth.
    grid = side * np.linspace(-0.5, 0.5, 129)
    u, v = np.meshgrid(grid, grid)
    x, y = center[0] + cos * u - sin * v, center[1] + sin * u + cos * v
    edge = 0.5 + 1e-6  # for rounding
    outside = (x < -edge) | (x > width - 1 + edge) | (y < -edge) | (y > height - 1 + edge)
    padded = round(float(outside.mean()), 4)
    return Square(float(center[0]), float(center[1]), side, roll, padded)


def _tiles(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Overlapping square tiles (x, y, w, h) that cover a picture, the large ones first."""
    for share in TILE_SHARES:
        side = int(share * min(height, width))
        if side < MIN_TILE:
            continue
        for y in _starts(height, side):
            for x in _starts(width, side):
                yield x, y, side, side


def _starts(length: int, side: int) -> list[int]:
    return [*range(0, length - side, int(side * TILE_STEP)), length - side]


def _reduced(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """An image of at most `side` px on its longer side, and by what it was scaled (at most 1)."""
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    if scale == 1:
        return image, 1
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Greedy non-maximum suppression, best score first."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (-c.score, c)):
        if not any(_same_place(candidate, other) for other in kept):
            kept.append(candidate)
    return kept


def _same_place(a: tuple, b: tuple) -> bool:
    """Whether two boxes (x, y, w, h, ...) frame one face: half of the smaller lies in the other.

    Two heads hardly ever overlap that much, while the two detectors frame one head at different sizes.
    """
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return width > 0 and height > 0 and width * height > 0.5 * min(a[2] * a[3], b[2] * b[3])


def _box(row: Mapping) -> tuple[float, ...]:
    return tuple(float(row[key]) for key in "xywh")


def _inside(point: np.ndarray, box: tuple) -> bool:
    return box[0] <= point[0] <= box[0] + box[2] and box[1] <= point[1] <= box[1] + box[3]


def _clipped(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The part of a box that lies in the picture, at least one pixel."""
    (left, top), (right, bottom) = np.maximum(low, 0).astype(int), np.ceil(high).astype(int)
    left, top = min(left, image.shape[1] - 1), min(top, image.shape[0] - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _mean(shapes: dict, *names: str) -> float:
    return round(sum(shapes[name] for name in names) / len(names), 3)


@contextmanager
def _quiet() -> Iterator[None]:
    """MediaPipe's C++ writes notes about its delegates to file descriptor 2; errors still come as exceptions."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
