"""Finding faces and measuring them.

A face is a row: a dict with the keys of FACE_COLUMNS. The values are numbers in the result of `Detector.faces` and
strings when they were read from faces.tsv; every function here accepts both. All px are in the upright picture.
"""

import json
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from likeness.core.pinned_models import (
    FACE_DETECTION_FULL_RANGE,
    FACE_DETECTION_SHORT_RANGE,
    FACE_LANDMARKER,
    model_path,
)
from likeness.core.provenance import canonical
from likeness.faces.attributes import attributes

# x, y, w, h: the box around the face from hairline to chin. face_width, face_height, center_x, center_y: size and
# middle of the box along the face's own axes, so that a crop does not depend on how the head is tilted in the picture.
FACE_COLUMNS = [
    *("score", "x", "y", "w", "h", "landmarks", "center_x", "center_y", "face_width", "face_height"),
    *("yaw", "pitch", "roll", "sharpness", "brightness", "clipped", "visible", "attributes"),
]

# In MediaPipe's mesh of 478 points: right iris, left iris, nose tip, right and left mouth corner (of the person).
FIVE_POINTS = [468, 473, 1, 61, 291]

DETECTION_SIDE = 640  # px; the detectors reduce it to 128 and 192 px, and reducing in two steps avoids aliasing
LANDMARK_SIDE = 640  # px; the landmarker works on 256 px of face, which is half of a confirmation crop
MIN_CONFIDENCE = 0.5  # of a candidate box; false candidates are rejected by the confirmation
# At 30 degrees of roll, the detector's confidences for the picture as it is and turned by 90 degrees the other way
# differ by at most 0.06. At 90 degrees of roll the correct turn leads by 0.12 or more.
UNTURNED_BONUS = 0.06

# The smallest face that is searched for: its height in px, and as a share of the picture's short side. Above 12
# megapixels the share decides, so that 100 megapixels need no more tiles than 12; smaller faces are of no use to
# training.
SMALLEST_FACE = 40
SMALLEST_SHARE = SMALLEST_FACE / 3000
# The short-range detector works on tiles. It finds faces of 15 to 60 % of a tile's side, the larger ones less
# certainly. Tiles of more than half of the picture would show no more than the whole picture does.
TILE_SIDE = 266  # px, after the picture was reduced for this size of tile
TILE_STEP = 200  # px, from one tile to the next
TILE_RATIO = 2  # from one size of tile to the next
# A candidate from a tile, or one with less than this share of the picture, needs a confidence of SURE in each of three
# views. The lowest of the three was 0.785 or more for 263 faces of 40 to 320 px at all angles in composed photos, and
# 0.76 or more for 2 of 260 false candidates. Large candidates need no such check: they are rarely false, and subjects
# at the edge of the picture have lower confidences.
SMALL_SHARE = 0.15
SURE = 0.76

SHARPNESS_SIDE = 256  # px; the face size at which sharpness is compared
UNCLIPPED = 5, 250  # of 255; darker and brighter px have no detail but JPEG's rounding


class Candidate(NamedTuple):
    """A box in px that may contain a face, the detector's confidence, and whether it must be checked in more views."""

    x: float
    y: float
    w: float
    h: float
    score: float
    doubtful: bool


