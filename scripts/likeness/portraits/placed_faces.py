"""Faces of subjects put into a picture of the user's."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from likeness.core.errors import LikenessError
from likeness.portraits.faces_of_picture import box_of, face_at
from likeness.portraits.redraw import redrawing
from likeness.portraits.studio import Person, Studio


class PlacedPerson(NamedTuple):
    """A subject, and the face that becomes theirs, as `face_at` reads it."""

    person: Person
    face: str | int | Sequence[float]


class PlacedFaces(NamedTuple):
    """A picture in which faces were redrawn, their boxes [x, y, w, h] in px by the subjects' names, and sentences about
    those that were not."""

    picture: Path
    boxes: dict[str, list[float]]
    details: list[str]


def placed_faces(
    studio: Studio, original: Path, people: Sequence[PlacedPerson], seed: int, resolution: int
) -> PlacedFaces:
    """A picture of the cache with the people's faces, each redrawn with its own LoRA and prompt.

    All faces are found in the original picture, so that one that was redrawn changes no other's number.
    """
    rows = studio.faces(original)
    if not rows:
        return PlacedFaces(original, {}, ["no face was found, so none was redrawn"])
    picture, boxes, details = original, {}, []
    for person, where in people:
        try:
            row = face_at(rows, where)
        except LikenessError as error:
            details.append(f"{error}; {person.name} was not put into it")
            continue
        settings = studio.settings
        how = redrawing(settings, prompt=person.prompt(settings["prompt"]), strength=settings["strength"], seed=seed)
        picture = studio.with_face(picture, row, person, how, resolution)
        boxes[person.name] = box_of(row)
    return PlacedFaces(picture, boxes, details)
