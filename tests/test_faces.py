"""Faces are found wherever they are and however they are turned, cut out square and upright, and told apart."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from likeness import faces, identity
from likeness.errors import LikenessError
from likeness.images import read_photo

CLEAN = [f"{i:02d}.jpg" for i in range(24)]


@pytest.fixture(scope="module")
def detector(model_files):
    return faces.Detector(model_files)


@pytest.fixture(scope="module")
def recogniser(model_files):
    return identity.Recogniser(model_files)


@pytest.fixture(scope="module")
def portraits(ava):
    return [read_photo(ava / name) for name in CLEAN]


def only_face(detector, image) -> dict:
    rows = detector.faces(image)
    assert len(rows) == 1
    return rows[0] | {"width": image.shape[1], "height": image.shape[0]}


def on_wall(portrait: np.ndarray, side: int, height: int = 1200, width: int = 1600) -> np.ndarray:
    """A portrait of `side` px hung in the middle of a grey wall."""
    wall = np.full((height, width, 3), 130, np.uint8)
    y, x = (height - side) // 2, (width - side) // 2
    wall[y : y + side, x : x + side] = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
    return wall


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turned clockwise around its middle, on the same canvas."""
    middle = ((image.shape[1] - 1) / 2, (image.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, -degrees, 1)
    return cv2.warpAffine(image, matrix, image.shape[1::-1], borderValue=(130, 130, 130))


def test_one_face_is_found_in_every_portrait_and_none_in_a_landscape(detector, portraits, ava):
    for image in portraits:
        row = only_face(detector, image)
        right_eye, left_eye, nose, right_mouth, left_mouth = faces.landmarks(row)
        assert right_eye[0] < nose[0] < left_eye[0] and right_mouth[0] < left_mouth[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert detector.faces(read_photo(ava / "no_face.jpg")) == []
    assert len(detector.faces(read_photo(ava / "two_people.jpg"))) == 2


def test_the_same_photo_gives_the_same_numbers(detector, model_files, portraits):
    assert detector.faces(portraits[0]) == faces.Detector(model_files).faces(portraits[0])


@pytest.mark.parametrize("side", [100, 150, 300, 800])
def test_a_face_is_found_at_any_size(detector, portraits, side):
    row = only_face(detector, on_wall(portraits[0], side))
    assert row["face_height"] == pytest.approx(0.67 * side, rel=0.06)  # 343 px of the portrait's 512


@pytest.mark.parametrize("degrees", [-45, -20, 10, 30, 90, 180, -90])
def test_roll_is_measured_clockwise(detector, portraits, degrees):
    image = on_wall(portraits[0], 600)
    upright = only_face(detector, image)["roll"]
    difference = only_face(detector, turned(image, degrees))["roll"] - upright - degrees
    assert (difference + 180) % 360 - 180 == pytest.approx(0, abs=4)


def test_yaw_changes_sign_in_the_mirror(detector, portraits):
    row, mirrored = (only_face(detector, image) for image in (portraits[20], portraits[20][:, ::-1]))
    assert row["yaw"] > 20  # looks to the right of the picture
    assert mirrored["yaw"] == pytest.approx(-row["yaw"], abs=3)


def test_attributes_tell_smiles_and_backgrounds_apart(detector, portraits):
    def attribute(i: int, name: str) -> float:
        return json.loads(only_face(detector, portraits[i])["attributes"])[name]

    assert attribute(6, "smile") > 0.7 > 0.2 > attribute(3, "smile")
    assert attribute(0, "background") > 0.7 > 0.3 > attribute(21, "background")


def test_sharpness_falls_with_blur_and_not_with_contrast(detector, portraits):
    image = portraits[0]
    sharp = only_face(detector, image)["sharpness"]
    soft = [only_face(detector, cv2.GaussianBlur(image, (0, 0), sigma))["sharpness"] for sigma in (1, 2, 4)]
    assert sorted([sharp, *soft], reverse=True) == [sharp, *soft]
    flat = only_face(detector, (image * 0.5 + 64).astype(np.uint8))["sharpness"]
    assert flat == pytest.approx(sharp, abs=0.03)


def test_crops_are_square_and_upright_with_the_eyes_in_one_place(detector, portraits):
    eyes = []
    for degrees in (0, -25, 25, 90, 180):
        image = turned(on_wall(portraits[0], 500, 1500, 1500), degrees)
        crop, padded = faces.crop_face(image, only_face(detector, image), face_fraction=0.45, max_side=512)
        assert crop.shape[0] == crop.shape[1] and crop.dtype == np.uint8 and padded == 0
        row = only_face(detector, crop)
        assert abs(row["roll"]) < 3
        assert row["face_height"] / crop.shape[0] == pytest.approx(0.45, abs=0.02)
        eyes.append(faces.landmarks(row)[:2] / crop.shape[0])
    assert np.ptp(eyes, axis=0).max() < 0.03


def test_an_upright_crop_holds_the_very_pixels_of_the_photo(detector, portraits):
    image = on_wall(portraits[3], 500)
    row = only_face(detector, image)
    assert abs(row["roll"]) < faces.UPRIGHT_ENOUGH
    square = faces.crop_box(row, 0.45)
    crop, _ = faces.crop_face(image, row, 0.45, max_side=512)
    left, top = round(square.center_x - (square.side - 1) / 2), round(square.center_y - (square.side - 1) / 2)
    assert (crop == image[top : top + square.side, left : left + square.side]).all()


def test_a_photo_too_tight_for_the_square_gets_a_tighter_one_before_it_is_padded(detector, portraits):
    row = only_face(detector, portraits[0])
    square = faces.crop_box(row, 0.45)
    assert square.padded == 0 and square.side > 500  # all of the portrait's 512 px
    cut = np.ascontiguousarray(portraits[0][140:, 100:])  # through the forehead and the hair
    row = only_face(detector, cut)
    crop, padded = faces.crop_face(cut, row, 0.45, max_side=512)
    assert 0.01 < padded < 0.3 and crop.shape[0] == crop.shape[1]
    assert row["face_height"] / crop.shape[0] == pytest.approx(faces.TIGHTEST_FACE_FRACTION, abs=0.02)


def test_large_crops_are_reduced_without_aliasing(detector, portraits):
    image = cv2.resize(portraits[0], (3072, 3072), interpolation=cv2.INTER_CUBIC)
    row = only_face(detector, image)
    stripes = image.copy()
    stripes[:, ::2] = 0  # detail finer than the reduced crop can hold: its mean is all that may be left
    stripes[:, 1::2] = 200
    crop, _ = faces.crop_face(stripes, row, 0.45, max_side=256)
    assert 256 <= crop.shape[0] <= 512
    assert np.abs(crop.astype(int) - 100).max() <= 34  # a third of a stripe pair, where three columns meet


def test_rows_read_from_a_table_crop_the_same(detector, portraits):
    row = only_face(detector, portraits[5])
    crop, padded = faces.crop_face(portraits[5], row, 0.45, 128)
    again, padded_again = faces.crop_face(portraits[5], {key: str(value) for key, value in row.items()}, 0.45, 128)
    assert (crop == again).all() and padded == padded_again


def test_both_recognisers_tell_two_people_apart(detector, recogniser, model_files, portraits, ava):
    judge = identity.Judge(model_files)
    stranger = read_photo(ava / "somebody_else.jpg")
    for model, compare, threshold in (
        (recogniser, identity.similarity, 0.363),
        (judge, identity.judge_similarity, 0.4),
    ):
        first, *others = (identity.face_embedding(image, detector, model)[1] for image in portraits[:6])
        other = identity.face_embedding(stranger, detector, model)[1]
        assert first.shape == (128,) and first.dtype == np.float32
        assert compare(first, first) == pytest.approx(1, abs=1e-4)
        assert all(compare(first, same) > threshold for same in others)
        assert all(compare(other, same) < threshold - 0.1 for same in (first, *others))


def test_no_face_means_no_embedding(detector, recogniser, ava):
    assert identity.face_embedding(read_photo(ava / "no_face.jpg"), detector, recogniser) == (None, None)


def test_embeddings_survive_a_table(recogniser, detector, portraits):
    _, embedding = identity.face_embedding(portraits[0], detector, recogniser)
    assert (identity.decode_embedding(identity.encode_embedding(embedding)) == embedding).all()
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)


def test_missing_models_are_an_error_for_people(tmp_path):
    for make in (faces.Detector, identity.Recogniser, identity.Judge):
        with pytest.raises(LikenessError, match="fetch_models"):
            make(tmp_path)


def test_mediapipe_is_silent(model_files):
    code = (
        "from pathlib import Path; import sys, numpy as np; from likeness import faces, identity\n"
        "detector = faces.Detector(Path(sys.argv[1])); identity.Recogniser(Path(sys.argv[1]))\n"
        "detector.faces(np.zeros((300, 300, 3), np.uint8))"
    )
    scripts = str(faces.Path(faces.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(model_files)], cwd=scripts, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
