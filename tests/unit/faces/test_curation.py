"""Every photo meets its fate for a reason a person understands; the held-out photos stay held out."""

import io
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from curated import Workplace, clean, fates, held_out, settings
from likeness.core import cli
from likeness.core.errors import LikenessError
from likeness.core.provenance import file_sha256
from likeness.faces import curation
from likeness.faces.identity import decode_aligned_face, decode_embedding, encode_aligned_face, similarity
from likeness.photos import images


def test_every_trap_of_the_demonstration_meets_its_fate(workplace):
    rows = {Path(row["photo"]).name: row for row in workplace.table("photos.tsv").to_dict("records")}
    assert {name: row["reason"] for name, row in rows.items() if row["fate"] == "dropped"} == {
        "07_brighter_copy.jpg": "near_duplicate",
        "blurred.jpg": "blurred",
        "cut_short.jpg": "unreadable",
        "far_away.jpg": "too_small",
        "half_a_face.jpg": "occluded",
        "mirror.jpg": "several_faces",
        "no_face.jpg": "no_face",
        "not_a_picture.jpg": "unreadable",
        "somebody_else.jpg": "other_person",
        "too_dark.jpg": "bad_exposure",
    }
    assert "07.jpg" in rows["07_brighter_copy.jpg"]["detail"]
    assert "cut short" in rows["cut_short.jpg"]["detail"]
    assert "similarity 0.1" in rows["somebody_else.jpg"]["detail"] and "0.45" in rows["somebody_else.jpg"]["detail"]
    assert "2 faces look like the subject" in rows["mirror.jpg"]["detail"]
    assert "2 faces; cut to the one that is the subject's" in rows["two_people.jpg"]["detail"]
    assert sum(row["fate"] == "heldout" for row in rows.values()) == 6  # a fifth of 28, rounded up
    assert rows["needs_upscaling.jpg"]["fate"] == "train"  # so that the demonstration upscales something
    assert abs(float(rows["sideways_exif.jpg"]["roll"])) < 5


def test_crops_are_the_kept_photos_and_nothing_else(workplace):
    crops, photos = workplace.table("crops.tsv"), workplace.table("photos.tsv")
    kept = photos[photos["fate"] != "dropped"]
    assert list(crops["photo"]) == list(kept["photo"]) and list(crops["fate"]) == list(kept["fate"])
    folder = workplace.folder / "ava"
    assert {f"crops/{path.name}" for path in (folder / "crops").iterdir()} == set(crops["crop"])
    for row in crops.to_dict("records"):
        assert file_sha256(folder / row["crop"]) == row["sha256"]
        with Image.open(folder / row["crop"]) as image:
            assert image.size == (int(row["side"]), int(row["side"])) and image.mode == "RGB"
            assert image.width <= 2 * 128
        assert float(row["padded"]) < 0.01
    side = dict(zip(crops["crop"], crops["side"].astype(int), strict=True))
    assert side["crops/needs_upscaling.png"] < 128


