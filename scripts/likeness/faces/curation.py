"""The fate of each photo, with the reason in words for the user: training, held out for judging, or dropped.

The input are the rows of faces.tsv alone: no picture is opened and no model is run.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from likeness.core import cli
from likeness.core.errors import LikenessError
from likeness.faces.copies import FaceComparer, changes
from likeness.faces.detection import FACE_COLUMNS
from likeness.faces.identity import decode_embedding
from likeness.faces.subject import compare_with_subject
from likeness.faces.verdicts import DECIDED_NOTHING, Verdict, although, crop_by_hand, decided_verdict

REASONS = [
    *("unreadable", "no_face", "several_faces", "too_small", "blurred", "bad_exposure", "occluded", "other_person"),
    *("near_duplicate", "by_hand"),
]
PHOTO_COLUMNS = [
    *("photo", "sha256", "fate", "reason", "detail", "width", "height", "phash"),
    *FACE_COLUMNS,
    *("embedding", "similarity", "others", "crop"),
]

# Whole frames are compared only if the faces cannot be (burnt out, cut off). The hash of a frame does not distinguish a
# smile from a straight face in front of the same wall, so the faces must be similar, too: re-encoded, resized or
# brightened copies had SFace similarities of 0.95 to 0.99, different photos at most 0.952.
SAME_FACE = 0.95
# Photos that are as similar as this (a burst, a series on a tripod) stay together, in training or held out: otherwise
# the judge would see what training saw.
ALIKE_HASH = 12
ALIKE_FACE = 0.9
# The same for `copies.Alignment.distance`. Photos of one person on other occasions have larger distances.
ALIKE_COPY = 40
MIN_HELD_OUT = 3  # an average over fewer held-out photos has no meaning


def curate(
    table: pd.DataFrame,
    settings: SimpleNamespace,
    reference: Collection[str] = (),
    by_hand: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """One row (PHOTO_COLUMNS) per photo of faces.tsv, sorted by photo: its fate, reason and detail.

    `settings` is the section `curate` of the configuration. `reference` are the names of photos that show the subject;
    if it is empty, the subject is the person on most photos. `by_hand` are a person's decisions by the photo's name:
    `use`, `keep`, `face`, `crop` and `rotation`, as in decisions.yaml. Raises LikenessError if nobody can tell who the
    subject is, or if fewer than min_photos are left to train on; the message then has the counts by reason.
    """
    photos = {
        photo: rows.to_dict("records") for photo, rows in table.sort_values("photo", kind="stable").groupby("photo")
    }
    compare_with_subject(photos, settings, reference)
    decisions = {photo: {**DECIDED_NOTHING, **by_hand.get(PurePath(photo).name, {})} for photo in photos}
    verdicts = {photo: decided_verdict(faces, settings, decisions[photo]) for photo, faces in photos.items()}
    kept = {photo: verdict.face for photo, verdict in verdicts.items() if verdict.face and not verdict.reason}
    faces = FaceComparer(kept)
    for photo, (reason, detail) in near_duplicates(kept, faces, settings.near_duplicate).items():
        if reason in decisions[photo]["keep"]:
            verdicts[photo] = although(verdicts[photo], reason, detail)
        else:
            verdicts[photo] = Verdict(kept.pop(photo), reason, detail)
    if len(kept) < settings.min_photos:
        raise LikenessError(_too_few(verdicts, len(kept), settings.min_photos))
    uses = {photo: decisions[photo]["use"] for photo in kept}
    held_out = _held_out(kept, faces, settings, uses)
    if len(kept) - len(held_out) < settings.min_photos:
        raise LikenessError(
            f"decisions.yaml holds out so many photos that {len(kept) - len(held_out)} are left to train on, and at "
            f"least {settings.min_photos} are needed; hold out fewer, or lower curate.min_photos"
        )
    rows = []
    for photo, (face, reason, detail) in verdicts.items():
        fate = "dropped" if reason else "heldout" if photo in held_out else "train"
        row = dict.fromkeys(PHOTO_COLUMNS, "") | (face or photos[photo][0])
        row |= {"crop": "" if reason else crop_by_hand(decisions[photo])}
        rows.append(row | {"fate": fate, "reason": reason, "detail": detail})
    return rows


def counts(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line: "32 photos: 21 to train on, 5 held out, 6 dropped (1 no_face, ...)"."""
    rows = list(rows)
    fates = Counter(row["fate"] for row in rows)
    dropped = _by_reason(row["reason"] for row in rows)
    line = f"{len(rows)} photos: {fates['train']} to train on, {fates['heldout']} held out, {fates['dropped']} dropped"
    return line + (f" ({dropped})" if dropped else "")


