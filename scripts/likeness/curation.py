"""Which photos are trained on, which are set apart for judging, which are left out, and why, in words for a person.

Works on the rows of faces.tsv alone: no picture is opened and no model is run.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage

from likeness.copies import Faces, changes
from likeness.crops import TIGHTEST_FACE_FRACTION, crop_box
from likeness.errors import LikenessError
from likeness.faces import FACE_COLUMNS
from likeness.identity import decode_embedding
from likeness.provenance import canonical

REASONS = [
    *("unreadable", "no_face", "several_faces", "too_small", "blurred", "bad_exposure", "occluded", "other_person"),
    "near_duplicate",
]
PHOTO_COLUMNS = [
    *("photo", "sha256", "fate", "reason", "detail", "width", "height", "phash"),
    *FACE_COLUMNS,
    *("embedding", "similarity", "others"),
]

# Two groups of faces are one person when the mean similarity across them reaches this: of people who do not exist it
# was 0.51 or more within one person's photos, and 0.37 or less between two people's.
SAME_GROUP = 0.42
# A group on RIVAL_PHOTOS or more is somebody else, though perhaps a sister, if its mean has a lower cosine than this to
# the subject's, or if both are on several photos together. Where linkage split one person into two groups, their means
# had 0.55 or more; those of two people 0.49 or less in 89 of 91 pairs, 0.62 at most.
ONE_PERSON = 0.52
RIVAL_PHOTOS = 3
# Two faces of one photo that are both like the subject: the one that is more alike by this much is the subject, the
# other a relative. Below it (a mirror, a collage, a twin) nobody can tell.
CLEARLY_MORE_ALIKE = 0.15
# A face this much narrower than the main one is somebody in the background.
BYSTANDER = 1 / 3
# `faces.sharpness` of 96 portraits was 0.37 to 0.65; under a Gaussian blur of 2 px on a face 256 px high 0.16 to 0.36,
# of 3 px 0.10 to 0.27. Only what is clearly useless is dropped.
MIN_SHARPNESS = 0.21
# Mean luminance of the face: 0.4 to 0.65 in ordinary portraits, 0.04 to 0.06 at a tenth of their values. Dark skin in
# poor light must pass, so these bounds catch only what is black or white.
BRIGHTNESS = (0.07, 0.94)
MAX_CLIPPED = 0.4  # of the face; hard sunlight burns out a cheek and the forehead, which is about a quarter
MIN_VISIBLE = 0.9  # of the face; a chin or a hairline at the edge passes, an eye does not
MAX_SHARED = 0.25  # of another face that the tightest crop would still show: an ear or a cheek, not eyes
# Whole frames are compared only where the faces cannot be (burnt out, cut off). Their hash cannot tell a smile from a
# straight face before the same wall, so the persons must be alike too: re-encoded, resized or brightened copies had
# SFace similarities of 0.95 to 0.99, different photos at most 0.952.
SAME_FACE = 0.95
# Photos this close (a burst, a series on a tripod) would let the judge see what training saw: they stay on one side.
ALIKE_HASH = 12
ALIKE_FACE = 0.9
# The same for `copies.Copy.distance`. Beyond it lie photos of one person on other occasions.
ALIKE_COPY = 40
MIN_HELD_OUT = 3  # below this an average over held-out photos says nothing

# For advice. Degrees of yaw: a three-quarter view begins at about 20, the far eye starts to vanish at about 45.
TURNED, PROFILE = 20, 45
DIM = 0.3  # mean luminance of a face that looks underexposed; ordinary portraits had 0.4 to 0.65
GOOD_NUMBER = 15  # photos to train on; guides for faces ask for 15 to 30


class Verdict(NamedTuple):
    """What one photo shows: its subject's face (or the one that came nearest, None without faces), why the photo is
    dropped (empty: it is not), and a sentence."""

    face: dict | None
    reason: str
    detail: str


def curate(table: pd.DataFrame, settings: SimpleNamespace, reference: Collection[str] = ()) -> list[dict[str, Any]]:
    """One row (PHOTO_COLUMNS) per photo of faces.tsv, sorted by photo: its fate, reason and detail.

    `settings` is the section `curate` of the configuration, `reference` the names of photos that show the subject;
    without any, the subject is whom most photos show. Raises LikenessError if nobody can tell who the subject is, or,
    with the counts by reason, if fewer than min_photos are left to train on.
    """
    photos = {
        photo: rows.to_dict("records") for photo, rows in table.sort_values("photo", kind="stable").groupby("photo")
    }
    _compare(photos, settings, reference)
    verdicts = {photo: _verdict(faces, settings) for photo, faces in photos.items()}
    kept = {photo: verdict.face for photo, verdict in verdicts.items() if not verdict.reason}
    faces = Faces(kept)
    for photo, (reason, detail) in near_duplicates(kept, faces, settings.near_duplicate).items():
        verdicts[photo] = Verdict(kept.pop(photo), reason, detail)
    if len(kept) < settings.min_photos:
        raise LikenessError(_too_few(verdicts, len(kept), settings.min_photos))
    held_out = _held_out(kept, faces, settings)
    rows = []
    for photo, (face, reason, detail) in verdicts.items():
        fate = "dropped" if reason else "heldout" if photo in held_out else "train"
        row = dict.fromkeys(PHOTO_COLUMNS, "") | (face or photos[photo][0])
        rows.append(row | {"fate": fate, "reason": reason, "detail": detail})
    return rows


def advice(rows: Iterable[Mapping]) -> list[str]:
    """What to photograph next, in sentences, most useful first: what the photos trained on lack, or have too much of.

    `rows` are those of photos.tsv.
    """
    rows = list(rows)
    train = [row for row in rows if row["fate"] == "train"]
    others = sum(row["reason"] == "other_person" for row in rows)
    attributes = [json.loads(row["attributes"] or "{}") for row in train]
    sentences = [
        _number_advice(len(train)),
        f"{others} photos show somebody else; if the wrong person was taken for the subject, name photos of the right "
        "one in the subject's `reference`."
        if others > len(train) / 2
        else "",
        _pose_advice([float(row["yaw"]) for row in train]),
        _light_advice([float(row["brightness"]) for row in train]),
        _share_advice([a.get("glasses") for a in attributes], "with glasses", "without"),
        _share_advice([_sure(a.get("smile"), 0.3, 0.5) for a in attributes], "smiling", "with a serious face"),
        _share_advice([_sure(a.get("smile"), 0.3, 0.5, above=False) for a in attributes], "unsmiling", "with a smile"),
        _background_advice([a["background"] for a in attributes if a.get("background") is not None]),
    ]
    return [sentence for sentence in sentences if sentence]


def _number_advice(photos: int) -> str:
    if photos >= GOOD_NUMBER:
        return ""
    return f"{photos} photos to train on will do; {GOOD_NUMBER} to 30 usually give a better likeness."


def _pose_advice(yaw: Sequence[float]) -> str:
    missing = [
        *(["straight into the camera"] if not any(abs(angle) < TURNED for angle in yaw) else []),
        *(["turned to the left of the picture"] if not any(angle < -TURNED for angle in yaw) else []),
        *(["turned to the right of the picture"] if not any(angle > TURNED for angle in yaw) else []),
    ]
    if missing:
        return f"No photo {', none '.join(missing)}: two or three of each would help."
    return "" if any(abs(angle) > PROFILE for angle in yaw) else "No profile views: one from each side would help."


def _light_advice(brightness: Sequence[float]) -> str:
    dim = sum(value < DIM for value in brightness)
    wanted = 2 * dim - len(brightness)  # until half of them are well lit
    if wanted <= 0:
        return ""
    return f"{dim} of {len(brightness)} are in dim light: {wanted} more {_photos(wanted)} in daylight would help."


def _share_advice(has: Sequence[bool | None], shown: str, wish: str) -> str:
    """About something that four fifths or more of the photos show: training takes it for a part of the person."""
    known = [value for value in has if value is not None]
    share = sum(known) / max(len(known), 1)
    if len(known) < 5 or share < 0.8:
        return ""
    return f"{share:.0%} {shown}: it becomes a part of the likeness; some photos {wish} would keep it free."


def _background_advice(luminance: Sequence[float]) -> str:
    if len(luminance) < 5 or np.ptp(luminance) >= 0.2:
        return ""
    return "The backgrounds are all alike: some photos before lighter and darker ones would help."


def _sure(value: float | None, low: float, high: float, above: bool = True) -> bool | None:
    """Whether a value is above a band (or below it); None inside the band, where neither can be said."""
    if value is None or low <= value <= high:
        return None
    return (value > high) == above


def _photos(number: int) -> str:
    return "photo" if number == 1 else "photos"


def counts(rows: Iterable[Mapping]) -> str:
    """One line: "32 photos: 21 to train on, 5 held out, 6 dropped (1 no_face, ...)"."""
    rows = list(rows)
    fates = Counter(row["fate"] for row in rows)
    dropped = _by_reason(row["reason"] for row in rows)
    line = f"{len(rows)} photos: {fates['train']} to train on, {fates['heldout']} held out, {fates['dropped']} dropped"
    return line + (f" ({dropped})" if dropped else "")


def _compare(photos: Mapping[str, list[dict]], settings: SimpleNamespace, reference: Collection[str]) -> None:
    """Give every face `similarity`, the cosine to the mean of the subject's faces on the other photos, and `rival`, the
    same for that other person of the folder whom it resembles most (0 if nobody else is on several photos)."""
    faces = [face for rows in photos.values() for face in rows if face["face"] != ""]
    if not faces:
        return
    vectors = np.stack([decode_embedding(face["embedding"]) for face in faces])
    photo_of = np.array([face["photo"] for face in faces])
    # Small and blurred faces are like many people; the others say who is who.
    telling = np.array([not _flaw(face, settings) for face in faces])
    if not telling.any():
        telling[:] = True
    groups = _people(vectors, telling)
    named = _reference_faces(faces, reference)
    subject = named | np.isin(groups, groups[named & telling]) if reference else groups == _most_seen(groups, photo_of)
    rival = _rival_similarity(vectors, groups, subject, photo_of)
    for _ in range(5):  # settles in one or two rounds
        similarity = similarity_to_mean(vectors, subject, photo_of)
        alike = telling & (similarity >= np.maximum(settings.same_person, rival))
        # One face per photo: a picture that shows two that are alike must not vouch for itself.
        best = pd.Series(similarity).groupby(photo_of).transform("max").to_numpy()
        alike = named | (alike & (similarity == best))
        if not alike.any() or (alike == subject).all():
            break
        subject = alike
    for face, to_subject, to_rival in zip(faces, similarity, rival, strict=True):
        face.update(similarity=f"{to_subject:.3f}", rival=to_rival)


def _rival_similarity(vectors: np.ndarray, groups: np.ndarray, subject: np.ndarray, photo_of: np.ndarray) -> np.ndarray:
    """The cosine of every face to that other person of the folder whom it resembles most, (faces,)."""
    found = np.zeros(len(vectors))
    for group in set(groups[~subject]) - {0}:
        members = groups == group
        on, together = set(photo_of[members]), set(photo_of[members]) & set(photo_of[subject])
        unlike = _mean(vectors[members]) @ _mean(vectors[subject]) < ONE_PERSON
        if len(on) >= RIVAL_PHOTOS and (unlike or len(together) > 1):
            found = np.maximum(found, similarity_to_mean(vectors, members, photo_of))
    return found


def _people(vectors: np.ndarray, telling: np.ndarray) -> np.ndarray:
    """The number of the person that each face shows, by average linkage: int (faces,), 0 for those not telling."""
    groups = np.zeros(len(vectors), int)
    groups[telling] = 1
    if telling.sum() > 1:
        tree = linkage(vectors[telling], method="average", metric="cosine")
        groups[telling] = fcluster(tree, 1 - SAME_GROUP, criterion="distance")
    return groups


def _most_seen(groups: np.ndarray, photo_of: np.ndarray) -> int:
    """The person who is on most photos. Raises LikenessError if two are on as many, and on more than one."""
    seen = Counter({group: len(set(photo_of[groups == group])) for group in dict.fromkeys(groups[groups > 0])})
    (first, most), *rest = seen.most_common()
    if rest and most > 1 and rest[0][1] == most:
        examples = [
            " and ".join(PurePath(photo).name for photo in sorted(set(photo_of[groups == group]))[:2])
            for group in (first, rest[0][0])
        ]
        raise LikenessError(
            f"two people are on {most} photos each (one on {examples[0]}, one on {examples[1]}), so nobody can tell "
            "who the subject is; name photos that show only the subject: `reference: [file names]` beside `photos`"
        )
    return first


def _reference_faces(faces: Sequence[Mapping], reference: Collection[str]) -> np.ndarray:
    """The face of each reference photo: bool (faces,). Raises LikenessError if one shows no face, or several."""
    names = np.array([PurePath(face["photo"]).name for face in faces])
    width = np.array([float(face["w"]) for face in faces])
    chosen = np.zeros(len(faces), bool)
    for name in reference:
        here = names == name
        large = here & (width >= BYSTANDER * width[here].max(initial=0))
        if large.sum() != 1:
            found = f"{large.sum()} faces" if large.any() else "no face"
            raise LikenessError(f"reference photo {name} shows {found}; name photos that show only the subject")
        chosen |= large
    return chosen


def similarity_to_mean(vectors: np.ndarray, members: np.ndarray, photo_of: np.ndarray) -> np.ndarray:
    """Cosine of each face to the mean of the members on other photos than its own; 1 where there are none."""
    total = vectors[members].sum(axis=0)
    own = pd.DataFrame(vectors * members[:, None]).groupby(photo_of).transform("sum").to_numpy()
    others = total - own
    length = np.linalg.norm(others, axis=1)
    alone = length < 1e-6
    return np.where(alone, 1.0, (vectors * others).sum(axis=1) / np.where(alone, 1, length))


def _mean(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0)
    return mean / np.linalg.norm(mean)


def _verdict(faces: Sequence[dict], settings: SimpleNamespace) -> Verdict:
    """Whether one photo may be kept by what it shows; the faces are those of the photo, widest first."""
    if faces[0]["error"]:
        return Verdict(None, "unreadable", faces[0]["error"])
    if faces[0]["face"] == "":
        return Verdict(
            None, "no_face", "no face was found; choose a photo that shows the face from the front or half turned"
        )
    faces = sorted(faces, key=lambda face: -float(face["similarity"]))
    face = faces[0] | {"others": _boxes(faces[1:])}
    alike = float(face["similarity"])
    if alike < max(settings.same_person, face["rival"]):
        return _not_the_subject(face, faces, settings)
    large = [other for other in faces[1:] if float(other["w"]) >= BYSTANDER * float(face["w"])]
    rivals = [
        other
        for other in large
        if float(other["similarity"]) >= max(settings.same_person, other["rival"], alike - CLEARLY_MORE_ALIKE)
    ]
    if rivals:
        numbers = " and ".join(f"{float(one['similarity']):.2f}" for one in (face, *rivals))
        detail = f"{len(rivals) + 1} faces look like the subject (similarity {numbers}); cut the photo to one of them"
        return Verdict(face, "several_faces", detail)
    flaw = _flaw(face, settings)
    if flaw:
        return Verdict(face, *flaw)
    if crop_box(face | {"others": _boxes(large)}, TIGHTEST_FACE_FRACTION).shared > MAX_SHARED:
        return Verdict(face, "several_faces", "another head is too close to be cut away; choose another photo")
    if large:
        detail = f"{len(faces)} faces; cut to the one that is the subject's (similarity {alike:.2f})"
        return Verdict(face, "", detail)
    small = len(faces) - 1
    return Verdict(face, "", f"{small} small face{'s' * (small > 1)} in the background ignored" if small else "")


def _boxes(faces: Sequence[Mapping]) -> str:
    """The column `others`."""
    return canonical([[float(face[key]) for key in "xywh"] for face in faces])


def _not_the_subject(nearest: dict, faces: Sequence[dict], settings: SimpleNamespace) -> Verdict:
    largest = max(faces, key=lambda face: float(face["w"]))
    flaw = _flaw(largest, settings)
    if flaw:  # who is on it cannot be told, and it could not be used either
        return Verdict(largest, *flaw)
    alike = float(nearest["similarity"])
    who = "similarity" if len(faces) == 1 else f"of {len(faces)} faces the most alike has a similarity of"
    if alike >= settings.same_person:
        more = f"and {nearest['rival']:.2f} to somebody else who is on several photos"
        return Verdict(nearest, "other_person", f"not the same person as the rest: {who} {alike:.2f}, {more}")
    detail = f"not the same person as the rest: {who} {alike:.2f}, at least {settings.same_person:.2f} is expected"
    return Verdict(nearest, "other_person", detail)


def _flaw(face: Mapping, settings: SimpleNamespace) -> tuple[str, str] | None:
    """Reason and detail why a face cannot be trained on, by its own measurements."""
    width, sharpness, brightness = (float(face[key]) for key in ("w", "sharpness", "brightness"))
    clipped, visible = float(face["clipped"]), float(face["visible"])
    if width < settings.min_face:
        return "too_small", f"the face is {width:.0f} px wide, at least {settings.min_face} px are needed"
    if visible < MIN_VISIBLE:
        return "occluded", f"{1 - visible:.0%} of the face lies beyond the edge of the picture"
    if not BRIGHTNESS[0] <= brightness <= BRIGHTNESS[1]:
        word = "dark" if brightness < BRIGHTNESS[0] else "bright"
        return "bad_exposure", f"the face is too {word}: {brightness:.0%} of full brightness"
    if clipped > MAX_CLIPPED:
        return "bad_exposure", f"{clipped:.0%} of the face is burnt out or black"
    if sharpness < MIN_SHARPNESS:
        return "blurred", f"the face is blurred: sharpness {sharpness:.2f}, at least {MIN_SHARPNESS} is needed"
    return None


def near_duplicates(kept: Mapping[str, dict], faces: Faces, distance: int) -> dict[str, tuple[str, str]]:
    """All but the best of every set of photos that are the same picture."""
    alike = _alike_frames(kept, distance, SAME_FACE)
    best: dict[str, str] = {}  # by their hash
    dropped = {}

    def twins(name: str) -> Iterator[str]:
        yield from filter(None, [best.get(kept[name]["sha256"])])
        others = set(best.values())
        if name in faces:
            nearest = (other for other in faces.possible(name) if other in others)
            yield from (other for other in nearest if faces.copy(name, other).distance <= distance)
        # Whole frames, where the face of one of the two cannot be compared.
        yield from (other for other in sorted(alike[name] & others) if name not in faces or other not in faces)

    for name in sorted(kept, key=lambda name: (-_detail(kept[name]), name)):
        twin = next(twins(name), None)
        if twin is None:
            best[kept[name]["sha256"]] = name
        else:
            done = changes(faces.copy(name, twin), kept[name], kept[twin]) if name in faces and twin in faces else []
            dropped[name] = "near_duplicate", _of_twin(kept[name], kept[twin], done)
    return dropped


def _of_twin(row: Mapping, twin: Mapping, done: Sequence[str]) -> str:
    """The detail of a dropped copy; `done` are the words of `copies.changes`."""
    name = PurePath(twin["photo"]).name
    if row["sha256"] == twin["sha256"]:
        return f"an exact copy of {name}"
    larger = float(twin["w"]) > 1.1 * float(row["w"])
    detail = f"near-duplicate of {name}, which {'shows the face larger' if larger else 'is at least as sharp'}"
    return f"{detail}; this one {', '.join(done)}" if done else detail


def _detail(row: Mapping) -> float:
    """How much of the face a photo resolves: its width times its sharpness."""
    return float(row["w"]) * float(row["sharpness"])


def _alike_frames(kept: Mapping[str, dict], distance: int, similarity: float) -> dict[str, set[str]]:
    """For every photo the others whose hashes differ by at most `distance` bits and whose faces by SFace are alike."""
    names = np.array(list(kept))
    hashes = np.array([int(row["phash"], 16) for row in kept.values()], np.uint64)
    vectors = np.stack([decode_embedding(row["embedding"]) for row in kept.values()]) if kept else np.zeros((0, 128))
    return {
        name: set(names[(np.bitwise_count(hashes ^ bits) <= distance) & (vectors @ vector >= similarity)]) - {name}
        for name, bits, vector in zip(kept, hashes, vectors, strict=True)
    }


def _held_out(kept: Mapping[str, dict], faces: Faces, settings: SimpleNamespace) -> set[str]:
    """The photos that training never sees: a share of them, at least MIN_HELD_OUT, whole look-alike groups only,
    spread over pose and light.

    Photos of one kind of pose and light are taken in the order of the hash of the file NAME: random, but the same in
    every run, and a photo that is retouched or replaced keeps its side, so that results before and after compare.
    """
    wanted = max(MIN_HELD_OUT, math.ceil(settings.held_out * len(kept)))
    room = min(wanted, len(kept) - settings.min_photos)
    kinds = _kinds(kept)
    sizes, taken = Counter(kinds.values()), Counter()
    held_out: set[str] = set()

    def share_taken(kind: tuple[int, bool]) -> float:
        return taken[kind] / sizes[kind]

    groups = sorted(look_alikes(kept, faces), key=lambda group: min(map(_order, group)))
    while fitting := [group for group in groups if len(held_out) + len(group) <= room]:
        # Next comes the kind of which the smallest share was taken so far.
        group = min(fitting, key=lambda group: share_taken(kinds[min(group, key=_order)]))
        groups.remove(group)
        held_out |= group
        taken.update(kinds[photo] for photo in group)
    return held_out


def _kinds(kept: Mapping[str, dict]) -> dict[str, tuple[int, bool]]:
    """The kind of every photo by pose and light: the third of the folder that its yaw is in, and the half that its
    brightness is in."""
    yaw = np.array([float(row["yaw"]) for row in kept.values()])
    brightness = np.array([float(row["brightness"]) for row in kept.values()])
    thirds, half = np.quantile(yaw, [1 / 3, 2 / 3]), np.median(brightness)
    return {
        photo: (int(np.searchsorted(thirds, y)), bool(b > half))
        for photo, y, b in zip(kept, yaw, brightness, strict=True)
    }


def look_alikes(kept: Mapping[str, dict], faces: Faces) -> list[set[str]]:
    """The photos in groups: two that look alike, directly or through others, are in one group."""
    group = {name: {name} for name in kept}
    alike = _alike_frames(kept, ALIKE_HASH, ALIKE_FACE)
    for name in kept:
        for other in sorted(alike[name].union(faces.possible(name)) & kept.keys()):
            if group[name] is group[other]:
                continue
            if other in alike[name] or faces.copy(name, other).distance <= ALIKE_COPY:
                joined = group[name] | group[other]
                group |= dict.fromkeys(joined, joined)
    return list({id(members): members for members in group.values()}.values())


def _order(photo: str) -> str:
    return hashlib.sha256(PurePath(photo).name.encode()).hexdigest()


def _by_reason(reasons: Iterable[str]) -> str:
    found = Counter(reasons)
    return ", ".join(f"{found[reason]} {reason}" for reason in REASONS if found[reason])


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
