"""Faces are found wherever they are and however they are turned, and measured."""

import runpy
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from face_photos import CLEAN, on_wall, only_face, turned
from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS
from likeness.faces import detection, identity
from likeness.photos.images import read_photo


def test_one_face_is_found_in_every_portrait_and_none_in_a_landscape(detector, portraits, ava):
    for image in portraits:
        row = only_face(detector, image)
        right_eye, left_eye, nose, right_mouth, left_mouth = detection.landmarks(row)
        assert right_eye[0] < nose[0] < left_eye[0] and right_mouth[0] < left_mouth[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert detector.faces(read_photo(ava / "no_face.jpg")) == []
    assert len(detector.faces(read_photo(ava / "two_people.jpg"))) == 2


def test_the_same_photo_gives_the_same_numbers(detector, model_files, portraits):
    assert detector.faces(portraits[0]) == detection.Detector(model_files).faces(portraits[0])


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


@pytest.fixture(scope="module")
def drawn(root):
    """The benchmark's drawn photos: a background by its seed, and heads pasted at random places."""
    return SimpleNamespace(**runpy.run_path(str(root / "tools/bench_faces.py")))


def found_in(detector, drawn, heads: list, seed: int) -> tuple[list[dict], int]:
    """The faces found in a drawn photo of 12 megapixels, and how many of its heads are among them."""
    image, boxes = drawn.pasted(drawn.background(seed), heads, seed)
    rows = detector.faces(image)
    return rows, len(drawn.matched(boxes, [detection._box(row) for row in rows]))


def test_small_faces_are_found_beside_large_ones_in_a_photo_of_12_megapixels(detector, drawn, portraits):
    sizes = [900, 320, 160, 80, 60, 40]
    rows, hits = found_in(detector, drawn, [(portraits[i], size, 0) for i, size in enumerate(sizes)], seed=101)
    assert len(rows) == hits == len(sizes)
    assert [row["face_height"] for row in rows] == pytest.approx(sizes, rel=0.15)


def test_small_faces_are_found_on_their_side_and_upside_down(detector, drawn, portraits):
    heads = [(portraits[i], size, turn) for i, (size, turn) in enumerate([(80, 90), (80, -90), (100, 180), (150, 135)])]
    rows, hits = found_in(detector, drawn, heads, seed=102)
    assert len(rows) == hits == len(heads)
    assert sorted(round(row["roll"] / 45) * 45 % 360 for row in rows) == [90, 135, 180, 270]


def test_no_face_is_found_where_there_is_none_however_large_the_photo(detector, drawn):
    for seed in (103, 104):
        assert detector.faces(drawn.background(seed)) == []


def test_visible_is_the_share_of_the_face_inside_the_picture(detector, portraits):
    row = only_face(detector, portraits[0])
    assert row["visible"] == 1
    edge = round(row["x"] + 0.75 * row["w"])
    cut_off = only_face(detector, np.ascontiguousarray(portraits[0][:, :edge]))
    assert 0.6 < cut_off["visible"] < 0.9


def test_clipped_is_the_share_of_the_face_that_is_burnt_out_or_black(detector, portraits):
    image = portraits[0]
    row = only_face(detector, image)
    assert row["clipped"] < 0.02
    for colour in (255, 0):
        cheek = image.copy()
        x, y, w, h = (round(row[key]) for key in "xywh")
        cheek[y + round(0.6 * h) : y + h, x : x + round(0.4 * w)] = colour
        share = only_face(detector, cheek)["clipped"]
        assert 0.06 < share < 0.18  # the outline leaves out the corner of the box
    assert only_face(detector, np.clip(image.astype(int) * 3, 0, 255).astype(np.uint8))["clipped"] > 0.3


def test_photos_looked_at_in_threads_give_the_same_table_as_one_by_one(root, model_files, ava, tmp_path):
    traps = ["no_face.jpg", "two_people.jpg", "cut_short.jpg", "sideways_exif.jpg"]
    photos = [ava / name for name in (*CLEAN[:6], *traps)]
    tables = []
    for threads in (1, 3):
        table = tmp_path / "faces.tsv"
        command = [sys.executable, root / "scripts/detect_faces.py", "--photos", *photos, "--models", model_files]
        command += ["--cache", tmp_path / f"cache{threads}", "--faces", table, "--threads", str(threads)]
        subprocess.run(command, check=True, capture_output=True)
        tables.append(table.read_bytes())
    assert tables[0] == tables[1] and tables[0].count(b"\n") >= len(photos) + 1
    assert len(set((tmp_path / "cache3").rglob("*"))) > len(photos)  # computed, not taken from the other's cache


def test_yaw_changes_sign_in_the_mirror(detector, portraits):
    row, mirrored = (only_face(detector, image) for image in (portraits[20], portraits[20][:, ::-1]))
    assert row["yaw"] > 20  # looks to the right of the picture
    assert mirrored["yaw"] == pytest.approx(-row["yaw"], abs=3)


def test_sharpness_falls_with_blur_and_not_with_contrast(detector, portraits):
    image = portraits[0]
    sharp = only_face(detector, image)["sharpness"]
    soft = [only_face(detector, cv2.GaussianBlur(image, (0, 0), sigma))["sharpness"] for sigma in (1, 2, 4)]
    assert sorted([sharp, *soft], reverse=True) == [sharp, *soft]
    flat = only_face(detector, (image * 0.5 + 64).astype(np.uint8))["sharpness"]
    assert flat == pytest.approx(sharp, abs=0.03)


def test_missing_models_are_an_error_for_people(tmp_path):
    for make in (detection.Detector, identity.Recogniser, identity.Judge):
        with pytest.raises(LikenessError, match="fetch_models"):
            make(tmp_path)


def test_mediapipe_is_silent(model_files):
    code = (
        "from pathlib import Path; import sys, numpy as np; from likeness.faces import detection, identity\n"
        "detector = detection.Detector(Path(sys.argv[1])); identity.Recogniser(Path(sys.argv[1]))\n"
        "detector.faces(np.zeros((300, 300, 3), np.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_files)], cwd=SCRIPTS, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
