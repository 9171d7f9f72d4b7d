"""Whether two photos are one picture that was cut, resized, turned, mirrored, filtered or saved from a screen. Another
moment of a burst is another picture.

Works on rows of faces.tsv, one face of each photo: the aligned faces are laid on each other, and the parts where they
agree least decide. Everything chosen here was chosen on people who do not exist and are not those of docs/faces.md.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from likeness.identity import (
    ALIGNED_FACE_HEIGHT,
    ALIGNED_SIDE,
    decode_aligned_face,
    decode_embedding,
    to_aligned_face,
)

FARTHEST = 64  # of distances, as of perceptual hashes of 64 bits, so that one setting serves both
# The lack of agreement that is FARTHEST. With it the default of 6 is an agreement of 0.985 or more, which of copies 99
# in 100 had, and of other moments of a burst those that no eye tells apart.
FULL_DISAGREEMENT = 0.15

# What is compared: an oval from brow to chin, without hair and background.
_y, _x = np.mgrid[:ALIGNED_SIDE, :ALIGNED_SIDE].astype(np.float64)
_MIDDLE = (ALIGNED_SIDE - 1) / 2
OVAL = np.hypot((_x - _MIDDLE) / 0.42, (_y - _MIDDLE) / 0.5) <= ALIGNED_FACE_HEIGHT
HALF_OVAL = OVAL.reshape(ALIGNED_SIDE // 2, 2, ALIGNED_SIDE // 2, 2).mean(axis=(1, 3)) > 0.5
MIN_SEEN = 0.6  # of the oval, on both photos
BURNT = 250  # grey level; above it a brighter copy shows nothing
EDGE = 1.5  # px of an aligned face, into which the end of the picture is mixed

BLUR = 0.7  # px; finer is what compression changes
LIGHT = 6  # px; light and vignettes are wider, eyes and mouth are narrower
PART = 3.2  # px; an eye, a corner of the mouth
FLAT = 0.15  # of the usual contrast of a part; skin of less shows light and grain, and a copy need not share them
TONES = 12  # steps of the curve by which a filter may have changed all tones
WORST = 5  # percent of the oval, of which two eyes or a mouth are more

# Which pairs are looked at, of the few that could be copies and the millions that could not. Copies had SFace
# similarities of 0.69 or more, differences of at most 5 degrees, coarse agreements of 0.63 or more, and at half of the
# size correlations of 0.85 or more but for burnt-out faces; half of the other photos of a person had less than 0.79.
MIN_SIMILARITY = 0.6
MAX_TURN = 8  # degrees of yaw and of pitch
COARSE_SIDE = 16  # px
COARSE_BLUR = 2  # px of an aligned face
MIN_COARSE = 0.5
MIN_HALF = 0.84  # correlation of the faces, laid on each other at half of their size
HALF_STEPS = 4
MAX_STEP = np.array([0.3, 0.3, 3] * 2)  # more at once is no copy, and cannot be undone
MIN_FIRST = 0.7  # agreement at which it is worth laying them on each other more exactly
SURE = 0.995  # agreement at which it is not
ROUNDS = 3
BLOCK = 256  # photos whose pairs are in memory at once

MIRROR = np.array([[-1, 0, ALIGNED_SIDE - 1], [0, 1, 0], [0, 0, 1]])
FROM_HALF = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])  # px of a picture of half of the size; centres are whole
ECC_ENDS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-5)  # it gains nothing after that
ECC_BLUR = 3  # px, its own

# A corner lies elsewhere if it is off by more than this share of its distance from the face, and of the face's height.
ELSEWHERE = 0.02
TURNED = 1.5  # degrees
RESIZED = 0.03


class Copy(NamedTuple):
    """How one picture lies on another: `distance` from 0 (the same) to FARTHEST, and what brings px of the one to px of
    the other, float64 (3, 3)."""

    distance: int
    to_other: np.ndarray


class _Face(NamedTuple):
    """An aligned face, all float32 (ALIGNED_SIDE, ALIGNED_SIDE): grey levels; 1 where the photo shows something, else
    0; and its detail, free of light and shade."""

    grey: np.ndarray
    seen: np.ndarray
    detail: np.ndarray


class Faces:
    """The faces of many photos, for finding those that are one picture. `rows` are those of faces.tsv by the name of
    their photo, one for each photo."""

    def __init__(self, rows: Mapping[str, Mapping]):
        faces = {name: _prepared(row, BLUR) for name, row in rows.items() if row.get("aligned")}
        faces = {name: face for name, face in faces.items() if face.seen[OVAL].mean() >= MIN_SEEN}
        self._rows = {name: rows[name] for name in faces}
        self._faces = {(name, BLUR): face for name, face in faces.items()}
        self._copies: dict[tuple[str, str], Copy] = {}
        # By the other photo and by whether it is mirrored: their correlation at half of the size.
        self._ways: dict[str, dict[str, dict[bool, float]]] = {name: {} for name in faces}
        for name, other, mirrored, correlation in _possible(self._rows, faces):
            for one, two in ((name, other), (other, name)):
                ways = self._ways[one].setdefault(two, {})
                ways[mirrored] = max(correlation, ways.get(mirrored, 0.0))

    def __contains__(self, name: str) -> bool:
        """Whether a photo's face can be compared: it was measured, and is neither burnt out nor cut off."""
        return name in self._rows

    def possible(self, name: str) -> list[str]:
        """The other photos that could be the same picture, likeliest first: those worth a call of `copy`."""
        ways = self._ways.get(name, {})
        return sorted(ways, key=lambda other: (-max(ways[other].values()), other))

    def copy(self, name: str, other: str) -> Copy:
        """How one photo lies on another."""
        # Which comes first does not change the answer.
        first, second = sorted((name, other), key=lambda n: (float(self._rows[n]["face_height"]), n))
        if (first, second) not in self._copies:
            self._copies[first, second] = self._compared(first, second)
        found = self._copies[first, second]
        return found if name == first else found._replace(to_other=np.linalg.inv(found.to_other))

    def _compared(self, first: str, second: str) -> Copy:
        a, b = self._rows[first], self._rows[second]
        # At the resolution of the smaller face, whose own px are the finest that it shows.
        finest = max(0.5 * ALIGNED_FACE_HEIGHT / float(row["face_height"]) for row in (a, b))
        blur = round(max(BLUR, finest), 1)
        face, plain = self._face(first, blur), self._face(second, blur)
        turned_over = _Face(*(np.ascontiguousarray(part[:, ::-1]) for part in plain))
        ways = sorted(self._ways[first].get(second, (False, True)))
        laid = [(*_laid(face, turned_over if mirrored else plain), mirrored) for mirrored in ways]
        agreement, matrix, mirrored = max(laid, key=lambda one: one[0])
        distance = min(FARTHEST, round((1 - agreement) / FULL_DISAGREEMENT * FARTHEST))
        from_a, from_b = (_square(to_aligned_face(row)) for row in (a, b))
        return Copy(distance, np.linalg.inv(from_b) @ (MIRROR if mirrored else np.eye(3)) @ matrix @ from_a)

    def _face(self, name: str, blur: float) -> _Face:
        if (name, blur) not in self._faces:
            self._faces[name, blur] = _prepared(self._rows[name], blur)
        return self._faces[name, blur]