def near_duplicates(
    kept: Mapping[str, Mapping[str, Any]], faces: FaceComparer, distance: int
) -> dict[str, tuple[str, str]]:
    """Reason and detail of the photos to drop: of every set of photos that are one picture, all but the best."""
    alike = _alike_frames(kept, distance, SAME_FACE)
    best: dict[str, str] = {}  # by the hash of the file
    dropped = {}

    def twins(name: str) -> Iterator[str]:
        yield from filter(None, [best.get(kept[name]["sha256"])])
        others = set(best.values())
        if name in faces:
            nearest = (other for other in faces.possible(name) if other in others)
            yield from (other for other in nearest if faces.alignment(name, other).distance <= distance)
        # Whole frames count if the face of one of the two photos cannot be compared.
        yield from (other for other in sorted(alike[name] & others) if name not in faces or other not in faces)

    sharpest_first = sorted(kept, key=lambda name: (-_face_detail(kept[name]), name))
    for name in cli.progress(sharpest_first, desc="copies", unit="photo"):
        twin = next(twins(name), None)
        if twin is None:
            best[kept[name]["sha256"]] = name
        else:
            changes_made = (
                changes(faces.alignment(name, twin), kept[name], kept[twin]) if name in faces and twin in faces else []
            )
            dropped[name] = "near_duplicate", _of_twin(kept[name], kept[twin], changes_made)
    return dropped


def _of_twin(row: Mapping[str, Any], twin: Mapping[str, Any], done: Sequence[str]) -> str:
    """The detail of a dropped copy; `done` are the words of `copies.changes`."""
    name = PurePath(twin["photo"]).name
    if row["sha256"] == twin["sha256"]:
        return f"an exact copy of {name}"
    larger = float(twin["w"]) > 1.1 * float(row["w"])
    detail = f"near-duplicate of {name}, which {'shows the face larger' if larger else 'is at least as sharp'}"
    return f"{detail}; this one {', '.join(done)}" if done else detail


def _face_detail(row: Mapping[str, Any]) -> float:
    """The detail of a face: its width times its sharpness."""
    return float(row["w"]) * float(row["sharpness"])


def _alike_frames(kept: Mapping[str, Mapping[str, Any]], distance: int, similarity: float) -> dict[str, set[str]]:
    """For every photo the others whose perceptual hashes differ by at most `distance` bits and whose faces have at
    least this SFace similarity."""
    names = np.array(list(kept))
    hashes = np.array([int(row["phash"], 16) for row in kept.values()], np.uint64)
    vectors = np.stack([decode_embedding(row["embedding"]) for row in kept.values()]) if kept else np.zeros((0, 128))
    return {
        name: set(names[(np.bitwise_count(hashes ^ bits) <= distance) & (vectors @ vector >= similarity)]) - {name}
        for name, bits, vector in zip(kept, hashes, vectors, strict=True)
    }


