"""Every photo meets its fate for a reason a person understands; the held-out photos stay held out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from likeness import curation, images, manifests
from likeness.errors import LikenessError
from likeness.identity import (
    decode_aligned_face,
    decode_embedding,
    encode_aligned_face,
    encode_embedding,
    similarity,
)
from likeness.provenance import file_sha256

SCRIPTS = Path(curation.__file__).parents[1]
SETTINGS = {"min_face": 64, "same_person": 0.45, "near_duplicate": 6, "held_out": 0.2, "min_photos": 5}


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**SETTINGS | changes)


def script(name: str, config: dict | None = None, **options) -> str:
    """Run a script as a rule does; returns what it printed."""
    command = [sys.executable, str(SCRIPTS / name), "--config", json.dumps(config or {})]
    for option, value in options.items():
        command += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


class Workplace:
    """A results folder with the three scripts' manifests in it."""

    def __init__(self, folder: Path, models: Path):
        self.folder, self.models = folder, models

    def detect(self, photos: list[Path]) -> str:
        return script(
            "detect_faces.py",
            photos=photos,
            models=self.models,
            cache=self.folder / "cache",
            faces=self.folder / "ava/faces.tsv",
        )

    def curate(self, **changes) -> str:
        faces, photos = self.folder / "ava/faces.tsv", self.folder / "ava/photos.tsv"
        config = {"curate": SETTINGS | changes, "subject": {"reference": []}}
        return script("curate_photos.py", config, faces=faces, photos=photos)

    def crop(self, resolution: int = 128) -> str:
        return script(
            "crop_faces.py",
            {"crop": {"face_fraction": 0.45, "face_level": 0.48}, "resolution": resolution, "buckets": False},
            photos=self.folder / "ava/photos.tsv",
            cache=self.folder / "cache_crops",
            crops=self.folder / "ava/crops.tsv",
            folder=self.folder / "ava/crops",
        )

    def table(self, name: str) -> pd.DataFrame:
        return manifests.read_table(self.folder / "ava" / name)


@pytest.fixture(scope="module")
def models(model_files, tmp_path_factory) -> Path:
    """The models with their manifest beside them, as fetch_models leaves them."""
    folder = tmp_path_factory.mktemp("models")
    for path in model_files.glob("[!.]*"):
        (folder / path.name).symlink_to(path.resolve())
    if not (folder / "models.json").exists():
        (folder / "models.json").write_text(json.dumps({p.name: file_sha256(p) for p in folder.iterdir()}))
    return folder


@pytest.fixture(scope="module")
def workplace(models, tmp_path_factory, ava) -> Workplace:
    """The demonstration's photos, detected, curated and cropped once."""
    place = Workplace(tmp_path_factory.mktemp("results"), models)
    place.detect(sorted(ava.iterdir()))
    place.curate()
    place.crop()
    return place


@pytest.fixture(scope="module")
def table(workplace) -> pd.DataFrame:
    return workplace.table("faces.tsv")


def clean(table: pd.DataFrame) -> pd.DataFrame:
    """The 24 ordinary photos of the demonstration."""
    return table[table["photo"].str.contains(r"/\d\d\.jpg$")].copy()


def fates(rows: list[dict]) -> dict[str, str]:
    return {Path(row["photo"]).name: row["fate"] for row in rows}


def held_out(rows: list[dict]) -> set[str]:
    return {name for name, fate in fates(rows).items() if fate == "heldout"}


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
    assert workplace.detect(sorted(ava.iterdir())).splitlines()[-1] == "items: 0 computed, 38 reused"
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
    assert place.detect(sorted(photos.iterdir())).splitlines()[-1] == "items: 0 computed, 39 reused"
    images_changed = np.asarray(Image.open(photos / "02.jpg"))[:, ::-1]
    Image.fromarray(images_changed).save(photos / "02.jpg")
    assert place.detect(sorted(photos.iterdir())).splitlines()[-1] == "items: 1 computed, 38 reused"
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


def strangers(table, count: int, person: str = "somebody_else", name: str = "s") -> list[pd.DataFrame]:
    """Photos of one other person that do not look alike."""
    stranger = table[table["photo"].str.contains(person)]
    return [
        stranger.assign(photo=f"{name}{i}.jpg", sha256=f"{name}{i}", phash=f"{i * 0x1111111111111111:016x}", aligned="")
        for i in range(count)
    ]


