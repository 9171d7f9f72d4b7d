"""Measuring portraits, and ranking the pictures of each scene and place."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from likeness.choosing.scoring import Scale
from likeness.core.provenance import canonical
from likeness.drawing.faults import is_broken
from likeness.faces.detection import Detector
from likeness.faces.identity import (
    Judge,
    Recogniser,
    decode_embedding,
    encode_embedding,
    judge_similarity,
    similarity,
)
from likeness.portraits.portrait_tables import PICTURE

DECIMALS = 4
# A face that is less sharp than this share of the sharpest one of its scene is called blurred in the reason.
BLURRED = 0.7


class MeasuredFace(NamedTuple):
    """A face of a picture: its box [x, y, w, h] as fractions of the picture's width and height, its embeddings, and its
    sharpness from 0 to 1."""

    box: list[float]
    sface: np.ndarray
    dlib: np.ndarray
    sharpness: float


class MeasuredPerson(NamedTuple):
    """The faces of the person's photos, and the scales of identity. The judge has none if it cannot tell the person
    from others."""

    train: Sequence[MeasuredFace]
    heldout: Sequence[MeasuredFace]
    scale: Scale
    judge_scale: Scale | None


def faces_bytes(image: np.ndarray, detector: Detector, recogniser: Recogniser, judge: Judge) -> bytes:
    """All faces of uint8 RGB (height, width, 3), the widest first, as JSON for the item cache. A broken picture has
    none."""
    height, width = image.shape[:2]
    faces = [
        {
            "box": [row["x"] / width, row["y"] / height, row["w"] / width, row["h"] / height],
            "sface": encode_embedding(recogniser.embedding(image, row)),
            "dlib": encode_embedding(judge.embedding(image, row)),
            "sharpness": row["sharpness"],
        }
        for row in ([] if is_broken(image) else detector.faces(image))
    ]
    return canonical(faces).encode()


def read_faces(path: Path) -> list[MeasuredFace]:
    """The faces in a file with `faces_bytes`."""
    return [
        MeasuredFace(face["box"], decode_embedding(face["sface"]), decode_embedding(face["dlib"]), face["sharpness"])
        for face in json.loads(path.read_bytes())
    ]


def scales(scores: pd.DataFrame) -> tuple[Scale, Scale | None]:
    """The scales of identity of a run's scores.tsv, by SFace and by dlib."""
    first = scores.iloc[0]
    by_judge = None
    if first["judge_ceiling"] != "" and not pd.isna(first["judge_ceiling"]):
        by_judge = Scale(float(first["judge_floor"]), float(first["judge_ceiling"]), first["floor_from"])
    return Scale(float(first["floor"]), float(first["ceiling"]), first["floor_from"]), by_judge


def measured_person(
    crops: pd.DataFrame, faces: Callable[[Path, str], Sequence[MeasuredFace]], scores: pd.DataFrame
) -> MeasuredPerson:
    """The person of crops.tsv, whose column `image` has the files, on the scales of a run's scores.tsv. `faces` gives
    the faces of a file with a hash; of a crop the largest is the person's."""

    def of(fate: str) -> list[MeasuredFace]:
        rows = crops[crops["fate"] == fate].itertuples()
        return [face for row in rows for face in faces(Path(row.image), row.sha256)[:1]]

    return MeasuredPerson(of("train"), of("heldout"), *scales(scores))


def portrait_rows(
    table: pd.DataFrame,
    faces: Sequence[Sequence[MeasuredFace]],
    person: MeasuredPerson,
    keep: Mapping[str, Mapping[str, int]],
    copy_limit: float,
) -> list[dict[str, Any]]:
    """One row of portraits.tsv for every row of the drawn tables. `faces` are those of each picture. `keep` is the
    number of pictures that are shown first, by kind and name.

    Before and after the face pass, the same face is measured: that in the redrawn box. Without a box it is the face
    most like the person; in a place nothing is measured then, because nobody became the person.
    """
    rows = []
    boxes = {key: _fractions(row) for row in table.to_dict("records") if row["box"] for key in [_key(row)]}
    finals = {_key(row): number for number, row in enumerate(table.to_dict("records"))}
    for number, (row, found) in enumerate(zip(table.to_dict("records"), faces, strict=True)):
        box = boxes.get(_key(row))
        face = None if row["kind"] == "place" and box is None else _face_of_person(found, box, person)
        measured = _measured(face, person) if face else {}
        rows.append({**row, "faces": len(found), **measured, "final": int(finals[_key(row)] == number)})
    return _ranked(rows, keep, copy_limit)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[column] for column in PICTURE)


