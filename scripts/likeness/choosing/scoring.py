"""Measuring pictures: the identity of the faces, the prompt following, and the gates that exclude a picture."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from likeness.choosing.leaks import leaking_cells
from likeness.core.errors import LikenessError
from likeness.core.files import seen_from
from likeness.core.manifests import again
from likeness.core.pinned_models import (
    FACE_DETECTION_FULL_RANGE,
    FACE_DETECTION_SHORT_RANGE,
    FACE_LANDMARKER,
    FACE_LANDMARKS_DLIB,
    FACE_RECOGNITION_DLIB,
    FACE_RECOGNITION_SFACE,
)
from likeness.core.provenance import canonical
from likeness.drawing.faults import SECOND_FACE, is_broken
from likeness.faces.attributes import CLOSE_UP
from likeness.faces.detection import Detector
from likeness.faces.identity import Judge, Recogniser, decode_embedding, encode_embedding, judge_similarity, similarity
from likeness.models.prompts import drawn_words

COLUMNS = [
    *("epoch", "weight", "prompt", "kind", "seed", "image", "sha256", "face_found", "identity", "identity_raw"),
    *("judge_identity", "copy", "prompt_score", "gate", "prompt_detail", "floor", "ceiling", "floor_from"),
    *("faces", "second_identity", "sharpness", "yaw", "pitch", "judge_floor", "judge_ceiling"),
]
# All models that a measurement depends on.
MODELS = [
    *(FACE_DETECTION_SHORT_RANGE, FACE_DETECTION_FULL_RANGE, FACE_LANDMARKER),
    *(FACE_RECOGNITION_SFACE, FACE_RECOGNITION_DLIB, FACE_LANDMARKS_DLIB),
]
DECIMALS = 4  # the recogniser's noise between two JPEGs of the same face is larger

# The smallest difference between the ceiling and the floor of a Scale, in cosine similarity. With a smaller one the
# unit of identity would be smaller than the variation between two photos of one person by SFace (0.05 to 0.1).
SMALLEST_SPAN = 0.05

SIDEWAYS, PROFILE = 30.0, 60.0  # degrees of yaw that count as fully turned: with both eyes visible, with one
USUAL_FACE = 0.45  # of the picture's height: that of a portrait, and of the training crops (crop.face_fraction)

# The smallest mean difference in cosine similarity to a prompt, between the base model's pictures of the prompt and its
# pictures of the class alone. With a smaller one CLIP sees nothing of what the prompt asks for. The best and the worst
# published method differ by 0.058 (PhotoMaker, arXiv:2312.04461, table 1: 0.298 and 0.240); this is a third of that.
SMALLEST_CLIP_SPAN = 0.02

Similarity = Callable[[np.ndarray, np.ndarray], float]


class Measurement(NamedTuple):
    """The measurements of one picture. Embeddings and attributes are those of the largest face; None and {} without a
    face. `second` is the SFace embedding of the second largest face, None if no other face counts."""

    faces: int
    sface: np.ndarray | None
    dlib: np.ndarray | None
    attributes: dict[str, float]
    broken: bool
    second: np.ndarray | None = None


EMBEDDINGS = ("sface", "dlib", "second")


class ClipView(NamedTuple):
    """CLIP's embeddings of the samples, each of length 1: of each picture, in order, and of each prompt."""

    pictures: Sequence[np.ndarray]
    prompts: Mapping[str, np.ndarray]


class Scale(NamedTuple):
    """The scale of identity: the raw similarity for 0 (the base model, strangers) and for 1 (the person's photos)."""

    floor: float
    ceiling: float
    floor_from: str

    def identity(self, raw: float) -> float:
        return (raw - self.floor) / (self.ceiling - self.floor)


