"""Whether two photos are one picture that was cut, resized, turned, mirrored, filtered or saved from a screen. Another
moment of a burst is another picture.

The input are rows of faces.tsv, one face of each photo. The aligned faces are registered to each other, and the parts
that agree least decide. All thresholds were chosen on people who do not exist; docs/faces.md measures them on others.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from likeness.core import cli
from likeness.faces.identity import (
    ALIGNED_FACE_HEIGHT,
    ALIGNED_SIDE,
    decode_aligned_face,
    decode_embedding,
    to_aligned_face,
)

FARTHEST = 64  # the largest distance: that of perceptual hashes of 64 bits, so that one setting serves both
# An agreement that is lower than 1 by this much has the distance FARTHEST. The default distance of 6 is then an
# agreement of 0.985 or more. Of copies 99 in 100 had it, and of other moments of a burst only those that no eye can
# distinguish.
FULL_DISAGREEMENT = 0.15

# What is compared: an oval from brow to chin, without hair and background.
_y, _x = np.mgrid[:ALIGNED_SIDE, :ALIGNED_SIDE].astype(np.float64)
_MIDDLE = (ALIGNED_SIDE - 1) / 2
OVAL = np.hypot((_x - _MIDDLE) / 0.42, (_y - _MIDDLE) / 0.5) <= ALIGNED_FACE_HEIGHT
HALF_OVAL = OVAL.reshape(ALIGNED_SIDE // 2, 2, ALIGNED_SIDE // 2, 2).mean(axis=(1, 3)) > 0.5
MIN_SEEN = 0.6  # share of the oval that must be visible on both photos
BURNT = 250  # grey level above which a brighter copy has no detail
EDGE = 1.5  # px of an aligned face that are interpolated across the edge of the picture

BLUR = 0.7  # px; compression changes finer detail
LIGHT = 6  # px; light and vignettes are wider, eyes and mouth are narrower
PART = 3.2  # px; the size of an eye or a corner of the mouth
FLAT = 0.15  # of the usual contrast of a part; below it skin shows only light and grain, which copies need not share
TONES = 12  # steps of the tone curve of a filter
WORST = 5  # percent of the oval; two eyes or a mouth cover more

# Thresholds that select the few pairs that could be copies from millions of pairs. Copies had SFace similarities of
# 0.69 or more, differences of at most 5 degrees, coarse agreements of 0.63 or more, and correlations at half size of
# 0.85 or more except for burnt-out faces. Half of the other photos of a person had a correlation below 0.79.
MIN_SIMILARITY = 0.6
MAX_TURN = 8  # degrees of yaw and of pitch
COARSE_SIDE = 16  # px
COARSE_BLUR = 2  # px of an aligned face
MIN_COARSE = 0.5
MIN_HALF = 0.84  # correlation of the faces, registered at half of their size
HALF_STEPS = 4
MAX_STEP = np.array([0.3, 0.3, 3] * 2)  # a larger step means that it is no copy, and later steps cannot correct it
MIN_FIRST = 0.7  # agreement from which a more exact registration is worth its time
GOOD_AGREEMENT = 0.995  # agreement from which it is not
ROUNDS = 3
BLOCK = 256  # photos whose pairs are in memory at once

MIRROR = np.array([[-1, 0, ALIGNED_SIDE - 1], [0, 1, 0], [0, 0, 1]])
# From px of a picture at half size to px of the picture; pixel centres are at whole numbers.
FROM_HALF = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
ECC_ENDS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-5)  # more iterations do not improve the result
ECC_BLUR = 3  # px; OpenCV's own blur

# A corner is outside of the other picture if it is beyond an edge by more than this share of the sum of the face's
# height and the corner's distance from the face.
ELSEWHERE = 0.02
TURNED = 1.5  # degrees
RESIZED = 0.03


class Alignment(NamedTuple):
    """How one picture lies on another: `distance` from 0 (the same) to FARTHEST, and the matrix from px of the one to
    px of the other, float64 (3, 3)."""

    distance: int
    to_other: np.ndarray


class _Face(NamedTuple):
    """An aligned face, all float32 (ALIGNED_SIDE, ALIGNED_SIDE): grey levels; 1 where the photo shows something, else
    0; and its detail, without light and shade."""

    grey: np.ndarray
    seen: np.ndarray
    detail: np.ndarray


class FaceComparer:
    """The faces of many photos, to find those that are one picture. `rows` are rows of faces.tsv by the name of their
    photo, one for each photo."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]):
        measured = [(name, row) for name, row in rows.items() if row.get("aligned")]
        faces = {name: _prepared(row, BLUR) for name, row in cli.progress(measured, desc="faces", unit="photo")}
        faces = {name: face for name, face in faces.items() if face.seen[OVAL].mean() >= MIN_SEEN}
        self._rows = {name: rows[name] for name in faces}
        self._faces = {(name, BLUR): face for name, face in faces.items()}
        self._copies: dict[tuple[str, str], Alignment] = {}
        # The correlation at half size, by the photo, by the other photo and by whether that is mirrored.
        self._ways: dict[str, dict[str, dict[bool, float]]] = {name: {} for name in faces}
        for name, other, mirrored, correlation in _possible(self._rows, faces):
            for one, two in ((name, other), (other, name)):
                ways = self._ways[one].setdefault(two, {})
                ways[mirrored] = max(correlation, ways.get(mirrored, 0.0))

    def __contains__(self, name: str) -> bool:
        """Whether a photo's face can be compared: it was measured, and is neither burnt out nor cut off."""
        return name in self._rows

    def possible(self, name: str) -> list[str]:
        """The other photos that could be the same picture, the likeliest first: `alignment` tells whether they are."""
        ways = self._ways.get(name, {})
        return sorted(ways, key=lambda other: (-max(ways[other].values()), other))

    def alignment(self, name: str, other: str) -> Alignment:
        """How one photo lies on another."""
        # Pairs are compared in a fixed order, so that the result does not depend on the order of the arguments.
        first, second = sorted((name, other), key=lambda n: (float(self._rows[n]["face_height"]), n))
        if (first, second) not in self._copies:
            self._copies[first, second] = self._compared(first, second)
        copy = self._copies[first, second]
        return copy if name == first else copy._replace(to_other=np.linalg.inv(copy.to_other))

    def _compared(self, first: str, second: str) -> Alignment:
        a, b = self._rows[first], self._rows[second]
        # Both faces are compared at the resolution of the smaller one.
        finest = max(0.5 * ALIGNED_FACE_HEIGHT / float(row["face_height"]) for row in (a, b))
        blur = round(max(BLUR, finest), 1)
        face, plain = self._face(first, blur), self._face(second, blur)
        turned_over = _Face(*(np.ascontiguousarray(part[:, ::-1]) for part in plain))
        ways = sorted(self._ways[first].get(second, (False, True)))
        results = [(*_best_agreement(face, turned_over if mirrored else plain), mirrored) for mirrored in ways]
        agreement, matrix, mirrored = max(results, key=lambda result: result[0])
        distance = min(FARTHEST, round((1 - agreement) / FULL_DISAGREEMENT * FARTHEST))
        from_a, from_b = (_square(to_aligned_face(row)) for row in (a, b))
        return Alignment(distance, np.linalg.inv(from_b) @ (MIRROR if mirrored else np.eye(3)) @ matrix @ from_a)

    def _face(self, name: str, blur: float) -> _Face:
        if (name, blur) not in self._faces:
            self._faces[name, blur] = _prepared(self._rows[name], blur)
        return self._faces[name, blur]


