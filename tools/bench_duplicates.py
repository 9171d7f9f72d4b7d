"""Measure which photos curation recognises as copies: changed copies of a photo, and photos that are not copies, such
as other moments of a burst.

    python tools/bench_duplicates.py

The people in these photos do not exist, and no setting was tuned on them. CHANGES makes changed copies of 30 photos of
resources/. MOMENTS makes photos of them that are not copies: it closes an eye or moves the corners of the mouth, and
leaves every other pixel unchanged. The face generator drew the bursts of resources/bursts. Every changed picture is
saved as a JPEG. Each pair is curated as a folder of two photos, once with the project's code, and once by whole frames
alone. The models are fetched into results/models first.
"""

import itertools
import math
import os
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from bench_faces import MODELS, hardware, jpeg
from photo_changes import CHANGES, MOMENTS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.config.sections import Curate  # noqa: E402
from likeness.core.pinned_models import fetch_models  # noqa: E402
from likeness.faces import curation  # noqa: E402
from likeness.faces.copies import FaceComparer  # noqa: E402
from likeness.faces.detection import Detector  # noqa: E402
from likeness.faces.identity import Recogniser, aligned_face, encode_aligned_face, encode_embedding  # noqa: E402
from likeness.photos.images import perceptual_hash, read_photo  # noqa: E402

RESOURCES = ROOT / "resources"
CHANGED = [("people/otto", 6), ("bench_people/ida", 6), ("bench_people/emil", 6)]  # with the number of changed photos
PEOPLE = [*(folder for folder, _ in CHANGED), "calibration"]
LARGE = 3000  # number of photos in the folder whose curation is timed

Rows = list[dict[str, Any]]


class Count(NamedTuple):
    """Numbers of pairs of photos: all; those of which one was dropped as a copy; those dropped by whole frames alone;
    and those that may be split, with one photo trained on and the other held out."""

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
    recall, false_rate = (table["all"].dropped / table["all"].pairs for table in tables.values())
    print(f"balanced_accuracy: {(recall + 1 - false_rate) / 2:.4f}")


def made_pairs() -> tuple[list, list, list, list]:
    """Pairs as (kind, row, row): copies, changed moments, bursts, and other photos of the same person."""
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
    """The folders of photos, each of one person."""
    folder = RESOURCES / name
    return [folder] if list(folder.glob("*.jpg")) else sorted(path for path in folder.iterdir() if path.is_dir())


def photos(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jpg"))


def burst_pairs(rows: dict[str, dict]) -> Iterator[tuple[str, dict, dict]]:
    """The first picture of each burst with the others, {photo}_{difference}.jpg."""
    for name, row in rows.items():
        photo, kind = name.split("_", 1)
        if kind != "first":
            yield f"burst: {kind.replace('_', ' ')}", rows[f"{photo}_first"], row


_models: list = []


def measured(image: np.ndarray, name: str) -> dict[str, Any] | None:
    """The row of the widest face, or None if there is no face."""
    return next(iter(measured_faces(image, name)), None)


def measured_faces(image: np.ndarray, name: str) -> Rows:
    """The rows of a picture's faces as detect_faces writes them, the widest face first."""
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
    """The rows of a photo (named ""), of its copies, and of the moments made from it, by name."""
    image, name = read_photo(photo), photo.relative_to(RESOURCES).as_posix()
    rows = {"": measured(image, name)}
    for kind, change in (CHANGES | MOMENTS).items():
        rng = np.random.default_rng(zlib.crc32(f"{name} {kind}".encode()))
        changed = np.ascontiguousarray(change(image, rng, rows[""]))
        rows[kind] = measured(jpeg(changed), f"{name} {kind}")
    return {kind: row for kind, row in rows.items() if row}


def folder_rows(folder: Path) -> dict[str, dict]:
    """The rows of all photos of a folder, by their names without ending."""
    rows = {path.stem: measured(read_photo(path), path.relative_to(RESOURCES).as_posix()) for path in photos(folder)}
    return {stem: row for stem, row in rows.items() if row}


def settings(**changes: Any) -> SimpleNamespace:
    """The settings of curation, without identity: every face counts as the subject's."""
    return SimpleNamespace(**Curate(min_photos=1, same_person=0, held_out=0).model_dump() | changes)


def counted(pairs: list[tuple[str, dict, dict]]) -> dict[str, Count]:
    """The counts by kind, and of all kinds. Pairs with a photo that is dropped for another reason (burnt out, too
    small) are not counted."""
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
    """True if curation recognises a copy by whole frames alone, without faces."""
    rows = curation.curate(pd.DataFrame(pair).assign(aligned=""), settings())
    return any(row["reason"] == "near_duplicate" for row in rows)


def torn_apart(pair: list[dict]) -> bool:
    """True if neither photo is dropped and one of them may be held out while the other is trained on."""
    rows_by_photo = {row["photo"]: row for row in pair}
    faces = FaceComparer(rows_by_photo)
    dropped = curation.near_duplicates(rows_by_photo, faces, Curate().near_duplicate)
    return not dropped and len(curation.look_alikes(rows_by_photo, faces)) > 1


def interval(hits: int, of: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share. Source: Wilson 1927, "Probable Inference, the Law of Succession, and
    Statistical Inference"."""
    z = 1.96
    middle = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * math.sqrt(hits * (of - hits) / of + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def timed(rows: Rows) -> tuple[int, float]:
    """CPU seconds for curating LARGE photos, which are these photos repeated under other names."""
    distinct = list({row["photo"]: row for row in rows}.values())
    repeated = itertools.islice(itertools.cycle(distinct), LARGE)
    table = pd.DataFrame([row | {"photo": f"{n}.jpg", "sha256": str(n)} for n, row in enumerate(repeated)])
    started = time.process_time()
    curation.curate(table, settings(held_out=0.2))
    return len(table), time.process_time() - started


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
