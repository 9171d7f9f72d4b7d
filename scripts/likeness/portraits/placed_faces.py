"""Faces of subjects put into pictures of the user's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from likeness.core.errors import LikenessError
from likeness.faces.faces_of_picture import Row, face_at
from likeness.portraits.redraw import redrawing
from likeness.portraits.studio import FaceOfPicture, Person, Studio


class PlacedPerson(NamedTuple):
    """A subject, and the face that becomes theirs, as `face_at` reads it."""

    person: Person
    face: str | int | Sequence[float]


@dataclass
class PlacedFaces:
    """A picture of the cache, drawn from a seed, with the faces that became the subjects'. By the subjects' names: the
    faces, and sentences about those who were not put in."""

    original: Path
    seed: int
    picture: Path
    faces: dict[str, Row] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)


def placed_faces(
    studio: Studio, originals: Sequence[Path], people: Sequence[PlacedPerson], seeds: Sequence[int], resolution: int
) -> list[PlacedFaces]:
    """Each of the pictures of the cache from each seed, with the people's faces, each redrawn with its own LoRA and
    prompt.

    A LoRA is loaded once, and its faces of all pictures are redrawn together. All faces are found in the original
    pictures, so that one that was redrawn changes no other's number. No face becomes two people's.
    """
    found = {original: studio.faces(original) for original in originals}
    placed = [PlacedFaces(original, seed, original) for original in originals for seed in seeds]
    settings = studio.settings
    for person, where in people:
        chosen = []
        for each in placed:
            try:
                each.faces[person.name] = _face_of(person, each, found[each.original], where)
                chosen.append(each)
            except LikenessError as error:
                each.details[person.name] = str(error)
        how = redrawing(settings, prompt=person.prompt(settings["prompt"]), strength=settings["strength"])
        faces = [FaceOfPicture(each.picture, each.faces[person.name], each.seed) for each in chosen]
        for each, picture in zip(chosen, studio.with_faces(faces, person, how, resolution), strict=True):
            each.picture = picture
    return placed


def _face_of(person: Person, placed: PlacedFaces, rows: Sequence[Row], where: str | int | Sequence[float]) -> Row:
    """The face that becomes the person's. Raises LikenessError if there is none, or if another person has it."""
    if not rows:
        raise LikenessError("no face was found, so none was redrawn")
    try:
        row = face_at(rows, where)
    except LikenessError as error:
        raise LikenessError(f"the picture {error}; {person.name} was not put into it") from None
    for name, taken in placed.faces.items():
        if taken is row:
            raise LikenessError(f"this face became {name}'s; {person.name} was not put into the picture")
    return row
