"""Faces of subjects put into pictures of the user's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from likeness.core.errors import LikenessError
from likeness.faces.faces_of_picture import Row, box_of, face_at
from likeness.portraits.redraw import redrawing
from likeness.portraits.studio import FaceOfPicture, Person, Studio


class PlacedPerson(NamedTuple):
    """A subject, and the face that becomes theirs, as `face_at` reads it."""

    person: Person
    face: str | int | Sequence[float]


@dataclass
class PlacedFaces:
    """A picture of the cache, drawn from a seed, in which faces were redrawn; their boxes [x, y, w, h] in px by the
    subjects' names, and sentences about those that were not."""

    original: Path
    seed: int
    picture: Path
    boxes: dict[str, list[float]] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)


def placed_faces(
    studio: Studio, originals: Sequence[Path], people: Sequence[PlacedPerson], seeds: Sequence[int], resolution: int
) -> list[PlacedFaces]:
    """Each of the pictures of the cache from each seed, with the people's faces, each redrawn with its own LoRA and
    prompt.

    A LoRA is loaded once, and its faces of all pictures are redrawn together. All faces are found in the original
    pictures, so that one that was redrawn changes no other's number.
    """
    faces = {original: studio.faces(original) for original in originals}
    placed = [PlacedFaces(original, seed, original) for original in originals for seed in seeds]
    for each in placed:
        if not faces[each.original]:
            each.details.append("no face was found, so none was redrawn")
    for person, where in people:
        chosen = [
            (each, row) for each in placed if (row := _face_of(person, each, faces[each.original], where)) is not None
        ]
        settings = studio.settings
        how = redrawing(settings, prompt=person.prompt(settings["prompt"]), strength=settings["strength"])
        wanted = [FaceOfPicture(each.picture, row, each.seed) for each, row in chosen]
        redrawn = studio.with_faces(wanted, person, how, resolution)
        for (each, row), picture in zip(chosen, redrawn, strict=True):
            each.picture = picture
            each.boxes[person.name] = box_of(row)
    return placed


def _face_of(
    person: Person, placed: PlacedFaces, rows: Sequence[Row], where: str | int | Sequence[float]
) -> Row | None:
    """The face that becomes the person's. If there are faces and not this one, the picture gets a sentence."""
    if not rows:
        return None
    try:
        return face_at(rows, where)
    except LikenessError as error:
        placed.details.append(f"{error}; {person.name} was not put into it")
        return None
