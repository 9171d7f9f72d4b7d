"""Which photos are trained on, which are set apart for judging, which are left out, and why, in words for a person.

Works on the rows of faces.tsv alone: no picture is opened and no model is run.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from likeness.errors import LikenessError
from likeness.faces import FACE_COLUMNS
from likeness.identity import decode_embedding

REASONS = [
    *("unreadable", "no_face", "several_faces", "too_small", "blurred", "bad_exposure", "other_person"),
    "near_duplicate",
]
PHOTO_COLUMNS = [
    *("photo", "sha256", "fate", "reason", "detail", "width", "height", "phash"),
    *FACE_COLUMNS,
    "embedding",
]

# A face this much narrower than the main one is somebody in the background: a crop around the main face leaves it out
# or shows it as a blur.
BYSTANDER = 1 / 3
# `faces.sharpness` of portraits was 0.55 to 0.75 at any size; under a Gaussian blur of 2 px on a face 256 px high
# 0.24 to 0.34, of 3 px 0.18 to 0.24. Only what is clearly useless is dropped.
MIN_SHARPNESS = 0.25
# Mean luminance of the face: 0.4 to 0.65 in ordinary portraits, 0.04 to 0.06 at a tenth of their values. Dark skin in
# poor light must pass, so these bounds catch only what is black or white.
BRIGHTNESS = (0.07, 0.94)
# The hash of a whole photo cannot tell a smile from a straight face before the same wall, so the faces must agree too:
# re-encoded, resized or brightened copies had SFace similarities of 0.95 to 0.99, different photos at most 0.952.
SAME_FACE = 0.95
# Photos this close (a burst, a series on a tripod) would let the judge see what training saw: they stay on one side.
ALIKE_HASH = 12
ALIKE_FACE = 0.9
MIN_HELD_OUT = 3  # below this an average over held-out photos says nothing


def curate(table: pd.DataFrame, settings: SimpleNamespace) -> list[dict[str, Any]]:
    """One row (PHOTO_COLUMNS) per photo of faces.tsv, sorted by photo: its fate, reason and detail.

    `settings` is the section `curate` of the configuration. Raises LikenessError, with the counts by reason, if fewer
    than min_photos are left to train on.
    """
    photos = {
        photo: rows.to_dict("records") for photo, rows in table.sort_values("photo", kind="stable").groupby("photo")
    }
    fates = {photo: _alone(rows, settings) for photo, rows in photos.items()}
    kept = {photo: photos[photo][0] for photo, (reason, _) in fates.items() if not reason}
    for judge in (_other_people, _near_duplicates):
        dropped = judge(kept, settings)
        fates |= dropped
        kept = {photo: row for photo, row in kept.items() if photo not in dropped}
    if len(kept) < settings.min_photos:
        raise LikenessError(_too_few(photos, fates, len(kept), settings.min_photos))
    held_out = _held_out(kept, settings)
    rows = []
    for photo, faces in photos.items():
        reason, detail = fates[photo]
        fate = "dropped" if reason else "heldout" if photo in held_out else "train"
        row = {"photo": photo, "sha256": faces[0]["sha256"], "fate": fate, "reason": reason, "detail": detail}
        rows.append((kept.get(photo) or dict.fromkeys(PHOTO_COLUMNS, "")) | row)
    return rows


def advice(rows: Iterable[Mapping]) -> list[str]:
    """What to photograph next, in sentences: what the photos trained on do not show. `rows` come from `curate`."""
    train = [row for row in rows if row["fate"] == "train"]
    yaw = [float(row["yaw"]) for row in train]
    smile = [json.loads(row["attributes"])["smile"] for row in train]
    background = [json.loads(row["attributes"])["background"] for row in train]
    background = [value for value in background if value is not None]
    wishes = [
        # A three-quarter view begins at about 20 degrees.
        (not any(angle > 20 for angle in yaw), "turned to the right of the picture"),
        (not any(angle < -20 for angle in yaw), "turned to the left of the picture"),
        (not any(abs(angle) < 15 for angle in yaw), "looking straight into the camera"),
        (not any(value > 0.5 for value in smile), "smiling"),
        (not any(value < 0.3 for value in smile), "with a serious face"),
        (len(background) > 1 and np.ptp(background) < 0.2, "before lighter and darker backgrounds"),
    ]
    missing = [wish for absent, wish in wishes if absent]
    few = (
        [f"{len(train)} photos to train on will do; 15 to 30 usually give a better likeness."]
        if len(train) < 15
        else []
    )
    return few + ([f"No photo {', none '.join(missing)}: add some, they help."] if missing else [])


def counts(rows: Iterable[Mapping]) -> str:
    """One line: "32 photos: 21 to train on, 5 held out, 6 dropped (1 no_face, ...)"."""
    rows = list(rows)
    fates = Counter(row["fate"] for row in rows)
    dropped = _by_reason(row["reason"] for row in rows)
    line = f"{len(rows)} photos: {fates['train']} to train on, {fates['heldout']} held out, {fates['dropped']} dropped"
    return line + (f" ({dropped})" if dropped else "")


def hash_distance(a: str, b: str) -> int:
    """Bits by which two perceptual hashes (hex) differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _alone(rows: list[dict], settings: SimpleNamespace) -> tuple[str, str]:
    """Reason and detail for one photo, by its own faces (widest first); no reason where it may be kept."""
    first = rows[0]
    if first["error"]:
        return "unreadable", first["error"]
    if first["face"] == "":
        return "no_face", "no face was found; choose a photo that shows the face from the front or half turned"
    width, sharpness, brightness = (float(first[key]) for key in ("w", "sharpness", "brightness"))
    others = [row for row in rows[1:] if float(row["w"]) >= BYSTANDER * width]
    if others:
        return "several_faces", f"{len(others) + 1} faces; cut the photo to the one person or choose another"
    if width < settings.min_face:
        return "too_small", f"the face is {width:.0f} px wide, at least {settings.min_face} px are needed"
    if sharpness < MIN_SHARPNESS:
        return "blurred", f"the face is blurred: sharpness {sharpness:.2f}, at least {MIN_SHARPNESS} is needed"
    if not BRIGHTNESS[0] <= brightness <= BRIGHTNESS[1]:
        word = "dark" if brightness < BRIGHTNESS[0] else "bright"
        return "bad_exposure", f"the face is too {word}: {brightness:.0%} of full brightness"
    bystanders = len(rows) - 1
    return (
        "",
        f"{bystanders} small {'face' if bystanders == 1 else 'faces'} in the background ignored" if bystanders else "",
    )


