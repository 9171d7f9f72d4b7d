"""Attributes of a face: what is measured follows what the picture shows, and what cannot be told is left open."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from face_photos import only_face
from likeness.faces.detection import landmarks
from likeness.photos.images import read_photo


@pytest.fixture(scope="module")
def measured(detector):
    """The attributes of the one face in a picture."""

    def attributes(picture: np.ndarray) -> dict:
        (row,) = detector.faces(picture)
        return json.loads(row["attributes"])

    return attributes


@pytest.fixture
def frontal(ava) -> np.ndarray:
    """Even light, glasses, looking at the camera."""
    return read_photo(ava / "07.jpg")


def strangers(root: Path, *numbers: int) -> list[np.ndarray]:
    return [read_photo(root / f"resources/strangers/{n:05d}.jpg") for n in numbers]


def test_thin_frames_are_seen(measured, ava):
    assert [measured(read_photo(ava / f"{n:02d}.jpg"))["glasses"] for n in (3, 7, 14)] == [True] * 3


def test_bare_faces_wear_none(measured, root):
    assert [measured(picture)["glasses"] for picture in strangers(root, 1, 2, 3, 4, 5, 6, 8, 11)] == [False] * 8


def test_sunglasses_are_glasses(measured, detector, root):
    """Two dark plates with a bridge, over eyes that were bare."""
    (picture,) = strangers(root, 5)
    eyes = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_CUBIC)
    right, left = landmarks(detector.faces(eyes)[0])[:2]
    for x, y in (right, left):
        cv2.ellipse(eyes, (int(x), int(y)), (44, 30), 0, 0, 360, (20, 20, 25), -1, cv2.LINE_AA)
    cv2.line(eyes, (int(right[0]), int(right[1] - 8)), (int(left[0]), int(left[1] - 8)), (20, 20, 25), 6, cv2.LINE_AA)
    assert measured(eyes)["glasses"] is True


def test_glasses_are_told_of_a_small_face(measured, frontal):
    assert measured(cv2.resize(frontal, (120, 120), interpolation=cv2.INTER_AREA))["glasses"] is True


def test_glasses_do_not_depend_on_how_the_head_is_tilted(measured, frontal, root):
    assert measured(np.rot90(frontal))["glasses"] is True
    assert measured(np.rot90(strangers(root, 5)[0]))["glasses"] is False


@pytest.mark.parametrize("side", [96, 512])
def test_eyes_that_are_too_small_or_too_blurred_decide_nothing(measured, frontal, side):
    small = cv2.resize(frontal, (side, side), interpolation=cv2.INTER_AREA)
    seen = small if side == 96 else cv2.GaussianBlur(small, (0, 0), 6)
    assert measured(seen)["glasses"] is None


def test_the_brighter_side_of_the_face_is_told(measured, frontal):
    shade = np.linspace(0.2, 1.6, frontal.shape[1])[None, :, None]
    from_the_right = np.clip(frontal * shade, 0, 255).astype(np.uint8)
    assert abs(measured(frontal)["light_side"]) < 0.1
    assert measured(from_the_right)["light_side"] > 0.15
    assert measured(np.fliplr(from_the_right))["light_side"] < -0.15
    assert measured(np.rot90(from_the_right))["light_side"] > 0.15, "of the upright face"


def test_the_light_is_the_faces(measured, frontal):
    darker = (frontal * 0.5).astype(np.uint8)
    assert measured(darker)["light"] == pytest.approx(measured(frontal)["light"] / 2, abs=0.02)


def test_the_gaze_is_as_seen_in_the_picture(measured, ava):
    """The head is turned to the right and the eyes back to the camera."""
    picture = read_photo(ava / "08.jpg")
    assert measured(picture)["gaze_x"] < -0.5
    assert measured(np.fliplr(picture))["gaze_x"] > 0.5


def test_black_and_white_is_told_from_colour_and_from_darkness(measured, frontal, ava):
    gray = cv2.cvtColor(cv2.cvtColor(frontal, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    assert measured(gray)["monochrome"] is True
    assert measured(frontal)["monochrome"] is False
    assert measured(read_photo(ava / "too_dark.jpg"))["monochrome"] is False


def test_attributes_tell_smiles_and_backgrounds_apart(detector, portraits):
    def attribute(i: int, name: str) -> float:
        return json.loads(only_face(detector, portraits[i])["attributes"])[name]

    assert attribute(6, "smile") > 0.7 > 0.2 > attribute(3, "smile")
    assert attribute(0, "background") > 0.7 > 0.3 > attribute(21, "background")