def test_a_second_run_computes_nothing_and_writes_the_same_bytes(workplace, ava):
    folder = workplace.folder / "ava"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert workplace.detect(sorted(ava.iterdir())).splitlines()[-1] == "items: 0 computed, 36 reused"
    workplace.curate()
    assert workplace.crop().splitlines()[-1] == "items: 0 computed, 28 reused"
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_a_new_photo_is_looked_at_and_a_renamed_one_is_not_new(workplace, models, ava, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(ava, photos)
    (photos / "00.jpg").rename(photos / "holiday.jpg")
    shutil.copy(photos / "01.jpg", photos / "copy of 01.JPG")
    place = Workplace(tmp_path, models)
    shutil.copytree(workplace.folder / "cache", tmp_path / "cache")
    assert place.detect(sorted(photos.iterdir())).splitlines()[-1] == "items: 0 computed, 37 reused"
    images_changed = np.asarray(Image.open(photos / "02.jpg"))[:, ::-1]
    Image.fromarray(images_changed).save(photos / "02.jpg")
    assert place.detect(sorted(photos.iterdir())).splitlines()[-1] == "items: 1 computed, 36 reused"
    place.curate()
    rows = {Path(row["photo"]).name: row for row in place.table("photos.tsv").to_dict("records")}
    assert {rows["01.jpg"]["reason"], rows["copy of 01.JPG"]["reason"]} == {"", "near_duplicate"}
    assert any("exact copy" in rows[name]["detail"] for name in ("01.jpg", "copy of 01.JPG"))


def test_a_photo_that_changes_after_detection_is_an_error_and_not_a_wrong_crop(workplace, models, ava, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(ava, photos)
    place = Workplace(tmp_path, models)
    shutil.copytree(workplace.folder / "cache", tmp_path / "cache")
    place.detect(sorted(photos.iterdir()))
    place.curate()
    shutil.copy(photos / "05.jpg", photos / "04.jpg")
    assert "04.jpg was changed" in place.crop()


def test_small_blurred_and_dark_photos_are_dropped_with_their_reasons(models, ava, tmp_path):
    portrait = images.read_photo(ava / "00.jpg")
    photos = {
        "small.png": cv2.resize(portrait, (100, 100), interpolation=cv2.INTER_AREA),
        "blurred.png": cv2.GaussianBlur(portrait, (0, 0), 5),
        "dark.png": (portrait * 0.08).astype(np.uint8),
    }
    (tmp_path / "photos").mkdir()
    for name, pixels in photos.items():
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    good = [ava / f"{i:02d}.jpg" for i in range(8)]
    place = Workplace(tmp_path, models)
    place.detect([*good, *sorted((tmp_path / "photos").iterdir())])
    place.curate()
    rows = place.table("photos.tsv").to_dict("records")
    assert {Path(row["photo"]).name: row["reason"] for row in rows if row["reason"]} == {
        "small.png": "too_small",
        "blurred.png": "blurred",
        "dark.png": "bad_exposure",
    }


def test_a_group_photo_is_cut_to_the_subject(workplace, table):
    """On two_people.jpg she stands beside a man: the crop shows her, and him not at all."""
    row = next(r for r in workplace.table("crops.tsv").to_dict("records") if "two_people" in r["photo"])
    assert row["fate"] in ("train", "heldout")
    place = Workplace(workplace.folder / "crop_of_group", workplace.models)
    place.detect([workplace.folder / "ava" / row["crop"]])
    (found,) = place.table("faces.tsv").to_dict("records")
    hers, his = (
        decode_embedding(table[table["photo"].str.contains(name)]["embedding"].iloc[0])
        for name in (r"/11\.jpg", "somebody_else")
    )
    seen = decode_embedding(found["embedding"])
    assert similarity(seen, hers) > 0.7 and similarity(seen, his) < 0.3


def test_small_faces_in_the_background_are_ignored_and_said(table):
    rows = clean(table)
    stranger = table[table["photo"].str.contains("somebody_else")]
    beside = stranger.assign(photo=rows.iloc[0]["photo"], face="1", w="40", h="50", x="5", y="5")
    result = curation.curate(pd.concat([rows, beside]), settings())
    assert [row["detail"] for row in result if row["detail"]] == ["1 small face in the background ignored"]
    assert json.loads(result[0]["others"]) == [[5.0, 5.0, 40.0, 50.0]]


def test_a_head_that_cannot_be_cut_away_costs_the_photo(table):
    rows = clean(table)
    first, stranger = rows.iloc[0], table[table["photo"].str.contains("somebody_else")]
    cheek_to_cheek = stranger.assign(
        photo=first["photo"], face="1", x=str(float(first["x"]) + 0.6 * float(first["w"])), **first[["y", "w", "h"]]
    )
    result = curation.curate(pd.concat([rows, cheek_to_cheek]), settings())
    assert result[0]["reason"] == "several_faces" and "too close" in result[0]["detail"]


def test_on_a_terminal_each_part_of_the_work_shows_how_far_it_is(table, monkeypatch):
    """Thousands of photos take minutes."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(cli, "terminal", Terminal())
    curation.curate(clean(table), settings(near_duplicate=0))
    shown = cli.terminal.getvalue()
    for part in ("faces", "pairs", "copies", "look-alikes"):
        assert re.search(rf"{part}: 100%.* (\d+)/\1 ", shown), part


def test_held_out_photos_are_spread_over_pose_and_light(table):
    rows = clean(table).copy()
    rows["phash"] = [f"{int(v):016x}" for v in np.random.default_rng(0).integers(0, 1 << 63, len(rows))]
    rows["aligned"] = ""  # photos that do not look alike
    for shift in range(4):
        rows["photo"] = [f"{shift}_{i}.jpg" for i in range(len(rows))]  # other names, another order
        rows["yaw"], rows["brightness"] = np.linspace(-40, 40, len(rows)).astype(str), ["0.3", "0.6"] * (len(rows) // 2)
        result = [row for row in curation.curate(rows, settings(held_out=0.25)) if row["fate"] == "heldout"]
        yaw = [float(row["yaw"]) for row in result]
        assert len(result) == 6 and min(yaw) < -13 and max(yaw) > 13 and any(abs(angle) < 14 for angle in yaw)
        assert {row["brightness"] for row in result} == {"0.3", "0.6"}


def test_the_sharper_or_larger_twin_is_kept(table):
    rows = clean(table)
    twin = rows.iloc[[3]].assign(photo="a/twin.jpg", sha256="other")
    blurrier = twin.assign(sharpness="0.4")
    result = {row["photo"]: row for row in curation.curate(pd.concat([rows, blurrier]), settings())}
    assert result["a/twin.jpg"]["reason"] == "near_duplicate"
    larger = twin.assign(w="900")
    result = {row["photo"]: row for row in curation.curate(pd.concat([rows, larger]), settings())}
    assert result["a/twin.jpg"]["reason"] == ""
    assert result[rows.iloc[3]["photo"]]["detail"] == "near-duplicate of twin.jpg, which shows the face larger"


def test_a_retouched_photo_keeps_its_side(table):
    rows = clean(table)
    before = fates(curation.curate(rows, settings()))
    rows.loc[rows.index[0], ["sha256", "sharpness"]] = ["other", "0.7"]
    assert fates(curation.curate(rows, settings())) == before


def test_an_added_photo_moves_at_most_two_others(table):
    rows = clean(table)
    held = held_out(curation.curate(rows.iloc[:20], settings()))
    for i in range(20, 24):
        more = held_out(curation.curate(pd.concat([rows.iloc[:20], rows.iloc[[i]]]), settings()))
        assert len(held - more) <= 2


def test_look_alikes_stay_on_one_side(table):
    rows = clean(table)
    burst = [rows.iloc[[i]].assign(photo=f"{i}_burst.jpg", sha256=str(i)) for i in range(12)]
    result = fates(curation.curate(pd.concat([rows, *burst]), settings(near_duplicate=0, held_out=0.4)))
    # The same face is a near-duplicate even at 0; where the mouth is elsewhere, it is a burst.
    assert {result[f"{i}_burst.jpg"] for i in range(12)} | {result[f"{i:02d}.jpg"] for i in range(12)} >= {"dropped"}
    for row in burst:
        face = decode_aligned_face(row["aligned"].iloc[0]).copy()
        face[40:52, 20:44] = face[42:54, 20:44]
        row["aligned"] = encode_aligned_face(face)
    result = fates(curation.curate(pd.concat([rows, *burst]), settings(near_duplicate=0, held_out=0.4)))
    assert [result[f"{i}_burst.jpg"] for i in range(12)] == [result[f"{i:02d}.jpg"] for i in range(12)]
    assert "heldout" in result.values()


@pytest.mark.parametrize(("photos", "expected"), [(5, 0), (6, 1), (8, 3), (10, 3), (20, 4)])
def test_held_out_photos_never_leave_too_few_to_train_on(table, photos, expected):
    rows = clean(table).iloc[:photos].copy()
    rng = np.random.default_rng(0)  # photos that do not look alike, so that each may go to either side
    rows["phash"], rows["aligned"] = [f"{int(value):016x}" for value in rng.integers(0, 1 << 63, photos)], ""
    assert len(held_out(curation.curate(rows, settings()))) == expected


def test_too_few_photos_is_an_error_that_counts_the_reasons(table, workplace):
    few = table[table["photo"].str.contains(r"/0[0-3]\.jpg$|somebody|no_face|cut_short")]
    with pytest.raises(LikenessError) as caught:
        curation.curate(few, settings())
    message = str(caught.value)
    assert "4 of 7 photos" in message and "1 unreadable, 1 no_face, 1 other_person" in message
    assert "at least 5 are needed" in message and "cut_short.jpg: unreadable: the file is cut short" in message
    printed = workplace.curate(min_photos=100)
    workplace.curate()
    assert printed.startswith("error: 28 of 38 photos can be used")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_row_with_a_reason(models, ava, tmp_path):
    photo = tmp_path / "locked.jpg"
    shutil.copy(ava / "00.jpg", photo)
    photo.chmod(0)
    place = Workplace(tmp_path, models)
    place.detect([photo])
    assert "cannot be opened" in place.table("faces.tsv")["error"].iloc[0]


@pytest.mark.parametrize(
    ("photo", "reason", "limit"),
    [
        ("blurred.jpg", "blurred", {"min_sharpness": 0.01}),
        ("too_dark.jpg", "bad_exposure", {"brightness": [0.0, 1.0]}),
        ("half_a_face.jpg", "occluded", {"min_visible": 0.3}),
        ("far_away.jpg", "too_small", {"min_face": 10}),
    ],
)
def test_every_limit_is_a_key(table, photo, reason, limit):
    before, after = (
        {Path(row["photo"]).name: row["reason"] for row in curation.curate(table, settings(**changes))}
        for changes in ({}, limit)
    )
    assert before[photo] == reason != after[photo]