def _other_people(kept: Mapping[str, dict], settings: SimpleNamespace) -> dict[str, tuple[str, str]]:
    """The photos that do not show whom most photos show."""
    if not kept:
        return {}
    names = list(kept)
    faces = np.stack([decode_embedding(kept[name]["embedding"]) for name in names])
    alike = faces @ faces.T >= settings.same_person
    # The face that most others resemble, and those: the first guess at the subject. Then everybody is compared with the
    # mean of the subject's other photos, which is steadier than any one of them.
    subject = alike[alike.sum(axis=1).argmax()]
    for _ in range(3):  # settles in one or two rounds
        similarity = np.array([_to_the_rest(faces, subject, i) for i in range(len(names))])
        subject = similarity >= settings.same_person
    return {
        name: (
            "other_person",
            f"not the same person as the rest: similarity {value:.2f}, at least {settings.same_person:.2f} is expected",
        )
        for name, value in zip(names, similarity, strict=True)
        if value < settings.same_person
    }


def _to_the_rest(faces: np.ndarray, subject: np.ndarray, i: int) -> float:
    """Cosine of face i to the mean of the subject's other faces; 1 where there are none."""
    others = subject.copy()
    others[i] = False
    if not others.any():
        return 1.0
    mean = faces[others].mean(axis=0)
    return float(faces[i] @ mean / np.linalg.norm(mean))


def _near_duplicates(kept: Mapping[str, dict], settings: SimpleNamespace) -> dict[str, tuple[str, str]]:
    """All but the best of every set of photos that are the same picture."""
    best: list[str] = []
    dropped = {}
    for name in sorted(kept, key=lambda name: (-_detail(kept[name]), name)):
        row = kept[name]
        twin = next((other for other in best if _same_picture(row, kept[other], settings.near_duplicate)), None)
        if twin is None:
            best.append(name)
        elif row["sha256"] == kept[twin]["sha256"]:
            dropped[name] = "near_duplicate", f"an exact copy of {PurePath(twin).name}"
        else:
            larger = float(kept[twin]["w"]) > 1.1 * float(row["w"])
            word = "shows the face larger" if larger else "is at least as sharp"
            dropped[name] = "near_duplicate", f"near-duplicate of {PurePath(twin).name}, which {word}"
    return dropped


def _detail(row: Mapping) -> float:
    """How much of the face a photo resolves: its width times its sharpness."""
    return float(row["w"]) * float(row["sharpness"])


def _same_picture(a: Mapping, b: Mapping, distance: int) -> bool:
    return a["sha256"] == b["sha256"] or _alike(a, b, distance, SAME_FACE)


def _alike(a: Mapping, b: Mapping, distance: int, similarity: float) -> bool:
    if hash_distance(a["phash"], b["phash"]) > distance:
        return False
    return float(decode_embedding(a["embedding"]) @ decode_embedding(b["embedding"])) >= similarity


def _held_out(kept: Mapping[str, dict], settings: SimpleNamespace) -> set[str]:
    """The photos that training never sees: a share of them, at least MIN_HELD_OUT, whole look-alike groups only.

    The order is by the hash of the file NAME: random, but the same in every run, and a photo that is retouched or
    replaced keeps its side, so that results before and after can be compared.
    """
    wanted = max(MIN_HELD_OUT, math.ceil(settings.held_out * len(kept)))
    room = min(wanted, len(kept) - settings.min_photos)
    held_out: set[str] = set()
    for group in sorted(_look_alikes(kept), key=lambda group: min(map(_order, group))):
        if len(held_out) + len(group) <= room:
            held_out |= group
    return held_out


def _look_alikes(kept: Mapping[str, dict]) -> list[set[str]]:
    """The photos in groups: two that look alike, directly or through others, are in one group."""
    groups: list[set[str]] = []
    for name, row in kept.items():
        near = [g for g in groups if any(_alike(row, kept[other], ALIKE_HASH, ALIKE_FACE) for other in g)]
        groups = [g for g in groups if g not in near] + [{name}.union(*near)]
    return groups


def _order(photo: str) -> str:
    return hashlib.sha256(PurePath(photo).name.encode()).hexdigest()


def _by_reason(reasons: Iterable[str]) -> str:
    found = Counter(reasons)
    return ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])


def _too_few(photos: Mapping, fates: Mapping[str, tuple[str, str]], kept: int, needed: int) -> str:
    lines = [f"  {PurePath(p).name}: {reason}: {detail}" for p, (reason, detail) in fates.items() if reason]
    dropped = _by_reason(reason for reason, _ in fates.values()) or "none"
    summary = (
        f"{kept} of {len(photos)} photos can be used (dropped: {dropped}), at least {needed} "
        "are needed; add sharp, well lit photos of this one person from several sides, or lower curate.min_photos"
    )
    return "\n".join([summary, *lines])
