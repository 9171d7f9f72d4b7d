"""Who the subject of a folder is: the person on most photos, or the one whom the user named."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage

from likeness.core.errors import LikenessError
from likeness.faces.flaws import flaw_of
from likeness.faces.identity import decode_embedding
from likeness.photos.file_kinds import matching_name

# Two groups of faces are one person if the mean similarity between them is at least this. Of people who do not exist it
# was 0.51 or more within one person's photos, and 0.37 or less between two people's.
SAME_GROUP = 0.42
# A group on RIVAL_PHOTOS or more is another person (perhaps a sister) if the cosine of its mean to the subject's is
# lower than this, or if both are on several photos together. Where linkage split one person into two groups, the cosine
# of their means was 0.55 or more; for two people it was 0.49 or less in 89 of 91 pairs, and 0.62 at most.
ONE_PERSON = 0.52
RIVAL_PHOTOS = 3
# A face with less than this share of the main face's width is somebody in the background.
BYSTANDER = 1 / 3


def compare_with_subject(
    photos: Mapping[str, list[dict[str, Any]]], settings: SimpleNamespace, reference: Collection[str]
) -> None:
    """Add to every face `similarity`, the cosine to the mean of the subject's faces on the other photos, and `rival`,
    the same for the person of the folder, other than the subject, whom it resembles most (0 if nobody else is on
    several photos)."""
    faces = [face for rows in photos.values() for face in rows if face["face"] != ""]
    if not faces:
        return
    vectors = np.stack([decode_embedding(face["embedding"]) for face in faces])
    photo_of = np.array([face["photo"] for face in faces])
    # Small and blurred faces resemble many people, so only the others decide who is who.
    clear_faces = np.array([not flaw_of(face, settings) for face in faces])
    if not clear_faces.any():
        clear_faces[:] = True
    groups = _people(vectors, clear_faces)
    names = [PurePath(photo).name for photo in photos]
    reference_faces = _reference_faces(faces, [matching_name(name, names) or name for name in reference])
    subject = (
        reference_faces | np.isin(groups, groups[reference_faces & clear_faces])
        if reference
        else groups == _most_seen(groups, photo_of)
    )
    rival = _rival_similarity(vectors, groups, subject, photo_of)
    for _ in range(5):  # settles in one or two rounds
        similarity = similarity_to_mean(vectors, subject, photo_of)
        like_subject = clear_faces & (similarity >= np.maximum(settings.same_person, rival))
        # One face per photo, so that a picture with two similar faces does not support itself.
        best = pd.Series(similarity).groupby(photo_of).transform("max").to_numpy()
        like_subject = reference_faces | (like_subject & (similarity == best))
        if not like_subject.any() or (like_subject == subject).all():
            break
        subject = like_subject
    for face, to_subject, to_rival in zip(faces, similarity, rival, strict=True):
        face.update(similarity=f"{to_subject:.3f}", rival=to_rival)


def _rival_similarity(vectors: np.ndarray, groups: np.ndarray, subject: np.ndarray, photo_of: np.ndarray) -> np.ndarray:
    """The cosine of every face to the person, other than the subject, whom it resembles most: (faces,)."""
    rival = np.zeros(len(vectors))
    for group in set(groups[~subject]) - {0}:
        members = groups == group
        on, together = set(photo_of[members]), set(photo_of[members]) & set(photo_of[subject])
        unlike = _mean(vectors[members]) @ _mean(vectors[subject]) < ONE_PERSON
        if len(on) >= RIVAL_PHOTOS and (unlike or len(together) > 1):
            rival = np.maximum(rival, similarity_to_mean(vectors, members, photo_of))
    return rival


def _people(vectors: np.ndarray, clear_faces: np.ndarray) -> np.ndarray:
    """The number of the person that each face shows, by average linkage: int (faces,), 0 for faces that are not
    `clear_faces`."""
    groups = np.zeros(len(vectors), int)
    groups[clear_faces] = 1
    if clear_faces.sum() > 1:
        tree = linkage(vectors[clear_faces], method="average", metric="cosine")
        groups[clear_faces] = fcluster(tree, 1 - SAME_GROUP, criterion="distance")
    return groups


def _most_seen(groups: np.ndarray, photo_of: np.ndarray) -> int:
    """The number of the person who is on most photos. Raises LikenessError if two people are on equally many photos,
    and on more than one."""
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


def _reference_faces(faces: Sequence[Mapping[str, Any]], reference: Collection[str]) -> np.ndarray:
    """Which faces are those of the reference photos: bool (faces,). Raises LikenessError if one of the photos shows no
    face, or several."""
    names = np.array([PurePath(face["photo"]).name for face in faces])
    width = np.array([float(face["w"]) for face in faces])
    chosen = np.zeros(len(faces), bool)
    for name in reference:
        here = names == name
        large = here & (width >= BYSTANDER * width[here].max(initial=0))
        if large.sum() != 1:
            faces_shown = f"{large.sum()} faces" if large.any() else "no face"
            raise LikenessError(f"reference photo {name} shows {faces_shown}; name photos that show only the subject")
        chosen |= large
    return chosen


def similarity_to_mean(vectors: np.ndarray, members: np.ndarray, photo_of: np.ndarray) -> np.ndarray:
    """Cosine of each face to the mean of the members on other photos than its own; 1 if there are none."""
    total = vectors[members].sum(axis=0)
    own = pd.DataFrame(vectors * members[:, None]).groupby(photo_of).transform("sum").to_numpy()
    others = total - own
    length = np.linalg.norm(others, axis=1)
    alone = length < 1e-6
    return np.where(alone, 1.0, (vectors * others).sum(axis=1) / np.where(alone, 1, length))


def _mean(vectors: np.ndarray) -> np.ndarray:
    mean = vectors.mean(axis=0)
    return mean / np.linalg.norm(mean)
