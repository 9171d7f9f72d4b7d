"""Measure which photos curation takes for one picture: copies that were changed in many ways, and photos that are no
copies, such as the other moments of a burst.

    python tools/bench_duplicates.py

Nobody in these photos exists, and no setting was chosen on any of them. 30 photos of resources/ are changed in every
way of CHANGES. MOMENTS make of them what are no copies: they close an eye or move the corners of the mouth, and leave
every other pixel as it was. The bursts of resources/bursts are the generator's. Every changed picture is saved as a
JPEG; each pair is curated as a folder of two, once as the project does, and once by whole frames alone. Fetches the
models into results/models first.
"""

import itertools
import math
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from bench_faces import MODELS, hardware, jpeg
from PIL import Image, ImageEnhance, ImageFilter
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness import curation  # noqa: E402
from likeness.config import Curate  # noqa: E402
from likeness.copies import Faces  # noqa: E402
from likeness.faces import Detector, landmarks  # noqa: E402
from likeness.identity import Recogniser, aligned_face, encode_aligned_face, encode_embedding  # noqa: E402
from likeness.images import perceptual_hash, read_photo  # noqa: E402
from likeness.models import fetch_models  # noqa: E402

RESOURCES = ROOT / "resources"
CHANGED = [("people/otto", 6), ("bench_people/ida", 6), ("bench_people/emil", 6)]  # photos of each that are changed
PEOPLE = [*(folder for folder, _ in CHANGED), "calibration"]
LARGE = 3000  # photos of the folder whose curation is timed

Change = Callable[[np.ndarray, np.random.Generator, dict], np.ndarray]
Rows = list[dict[str, Any]]


class Count(NamedTuple):
    """Pairs of photos: how many, how many lost one as a copy, by whole frames alone, and how many could be torn apart,
    one trained on and the other held out."""

    pairs: int = 0
    dropped: int = 0
    by_frames: int = 0
    apart: int = 0

    def plus(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(self, other, strict=True)))


def main() -> None:
    fetch_models(MODELS)
    copies, moments, bursts, others = made_pairs()
    tables = {name: counted(pairs) for name, pairs in (("copies", copies), ("no copies", [*moments, *bursts, *others]))}
    print(hardware())
    for name, table in tables.items():
        print(f"\n{name:32} pairs  dropped  of 100, 95 %   by frames  apart")
        for kind, count in table.items():
            low, high = (100 * share for share in interval(count.dropped, count.pairs))
            rest = f"{count.by_frames:12} {count.apart:6}"
            print(f"{kind:32} {count.pairs:5} {count.dropped:8}  {low:5.1f} to {high:5.1f} {rest}")
    photos, seconds = timed([row for pair in (*copies, *moments, *bursts, *others) for row in pair[1:]])
    print(f"\na folder of {photos} photos: curated in {seconds:.0f} s of a core")
    found, false = (table["all"].dropped / table["all"].pairs for table in tables.values())
    print(f"balanced_accuracy: {(found + 1 - false) / 2:.4f}")


def made_pairs() -> tuple[list, list, list, list]:
    """(kind, row, row) of copies, of drawn moments, of bursts and of other photos of the same person."""
    jobs = [job for folder, count in CHANGED for job in photos(RESOURCES / folder)[:count]]
    jobs += [photos(folder)[0] for folder in people("calibration")]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        changed = list(tqdm(pool.map(changed_rows, jobs), total=len(jobs), desc="copies", disable=None))
        folders = [folder for name in (*PEOPLE, "bursts") for folder in people(name)]
        whole = list(tqdm(pool.map(folder_rows, folders), total=len(folders), desc="people", disable=None))
    copies = [(kind, rows[""], row) for rows in changed for kind, row in rows.items() if kind in CHANGES]
    moments = [(kind, rows[""], row) for rows in changed for kind, row in rows.items() if kind in MOMENTS]
    bursts, others = [], []
    for folder, rows in zip(folders, whole, strict=True):
        if folder.parent.name == "bursts":
            bursts += burst_pairs(rows)
        else:
            others += [("another photo", a, b) for a, b in itertools.combinations(rows.values(), 2)]
    return copies, moments, bursts, others