def test_the_subject_is_whom_most_photos_show(table):
    result = curation.curate(pd.concat([clean(table), *strangers(table, 6)]), settings(near_duplicate=0))
    assert {row["photo"] for row in result if row["reason"] == "other_person"} == {f"s{i}.jpg" for i in range(6)}


def test_the_subject_is_whom_the_reference_photos_show(table):
    few = clean(table).iloc[:8]
    folder = pd.concat([few, *strangers(table, 12)])
    by_number = curation.curate(folder, settings(near_duplicate=0))
    assert {row["photo"] for row in by_number if row["reason"] == "other_person"} == set(few["photo"])
    by_name = curation.curate(folder, settings(near_duplicate=0), ["03.jpg"])
    assert {row["photo"] for row in by_name if row["reason"] == "other_person"} == {f"s{i}.jpg" for i in range(12)}
    with pytest.raises(LikenessError, match=r"reference photo 02\.jpg shows 2 faces"):
        curation.curate(pd.concat([folder, few.iloc[[2]].assign(face="1")]), settings(), ["02.jpg"])


def test_two_people_on_as_many_photos_need_a_reference(table):
    folder = pd.concat([clean(table).iloc[:7], *strangers(table, 7)])
    with pytest.raises(
        LikenessError, match=r"two people are on 7 photos each \(one on 00\.jpg and 01\.jpg, .*reference"
    ):
        curation.curate(folder, settings())
    assert curation.curate(folder, settings(near_duplicate=0), ["00.jpg"])


def test_a_sister_who_is_on_several_photos_is_told_from_the_subject(table):
    """She is as like the subject as the threshold asks, but more like herself."""
    rows = clean(table)
    faces = np.stack([decode_embedding(text) for text in rows["embedding"]])
    mean = faces.mean(axis=0) / np.linalg.norm(faces.mean(axis=0))
    stranger = decode_embedding(table[table["photo"].str.contains("somebody_else")]["embedding"].iloc[0])
    across = stranger - (stranger @ mean) * mean
    sister = encode_embedding(0.5 * mean + np.sqrt(0.75) * across / np.linalg.norm(across))
    alone = [photo.assign(embedding=sister) for photo in strangers(table, 1)]
    result = {row["photo"]: row for row in curation.curate(pd.concat([rows, *alone]), settings())}
    assert result["s0.jpg"]["reason"] == "", "one photo alone is taken for hers"
    often = [photo.assign(embedding=sister) for photo in strangers(table, 4)]
    result = curation.curate(pd.concat([rows, *often]), settings(near_duplicate=0))
    dropped = {row["photo"]: row["detail"] for row in result if row["reason"] == "other_person"}
    assert set(dropped) == {f"s{i}.jpg" for i in range(4)}
    assert "similarity 0.5" in dropped["s0.jpg"] and "to somebody else" in dropped["s0.jpg"]


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


def advice_for(table: pd.DataFrame, **attributes) -> str:
    """The advice for the clean photos with some measurements replaced."""
    rows = curation.curate(clean(table), settings())
    for row in rows:
        row["attributes"] = json.dumps(json.loads(row["attributes"]) | attributes)
    return " ".join(curation.advice(rows))


def test_advice_names_what_the_photos_do_not_show(table):
    advice = " ".join(curation.advice(curation.curate(clean(table), settings())))
    assert "turned to the left" in advice and "straight" not in advice


def test_advice_names_what_all_photos_show(table):
    assert "100% with glasses" in advice_for(table, glasses=True)
    assert "with glasses" not in advice_for(table, glasses=False)
    assert "100% smiling" in advice_for(table, smile=0.9)
    assert "backgrounds are all alike" in advice_for(table, background=0.5)


def test_advice_counts_the_photos_that_are_missing_in_daylight(table):
    rows = [row for row in curation.curate(clean(table), settings()) if row["fate"] == "train"]
    for i, row in enumerate(rows):
        row["brightness"] = "0.2" if i < len(rows) - 4 else "0.5"
    dim = len(rows) - 4
    assert f"{dim} of {len(rows)} are in dim light: {dim - 4} more photos in daylight would help." in curation.advice(
        rows
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_row_with_a_reason(models, ava, tmp_path):
    photo = tmp_path / "locked.jpg"
    shutil.copy(ava / "00.jpg", photo)
    photo.chmod(0)
    place = Workplace(tmp_path, models)
    place.detect([photo])
    assert "cannot be opened" in place.table("faces.tsv")["error"].iloc[0]