# A pattern of words in a prompt, the attribute that they ask for, and the function that computes from a face's
# measurements how much it shows of the attribute (0 to 1). The first pattern that matches consumes the words, so that
# "not smiling" is not a smile. Left and right are those of the picture, as in captions of photos.
ATTRIBUTES: list[tuple[str, str, Callable[[Mapping[str, float]], float]]] = [
    (r"not smiling|unsmiling|without (?:a )?smil\w+|serious|neutral expression", "no smile", lambda a: 1 - a["smile"]),
    (r"smil\w+|laugh\w*|grin\w*", "smile", lambda a: a["smile"]),
    (r"(?:closed|shut) eyes|eyes (?:closed|shut)", "eyes closed", lambda a: a["eyes_closed"]),
    (r"open mouth|mouth open", "mouth open", lambda a: a["mouth_open"]),
    (r"(?:without|no) (?:\w+ )?(?:sun)?glasses", "no glasses", lambda a: 1 - a["glasses"]),
    (r"(?:sun|eye)?glasses|spectacles", "glasses", lambda a: a["glasses"]),
    (r"black[- ]and[- ]white|monochrome|gr[ae]yscale", "black and white", lambda a: a["monochrome"]),
    (r"close[- ]?up", "close-up", lambda a: (a["face_fraction"] - USUAL_FACE) / (CLOSE_UP - USUAL_FACE)),
    (r"(?:dark|black)(?: \w+)? background", "dark background", lambda a: 1 - a["background"]),
    (r"(?:bright|light|white)(?: \w+)? background", "bright background", lambda a: a["background"]),
    (r"(?:looking|turned|facing) (?:to the )?left", "left", lambda a: -a["yaw"] / SIDEWAYS),
    (r"(?:looking|turned|facing) (?:to the )?right", "right", lambda a: a["yaw"] / SIDEWAYS),
    (r"profile|side view|from the side", "profile", lambda a: abs(a["yaw"]) / PROFILE),
    (
        r"(?:looking|facing) (?:at |into |to )?(?:the )?(?:camera|viewer)|front(?:al)? view",
        "frontal",
        lambda a: 1 - abs(a["yaw"]) / SIDEWAYS,
    ),
]


def measure(image: np.ndarray, detector: Detector, recogniser: Recogniser, judge: Judge) -> Measurement:
    """Measure one picture, uint8 RGB (height, width, 3). In a broken picture no faces are detected."""
    if is_broken(image):
        return Measurement(0, None, None, {}, True)
    rows = detector.faces(image)
    if not rows:
        return Measurement(0, None, None, {}, False)
    faces_that_count = [row for row in rows if row["w"] >= SECOND_FACE * rows[0]["w"]]
    attributes = {name: rows[0][name] for name in ("yaw", "pitch", "sharpness")}
    attributes |= {"face_fraction": rows[0]["face_height"] / image.shape[0], **json.loads(rows[0]["attributes"])}
    return Measurement(
        faces=len(faces_that_count),
        sface=recogniser.embedding(image, rows[0]),
        dlib=judge.embedding(image, rows[0]),
        attributes={name: float(value) for name, value in attributes.items() if value is not None},
        broken=False,
        second=recogniser.embedding(image, faces_that_count[1]) if len(faces_that_count) > 1 else None,
    )


def measurement_bytes(measurement: Measurement) -> bytes:
    """A measurement as JSON for the item cache."""
    texts = {
        name: encode_embedding(e) if (e := getattr(measurement, name)) is not None else None for name in EMBEDDINGS
    }
    return canonical(measurement._asdict() | texts).encode()


def read_measurement(path: Path) -> Measurement:
    """The measurement in a file with `measurement_bytes`."""
    values = json.loads(path.read_bytes())
    arrays = {name: decode_embedding(values[name]) if values[name] else None for name in EMBEDDINGS}
    return Measurement(**(values | arrays))


def prompt_score(prompt: str, picture: Measurement, base: Measurement) -> tuple[float, str]:
    """The prompt following compared with the base model's picture from the same seed, 0 to 1, and an explanation.

    It is 1 - the mean loss over the attributes that the prompt names and that can be measured in both pictures. A gain
    in one attribute does not compensate for a loss in another. It is 1 if nothing can be measured.
    """
    before = _followed(prompt, base.attributes)
    if base.faces == 0:
        return 1.0, "the base model shows no face here"
    after = _followed(prompt, picture.attributes) if picture.faces else dict.fromkeys(before, 0.0)
    both = [name for name in before if name in after]
    if not both:
        return 1.0, "the prompt names nothing that is measured"
    loss = float(np.mean([max(0.0, before[name] - after[name]) for name in both]))
    return 1 - loss, ", ".join(f"{name} {after[name]:.2f} (base {before[name]:.2f})" for name in both)