def people(name: str) -> list[Path]:
    """The folders of one person each."""
    folder = RESOURCES / name
    return [folder] if list(folder.glob("*.jpg")) else sorted(path for path in folder.iterdir() if path.is_dir())


def photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jpg"))


def burst_pairs(rows: dict[str, dict]) -> Iterator[tuple[str, dict, dict]]:
    """Each first picture with the others of its burst: {photo}_{what is different}.jpg."""
    for name, row in rows.items():
        photo, kind = name.split("_", 1)
        if kind != "first":
            yield f"burst: {kind.replace('_', ' ')}", rows[f"{photo}_first"], row


_models: list = []


def measured(image: np.ndarray, name: str) -> dict[str, Any] | None:
    """The row of the widest face, None without one."""
    return next(iter(measured_faces(image, name)), None)


def measured_faces(image: np.ndarray, name: str) -> Rows:
    """The rows of a picture's faces as detect_faces writes them, the widest first."""
    if not _models:
        cv2.setNumThreads(1)
        _models.extend([Detector(MODELS), Recogniser(MODELS)])
    detector, recogniser = _models
    about = {"photo": name, "sha256": name, "error": "", "phash": perceptual_hash(image)}
    about |= {"height": image.shape[0], "width": image.shape[1]}
    rows = [
        about
        | {"face": i, "embedding": encode_embedding(recogniser.embedding(image, face))}
        | {"aligned": encode_aligned_face(aligned_face(image, face))}
        | face
        for i, face in enumerate(detector.faces(image))
    ]
    return [{key: str(value) for key, value in row.items()} for row in rows]


def changed_rows(photo: Path) -> dict[str, dict]:
    """The rows of a photo (by the name ""), of its copies and of the moments drawn from it."""
    image, name = read_photo(photo), photo.relative_to(RESOURCES).as_posix()
    rows = {"": measured(image, name)}
    for kind, change in (CHANGES | MOMENTS).items():
        rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
        made = np.ascontiguousarray(change(image, rng, rows[""]))
        rows[kind] = measured(jpeg(made), f"{name} {kind}")
    return {kind: row for kind, row in rows.items() if row}


def folder_rows(folder: Path) -> dict[str, dict]:
    """The rows of all photos of a folder, by their names without ending."""
    rows = {path.stem: measured(read_photo(path), path.relative_to(RESOURCES).as_posix()) for path in photos(folder)}
    return {stem: row for stem, row in rows.items() if row}


def settings(**changes: Any) -> SimpleNamespace:
    """Who is who is not asked here: every face counts as the subject's."""
    return SimpleNamespace(**Curate(min_photos=1, same_person=0, held_out=0).model_dump() | changes)


def counted(pairs: list[tuple[str, dict, dict]]) -> dict[str, Count]:
    """By kind, and all together. Pairs of which a photo is dropped for another reason (burnt out, too small) are left
    out."""
    counts = dict.fromkeys(dict.fromkeys(kind for kind, *_ in pairs), Count())
    for kind, *pair in tqdm(pairs, desc="pairs", disable=None):
        reasons = {row["reason"] for row in curation.curate(pd.DataFrame(pair), settings())}
        if reasons <= {"", "near_duplicate"}:
            counts[kind] = counts[kind].plus(Count(1, "near_duplicate" in reasons, by_frames(pair), torn_apart(pair)))
    total = Count()
    for count in counts.values():
        total = total.plus(count)
    return counts | {"all": total}


def by_frames(pair: list[dict]) -> bool:
    """Whether the whole frames are taken for one picture where no face is compared."""
    rows = curation.curate(pd.DataFrame(pair).assign(aligned=""), settings())
    return any(row["reason"] == "near_duplicate" for row in rows)