def changes(copy: Alignment, row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How a photo differs from another one of the same picture, in words. A photo of a screen, or one with black bars,
    shows more around."""
    turn = copy.to_other[:2, :2]
    mirrored = np.linalg.det(turn) < 0
    turn = turn * [-1 if mirrored else 1, 1]
    scale = math.log(abs(np.linalg.det(turn))) / 2
    degrees = math.degrees(math.atan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))
    is_true = {
        "is mirrored": mirrored,
        "is turned": abs(degrees) > TURNED,
        "is resized": abs(scale) > RESIZED,
        "is cut": _lies_within(row, other, copy.to_other),
        "shows more around": _lies_within(other, row, np.linalg.inv(copy.to_other)),
    }
    return [words for words, true in is_true.items() if true]


def _lies_within(row: Mapping[str, Any], other: Mapping[str, Any], to_other: np.ndarray) -> bool:
    """Whether the other picture shows more than this one, beyond one of its edges."""
    (width, height), (last_x, last_y) = ([float(one[key]) - 0.5 for key in ("width", "height")] for one in (row, other))
    corners = np.array([(x, y, 1) for x in (-0.5, last_x) for y in (-0.5, last_y)])
    corners = (corners @ np.linalg.inv(to_other).T)[:, :2]
    beyond = np.maximum(-0.5 - corners, corners - (width, height)).max(axis=1)
    away = np.hypot(*(corners - (float(row["center_x"]), float(row["center_y"]))).T)
    return bool((beyond > ELSEWHERE * (away + float(row["face_height"]))).any())


def _possible(
    rows: Mapping[str, Mapping[str, Any]], faces: Mapping[str, _Face]
) -> Iterator[tuple[str, str, bool, float]]:
    """The pairs of photos that could be one picture, by pose, recogniser and coarse comparison; whether one of them is
    mirrored; and their correlation at half size."""
    if not rows:
        return
    names = list(rows)
    yaw, pitch = (np.array([float(row[key]) for row in rows.values()]) for key in ("yaw", "pitch"))
    embeddings = np.stack([decode_embedding(row["embedding"]) for row in rows.values()])
    coarse = [_coarse(face.detail) for face in faces.values()]
    spans = np.stack([np.linalg.qr(vectors.T)[0].T for vectors in coarse])
    halves = np.stack([_halved(face.detail) for face in faces.values()])
    mirrored = np.stack([_coarse(np.ascontiguousarray(face.detail[:, ::-1]))[0] for face in faces.values()])
    ways = [(np.stack([vectors[0] for vectors in coarse]), halves, False)]
    ways += [(mirrored, np.ascontiguousarray(halves[..., ::-1]), True)]
    progress = cli.progress(total=len(names) * len(ways), desc="pairs", unit="photo")
    for start in range(0, len(names), BLOCK):
        these = slice(start, start + BLOCK)
        similar = embeddings[these] @ embeddings.T >= MIN_SIMILARITY
        similar &= np.abs(pitch[these, None] - pitch) <= MAX_TURN
        similar[np.arange(len(similar)), start + np.arange(len(similar))] = False
        for vectors, others, flipped in ways:
            within = (np.tensordot(spans[these], vectors, (2, 1)) ** 2).sum(axis=1)
            turn = np.abs(yaw[these, None] - (-yaw if flipped else yaw))
            for i, near in enumerate(similar & (within >= MIN_COARSE) & (turn <= MAX_TURN), start):
                those = np.flatnonzero(near)
                for j, correlation in zip(those, _correlations(halves[i], others[those]), strict=True):
                    if correlation >= MIN_HALF:
                        yield names[i], names[j], flipped, float(correlation)
                progress.update()
    progress.close()


def _correlations(face: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation of a face at half size with others (n, side, side), each registered to it: float (n,).

    Source: Baker and Matthews 2004, "Lucas-Kanade 20 Years On", the inverse compositional algorithm. All faces are
    registered at once, which is ten times as fast as one after another.
    """
    inner = HALF_OVAL & (face != 0)  # px that the photo does not show are 0
    if not len(others) or not inner.any():
        return np.zeros(len(others))
    a, (down, right) = face[inner], (slope[inner] for slope in np.gradient(face))
    y, x = np.nonzero(inner) - np.array([[(side - 1) / 2] for side in face.shape])
    slopes = np.stack([right * x, right * y, right, down * x, down * y, down])
    steps = np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(6), slopes).T
    transforms = np.tile(np.eye(3), (len(others), 1, 1))
    for _ in range(HALF_STEPS):
        b = _moved(others, transforms)[:, inner]
        gain = (b @ a) / np.maximum((b**2).sum(axis=1), 1e-9)
        change = np.tile(np.eye(3), (len(others), 1, 1))
        step = np.clip(((gain[:, None] * b - a) * (b != 0)) @ steps, -MAX_STEP, MAX_STEP)
        change[:, :2] += step.reshape(-1, 2, 3)
        transforms = transforms @ np.linalg.inv(change)
    b = _moved(others, transforms)[:, inner]
    length = np.sqrt((b**2).sum(axis=1) * ((b != 0) @ a**2))
    return (b @ a) / np.maximum(length, 1e-9)