def changes(copy: Copy, row: Mapping, other: Mapping) -> list[str]:
    """What a photo is beside another, in words, by how it lies on it. Of a screen, or between black bars, it shows more
    around."""
    turn = copy.to_other[:2, :2]
    mirrored = np.linalg.det(turn) < 0
    turn = turn * [-1 if mirrored else 1, 1]
    scale = math.log(abs(np.linalg.det(turn))) / 2
    degrees = math.degrees(math.atan2(turn[1, 0] - turn[0, 1], turn[0, 0] + turn[1, 1]))
    found = {
        "is mirrored": mirrored,
        "is turned": abs(degrees) > TURNED,
        "is resized": abs(scale) > RESIZED,
        "is cut": _lies_within(row, other, copy.to_other),
        "shows more around": _lies_within(other, row, np.linalg.inv(copy.to_other)),
    }
    return [word for word, true in found.items() if true]


def _lies_within(row: Mapping, other: Mapping, to_other: np.ndarray) -> bool:
    """Whether the other picture shows something that this one does not, beyond one of its edges."""
    (width, height), (last_x, last_y) = ([float(one[key]) - 0.5 for key in ("width", "height")] for one in (row, other))
    corners = np.array([(x, y, 1) for x in (-0.5, last_x) for y in (-0.5, last_y)])
    corners = (corners @ np.linalg.inv(to_other).T)[:, :2]
    beyond = np.maximum(-0.5 - corners, corners - (width, height)).max(axis=1)
    away = np.hypot(*(corners - (float(row["center_x"]), float(row["center_y"]))).T)
    return bool((beyond > ELSEWHERE * (away + float(row["face_height"]))).any())