def torn_apart(pair: list[dict]) -> bool:
    """Whether neither is dropped and they may come to different sides."""
    kept = {row["photo"]: row for row in pair}
    faces = Faces(kept)
    dropped = curation.near_duplicates(kept, faces, Curate().near_duplicate)
    return not dropped and len(curation.look_alikes(kept, faces)) > 1


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share, at 95 %. Source: Wilson 1927, "Probable Inference, the Law of Succession, and
    Statistical Inference"."""
    z = 1.96
    middle = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def timed(rows: Rows) -> tuple[int, float]:
    """Seconds of a core for curating LARGE photos: all of these, again and again under other names."""
    distinct = list({row["photo"]: row for row in rows}.values())
    repeated = itertools.islice(itertools.cycle(distinct), LARGE)
    table = pd.DataFrame([row | {"photo": f"{n}.jpg", "sha256": str(n)} for n, row in enumerate(repeated)])
    started = time.process_time()
    curation.curate(table, settings(held_out=0.2))
    return len(table), time.process_time() - started


def cut(share: float) -> Change:
    """Cut to so much less of each side, anywhere, but not through the face."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        size = np.array(image.shape[1::-1])
        kept = np.rint(size * (1 - share)).astype(int)
        low = np.array([float(row["x"]), float(row["y"])])
        ends = np.stack([low + (float(row["w"]), float(row["h"])) - kept, low])
        left, top = np.clip(rng.uniform(ends.min(axis=0), ends.max(axis=0)), 0, size - kept).astype(int)
        return image[top : top + kept[1], left : left + kept[0]]

    return change


def trimmed(image: np.ndarray, *_: Any) -> np.ndarray:
    """3 % less on each side."""
    y, x = (round(0.03 * length) for length in image.shape[:2])
    return image[y:-y, x:-x]


def resized(width: float, height: float | None = None) -> Change:
    def change(image: np.ndarray, *_: Any) -> np.ndarray:
        way = cv2.INTER_AREA if width < 1 else cv2.INTER_CUBIC
        return cv2.resize(image, None, fx=width, fy=height or width, interpolation=way)

    return change


def face_of(pixels: int) -> Change:
    return lambda image, rng, row: resized(pixels / float(row["w"]))(image)


def compressed(quality: int) -> Change:
    return lambda image, *_: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


def filtered(function: Callable[[Image.Image], Image.Image]) -> Change:
    return lambda image, *_: np.asarray(function(Image.fromarray(image)).convert("RGB"))


def tones(function: Callable[[np.ndarray], np.ndarray]) -> Change:
    """A filter of values from 0 to 1, float (height, width, 3)."""
    return lambda image, *_: np.rint(255 * np.clip(function(image / 255), 0, 1)).astype(np.uint8)


def vignette(values: np.ndarray) -> np.ndarray:
    y, x = (np.linspace(-1, 1, length) for length in values.shape[:2])
    return values * (1 - 0.25 * (x[None] ** 2 + y[:, None] ** 2))[..., None]


def sepia(values: np.ndarray) -> np.ndarray:
    return 0.3 * values + 0.7 * values.mean(axis=2, keepdims=True) * [1.1, 0.95, 0.75]


def turned(degrees: float) -> Change:
    """Turned one way or the other, the corners black."""

    def change(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees * rng.choice([-1, 1]), 1)
        return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_CUBIC)

    return change


def mirrored(image: np.ndarray, *_: Any) -> np.ndarray:
    return image[:, ::-1]


def black_bars(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
    height, width = image.shape[:2]
    above, beside = rng.permutation([round(rng.uniform(0.08, 0.3) * max(height, width)), 0])
    return cv2.copyMakeBorder(image, above, above, beside, beside, cv2.BORDER_CONSTANT)


def screenshot(image: np.ndarray, rng: np.random.Generator, _: dict) -> np.ndarray:
    """The photo in a phone's app: as wide as the screen, words and buttons above and below."""
    paper = rng.choice([18, 245])
    screen, ink = np.full((1920, 1080, 3), paper, np.uint8), (255 - int(paper),) * 3
    height = min(1400, round(image.shape[0] * 1080 / image.shape[1]))
    width = round(image.shape[1] * height / image.shape[0])
    left = (1080 - width) // 2
    screen[200 : 200 + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    for line, (text, y) in enumerate([("12:41", 60), ("holiday_photos", 150), ("liked by many", height + 320)]):
        cv2.putText(screen, text, (60 + 80 * (line == 1), y), cv2.FONT_HERSHEY_SIMPLEX, 1.2, ink, 3)
    cv2.circle(screen, (80, 140), 40, (90, 140, 230), -1)
    for n in range(4):
        cv2.rectangle(screen, (60 + 120 * n, height + 225), (130 + 120 * n, height + 275), ink, 3)
    return screen


def one_after_the_other(*changes: Change) -> Change:
    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        for one in changes:
            image = np.ascontiguousarray(one(image, rng, row))
        return image

    return change


grey = filtered(lambda image: image.convert("L"))
warm = tones(lambda values: values * [1.12, 1, 0.82] + [0.02, 0, -0.01])

CHANGES: dict[str, Change] = {
    "saved again, quality 15": compressed(15),
    "saved again, quality 40": compressed(40),
    "cut 3 % on each side": trimmed,
    "cut 10 %": cut(0.1),
    "cut 25 %": cut(0.25),
    "cut 40 %": cut(0.4),
    "half of the size": resized(0.5),
    "1.5 times the size": resized(1.5),
    "a face of 70 px": face_of(70),
    "squeezed by 4 %": resized(1, 0.96),
    "brighter": filtered(lambda image: ImageEnhance.Brightness(image).enhance(1.3)),
    "darker": filtered(lambda image: ImageEnhance.Brightness(image).enhance(0.6)),
    "more contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(1.4)),
    "less contrast": filtered(lambda image: ImageEnhance.Contrast(image).enhance(0.6)),
    "more colour": filtered(lambda image: ImageEnhance.Color(image).enhance(1.7)),
    "grey": grey,
    "sepia": tones(sepia),
    "warm": warm,
    "cool": tones(lambda values: values * [0.85, 1, 1.15]),
    "gamma 0.6": tones(lambda values: values**0.6),
    "gamma 1.6": tones(lambda values: values**1.6),
    "vignette": tones(vignette),
    "sharpened": filtered(lambda image: image.filter(ImageFilter.UnsharpMask(2, 150, 2))),
    "blurred a little": filtered(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 400))),
    "noise": lambda image, rng, _: np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8),
    "turned by 3 degrees": turned(3),
    "turned by 7 degrees": turned(7),
    "turned by 10 degrees": turned(10),
    "mirrored": mirrored,
    "black bars": black_bars,
    "screenshot": screenshot,
    "mirrored, cut 20 %": one_after_the_other(cut(0.2), mirrored),
    "cut 15 %, grey, smaller": one_after_the_other(cut(0.15), grey, resized(0.6), compressed(50)),
    "turned, warm, screenshot": one_after_the_other(turned(5), warm, screenshot),
    "screenshot, mirrored": one_after_the_other(screenshot, mirrored),
}