def _moved(images: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Pictures (n, height, width), each moved by its affine matrix (n, 3, 3) around its middle."""
    size = images.shape[:0:-1]
    middle = (np.array(size) - 1) / 2
    affine = matrices[:, :2].copy()
    affine[:, :, 2] += middle - affine[:, :, :2] @ middle
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.stack([cv2.warpAffine(*one, size, flags=how) for one in zip(images, affine, strict=True)])


def _coarse(detail: np.ndarray) -> np.ndarray:
    """A face at COARSE_SIDE px and its derivatives by translation, scale, rotation and shear, all of length 1: float32
    (7, COARSE_SIDE ** 2). The part of another such face that lies in their span does not depend on how exactly the two
    faces were aligned.

    Source: Simard, LeCun and Denker 1993, "Efficient Pattern Recognition Using a New Transformation Distance".
    """
    blurred = cv2.GaussianBlur(detail, (0, 0), COARSE_BLUR)
    down, right = np.gradient(blurred)
    x, y = _x / ALIGNED_SIDE - 0.5, _y / ALIGNED_SIDE - 0.5
    images = [blurred, right, down, right * x, right * y, down * x, down * y]
    size = (COARSE_SIDE, COARSE_SIDE)
    small = [cv2.resize((image * OVAL).astype(np.float32), size, interpolation=cv2.INTER_AREA) for image in images]
    vectors = np.stack([image.ravel() for image in small])
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _prepared(row: Mapping[str, Any], blur: float) -> _Face:
    """The face of a row, blurred by `blur` px."""
    grey = decode_aligned_face(row["aligned"])
    seen = ((grey <= BURNT) & _in_picture(row)).astype(np.float32)
    grey = cv2.GaussianBlur(grey * seen, (0, 0), blur) / np.maximum(cv2.GaussianBlur(seen, (0, 0), blur), 1e-3)
    return _Face(grey, seen, _detail(grey, seen))


def _in_picture(row: Mapping[str, Any]) -> np.ndarray:
    """bool (ALIGNED_SIDE, ALIGNED_SIDE): which px of an aligned face show something of the photo."""
    places = np.linalg.inv(_square(to_aligned_face(row))) @ np.stack([_x.ravel(), _y.ravel(), np.ones(_x.size)])
    edge = EDGE * float(row["face_height"]) / ALIGNED_FACE_HEIGHT
    last = np.array([[float(row["width"])], [float(row["height"])]]) - 1
    return ((places[:2] >= edge) & (places[:2] <= last - edge)).all(axis=0).reshape(_x.shape)


def _detail(grey: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Grey levels minus their mean within LIGHT px, divided by the contrast there."""
    weight = np.maximum(_light(seen), 1e-3)
    detail = (grey - _light(grey * seen) / weight) * seen
    variance = np.maximum(_light(detail**2), 0) / weight
    usual = math.sqrt(variance[OVAL & (seen > 0)].mean() if seen[OVAL].any() else 0)
    return detail / (np.sqrt(variance) + 0.3 * usual + 1e-3)  # noise in flat areas is not amplified


def _light(image: np.ndarray) -> np.ndarray:
    """A Gaussian blur of LIGHT px. It is computed at a quarter of the size, which is as good and faster."""
    quarter = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    quarter = cv2.GaussianBlur(quarter, (0, 0), LIGHT / 4)
    return cv2.resize(quarter, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _best_agreement(a: _Face, b: _Face) -> tuple[float, np.ndarray]:
    """How far two faces agree after registration, 0 to 1; and the matrix from px of a to px of b (3, 3)."""
    mask = a.seen * OVAL
    _, matrix = _registered(_halved(a.detail), _halved(b.detail), _halved(mask), np.eye(3))
    matrix = FROM_HALF @ matrix @ np.linalg.inv(FROM_HALF)
    _, matrix = _registered(a.detail, b.detail, mask, matrix)
    best = 0.0, matrix
    for _ in range(ROUNDS):
        compared = _details(a, b, matrix)
        if not compared:
            break
        agreement, detail, other, inner = max(compared, key=lambda one: one[0])
        best = max(best, (agreement, matrix), key=lambda one: one[0])
        if not MIN_FIRST <= best[0] < GOOD_AGREEMENT:
            break
        matrix = matrix @ _registered(detail, other, inner, np.eye(3))[1]
    return best


def _registered(a: np.ndarray, b: np.ndarray, mask: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
    """The correlation of two pictures after registration, and the affine matrix of it (3, 3); the search begins at
    `start`. The result is 0 and `start` if it fails.

    Source: Evangelidis and Psarakis 2008, "Parametric Image Alignment Using Enhanced Correlation Coefficient
    Maximization", as OpenCV has it.
    """
    try:
        correlation, matrix = cv2.findTransformECC(
            a, b, start[:2].astype(np.float32), cv2.MOTION_AFFINE, ECC_ENDS, (mask > 0.5).astype(np.uint8), ECC_BLUR
        )
    except cv2.error:  # they have too little in common
        return 0.0, start
    sensible = 0.5 < np.linalg.det(matrix[:, :2]) < 2  # aligned faces have about one size; false for NaN, too
    return (correlation, _square(matrix)) if sensible else (0.0, start)


def _details(a: _Face, b: _Face, matrix: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray, np.ndarray]]:
    """The agreement of two faces where both photos show something, with b warped onto a: each entry is the agreement,
    the details of both, and the px where both are visible. The first entry is for b as it is, the second for b with the
    tone curve that brings it nearest to a, which corrects a gamma but no vignette. Empty if too little is visible."""
    size, inverse = (ALIGNED_SIDE, ALIGNED_SIDE), cv2.WARP_INVERSE_MAP
    seen = a.seen * (cv2.warpAffine(b.seen, matrix[:2], size, flags=cv2.INTER_LINEAR | inverse) > 0.99)
    common = (seen > 0) & OVAL
    if common.sum() < MIN_SEEN * OVAL.sum():
        return []
    grey = cv2.warpAffine(b.grey, matrix[:2], size, flags=cv2.INTER_CUBIC | inverse, borderMode=cv2.BORDER_REPLICATE)
    inner, detail = common.astype(np.float32), _detail(a.grey, seen)
    others = [_detail(levels, seen) for levels in (grey, _toned(grey, a.grey, common))]
    return [(_agreement(detail, other, inner), detail, other, inner) for other in others]


def _toned(grey: np.ndarray, like: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Grey levels mapped by the monotonic curve that brings them nearest to those of the other face, which corrects
    gamma and filters of colour and contrast."""
    order = np.argsort(grey[common], kind="stable")
    x, y = (np.array([step.mean() for step in np.array_split(levels[common][order], TONES)]) for levels in (grey, like))
    x, y = x + 1e-3 * np.arange(TONES), np.maximum.accumulate(y)
    ends = [slice(0, 2), slice(-2, None)]
    low, high = (float(np.diff(y[end])[0] / np.diff(x[end])[0]) for end in ends)  # slopes of the extrapolation
    curve = [y[0] - 256 * low, *y, y[-1] + 256 * high]
    return np.interp(grey, [x[0] - 256, *x, x[-1] + 256], curve).astype(np.float32)


def _agreement(a: np.ndarray, b: np.ndarray, common: np.ndarray) -> float:
    """The WORST percentile of the correlations of the details of two faces, each of one part of the faces."""
    weight = cv2.GaussianBlur(common, (0, 0), PART) + 1e-6
    mean_a, mean_b, aa, bb, ab = (
        cv2.GaussianBlur(image * common, (0, 0), PART) / weight for image in (a, b, a * a, b * b, a * b)
    )
    variance_a, variance_b = np.maximum(aa - mean_a**2, 0), np.maximum(bb - mean_b**2, 0)
    inner = common > 0
    flat = FLAT * math.sqrt(variance_a[inner].mean() * variance_b[inner].mean()) + 1e-9
    parts = (ab - mean_a * mean_b + flat) / (np.sqrt(variance_a * variance_b) + flat)
    return float(np.percentile(parts[inner], WORST))


def _halved(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def _square(affine: np.ndarray) -> np.ndarray:
    """An affine matrix (2, 3) as (3, 3)."""
    return np.vstack([affine, [0, 0, 1]]).astype(np.float64)