def _possible(rows: Mapping[str, Mapping], faces: Mapping[str, _Face]) -> Iterator[tuple[str, str, bool, float]]:
    """The pairs of photos that could be one picture, by pose, recogniser and coarse look; whether mirrored; and their
    correlation at half of the size."""
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


def _correlations(face: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Correlation of a face of half the size with others (n, side, side), each laid on it: float (n,).

    Source: Baker and Matthews 2004, "Lucas-Kanade 20 Years On", the inverse compositional algorithm; all at once, which
    is ten times as fast as one by one.
    """
    inner = HALF_OVAL & (face != 0)  # what is not seen is 0
    if not len(others) or not inner.any():
        return np.zeros(len(others))
    a, (down, right) = face[inner], (slope[inner] for slope in np.gradient(face))
    y, x = np.nonzero(inner) - np.array([[(side - 1) / 2] for side in face.shape])
    slopes = np.stack([right * x, right * y, right, down * x, down * y, down])
    steps = np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(6), slopes).T
    laid = np.tile(np.eye(3), (len(others), 1, 1))
    for _ in range(HALF_STEPS):
        b = _moved(others, laid)[:, inner]
        gain = (b @ a) / np.maximum((b**2).sum(axis=1), 1e-9)
        change = np.tile(np.eye(3), (len(others), 1, 1))
        step = np.clip(((gain[:, None] * b - a) * (b != 0)) @ steps, -MAX_STEP, MAX_STEP)
        change[:, :2] += step.reshape(-1, 2, 3)
        laid = laid @ np.linalg.inv(change)
    b = _moved(others, laid)[:, inner]
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
    """A face of few px, of length 1, and how it changes when it is moved, scaled, turned or sheared a little: float32
    (7, COARSE_SIDE ** 2). How much of another such face lies in their span does not depend on how exactly the two were
    aligned.

    Source: Simard, LeCun and Denker 1993, "Efficient Pattern Recognition Using a New Transformation Distance".
    """
    blurred = cv2.GaussianBlur(detail, (0, 0), COARSE_BLUR)
    down, right = np.gradient(blurred)
    x, y = _x / ALIGNED_SIDE - 0.5, _y / ALIGNED_SIDE - 0.5
    images = [blurred, right, down, right * x, right * y, down * x, down * y]
    size = (COARSE_SIDE, COARSE_SIDE)
    vectors = [cv2.resize((image * OVAL).astype(np.float32), size, interpolation=cv2.INTER_AREA) for image in images]
    vectors = np.stack([vector.ravel() for vector in vectors])
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _prepared(row: Mapping, blur: float) -> _Face:
    grey = decode_aligned_face(row["aligned"])
    seen = ((grey <= BURNT) & _in_picture(row)).astype(np.float32)
    grey = cv2.GaussianBlur(grey * seen, (0, 0), blur) / np.maximum(cv2.GaussianBlur(seen, (0, 0), blur), 1e-3)
    return _Face(grey, seen, _detail(grey, seen))


def _in_picture(row: Mapping) -> np.ndarray:
    """bool (ALIGNED_SIDE, ALIGNED_SIDE): which px of an aligned face show something of the photo."""
    places = np.linalg.inv(_square(to_aligned_face(row))) @ np.stack([_x.ravel(), _y.ravel(), np.ones(_x.size)])
    edge = EDGE * float(row["face_height"]) / ALIGNED_FACE_HEIGHT
    last = np.array([[float(row["width"])], [float(row["height"])]]) - 1
    return ((places[:2] >= edge) & (places[:2] <= last - edge)).all(axis=0).reshape(_x.shape)


def _detail(grey: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Grey levels less what is as wide as LIGHT, in units of the contrast around."""
    weight = np.maximum(_light(seen), 1e-3)
    detail = (grey - _light(grey * seen) / weight) * seen
    variance = np.maximum(_light(detail**2), 0) / weight
    usual = math.sqrt(variance[OVAL & (seen > 0)].mean() if seen[OVAL].any() else 0)
    return detail / (np.sqrt(variance) + 0.3 * usual + 1e-3)  # what is flat stays flat


def _light(image: np.ndarray) -> np.ndarray:
    """What is left after a Gaussian blur of LIGHT px; at a quarter of the size, because it is as good and fast."""
    quarter = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    quarter = cv2.GaussianBlur(quarter, (0, 0), LIGHT / 4)
    return cv2.resize(quarter, image.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _laid(a: _Face, b: _Face) -> tuple[float, np.ndarray]:
    """How far two faces agree, 0 to 1, when they are laid on each other; and what brings px of a to px of b (3, 3)."""
    mask = a.seen * OVAL
    _, matrix = _registered(*(_halved(part) for part in (a.detail, b.detail, mask)), np.eye(3))
    matrix = FROM_HALF @ matrix @ np.linalg.inv(FROM_HALF)
    _, matrix = _registered(a.detail, b.detail, mask, matrix)
    best = 0.0, matrix
    for _ in range(ROUNDS):
        compared = _details(a, b, matrix)
        if not compared:
            break
        agreement, *details = max(compared, key=lambda one: one[0])
        best = max(best, (agreement, matrix), key=lambda one: one[0])
        if not MIN_FIRST <= best[0] < SURE:
            break
        matrix = matrix @ _registered(*details, np.eye(3))[1]
    return best


def _registered(a: np.ndarray, b: np.ndarray, mask: np.ndarray, start: np.ndarray) -> tuple[float, np.ndarray]:
    """The correlation of two pictures laid on each other, and the affine matrix that does it (3, 3), from `start` on; 0
    and `start` where they cannot be.

    Source: Evangelidis and Psarakis 2008, "Parametric Image Alignment Using Enhanced Correlation Coefficient
    Maximization", as OpenCV has it.
    """
    try:
        correlation, matrix = cv2.findTransformECC(
            a, b, start[:2].astype(np.float32), cv2.MOTION_AFFINE, ECC_ENDS, (mask > 0.5).astype(np.uint8), ECC_BLUR
        )
    except cv2.error:  # they have too little in common
        return 0.0, start
    sensible = 0.5 < np.linalg.det(matrix[:, :2]) < 2  # both were aligned; false for what is not a number, too
    return (correlation, _square(matrix)) if sensible else (0.0, start)


def _details(a: _Face, b: _Face, matrix: np.ndarray) -> list[tuple[float, np.ndarray, np.ndarray, np.ndarray]]:
    """How far two faces agree where both photos show something, b laid on a: the agreement, the details of both, and
    which px these are. With b as it is, and through the curve of tones that is nearest to a, which undoes a gamma but
    not a vignette. Nothing where too little is seen on both."""
    size, lay = (ALIGNED_SIDE, ALIGNED_SIDE), cv2.WARP_INVERSE_MAP
    seen = a.seen * (cv2.warpAffine(b.seen, matrix[:2], size, flags=cv2.INTER_LINEAR | lay) > 0.99)
    common = (seen > 0) & OVAL
    if common.sum() < MIN_SEEN * OVAL.sum():
        return []
    grey = cv2.warpAffine(b.grey, matrix[:2], size, flags=cv2.INTER_CUBIC | lay, borderMode=cv2.BORDER_REPLICATE)
    inner, detail = common.astype(np.float32), _detail(a.grey, seen)
    others = [_detail(levels, seen) for levels in (grey, _toned(grey, a.grey, common))]
    return [(_agreement(detail, other, inner), detail, other, inner) for other in others]


def _toned(grey: np.ndarray, like: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Grey levels through the curve, never falling, that brings them nearest to those of the other face: undoes gamma
    and filters of colour and contrast."""
    order = np.argsort(grey[common], kind="stable")
    x, y = (np.array([step.mean() for step in np.array_split(levels[common][order], TONES)]) for levels in (grey, like))
    x, y = x + 1e-3 * np.arange(TONES), np.maximum.accumulate(y)
    ends = [slice(0, 2), slice(-2, None)]
    low, high = (float(np.diff(y[end])[0] / np.diff(x[end])[0]) for end in ends)  # it goes on as it begins and ends
    curve = [y[0] - 256 * low, *y, y[-1] + 256 * high]
    return np.interp(grey, [x[0] - 256, *x, x[-1] + 256], curve).astype(np.float32)


def _agreement(a: np.ndarray, b: np.ndarray, common: np.ndarray) -> float:
    """The correlation of the details of two faces in each part of them, and of these the WORST percentile."""
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