def nearness(image: np.ndarray, center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the px of a picture are, x and y from a middle, and how near to it: 1 there, 0 from the radius on."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    return x, y, np.clip(1 - (x**2 + y**2) / np.float32(radius) ** 2, 0, 1) ** 2


def taken_from(image: np.ndarray, x: np.ndarray, y: np.ndarray, center: np.ndarray) -> np.ndarray:
    place = x + np.float32(center[0]), y + np.float32(center[1])
    return cv2.remap(image, *place, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def eyes_closing(*eyes: int) -> Change:
    """The lids of eyes (0 right, 1 left) come together, to 0.4 of their opening."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        five = landmarks(row)
        for eye in eyes:
            x, y, near = nearness(image, five[eye], 0.25 * float(np.hypot(*(five[1] - five[0]))))
            image = taken_from(image, x, y * (1 + 1.5 * near), five[eye])
        return image

    return change


def smile(share: float) -> Change:
    """The corners of the mouth go up and outwards, by so much of the distance of the eyes."""

    def change(image: np.ndarray, rng: np.random.Generator, row: dict) -> np.ndarray:
        five = landmarks(row)
        apart = float(np.hypot(*(five[1] - five[0])))
        for corner, outwards in ((3, -1), (4, 1)):
            x, y, near = nearness(image, five[corner], 0.6 * apart)
            image = taken_from(image, x - outwards * share * apart * near, y + share * apart * near, five[corner])
        return image

    return change


MOMENTS: dict[str, Change] = {
    "drawn: both eyes closing": eyes_closing(0, 1),
    "drawn: one eye closing": eyes_closing(0),
    "drawn: a smile": smile(0.1),
    "drawn: a little smile": smile(0.05),
}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
