"""Faces are cut out square and upright, with nobody else beside them, or in the shape of their photo."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from face_photos import on_wall, only_face, turned
from likeness.core import manifests
from likeness.core.provenance import file_sha256
from likeness.faces import crops, detection
from likeness.photos.images import read_photo


def cut(image: np.ndarray, row: dict, face_fraction: float = 0.45, resolution: int = 512) -> np.ndarray:
    return crops.crop_face(image, crops.crop_box(row, face_fraction), resolution)


def test_crops_are_square_and_upright_with_the_eyes_in_one_place(detector, portraits):
    eyes = []
    for degrees in (0, -25, 25, 90, 180):
        image = turned(on_wall(portraits[0], 500, 1500, 1500), degrees)
        row = only_face(detector, image)
        assert crops.crop_box(row, 0.45).padded == 0
        crop = cut(image, row)
        assert crop.shape[0] == crop.shape[1] and crop.dtype == np.uint8
        row = only_face(detector, crop)
        assert abs(row["roll"]) < 3
        assert row["face_height"] / crop.shape[0] == pytest.approx(0.45, abs=0.02)
        eyes.append(detection.landmarks(row)[:2] / crop.shape[0])
    assert np.ptp(eyes, axis=0).max() < 0.03


def test_the_face_stands_as_high_in_the_crop_as_was_asked(detector, portraits):
    image = on_wall(portraits[0], 500, 1500, 1500)
    row = only_face(detector, image)
    levels = []
    for face_level in (0.4, 0.48, 0.6):
        crop = crops.crop_face(image, crops.crop_box(row, 0.45, face_level), 512)
        levels.append(only_face(detector, crop)["center_y"] / crop.shape[0])
    assert levels == pytest.approx([0.4, 0.48, 0.6], abs=0.01)


def test_an_upright_crop_holds_the_very_pixels_of_the_photo(detector, portraits):
    image = on_wall(portraits[3], 500)
    row = only_face(detector, image)
    assert abs(row["roll"]) < crops.UPRIGHT_ENOUGH
    square = crops.crop_box(row, 0.45)
    left, top = round(square.center_x - (square.side - 1) / 2), round(square.center_y - (square.side - 1) / 2)
    region = image[top : top + square.side, left : left + square.side]
    assert (crops.crop_face(image, square, square.side) == region).all()
    # A larger square is brought to the resolution by one Lanczos resampling of those pixels.
    once = np.asarray(Image.fromarray(region).resize((256, 256), Image.Resampling.LANCZOS))
    assert (crops.crop_face(image, square, 256) == once).all()


def test_a_photo_too_tight_for_the_square_gets_a_tighter_one_before_it_is_padded(detector, portraits):
    row = only_face(detector, portraits[0])
    square = crops.crop_box(row, 0.45)
    assert square.padded == 0 and square.side > 500  # all of the portrait's 512 px
    tight = np.ascontiguousarray(portraits[0][140:, 100:])  # through the forehead and the hair
    row = only_face(detector, tight)
    square = crops.crop_box(row, 0.45)
    assert 0.01 < square.padded < 0.3
    crop = crops.crop_face(tight, square, 512)
    assert crop.shape == (square.side, square.side, 3)
    assert row["face_height"] / crop.shape[0] == pytest.approx(crops.TIGHTEST_FACE_FRACTION, abs=0.02)


def test_what_lies_outside_the_picture_is_its_reflection():
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8)
    square = crops.Square(center_x=39.5, center_y=49.5, side=100, roll=0, padded=0.1, shared=0)
    crop = crops.crop_face(image, square, 100)
    assert (crop[:, 10:] == image[:, :90]).all()
    assert (crop[:, :10] == image[:, 10:0:-1]).all()


@pytest.mark.parametrize("roll", [0, 20])
def test_crops_never_exceed_the_resolution_and_do_not_alias(roll):
    """Stripes finer than the crop can hold: their mean is all that may be left."""
    stripes = np.zeros((3000, 3000, 3), np.uint8)
    stripes[:, 1::2] = 200
    square = crops.Square(center_x=1499.5, center_y=1499.5, side=1800, roll=roll, padded=0, shared=0)
    crop = crops.crop_face(stripes, square, 256)
    assert crop.shape == (256, 256, 3)
    assert np.abs(crop[2:-2, 2:-2].astype(int) - 100).max() <= 2  # at the edges the filter sees one side only


@pytest.mark.parametrize("side", [300, 560, 700, 1100])
def test_a_tilted_crop_keeps_what_the_photo_shows(portraits, side):
    """Against the same square of a picture that is known at every place: soft waves, drawn anew."""

    def waves(x, y):
        return 128 + 60 * np.sin(x / 3) + 50 * np.cos(y / 4 + x / 9)

    y, x = np.mgrid[:1600, :1600].astype(float)
    image = np.repeat(np.rint(waves(x, y))[..., None], 3, axis=2).astype(np.uint8)
    square = crops.Square(center_x=800.3, center_y=790.6, side=side, roll=17, padded=0, shared=0)
    crop = crops.crop_face(image, square, 512)
    out = min(side, 512)
    v, u = (np.mgrid[:out, :out] - (out - 1) / 2) * side / out
    cos, sin = np.cos(np.radians(17)), np.sin(np.radians(17))
    true = waves(square.center_x + cos * u - sin * v, square.center_y + sin * u + cos * v)
    inner = np.s_[8:-8, 8:-8, 0]
    contrast = np.std(crop[inner]) / np.std(true[8:-8, 8:-8])
    assert np.corrcoef(crop[inner].ravel(), true[8:-8, 8:-8].ravel())[0, 1] > 0.999
    assert contrast == pytest.approx(1, abs=0.03)


def beside(row: dict, *boxes: tuple) -> dict:
    return row | {"others": json.dumps(boxes)}


def test_another_face_beside_is_left_outside_the_square(detector, portraits):
    image = on_wall(portraits[0], 500, 1500, 2000)
    row = only_face(detector, image)
    alone = crops.crop_box(row, 0.45)
    x, y, w, h = (row[key] for key in "xywh")
    for other in ((x + 1.3 * w, y, w, h), (x + 1.18 * w, y + 0.2 * h, w, h), (x, y + 1.2 * h, w, h)):
        square = crops.crop_box(beside(row, other), 0.45)
        assert alone.side >= square.side >= row["face_height"] / crops.TIGHTEST_FACE_FRACTION - 1
        assert square.shared == 0 and square.padded == 0
        # Nothing but the wall and the subject: the other's place, painted red, does not show.
        painted = image.copy()
        left, top, right, bottom = (round(v) for v in (other[0], other[1], other[0] + other[2], other[1] + other[3]))
        painted[top + 8 : bottom - 8, left + 8 : right - 8] = 255, 0, 0
        crop = crops.crop_face(painted, square, 512).astype(int)
        assert not (crop[..., 0] - crop[..., 1] > 200).any()
        only_face(detector, crop.astype(np.uint8))


def test_far_away_faces_change_nothing_and_a_face_too_near_is_told(detector, portraits):
    row = only_face(detector, on_wall(portraits[0], 500, 1500, 2000))
    x, y, w, h = (row[key] for key in "xywh")
    assert crops.crop_box(beside(row, (x + 4 * w, y, w, h)), 0.45) == crops.crop_box(row, 0.45)
    tight = crops.crop_box(beside(row, (x + 0.8 * w, y, w, h), (x - 0.8 * w, y, w, h)), 0.45)
    assert tight.side == round(row["face_height"] / crops.TIGHTEST_FACE_FRACTION)
    # 0.2 of each lies over the face itself, and some of the margin is left to one side or the other.
    assert 0.2 < tight.shared < 0.6


def test_rows_read_from_a_table_crop_the_same(detector, portraits):
    row = beside(only_face(detector, portraits[5]), (0, 0, 60, 60))
    assert (
        cut(portraits[5], row, resolution=128)
        == cut(portraits[5], {key: str(value) for key, value in row.items()}, resolution=128)
    ).all()


@pytest.mark.parametrize(
    ("roll", "side", "resolution", "stretch"),
    [
        *((0, 600, 600, (1, 1)), (0, 900, 256, (1, 1)), (25, 600, 256, (1, 1)), (-70, 901, 901, (1, 1))),
        *((0, 600, 512, (0.75, 1.25)), (25, 600, 512, (1.25, 0.75)), (-10, 300, 512, (0.75, 1.25))),
    ],
)
def test_the_face_is_where_its_crop_is_said_to_have_it(roll, side, resolution, stretch):
    """A tilted white ellipse for a face, found again in the crop by its moments."""
    photo = np.zeros((1500, 1400, 3), np.uint8)
    cv2.ellipse(photo, (740, 700), (90, 130), roll, 0, 360, (255, 255, 255), -1, cv2.LINE_AA)
    row = {"center_x": "740", "center_y": "700", "face_width": "180", "face_height": "260"}
    square = crops.Square(720.5, 720.5, side, roll, padded=0, shared=0, stretch=stretch)
    crop = crops.crop_face(photo, square, resolution)[..., 0] / 255.0
    height, width = crop.shape
    assert [width, height] == [round(min(side, resolution) * share) for share in stretch]
    sums = [crop.sum(axis=axis) for axis in (0, 1)]
    middle = [(line * (np.arange(len(line)) + 0.5)).sum() / line.sum() / len(line) for line in sums]
    size = [(crop > 0.5).any(axis=axis).mean() for axis in (0, 1)]
    said = crops.face_in_crop(row, square)
    assert said[:2] == pytest.approx(middle, abs=0.5 / min(square.extent))
    # Whole px, and OpenCV's edge.
    assert said[2:] == pytest.approx(size, abs=1 / min(width, height) + 2 / min(square.extent))


@pytest.mark.parametrize(
    ("photo", "resolution", "expected"),
    [
        ((4000, 4000), 512, (512, 512)),
        ((3000, 4000), 512, (448, 576)),
        ((4000, 3000), 512, (576, 448)),
        ((2000, 3000), 512, (384, 640)),
        ((1000, 5000), 512, (384, 640)),  # the nearest of at most 1:2 and no larger area
        ((3000, 4000), 1024, (896, 1152)),
        ((900, 1600), 64, (64, 64)),
    ],
)
def test_buckets_are_kohyas_shapes(photo, resolution, expected):
    width, height = crops.bucket(*photo, resolution)
    assert (width, height) == expected
    assert width % 64 == height % 64 == 0 and width * height <= resolution**2 and 0.5 <= width / height <= 2


@pytest.mark.parametrize("roll", [0, 20])
@pytest.mark.parametrize("shape", [(2000, 1500), (1500, 2000), (2000, 1000)])
def test_a_crop_of_the_photos_shape_has_the_face_in_its_place(detector, portraits, roll, shape):
    height, width = shape
    photo = turned(on_wall(portraits[0], 500, height, width), roll)
    row = only_face(detector, photo)
    stretch = tuple(n / 512 for n in crops.bucket(width, height, 512))
    square = crops.crop_box(row, 0.45, 0.48, stretch)
    crop = crops.crop_face(photo, square, 512)
    assert crop.shape[1::-1] == crops.bucket(width, height, 512) and square.padded <= crops.ALLOWED_PADDING
    found = only_face(detector, crop)
    x, y, w, h = crops.face_in_crop(row, square)
    assert (found["center_x"] / crop.shape[1], found["center_y"] / crop.shape[0]) == pytest.approx((x, y), abs=0.02)
    assert (found["face_width"] / crop.shape[1], found["face_height"] / crop.shape[0]) == pytest.approx(
        (w, h), abs=0.03
    )
    assert y == pytest.approx(0.48, abs=0.16) and h <= 0.81
    assert abs(found["roll"]) < 4


def test_the_script_makes_crops_with_what_they_were_made_from(detector, recogniser, root, ava, tmp_path):
    rows = []
    for name, fate in (("00.jpg", "train"), ("05.jpg", "heldout"), ("no_face.jpg", "dropped")):
        photo = tmp_path / name
        photo.write_bytes((ava / name).read_bytes())
        image = read_photo(photo)
        about = {"photo": name, "sha256": file_sha256(photo), "fate": fate, "others": "", "crop": ""}
        found = only_face(detector, image) if fate != "dropped" else {}
        rows.append(about | {"width": image.shape[1], "height": image.shape[0]} | found)
    manifests.write_table(tmp_path / "photos.tsv", rows, list(rows[0]))
    config = json.dumps({"resolution": 128, "buckets": False, "crop": {"face_fraction": 0.6, "face_level": 0.5}})
    command = [sys.executable, root / "scripts/crop_faces.py", "--config", config, "--photos", tmp_path / "photos.tsv"]
    paths = {"cache": "cache", "crops": "crops.tsv", "folder": "crops"}
    command += [word for name, path in paths.items() for word in (f"--{name}", tmp_path / path)]
    texts = []
    for threads in ("2", "1"):
        done = subprocess.run([*command, "--threads", threads], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        texts.append((tmp_path / "crops.tsv").read_text())
    assert done.stdout.splitlines()[-1] == "items: 0 computed, 2 reused" and texts[0] == texts[1]
    table = manifests.read_table(tmp_path / "crops.tsv").set_index("photo")
    assert list(table.index) == ["00.jpg", "05.jpg"]
    for name, made in table.iterrows():
        crop = np.asarray(Image.open(tmp_path / made["crop"]))
        assert crop.shape == (128, 128, 3) and made["side"] == "128" and float(made["padded"]) == 0
        measured = only_face(detector, crop)
        assert measured["face_height"] / 128 == pytest.approx(float(made["face_fraction"]), abs=0.03)
        face = next(row for row in rows if row["photo"] == name)
        assert face["face_height"] / int(made["source_side"]) == pytest.approx(float(made["face_fraction"]), abs=1e-3)
        assert float(made["face_fraction"]) >= 0.595  # the second photo is too tight for less
        x, y, width, height = json.loads(made["face"])
        assert measured["center_x"] / 128 == pytest.approx(x, abs=0.02)
        assert measured["center_y"] / 128 == pytest.approx(y, abs=0.02)
        assert measured["face_width"] / 128 == pytest.approx(width, abs=0.03)
        assert height == pytest.approx(float(made["face_fraction"]), abs=1e-3)
        assert all(made[key] == str(face[key]) for key in ("yaw", "pitch", "roll", "brightness", "attributes"))


def test_the_script_makes_crops_of_the_photos_shapes(detector, root, portraits, tmp_path):
    rows = []
    for name, (height, width) in {"tall.png": (2000, 1500), "wide.png": (1500, 2000)}.items():
        photo = on_wall(portraits[0], 500, height, width)
        Image.fromarray(photo).save(tmp_path / name, compress_level=1)
        about = {"photo": name, "sha256": file_sha256(tmp_path / name), "fate": "train", "others": "", "crop": ""}
        rows.append(about | {"width": width, "height": height} | only_face(detector, photo))
    manifests.write_table(tmp_path / "photos.tsv", rows, list(rows[0]))
    config = json.dumps({"resolution": 256, "buckets": True, "crop": {"face_fraction": 0.45, "face_level": 0.48}})
    command = [sys.executable, root / "scripts/crop_faces.py", "--config", config, "--photos", tmp_path / "photos.tsv"]
    paths = {"cache": "cache", "crops": "crops.tsv", "folder": "crops"}
    command += [word for name, path in paths.items() for word in (f"--{name}", tmp_path / path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "for faces, square crops are better" in done.stdout
    table = manifests.read_table(tmp_path / "crops.tsv")
    assert list(table["size"]) == ["[192,320]", "[320,192]"]
    assert [Image.open(tmp_path / crop).size for crop in table["crop"]] == [(192, 320), (320, 192)]


def test_a_square_by_hand_is_cut_out_where_it_was_put_and_turned_as_asked(detector, portraits):
    image = on_wall(portraits[3], 500)
    row = only_face(detector, image)
    measured = crops.crop_box(row, 0.45)
    moved = crops.square_by_hand(row, measured, [700, 500, 301], 0)
    region = image[350:651, 550:851]
    assert moved.padded == 0 and (crops.crop_face(image, moved, 301) == region).all()
    turned_square = crops.square_by_hand(row, measured, None, 30)
    assert turned_square[:3] == measured[:3] and turned_square.roll == 30
    new = only_face(detector, crops.crop_face(image, turned_square, 512))
    assert float(new["roll"]) == pytest.approx(float(row["roll"]) - 30, abs=3)


def test_a_square_by_hand_says_what_lies_outside_the_picture_and_whom_it_shows(detector, portraits):
    row = only_face(detector, on_wall(portraits[3], 500)) | {"others": "[[100, 100, 50, 50]]"}
    square = crops.square_by_hand(row, crops.crop_box(row, 0.45), [0, 600, 400], 0)
    assert square.padded == pytest.approx(0.5, abs=0.01) and square.shared == 0
    assert crops.square_by_hand(row, square, [125, 125, 100], 0).shared == 1