class Detector:
    """BlazeFace finds candidates; MediaPipe's face landmarker confirms and measures them.

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
                    # The candidate box was detected with MIN_CONFIDENCE; here the face only has to be found again.
                    min_face_detection_confidence=0.3,
                    output_face_blendshapes=True,
                    output_facial_transformation_matrixes=True,
                )
            )
            # MediaPipe's own __del__ prints an error if it runs after its thread pool has stopped. This hook, the one
            # that stops thread pools, runs before that.
            for task in (self._short, self._full, self._landmarker):
                threading._register_atexit(task.close)  # type: ignore[attr-defined]  # private; no public one exists
            self.faces(np.zeros((256, 256, 3), np.uint8))  # MediaPipe prints notes at the first picture

    def faces(self, image: np.ndarray) -> list[dict[str, Any]]:
        """One row per face in uint8 RGB (height, width, 3), the widest first."""
        candidates = self._candidates(*_reduced(image, DETECTION_SIDE), (0, 0), in_tile=False)
        for tile, scale, corner in _tiles(image):
            candidates += self._candidates(tile, scale, corner, in_tile=True)
        rows: list[dict[str, Any]] = []
        for candidate in _distinct(candidates):
            row = self._measured(image, candidate)
            # Two candidates may be the same face.
            if row and not any(_same_place(_box(row), _box(other)) for other in rows):
                rows.append(row)
        return sorted(rows, key=lambda row: (-row["w"], row["x"], row["y"]))

    def _candidates(self, view: np.ndarray, scale: float, corner: tuple[int, int], in_tile: bool) -> list[Candidate]:
        """The detections in a view of the picture. `corner` (x, y) is the view's place in the scaled picture.

        Only the short-range detector works on tiles: the full-range one found no face there that the other had missed.
        """
        picture, candidates = self._picture(view), []
        detectors = [self._short] if in_tile else [self._short, self._full]
        for detection in (detection for detector in detectors for detection in detector.detect(picture).detections):
            box = detection.bounding_box
            x, y = (corner[0] + box.origin_x) / scale, (corner[1] + box.origin_y) / scale
            doubtful = in_tile or box.width < SMALL_SHARE * max(view.shape)
            score = detection.categories[0].score
            candidates.append(Candidate(x, y, box.width / scale, box.height / scale, score, doubtful))
        return candidates

    def _measured(self, image: np.ndarray, candidate: Candidate) -> dict[str, Any] | None:
        """The row of the face in a candidate box, None if there is none."""
        view, scale, corner = _around(image, candidate, 2)
        # The landmarker misses a face on its side, and invents an upright face where one is upside down. The
        # short-range detector finds both, with the highest confidence if the face is upright.
        confidences = [self._confidence(np.rot90(view, turns)) for turns in range(4)]
        turns = int(np.argmax(np.add(confidences, [UNTURNED_BONUS, 0, 0, 0])))
        if candidate.doubtful and (confidences[turns] < SURE or not self._convinces(image, candidate, turns)):
            return None
        result = self._landmarker.detect(self._picture(np.rot90(view, turns)))
        if not result.face_landmarks:
            return None
        mesh = np.array([(p.x, p.y) for p in result.face_landmarks[0]])
        for _ in range(turns):
            mesh = np.column_stack([1 - mesh[:, 1], mesh[:, 0]])  # turned back, clockwise
        mesh = mesh * (view.shape[1], view.shape[0]) / scale + corner
        if not _inside(mesh.mean(axis=0), candidate):
            return None  # the landmarker found another face beside it
        blendshapes = {shape.category_name: shape.score for shape in result.face_blendshapes[0]}
        return _face_row(image, mesh, candidate.score, blendshapes, result.facial_transformation_matrixes[0])

    def _convinces(self, image: np.ndarray, candidate: Candidate, turns: int) -> bool:
        """Whether a candidate, after so many quarter turns, is also detected as a face when it is mirrored and when the
        view is wider. False candidates fail in one of the two views."""
        near, far = (np.rot90(_around(image, candidate, times)[0], turns) for times in (2, 3))
        return all(self._confidence(view) >= SURE for view in (near[:, ::-1], far))

    def _confidence(self, view: np.ndarray) -> float:
        """The short-range detector's highest confidence for a face in a view; 0 if it detects none."""
        detections = self._short.detect(self._picture(view)).detections
        return max((detection.categories[0].score for detection in detections), default=0.0)


def landmarks(row: Mapping[str, Any]) -> np.ndarray:
    """float64 (5, 2) px: the person's right eye, left eye, nose tip, right and left mouth corner."""
    return np.array(json.loads(row["landmarks"]), dtype=float)


def sharpness(gray: np.ndarray) -> float:
    """The sharpness of a uint8 (height, width) picture, from 0 (blurred) to 1: the share of its detail that a further
    blur removes.

    It is 1 - the blur metric of Crete et al. 2007, "The Blur Effect: Perception and Estimation with a New No-Reference
    Perceptual Blur Metric". Unlike the variance of a Laplacian it does not depend on contrast.
    """
    from skimage.measure import blur_effect

    with np.errstate(invalid="ignore"):  # a picture of one flat colour has no detail
        return float(np.nan_to_num(1 - blur_effect(gray, h_size=9)))  # 9 px, the paper's filter


def _face_row(
    image: np.ndarray, mesh: np.ndarray, score: float, shapes: Mapping[str, float], matrix: np.ndarray
) -> dict[str, Any]:
    """The values of FACE_COLUMNS for one face. `mesh` is (478, 2) px, `matrix` MediaPipe's 4 x 4 pose."""
    five = mesh[FIVE_POINTS]
    roll = math.degrees(math.atan2(*(five[1] - five[0])[::-1]))
    low, high = mesh.min(axis=0), mesh.max(axis=0)
    # The same box along the face's own axes.
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    axes = np.array([[cos, sin], [-sin, cos]])
    along = mesh @ axes.T
    center = (along.min(axis=0) + along.max(axis=0)) / 2 @ axes
    gray = cv2.cvtColor(_inside_picture(image, low, high), cv2.COLOR_RGB2GRAY)
    return {
        "score": round(score, 3),
        **dict(zip("xywh", (round(float(v), 1) for v in (*low, *(high - low))), strict=True)),
        "landmarks": canonical(np.round(five, 2).tolist()),
        "center_x": round(float(center[0]), 2),
        "center_y": round(float(center[1]), 2),
        "face_width": round(float(np.ptp(along[:, 0])), 2),
        "face_height": round(float(np.ptp(along[:, 1])), 2),
        **_turn(matrix),
        "roll": round(roll, 1),
        "sharpness": round(sharpness(_reduced(gray, SHARPNESS_SIDE)[0]), 3),
        "brightness": round(float(gray.mean()) / 255, 3),
        "clipped": round(_clipped(gray, mesh - np.maximum(low, 0).astype(int)), 3),
        "visible": round(float(((mesh >= 0) & (mesh < image.shape[1::-1])).all(axis=1).mean()), 3),
        "attributes": canonical(attributes(image, mesh, shapes, roll)),
    }