def clip_prompt_scores(samples: pd.DataFrame, clip: ClipView) -> list[tuple[float, str]]:
    """`prompt_score` of every sample by CLIP, 0 to 1, and an explanation.

    It is 1 - the loss of cosine similarity to the prompt, compared with the base model's picture from the same seed.
    The unit of the loss depends on the prompt: it is the mean cosine of the base model's pictures of the prompt, minus
    the mean cosine of its pictures of the untrained prompts, which show the class and nothing else of the prompt.
    Without a unit the cosine is hard to compare, because it varies by a few hundredths only.
    """
    keys = list(samples[["epoch", "kind", "prompt", "seed"]].itertuples(index=False, name=None))
    cosines = [float(picture @ clip.prompts[key[2]]) for key, picture in zip(keys, clip.pictures, strict=True)]
    base = {key[1:]: cosine for key, cosine in zip(keys, cosines, strict=True) if key[0] == 0}
    of_class = [p for key, p in zip(keys, clip.pictures, strict=True) if key[:2] == (0, "untrained")]
    spans = {}
    for prompt, words in clip.prompts.items():
        floor = float(np.mean([picture @ words for picture in of_class]))
        top = float(np.mean([cosine for key, cosine in base.items() if key[1] == prompt]))
        spans[prompt] = floor, top - floor
    scores = []
    for (_, *key), cosine in zip(keys, cosines, strict=True):
        floor, span = spans[key[1]]
        detail = f"CLIP {cosine:.3f} (base {base[tuple(key)]:.3f}, class alone {floor:.3f})"
        if span < SMALLEST_CLIP_SPAN:
            scores.append((1.0, f"{detail}: the prompt asks for nothing that CLIP sees"))
        else:
            scores.append((1 - float(np.clip((base[tuple(key)] - cosine) / span, 0, 1)), detail))
    return scores


def identity_scale(
    train: Sequence[np.ndarray],
    heldout: Sequence[np.ndarray],
    base: Sequence[np.ndarray],
    strangers: Sequence[np.ndarray],
    similarity: Similarity,
) -> Scale:
    """The scale of identity, by embeddings. The ceiling is the mean similarity of training photos to held-out ones: a
    perfect LoRA's pictures would reach it. The floor is the mean of two similarities to the held-out photos: that of
    the base model's pictures and that of the strangers' photos. Both have the same weight, whatever the number of
    pictures. The floor is 0 if neither shows a face.
    """
    ceiling = float(np.mean([_raw(e, heldout, similarity) for e in train]))
    groups = {"base model": base, "strangers": strangers}
    means = {
        name: float(np.mean([_raw(e, heldout, similarity) for e in group])) for name, group in groups.items() if group
    }
    floor = float(np.mean(list(means.values()))) if means else 0.0
    return Scale(floor, ceiling, " and ".join(means) or "nothing: no face")


def score_rows(
    samples: pd.DataFrame,
    pictures: Sequence[Measurement],
    *,
    train: Sequence[Measurement],
    heldout: Sequence[Measurement],
    strangers: Sequence[Measurement],
    copy_limit: float,
    leak_limit: float,
    folder: Path,
    clip: ClipView | None = None,
) -> list[dict[str, Any]]:
    """One row of scores.tsv per sample. `pictures` are the samples' measurements in order. `folder` is the folder of
    the table. Prompt following is measured by `clip` if it is given, else by the attributes of the face.

    Raises LikenessError if the person's photos give no scale, or if the base model's picture for a sample is missing.
    """
    in_base = [picture for picture, epoch in zip(pictures, samples["epoch"], strict=True) if epoch == 0]
    groups = (train, heldout, in_base, strangers)
    sface_train, sface_heldout, sface_base, sface_strangers = (_embeddings(group, "sface") for group in groups)
    dlib_train, dlib_heldout, dlib_base, dlib_strangers = (_embeddings(group, "dlib") for group in groups)
    scale = _checked_scale(sface_train, sface_heldout, sface_base, sface_strangers)
    judge_scale = identity_scale(dlib_train, dlib_heldout, dlib_base, dlib_strangers, judge_similarity)
    judge_has_scale = judge_scale.ceiling - judge_scale.floor >= SMALLEST_SPAN
    base = _base_pictures(samples, pictures)
    if clip:
        prompt_scores = clip_prompt_scores(samples, clip)
    else:
        keys = samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None)
        prompt_scores = [prompt_score(key[0], picture, base[key]) for key, picture in zip(keys, pictures, strict=True)]
    rows = []
    for sample, picture, (score, detail) in zip(samples.to_dict("records"), pictures, prompt_scores, strict=True):
        raw = copy = judge = second = None
        if picture.sface is not None:
            raw = _raw(picture.sface, sface_heldout, similarity)
            copy = max(similarity(picture.sface, photo) for photo in sface_train)
        if picture.dlib is not None and judge_has_scale:
            judge = judge_scale.identity(_raw(picture.dlib, dlib_heldout, judge_similarity))
        if picture.second is not None:
            second = scale.identity(_raw(picture.second, sface_heldout, similarity))
        rows.append(
            {
                **{key: sample[key] for key in ("epoch", "weight", "prompt", "kind", "seed")},
                "image": seen_from(folder, Path(sample["image"])),
                "sha256": sample["sha256"],
                "face_found": int(picture.faces > 0),
                "identity": 0.0 if raw is None else _rounded(scale.identity(raw)),
                "identity_raw": _rounded(raw),
                "judge_identity": 0.0 if judge_has_scale and raw is None else _rounded(judge),
                "copy": _rounded(copy),
                "prompt_score": _rounded(score),
                "gate": _gate(picture, sample["kind"], copy, copy_limit),
                "prompt_detail": detail,
                "floor": _rounded(scale.floor),
                "ceiling": _rounded(scale.ceiling),
                "floor_from": scale.floor_from,
                "faces": picture.faces,
                "second_identity": _rounded(second),
                **{name: picture.attributes.get(name, "") for name in ("sharpness", "yaw", "pitch")},
                "judge_floor": _rounded(judge_scale.floor if judge_has_scale else None),
                "judge_ceiling": _rounded(judge_scale.ceiling if judge_has_scale else None),
            }
        )
    return with_leak_gate(rows, leak_limit)


