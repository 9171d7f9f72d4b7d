"""Several subjects in one picture: each gets its own face, from its own LoRA and prompt."""

from pathlib import Path

import pytest

from likeness.portraits.face_pass import Framing
from likeness.portraits.placed_faces import PlacedPerson, placed_faces
from likeness.portraits.studio import Person

SETTINGS = {
    **{"prompt": "photo of {subject}", "strength": 0.6, "negative_prompt": "", "steps": 4},
    **{"guidance_scale": 3.0, "clip_skip": 1},
}


def person(name: str, trigger: str, noun: str) -> Person:
    words = {"subject": f"{trigger} {noun}", "class_noun": noun}
    return Person(name, Path(f"{name}.safetensors"), 1.0, name, words, Framing(0.45, 0.48))


AVA, OTTO = person("ava", "ohwx", "woman"), person("otto", "sks", "man")


def row(x: float, width: float) -> dict:
    return {"x": x, "y": 10.0, "w": width, "h": width, "center_x": x + width / 2, "center_y": 10 + width / 2}


class Studio:
    """Notes which face is redrawn as whose."""

    settings = SETTINGS

    def __init__(self, *faces: dict):
        self._faces, self.redrawn = list(faces), []

    def faces(self, picture: Path) -> list[dict]:
        return self._faces

    def with_faces(self, faces, who: Person, how, resolution: int) -> list[Path]:
        self.redrawn += [(str(face.picture), face.row["x"], who.name, how.prompt, face.seed) for face in faces]
        return [Path(f"{face.picture}+{who.name}") for face in faces]


def placed(studio: Studio, *people: PlacedPerson):
    (result,) = placed_faces(studio, [Path("a")], people, [7], 128)
    return result


def test_each_face_is_redrawn_as_its_own_subject_one_after_the_other():
    studio = Studio(row(300, 80), row(20, 60))
    result = placed(studio, PlacedPerson(AVA, 1), PlacedPerson(OTTO, "largest"))
    assert studio.redrawn == [
        ("a", 20, "ava", "photo of ohwx woman", 7),
        ("a+ava", 300, "otto", "photo of sks man", 7),
    ]
    assert result.picture == Path("a+ava+otto") and result.details == {}
    assert {name: row["x"] for name, row in result.faces.items()} == {"ava": 20, "otto": 300}


def test_a_subject_without_a_face_is_named_and_the_others_are_put_in():
    studio = Studio(row(20, 60))
    result = placed(studio, PlacedPerson(AVA, 2), PlacedPerson(OTTO, 1))
    assert result.details == {"ava": "the picture has one face, so there is no face 2; ava was not put into it"}
    assert list(result.faces) == ["otto"]


@pytest.mark.parametrize("of_otto", ["largest", 2, (303.0, 20.0)])
def test_no_face_becomes_two_peoples(of_otto):
    studio = Studio(row(300, 80), row(20, 60))
    result = placed(studio, PlacedPerson(AVA, (301.0, 50.0)), PlacedPerson(OTTO, of_otto))
    assert result.details == {"otto": "this face became ava's; otto was not put into the picture"}
    assert result.picture == Path("a+ava")


@pytest.mark.parametrize("people", [[PlacedPerson(AVA, "largest")], [PlacedPerson(AVA, 1), PlacedPerson(OTTO, 2)]])
def test_a_picture_of_nobody_stays_as_it_is(people):
    result = placed(Studio(), *people)
    assert (result.picture, result.faces) == (Path("a"), {})
    assert set(result.details.values()) == {"no face was found, so none was redrawn"}


def test_each_lora_is_loaded_once_for_all_pictures_and_seeds():
    studio = Studio(row(300, 80), row(20, 60))
    placed_faces(studio, [Path("a"), Path("b")], [PlacedPerson(AVA, 1), PlacedPerson(OTTO, 2)], [7, 8], 128)
    assert [(picture, who, seed) for picture, _, who, _, seed in studio.redrawn] == [
        *((picture, "ava", seed) for picture in ("a", "b") for seed in (7, 8)),
        *((f"{picture}+ava", "otto", seed) for picture in ("a", "b") for seed in (7, 8)),
    ]
