"""Which face of a picture becomes whose."""

import pytest

from likeness.core.errors import LikenessError
from likeness.faces.faces_of_picture import face_at, most_alike


def face(x: float, width: float) -> dict:
    return {"x": x, "y": 100, "w": width, "h": width, "center_x": x + width / 2, "center_y": 100 + width / 2}


# As the detector gives them: the widest first.
LARGE, RIGHT, LEFT = FACES = [face(300, 90), face(500, 60), face(20, 50)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("largest", LARGE), (1, LEFT), (2, LARGE), (3, RIGHT), ((330.0, 150.0), LARGE), ((45.0, 110.0), LEFT)],
)
def test_a_face_is_named_by_its_size_its_number_from_the_left_or_a_point(where, expected):
    assert face_at(FACES, where) is expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (4, "has 3 faces, so there is no face 4"),
        ((250.0, 400.0), "has no face at 250, 400; the nearest is at 345.0, 145.0"),
    ],
)
def test_a_face_that_is_not_there_is_said(where, message):
    with pytest.raises(LikenessError, match=message):
        face_at(FACES, where)


def test_the_face_most_like_the_person_is_the_subjects_and_of_two_equal_ones_the_larger():
    assert most_alike([0.1, 0.5, 0.3]) == 1 and most_alike([0.4, 0.4, 0.1]) == 0