def _held_out(
    kept: Mapping[str, Mapping[str, Any]],
    faces: FaceComparer,
    settings: SimpleNamespace,
    uses: Mapping[str, str | None],
) -> set[str]:
    """The photos that training never sees: the configured share, at least MIN_HELD_OUT, in whole groups of look-alikes,
    spread over pose and light.

    Photos of one kind of pose and light are chosen in the order of the hash of the file NAME. That is random, but the
    same in every run, and it does not change if a photo is retouched or replaced, so that results stay comparable.

    `uses` are a person's decisions ("train", "heldout" or None). Look-alikes of a photo that is trained on by hand are
    trained on; else those of one that is held out by hand are held out.
    """
    target = max(MIN_HELD_OUT, math.ceil(settings.held_out * len(kept)))
    kinds = _kinds(kept)
    sizes = Counter(kinds.values())
    held_out_sizes: Counter[tuple[int, bool]] = Counter()
    held_out: set[str] = set()

    def share_held_out(kind: tuple[int, bool]) -> float:
        return held_out_sizes[kind] / sizes[kind]

    def hold_out(photos: Collection[str]) -> None:
        held_out.update(photos)
        held_out_sizes.update(kinds[photo] for photo in photos)

    groups = sorted(look_alikes(kept, faces), key=lambda group: min(map(_order, group)))
    free = [group for group in groups if not any(uses.get(photo) for photo in group)]
    for group in groups:
        if group not in free:
            other_use = "train" if any(uses.get(photo) == "train" for photo in group) else "heldout"
            hold_out({photo for photo in group if (uses.get(photo) or other_use) == "heldout"})
    room = min(target, len(kept) - settings.min_photos)
    while fitting := [group for group in free if len(held_out) + len(group) <= room]:
        # The next kind is the one with the smallest share held out so far.
        group = min(fitting, key=lambda group: share_held_out(kinds[min(group, key=_order)]))
        free.remove(group)
        hold_out(group)
    return held_out


def _kinds(kept: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, bool]]:
    """The kind of every photo by pose and light: the third of all photos by yaw, and the half by brightness, that it is
    in."""
    yaw = np.array([float(row["yaw"]) for row in kept.values()])
    brightness = np.array([float(row["brightness"]) for row in kept.values()])
    thirds, half = np.quantile(yaw, [1 / 3, 2 / 3]), np.median(brightness)
    return {
        photo: (int(np.searchsorted(thirds, y)), bool(b > half))
        for photo, y, b in zip(kept, yaw, brightness, strict=True)
    }


def look_alikes(kept: Mapping[str, Mapping[str, Any]], faces: FaceComparer) -> list[set[str]]:
    """The photos in groups: two photos that look alike, directly or through others, are in one group."""
    group = {name: {name} for name in kept}
    alike = _alike_frames(kept, ALIKE_HASH, ALIKE_FACE)
    for name in cli.progress(kept, desc="look-alikes", unit="photo"):
        for other in sorted(alike[name].union(faces.possible(name)) & kept.keys()):
            if group[name] is group[other]:
                continue
            if other in alike[name] or faces.alignment(name, other).distance <= ALIKE_COPY:
                joined = group[name] | group[other]
                group |= dict.fromkeys(joined, joined)
    return list({id(members): members for members in group.values()}.values())


def _order(photo: str) -> str:
    return hashlib.sha256(PurePath(photo).name.encode()).hexdigest()


def _by_reason(reasons: Iterable[str]) -> str:
    numbers = Counter(reasons)
    return ", ".join(f"{numbers[reason]} {reason}" for reason in REASONS if numbers[reason])


def _too_few(verdicts: Mapping[str, Verdict], kept: int, needed: int) -> str:
    lines = [
        f"  {PurePath(photo).name}: {verdict.reason}: {verdict.detail}"
        for photo, verdict in verdicts.items()
        if verdict.reason
    ]
    dropped = _by_reason(verdict.reason for verdict in verdicts.values()) or "none"
    summary = (
        f"{kept} of {len(verdicts)} photos can be used (dropped: {dropped}), at least {needed} "
        "are needed; add sharp, well lit photos of this one person from several sides, or lower curate.min_photos"
    )
    return "\n".join([summary, *lines])