def _fractions(row: Mapping[str, Any]) -> list[float]:
    """The box of a row as fractions of the picture."""
    x, y, w, h = json.loads(row["box"])
    return [x / row["width"], y / row["height"], w / row["width"], h / row["height"]]


def _face_of_person(
    found: Sequence[MeasuredFace], box: list[float] | None, person: MeasuredPerson
) -> MeasuredFace | None:
    """The face in a box, None if there is none; without a box the one most like the person."""
    if box is not None:
        found = [face for face in found if _same_place(face.box, box)]
    return max(found, key=lambda face: _raw(face.sface, [p.sface for p in person.heldout], similarity), default=None)


def _same_place(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the middle of each box lies in the other."""

    def has_middle(outer: Sequence[float], inner: Sequence[float]) -> bool:
        return all(abs(inner[i] + inner[i + 2] / 2 - outer[i] - outer[i + 2] / 2) <= outer[i + 2] / 2 for i in (0, 1))

    return has_middle(a, b) and has_middle(b, a)


def _raw(embedding: np.ndarray, photos: Sequence[np.ndarray], alike: Any) -> float:
    """The mean similarity of an embedding to photos."""
    return float(np.mean([alike(embedding, photo) for photo in photos]))


def _measured(face: MeasuredFace, person: MeasuredPerson) -> dict[str, Any]:
    """The measurements of the person's face in a picture."""
    identity = person.scale.identity(_raw(face.sface, [p.sface for p in person.heldout], similarity))
    judged: float | str = ""
    if person.judge_scale:
        raw = _raw(face.dlib, [p.dlib for p in person.heldout], judge_similarity)
        judged = round(person.judge_scale.identity(raw), DECIMALS)
    return {
        "identity": round(identity, DECIMALS),
        "judge_identity": judged,
        "sharpness": round(face.sharpness, DECIMALS),
        "copy": round(max(similarity(face.sface, photo.sface) for photo in person.train), DECIMALS),
    }


def _ranked(
    rows: list[dict[str, Any]], keep: Mapping[str, Mapping[str, int]], copy_limit: float
) -> list[dict[str, Any]]:
    """The rows with rank, kept and reason of the final pictures, the best first. Pictures without the person's face and
    copies come last; the others in the order of identity by SFace. dlib's only judges."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["final"]:
            groups.setdefault((row["kind"], row["name"], row["source"]), []).append(row)
    for (kind, name, _), group in groups.items():
        sharpest = max((row.get("sharpness", 0.0) for row in group), default=0.0)
        order = sorted(group, key=lambda row: (bool(_fault(row, copy_limit)), -row.get("identity", -9.0), row["seed"]))
        for rank, row in enumerate(order, start=1):
            fault, wanted = _fault(row, copy_limit), keep[kind][name]
            row["rank"], row["kept"] = rank, int(not fault and rank <= wanted)
            row["reason"] = "" if row["kept"] else fault or _less_alike(row, sharpest, wanted)
    return _best_first(rows)


def _best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the pictures of each scene, and of each picture of a place, in the order of their ranks. Scenes and
    places, and the stages of a picture, keep their order."""
    groups = list(dict.fromkeys((row["kind"], row["name"], row["source"]) for row in rows))
    ranks = {_key(row): row["rank"] for row in rows if row["final"]}
    return sorted(rows, key=lambda row: (groups.index((row["kind"], row["name"], row["source"])), ranks[_key(row)]))


def _fault(row: Mapping[str, Any], copy_limit: float) -> str:
    """The reason why a picture is never shown first; empty without one."""
    if row["detail"]:
        return str(row["detail"])
    if "identity" not in row:
        return "no face of the person was found"
    if row["copy"] >= copy_limit:
        return f"nearly a copy of a training photo (similarity {row['copy']:.2f})"
    return ""


def _less_alike(row: Mapping[str, Any], sharpest: float, wanted: int) -> str:
    others = "another picture is" if wanted == 1 else f"{wanted} other pictures are"
    blurred = ", and its face is blurred" if row["sharpness"] < BLURRED * sharpest else ""
    return f"{others} more like the person{blurred}"
