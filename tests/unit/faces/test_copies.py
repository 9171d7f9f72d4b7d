"""A photo and its copy are one picture, whatever was done to the copy; another moment is another picture."""

from itertools import combinations
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest

import bench_duplicates
from bench_duplicates import CHANGES, MOMENTS, interval, measured
from curated import SETTINGS
from likeness.faces import copies, curation
from likeness.faces.identity import ALIGNED_SIDE, encode_aligned_face
from likeness.photos.images import read_photo

# What is done to a photo, and the words for it.
COPIES = {
    "saved again, quality 40": [],
    "gamma 1.6": [],
    "cut 3 % on each side": ["is cut"],
    "cut 25 %": ["is cut"],
    "half of the size": ["is resized"],
    "a face of 70 px": ["is resized"],
    "turned by 3 degrees": ["is turned"],
    "mirrored": ["is mirrored"],
    "black bars": ["shows more around"],
    "screenshot": ["is resized", "shows more around"],
    "mirrored, cut 20 %": ["is mirrored", "is cut"],
    "cut 15 %, grey, smaller": ["is resized", "is cut"],
}
OTHERS = 5  # photos of the same person


def changed(image: np.ndarray, row: dict, change) -> np.ndarray:
    return np.ascontiguousarray(change(image, np.random.default_rng(1), row))


@pytest.fixture(scope="module")
def rows(root, model_files) -> dict[str, dict]:
    """A photo of somebody who does not exist ("first"), its copies, two moments more, and other photos of her."""
    bench_duplicates.MODELS = model_files
    photos = sorted((root / "resources/bench_people/ida").glob("*.jpg"))[2 : 3 + OTHERS]
    image = read_photo(photos[0])
    found = {"first": measured(image, "first")}
    for name in (*COPIES, *MOMENTS):
        found[name] = measured(changed(image, found["first"], (CHANGES | MOMENTS)[name]), name)
    return found | {path.stem: measured(read_photo(path), path.stem) for path in photos[1:]}


def settings(**more) -> SimpleNamespace:
    return SimpleNamespace(**SETTINGS | {"same_person": 0, "held_out": 0, "min_photos": 1} | more)


def curated(*rows: dict, **more) -> dict[str, dict]:
    return {row["photo"]: row for row in curation.curate(pd.DataFrame(rows), settings(**more))}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_dropped_and_its_row_says_of_which_photo_and_what_it_is(rows, name):
    one, other = rows["first"], rows[name]
    result = curated(one, other)
    [dropped] = [row for row in result.values() if row["reason"]]
    assert dropped["reason"] == "near_duplicate"
    kept = {"first", name} - {dropped["photo"]}
    assert f"near-duplicate of {kept.pop()}, which " in dropped["detail"]
    lies = copies.FaceComparer({"first": one, "copy": other}).alignment("copy", "first")
    assert copies.changes(lies, other, one) == COPIES[name]


def test_the_detail_says_what_the_dropped_one_is_beside_the_kept_one(rows):
    sharper = rows["first"] | {"sharpness": "0.9"}
    detail = curated(sharper, rows["mirrored, cut 20 %"])["mirrored, cut 20 %"]["detail"]
    assert detail == "near-duplicate of first, which is at least as sharp; this one is mirrored, is cut"
    worse = rows["first"] | {"sharpness": "0.3"}
    detail = curated(worse, rows["cut 25 %"])["first"]["detail"]
    assert detail == "near-duplicate of cut 25 %, which is at least as sharp; this one shows more around"


@pytest.mark.parametrize("name", MOMENTS)
def test_another_moment_is_kept(rows, name):
    assert {row["reason"] for row in curated(rows["first"], rows[name]).values()} == {""}


def test_moments_that_differ_little_stay_on_one_side(rows):
    burst = {name: rows[name] for name in ("first", "drawn: both eyes closing", "drawn: a little smile")}
    assert curation.look_alikes(burst, copies.FaceComparer(burst)) == [set(burst)]


def test_other_photos_of_the_same_person_are_no_copies_and_may_be_apart(rows):
    others = {name: row for name, row in rows.items() if name == "first" or name.isdigit()}
    faces = copies.FaceComparer(others)
    near = [
        (a, b) for a, b in combinations(others, 2) if b in faces.possible(a) and faces.alignment(a, b).distance <= 6
    ]
    assert near == [] and len(others) == 1 + OTHERS
    assert len(curation.look_alikes(others, faces)) > 1