def _turn(matrix: np.ndarray) -> dict[str, float]:
    """yaw (positive: turned to the picture's right) and pitch (positive: chin down) in degrees, from R = Rz Ry Rx.

    The roll of the matrix is not used: curation and crops use that of the line between the eyes.
    """
    yaw = math.atan2(-matrix[2, 0], math.hypot(matrix[2, 1], matrix[2, 2]))
    pitch = math.atan2(matrix[2, 1], matrix[2, 2])
    return {"yaw": round(math.degrees(yaw), 1), "pitch": round(math.degrees(pitch), 1)}


def _tiles(image: np.ndarray) -> Iterator[tuple[np.ndarray, float, tuple[int, int]]]:
    """Overlapping views of a picture at several scales: at most (TILE_SIDE, TILE_SIDE, 3), the scale (at most 1), and
    the tile's corner (x, y) in the scaled picture."""
    height, width = image.shape[:2]
    scale = min(1, SMALLEST_FACE / SMALLEST_SHARE / min(height, width))
    while scale * max(height, width) >= 2 * TILE_SIDE:
        small, exact = _reduced(image, round(scale * max(height, width)))
        for y in _starts(small.shape[0]):
            for x in _starts(small.shape[1]):
                yield small[y : y + TILE_SIDE, x : x + TILE_SIDE], exact, (x, y)
        scale /= TILE_RATIO


def _starts(length: int) -> list[int]:
    return [*range(0, length - TILE_SIDE, TILE_STEP), max(0, length - TILE_SIDE)]


def _around(image: np.ndarray, box: Candidate, times: float) -> tuple[np.ndarray, float, tuple[int, int]]:
    """The square around the middle of a box with `times` its size, cut at the picture's edges and reduced to at most
    LANDMARK_SIDE px; its scale; and its corner in the picture."""
    reach = times * max(box.w, box.h) / 2
    left, top = (max(0, round(middle - reach)) for middle in (box.x + box.w / 2, box.y + box.h / 2))
    right, bottom = (round(middle + reach) for middle in (box.x + box.w / 2, box.y + box.h / 2))
    return *_reduced(image[top:bottom, left:right], LANDMARK_SIDE), (left, top)


def _reduced(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """An image reduced to at most `side` px on its longer side, and the scale (at most 1)."""
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    if scale == 1:
        return image, 1
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def _distinct(candidates: list[Candidate]) -> list[Candidate]:
    """Greedy non-maximum suppression, in the order of doubt and then of the score."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.doubtful, -c.score, c)):
        if not any(_same_place(candidate, other) and _same_size(candidate, other) for other in kept):
            kept.append(candidate)
    return kept


def _same_size(a: Candidate, b: Candidate) -> bool:
    """Whether two boxes could be of one face by their sizes; a small face in front of a large pattern is none."""
    return max(a.w, b.w) <= 2 * min(a.w, b.w)


def _same_place(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two boxes (x, y, w, h, ...) are of one face: more than half of the smaller lies in the other.

    Two heads hardly ever overlap that much, while the two detectors give boxes of different sizes for one head.
    """
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return width > 0 and height > 0 and width * height > 0.5 * min(a[2] * a[3], b[2] * b[3])


def _box(row: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(float(row[key]) for key in "xywh")


def _inside(point: np.ndarray, box: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[0] + box[2] and box[1] <= point[1] <= box[1] + box[3]


def _inside_picture(image: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The part of a box that lies in the picture; at least one pixel."""
    (left, top), (right, bottom) = np.maximum(low, 0).astype(int), np.ceil(high).astype(int)
    left, top = min(left, image.shape[1] - 1), min(top, image.shape[0] - 1)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _clipped(gray: np.ndarray, mesh: np.ndarray) -> float:
    """Share (0 to 1) of the pixels within a mesh that are white or black."""
    outline = np.zeros(gray.shape, np.uint8)
    cv2.fillConvexPoly(outline, cv2.convexHull(np.rint(mesh).astype(np.int32)), 1)
    face = gray[outline > 0]
    low, high = UNCLIPPED
    return float(((face < low) | (face > high)).mean()) if face.size else 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard file descriptor 2, to which MediaPipe's C++ writes notes about its delegates; errors are exceptions."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
