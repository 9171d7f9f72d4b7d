"""Measuring pictures: who is on them, whether the prompt was followed, and what keeps a picture out of the choice."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from likeness.attributes import CLOSE_UP
from likeness.errors import LikenessError
from likeness.faces import Detector
from likeness.files import seen_from
from likeness.identity import Judge, Recogniser, decode_embedding, encode_embedding, judge_similarity, similarity
from likeness.leaks import leaking_cells
from likeness.models import (
    FACE_DETECTION_FULL_RANGE,
    FACE_DETECTION_SHORT_RANGE,
    FACE_LANDMARKER,
    FACE_LANDMARKS_DLIB,
    FACE_RECOGNITION_DLIB,
    FACE_RECOGNITION_SFACE,
)
from likeness.prompts import drawn_words
from likeness.provenance import canonical

COLUMNS = [
    *("epoch", "weight", "prompt", "kind", "seed", "image", "sha256", "face_found", "identity", "identity_raw"),
    *("judge_identity", "copy", "prompt_score", "gate", "prompt_detail", "floor", "ceiling", "floor_from"),
    *("faces", "second_identity", "sharpness", "yaw", "pitch"),
]
# Every model that a measurement depends on.
MODELS = [
    *(FACE_DETECTION_SHORT_RANGE, FACE_DETECTION_FULL_RANGE, FACE_LANDMARKER),
    *(FACE_RECOGNITION_SFACE, FACE_RECOGNITION_DLIB, FACE_LANDMARKS_DLIB),
]
DECIMALS = 4  # a recogniser's own noise, from one JPEG of a face to the next, is larger

# A second face counts from half the width of the first: smaller ones are pictures on a wall, or false.
SECOND_FACE = 0.5
# The person's photos must be this much more alike to one another than strangers are, in cosine similarity. Below, the
# units of identity would be smaller than what SFace varies by between two photos of one person (0.05 to 0.1).
SMALLEST_SPAN = 0.05

# Broken pictures. A VAE that met NaN gives one flat colour; a LoRA far too strong gives clipped colours or noise.
FLAT = 8.0  # standard deviation of the luminance in levels of 255; portraits lie above 30
CLIPPED = 0.9  # share of pixels at pure black, white or primary; a dark studio background reaches 0.5
NOISY = 0.75  # mean step between neighbours / standard deviation: 1.13 for white noise, below 0.3 for photos

SIDEWAYS, PROFILE = 30.0, 60.0  # degrees of yaw that count as fully turned: both eyes seen, one eye seen
USUAL_FACE = 0.45  # of the picture's height: that of a portrait, and of the training crops (crop.face_fraction)

# By how much CLIP must tell the base model's pictures of a prompt from its pictures of the class alone, in cosine
# similarity, for the prompt to ask anything that CLIP sees. The best and the worst published method differ by 0.058
# (PhotoMaker, arXiv:2312.04461, table 1: 0.298 and 0.240); this is a third of that.
SMALLEST_CLIP_SPAN = 0.02


class Measurement(NamedTuple):
    """What one picture shows. Embeddings and attributes are those of the largest face; None and {} without one.
    `second` is the SFace embedding of the next largest, None where no other face counts."""

    faces: int
    sface: np.ndarray | None
    dlib: np.ndarray | None
    attributes: dict[str, float]
    broken: bool
    second: np.ndarray | None = None


EMBEDDINGS = ("sface", "dlib", "second")


class ClipView(NamedTuple):
    """What CLIP makes of the samples: an embedding of length 1 for each picture, in order, and for each prompt."""

    pictures: Sequence[np.ndarray]
    prompts: Mapping[str, np.ndarray]


class Scale(NamedTuple):
    """The units of identity: raw similarity at 0 (the base model, strangers) and at 1 (the person's own photos)."""

    floor: float
    ceiling: float
    floor_from: str

    def identity(self, raw: float) -> float:
        return (raw - self.floor) / (self.ceiling - self.floor)


# Words of a prompt, what they ask for, and how much of it a measured face shows (0 to 1). The first match takes the
# words, so that "not smiling" is no smile. Left and right are those of the picture, as in captions of photos.
WANTED: list[tuple[str, str, Callable[[Mapping], float]]] = [
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
    """One picture, uint8 RGB (height, width, 3). A broken one is not searched for faces."""
    if is_broken(image):
        return Measurement(0, None, None, {}, True)
    rows = detector.faces(image)
    if not rows:
        return Measurement(0, None, None, {}, False)
    counted = [row for row in rows if row["w"] >= SECOND_FACE * rows[0]["w"]]
    attributes = {name: rows[0][name] for name in ("yaw", "pitch", "sharpness")}
    attributes |= {"face_fraction": rows[0]["face_height"] / image.shape[0], **json.loads(rows[0]["attributes"])}
    return Measurement(
        faces=len(counted),
        sface=recogniser.embedding(image, rows[0]),
        dlib=judge.embedding(image, rows[0]),
        attributes={name: float(value) for name, value in attributes.items() if value is not None},
        broken=False,
        second=recogniser.embedding(image, counted[1]) if len(counted) > 1 else None,
    )


def measurement_bytes(measurement: Measurement) -> bytes:
    """For the item cache."""
    texts = {
        name: encode_embedding(e) if (e := getattr(measurement, name)) is not None else None for name in EMBEDDINGS
    }
    return canonical(measurement._asdict() | texts).encode()


def read_measurement(path: Path) -> Measurement:
    values = json.loads(path.read_bytes())
    arrays = {name: decode_embedding(values[name]) if values[name] else None for name in EMBEDDINGS}
    return Measurement(**(values | arrays))


def is_broken(image: np.ndarray) -> bool:
    """Whether uint8 RGB (height, width, 3) is one flat colour, clipped nearly everywhere, or noise."""
    luminance = image.mean(axis=2)
    spread = float(luminance.std())
    if spread < FLAT:
        return True
    clipped = float(np.isin(image, (0, 255)).all(axis=2).mean())
    steps = (np.abs(np.diff(luminance, axis=0)).mean() + np.abs(np.diff(luminance, axis=1)).mean()) / 2
    return clipped > CLIPPED or float(steps) / spread > NOISY


def prompt_score(prompt: str, picture: Measurement, base: Measurement) -> tuple[float, str]:
    """How much of what the base model shows of the prompt, from the same seed, is still there: 0 to 1, and why.

    1 - the mean loss over the attributes that the prompt names, both pictures show, and a face can be measured for; a
    gain in one does not make up for a loss in another. 1 where nothing can be measured.
    """
    asked = _followed(prompt, base.attributes)
    if base.faces == 0:
        return 1.0, "the base model shows no face here"
    shown = _followed(prompt, picture.attributes) if picture.faces else dict.fromkeys(asked, 0.0)
    both = [name for name in asked if name in shown]
    if not both:
        return 1.0, "the prompt names nothing that is measured"
    loss = float(np.mean([max(0.0, asked[name] - shown[name]) for name in both]))
    return 1 - loss, ", ".join(f"{name} {shown[name]:.2f} (base {asked[name]:.2f})" for name in both)


def clip_prompt_scores(samples: pd.DataFrame, clip: ClipView) -> list[tuple[float, str]]:
    """`prompt_score` of every sample by CLIP: 0 to 1, and why.

    1 - the loss of cosine to the prompt against the base model's picture of the same seed, in units of the prompt: 1 is
    what the base model's pictures of it reach on average, 0 what its pictures of the untrained prompts do, which show
    the class and nothing else that is asked for. A bare cosine has no such scale: it spans a few hundredths only.
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
    alike: Callable[[np.ndarray, np.ndarray], float],
) -> Scale:
    """Ceiling: the mean similarity of training photos to held-out ones, which is what a perfect LoRA's pictures would
    have. Floor: the mean of the base model's and of the strangers' similarity to the held-out ones, each with one vote
    however many pictures there are; 0 where neither shows a face.
    """
    ceiling = float(np.mean([_raw(e, heldout, alike) for e in train]))
    groups = {"base model": base, "strangers": strangers}
    means = {name: float(np.mean([_raw(e, heldout, alike) for e in group])) for name, group in groups.items() if group}
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
) -> list[dict]:
    """One row of scores.tsv per sample. `pictures` are the samples' measurements in order; `folder` is where the table
    will lie; prompt following is measured by `clip` where it is there, else on the face.

    Raises LikenessError if the person's photos give no scale, or a picture has none of the base beside it.
    """
    in_base = [picture for picture, epoch in zip(pictures, samples["epoch"], strict=True) if epoch == 0]
    scale = _checked_scale(*(_embeddings(g, "sface") for g in (train, heldout, in_base, strangers)), similarity)
    judge_heldout = _embeddings(heldout, "dlib")
    judge_scale = identity_scale(
        _embeddings(train, "dlib"),
        judge_heldout,
        *(_embeddings(g, "dlib") for g in (in_base, strangers)),
        judge_similarity,
    )
    judged = judge_scale.ceiling - judge_scale.floor >= SMALLEST_SPAN
    base = _base_pictures(samples, pictures)
    if clip:
        followed = clip_prompt_scores(samples, clip)
    else:
        keys = samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None)
        followed = [prompt_score(key[0], picture, base[key]) for key, picture in zip(keys, pictures, strict=True)]
    rows = []
    for sample, picture, (score, detail) in zip(samples.to_dict("records"), pictures, followed, strict=True):
        raw = copy = judge = second = ""
        if picture.sface is not None:
            raw = _raw(picture.sface, _embeddings(heldout, "sface"), similarity)
            copy = max(similarity(picture.sface, photo) for photo in _embeddings(train, "sface"))
            judge = judge_scale.identity(_raw(picture.dlib, judge_heldout, judge_similarity)) if judged else ""
        if picture.second is not None:
            second = scale.identity(_raw(picture.second, _embeddings(heldout, "sface"), similarity))
        rows.append(
            {
                **{key: sample[key] for key in ("epoch", "weight", "prompt", "kind", "seed")},
                "image": seen_from(folder, Path(sample["image"])),
                "sha256": sample["sha256"],
                "face_found": int(picture.faces > 0),
                "identity": _rounded(scale.identity(raw)) if raw != "" else 0.0,
                "identity_raw": _rounded(raw),
                "judge_identity": _rounded(judge) if raw != "" else 0.0 if judged else "",
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
            }
        )
    return leaks_gated(rows, leak_limit)


def _gate(picture: Measurement, kind: str, copy: float | str, copy_limit: float) -> str:
    if picture.broken:
        return "broken"
    if not picture.faces:
        return "no_face"
    if picture.faces > 1 and kind != "two_people":
        return "several_faces"
    return "copy" if copy >= copy_limit else ""


def leaks_gated(rows: list[dict], leak_limit: float) -> list[dict]:
    """Every picture of an (epoch, weight) that leaks is out, but for those that have a reason of their own."""
    leaking = leaking_cells(pd.DataFrame(rows), leak_limit)
    return [row | {"gate": row["gate"] or "leak"} if (row["epoch"], row["weight"]) in leaking else row for row in rows]


def _checked_scale(train, heldout, base, strangers, alike) -> Scale:
    for name, group in (("training", train), ("held-out", heldout)):
        if not group:
            raise LikenessError(
                f"no face found in any {name} crop; identity cannot be measured, so add photos of the face"
            )
    scale = identity_scale(train, heldout, base, strangers, alike)
    if scale.ceiling - scale.floor < SMALLEST_SPAN:
        raise LikenessError(
            f"the person's photos are as alike to one another ({scale.ceiling:.2f}) as pictures of others are to them "
            f"({scale.floor:.2f}, {scale.floor_from}); check that all photos show one person"
        )
    return scale


def _base_pictures(samples: pd.DataFrame, pictures: Sequence[Measurement]) -> dict[tuple, Measurement]:
    """The base model's picture of each (prompt, kind, seed)."""
    keys = samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None)
    base = {key: p for key, p, e in zip(keys, pictures, samples["epoch"], strict=True) if e == 0}
    for key in samples[["prompt", "kind", "seed"]].itertuples(index=False, name=None):
        if key not in base:
            raise LikenessError(
                f"no picture of the base model for prompt {key[0]!r}, seed {key[2]}; "
                "run snakemake --forcerun sample_checkpoint"
            )
    return base


def _followed(prompt: str, attributes: Mapping[str, float]) -> dict[str, float]:
    """{what the drawn words of a prompt name: how much of it shows, 0 to 1}, as far as it was measured."""
    rest, followed = drawn_words(prompt).lower(), {}
    for words, name, shown in WANTED:
        rest, count = re.subn(rf"\b(?:{words})\b", " ", rest)
        if count:
            try:
                followed[name] = float(np.clip(shown(attributes), 0, 1))
            except KeyError:
                continue  # not measured: the background of a face that fills the picture
    return followed


def _embeddings(pictures: Sequence[Measurement], which: str) -> list[np.ndarray]:
    return [embedding for picture in pictures if (embedding := getattr(picture, which)) is not None]


def _raw(embedding: np.ndarray, heldout: Sequence[np.ndarray], alike: Callable) -> float:
    return float(np.mean([alike(embedding, photo) for photo in heldout]))


def _rounded(value: float | str) -> float | str:
    return value if value == "" else round(float(value), DECIMALS)