def test_a_copy_of_a_copy_is_found_whichever_comes_first(rows):
    a, b = rows["cut 25 %"], rows["screenshot"]
    both = {"a": a, "b": b}
    forth, back = (
        copies.FaceComparer(both).alignment("a", "b"),
        copies.FaceComparer(dict(reversed(both.items()))).alignment("b", "a"),
    )
    assert forth.distance == back.distance <= 6
    assert np.allclose(forth.to_other @ back.to_other, np.eye(3), atol=1e-6)


def test_where_a_photo_lies_on_its_copy_is_known_to_the_pixel(rows):
    """A cut photo's pixels are those of the first one, moved by whole px: what the copy says is that movement."""
    lies = copies.FaceComparer(rows).alignment("cut 3 % on each side", "first")
    scale, move = lies.to_other[:2, :2], lies.to_other[:2, 2]
    assert np.allclose(scale, np.eye(2), atol=0.01)
    assert np.allclose(move, round(0.03 * 512), atol=4)


@pytest.mark.parametrize("near_duplicate", [0, 6])
def test_no_copy_of_a_photo_is_trained_on_where_another_one_is_held_out(rows, near_duplicate):
    table = [row for name, row in rows.items() if name not in MOMENTS]
    for shift in range(4):  # other names come to other sides
        named = [row | {"photo": f"{shift}_{row['photo']}"} for row in table]
        result = curated(*named, near_duplicate=near_duplicate, held_out=0.4, min_photos=2)
        one_picture = {f"{shift}_{name}" for name in ("first", *COPIES)}
        assert len({result[name]["fate"] for name in one_picture} - {"dropped"}) == 1
        assert {row["fate"] for row in result.values()} >= {"train", "heldout"}
        kept = sum(result[name]["fate"] != "dropped" for name in one_picture)
        assert kept == 1 if near_duplicate else kept > 1


def test_beside_somebody_else_it_is_the_persons_face_that_is_compared(rows, root):
    """She stands beside a man in a montage that holds the very photo; curation knows which face is hers."""
    image = read_photo(root / "resources/bench_people/ida/02.jpg")
    man = cv2.resize(read_photo(root / "resources/people/otto/00.jpg"), (600, 600))
    montage = np.full((600, 512 + 600, 3), 128, np.uint8)
    montage[:512, :512], montage[:, 512:] = image, man
    faces = bench_duplicates.measured_faces(montage, "montage")
    assert len(faces) == 2 and float(faces[0]["x"]) > 512, "the man is the widest"
    others = [row for name, row in rows.items() if name.isdigit()]
    result = curated(rows["first"], *others, *faces, same_person=0.3)
    assert {name: row["reason"] for name, row in result.items() if row["reason"]} == {"montage": "near_duplicate"}
    assert result["montage"]["detail"].startswith("near-duplicate of first, ")


def test_a_face_that_is_burnt_out_or_was_not_measured_is_compared_by_its_whole_frame(rows):
    first, copy = rows["first"], rows["saved again, quality 40"] | {"aligned": ""}
    assert "copy" not in copies.FaceComparer({"first": first, "copy": copy})
    assert curated(first, copy)[copy["photo"]]["reason"] or curated(first, copy)["first"]["reason"]
    elsewhere = copy | {"phash": f"{int(copy['phash'], 16) ^ 0xFFFF:016x}"}
    assert not any(row["reason"] for row in curated(first, elsewhere).values())
    burnt = np.full((ALIGNED_SIDE, ALIGNED_SIDE), 255, np.uint8)
    assert "burnt" not in copies.FaceComparer({"burnt": first | {"aligned": encode_aligned_face(burnt)}})


def test_the_same_bytes_are_an_exact_copy(rows):
    twin = rows["first"] | {"photo": "twin"}
    assert curated(rows["first"], twin)["twin"]["detail"] == "an exact copy of first"


def test_intervals_of_counts_are_wilsons():
    assert interval(0, 20) == pytest.approx((0, 0.1611), abs=1e-3)
    assert interval(10, 20) == pytest.approx((0.2993, 0.7007), abs=1e-3)