def _gate(picture: Measurement, kind: str, copy: float | None, copy_limit: float) -> str:
    """The reason to exclude a picture; "" if there is none. `copy` is the similarity to the nearest training photo."""
    if picture.broken:
        return "broken"
    if not picture.faces:
        return "no_face"
    if picture.faces > 1 and kind != "two_people":
        return "several_faces"
    return "copy" if copy is not None and copy >= copy_limit else ""


def with_leak_gate(rows: list[dict[str, Any]], leak_limit: float) -> list[dict[str, Any]]:
    """The rows with the gate "leak" for all pictures of an (epoch, weight) that leaks. A picture with another gate
    keeps it."""
    leaking = leaking_cells(pd.DataFrame(rows), leak_limit)
    return [row | {"gate": row["gate"] or "leak"} if (row["epoch"], row["weight"]) in leaking else row for row in rows]


def _checked_scale(
    train: Sequence[np.ndarray],
    heldout: Sequence[np.ndarray],
    base: Sequence[np.ndarray],
    strangers: Sequence[np.ndarray],
) -> Scale:
    """The scale by SFace. Raises LikenessError if no photo of the person shows a face, or if ceiling and floor are too
    close to each other."""
    for name, group in (("training", train), ("held-out", heldout)):
        if not group:
            raise LikenessError(
                f"no face found in any {name} crop; identity cannot be measured, so add photos of the face"
            )
    scale = identity_scale(train, heldout, base, strangers, similarity)
    if scale.ceiling - scale.floor < SMALLEST_SPAN:
        raise LikenessError(
            f"the person's photos are as alike to one another ({scale.ceiling:.2f}) as pictures of others are to them "
            f"({scale.floor:.2f}, {scale.floor_from}); check that all photos show one person"
        )
    return scale


def _base_pictures(samples: pd.DataFrame, pictures: Sequence[Measurement]) -> dict[tuple[str, str, int], Measurement]:
    """The base model's picture for each (prompt, kind, seed)."""
    keys = samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None)
    base = {key: p for key, p, e in zip(keys, pictures, samples["epoch"], strict=True) if e == 0}
    for key in samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None):
        if key not in base:
            raise LikenessError(
                f"no picture of the base model for prompt {key[0]!r}, seed {key[2]}; {again('sample_checkpoint')}"
            )
    return base


def _followed(prompt: str, attributes: Mapping[str, float]) -> dict[str, float]:
    """{attribute that the prompt names: how much of it the face shows, 0 to 1}, without those that were not
    measured."""
    rest, followed = drawn_words(prompt).lower(), {}
    for words, name, shown in ATTRIBUTES:
        rest, count = re.subn(rf"\b(?:{words})\b", " ", rest)
        if count:
            try:
                followed[name] = float(np.clip(shown(attributes), 0, 1))
            except KeyError:
                continue  # not measured, such as the background of a face that fills the picture
    return followed


def _embeddings(pictures: Sequence[Measurement], which: str) -> list[np.ndarray]:
    return [embedding for picture in pictures if (embedding := getattr(picture, which)) is not None]


def _raw(embedding: np.ndarray, heldout: Sequence[np.ndarray], similarity: Similarity) -> float:
    """The mean similarity of an embedding to the held-out photos."""
    return float(np.mean([similarity(embedding, photo) for photo in heldout]))


def _rounded(value: float | None) -> float | str:
    """A number as in scores.tsv, where "" stands for None."""
    return "" if value is None else round(float(value), DECIMALS)
