"""The training set: two of steps, epochs and repeats give the third, and the folders are what kohya's trainers read."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from likeness.core import manifests
from likeness.core.errors import LikenessError
from likeness.training import schedule

TRAIN = {"max_train_steps": 100, "epochs": 5, "repeats": None, "batch_size": 2, "gradient_accumulation_steps": 1}
SQUARE, UPRIGHT = (512, 512), (448, 576)
SIDE = 8  # px of the pictures here


def plan(steps, epochs, repeats, batch, accumulation) -> SimpleNamespace:
    return SimpleNamespace(
        **{"max_train_steps": steps, "epochs": epochs, "repeats": repeats},
        **{"batch_size": batch, "gradient_accumulation_steps": accumulation},
    )


def numbers(counts: schedule.Schedule) -> tuple[int, ...]:
    return counts.repeats, counts.epochs, counts.steps_per_epoch, counts.total_steps


@pytest.mark.parametrize(
    ("train", "images", "expected"),
    [
        (plan(2000, 10, None, 2, 1), 20, (20, 10, 200, 2000)),
        (plan(2000, 10, None, 1, 1), 20, (10, 10, 200, 2000)),
        (plan(2000, 10, None, 2, 4), 20, (80, 10, 200, 2000)),
        (plan(1500, 1, None, 1, 1), 15, (100, 1, 1500, 1500)),
        (plan(100, 3, None, 2, 1), 7, (10, 3, 35, 105)),  # at least as many as asked for
        (plan(10, 2, None, 1, 1), 50, (1, 2, 50, 100)),  # every image is seen once per epoch, even if that is more
        (plan(1, 1, None, 1, 1), 1, (1, 1, 1, 1)),
        (plan(None, 10, 20, 2, 1), 20, (20, 10, 200, 2000)),
        (plan(None, 3, 3, 2, 1), 7, (3, 3, 11, 33)),  # 21 pictures in 11 batches, the last of one
        (plan(2000, None, 20, 2, 1), 20, (20, 10, 200, 2000)),
        (plan(30, None, 3, 2, 1), 7, (3, 3, 11, 33)),  # whole epochs
        (plan(5, None, 3, 2, 1), 7, (3, 1, 11, 11)),
    ],
)
def test_two_of_steps_epochs_and_repeats_give_the_third(train, images, expected):
    counts = schedule.schedule(train, [SQUARE] * images)
    assert numbers(counts) == expected
    assert counts.images == images and counts.shown == images * expected[0]
    assert counts.total_steps >= (train.max_train_steps or 0)
    sentence = schedule.arithmetic(train, [SQUARE] * images)
    assert f"{expected[2]} optimisation steps per epoch" in sentence and f"{expected[3]} in all" in sentence
    counts = {"repeats": expected[0], "epochs": expected[1]}
    for key, number in counts.items():
        assert (f"{key} = ceil(" in sentence) == (getattr(train, key) is None)
        assert getattr(train, key) is not None or f") = {number};" in sentence


def test_more_steps_than_were_asked_for_are_said_with_the_reason():
    said = "more than the 10 asked for, because every epoch shows every photo; 100 in all"
    assert schedule.arithmetic(plan(10, 2, None, 1, 1), [SQUARE] * 50).endswith(said)
    assert "asked for" not in schedule.arithmetic(plan(100, 3, None, 2, 1), [SQUARE] * 7), "whole repeats, 5 steps more"


def test_as_many_regularisation_photos_are_shown_as_of_the_subject():
    for others in ([SQUARE] * 3, [SQUARE] * 300):
        counts = schedule.schedule(plan(2000, 10, None, 2, 1), [SQUARE] * 20, others)
        assert numbers(counts) == (10, 10, 200, 2000)
        assert counts.images == 20 and counts.shown == 400
    sentence = schedule.arithmetic(plan(2000, 10, None, 2, 1), [SQUARE] * 20, [SQUARE])
    assert "20 images x 2 for regularisation" in sentence and "2000 in all" in sentence


def test_only_pictures_of_one_size_share_a_batch():
    sizes = [SQUARE] * 5 + [UPRIGHT] * 2
    # 3 repeats are 15 and 6 pictures: 4 and 2 batches of 4.
    assert numbers(schedule.schedule(plan(None, 2, 3, 4, 1), sizes)) == (3, 2, 6, 12)
    assert "2 sizes, each with batches of its own" in schedule.arithmetic(plan(None, 2, 3, 4, 1), sizes)
    # Regularisation photos are square: 15 + 21 of them, and 6 upright ones.
    assert numbers(schedule.schedule(plan(None, 2, 3, 4, 1), sizes, [SQUARE])) == (3, 2, 11, 22)


@pytest.mark.parametrize(
    ("epochs", "every", "saved"), [(4, 1, [1, 2, 3, 4]), (10, 4, [4, 8, 10]), (3, 9, [3]), (4, 2, [2, 4])]
)
def test_the_last_epoch_is_always_saved(epochs, every, saved):
    assert schedule.saved_epochs(epochs, every) == saved


def test_no_image_is_an_error_that_says_where_to_look():
    with pytest.raises(LikenessError, match=r"no training image .* photos\.tsv"):
        schedule.schedule(SimpleNamespace(**TRAIN), [])


def write_tables(folder: Path, names: list[str]) -> None:
    """photos.tsv, captions.tsv and the upscaled pictures it names; a name with "held" is held out."""
    (folder / "upscaled").mkdir(exist_ok=True)
    photos, captions = [], []
    for i, name in enumerate(names):
        picture = folder / "upscaled" / f"{name}.png"
        Image.fromarray(np.full((SIDE, SIDE, 3), i, np.uint8)).save(picture)
        row = {"photo": f"{name}.jpg", "fate": "heldout" if "held" in name else "train"}
        photos.append(row | {"sha256": hashlib.sha256(picture.read_bytes()).hexdigest()})
        row |= {"image": f"upscaled/{name}.png", "image_sha256": photos[-1]["sha256"], "face": "[0.5,0.48,0.33,0.45]"}
        captions.append(row | {"text": f'ohwx woman, "{name}"\tsmiling'})
    manifests.write_table(folder / "photos.tsv", photos, ["photo", "fate", "sha256"])
    manifests.write_table(folder / "captions.tsv", captions, ["photo", "fate", "image", "image_sha256", "face", "text"])


def regularisation_photos(folder: Path) -> list[Path]:
    """A wide photo with a red middle, two of the same stem, of which one lies on its side by EXIF, one too small, and a
    damaged one."""
    (folder / "others").mkdir()
    wide = np.zeros((2 * SIDE, 6 * SIDE, 3), np.uint8)
    wide[:, 2 * SIDE : 4 * SIDE] = (255, 0, 0)
    Image.fromarray(wide).save(folder / "others/wide.png")
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(folder / "others/b.png")
    sideways = np.zeros((2 * SIDE, 2 * SIDE, 3), np.uint8)
    sideways[:, :SIDE] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored left is the top of the upright picture
    Image.fromarray(sideways).save(folder / "others/b.jpg", quality=95, exif=exif)
    Image.fromarray(np.zeros((SIDE - 1, 99, 3), np.uint8)).save(folder / "others/small.png")
    (folder / "others/broken.jpg").write_bytes(b"no picture")
    (folder / "others/wide.txt").write_text("photo of a woman\nin the rain\n")
    return sorted(folder.glob("others/*.[jp]*g"))


def build(
    root: Path, folder: Path, train: dict = TRAIN, others: list[Path] = (), not_read: list[Path] = ()
) -> subprocess.CompletedProcess:
    subject = {"trigger": "ohwx", "class_noun": "young woman"}
    config = json.dumps({"subject": subject, "resolution": SIDE, "train": train})
    paths = {"photos": "photos.tsv", "captions": "captions.tsv", "cache": "cache", "dataset": "dataset.json"}
    paths |= {"folder": "image", "reg-folder": "reg"}
    options = [word for name, path in paths.items() for word in (f"--{name}", folder / path)]
    texts = [text for text in folder.glob("others/*.txt") if text.is_file()]
    options += ["--words", root / "resources/identity_words.txt"]
    command = [sys.executable, root / "scripts/build_dataset.py", "--config", config, *options]
    command += ["--regularisation", *others, "--texts", *texts, "--not-read", *not_read]
    return subprocess.run(command, capture_output=True, text=True)


def read_manifest(folder: Path) -> dict:
    """dataset.json, every item of it compared with the files that it names."""
    manifest = json.loads((folder / "dataset.json").read_text())
    for group in ("images", "heldout", "regularisation"):
        for item in manifest[group]:
            picture = folder / item["image"]
            assert hashlib.sha256(picture.read_bytes()).hexdigest() == item["sha256"]
            assert hashlib.sha256(item["caption"].encode()).hexdigest() == item["caption_sha256"]
            assert list(Image.open(picture).size) == item["size"] == [SIDE, SIDE]
            if group != "heldout":
                assert picture.with_suffix(".txt").read_bytes() == item["caption"].encode()
    return manifest


def test_folder_is_what_kohya_reads_and_the_manifest_says_the_same(root, tmp_path):
    write_tables(tmp_path, ["a", "b", "c"])
    done = build(root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 images x 14 repeats" in done.stdout
    concept = tmp_path / "image" / "14_ohwx young woman"
    assert sorted(p.name for p in concept.iterdir()) == ["a.png", "a.txt", "b.png", "b.txt", "c.png", "c.txt"]
    manifest = read_manifest(tmp_path)
    assert (manifest["subject"], manifest["repeats"]) == ("ohwx young woman", 14)
    assert [(tmp_path / item["image"]).parent for item in manifest["images"]] == [concept] * 3
    assert [item["face"] for item in manifest["images"]] == [[0.5, 0.48, 0.33, 0.45]] * 3
    assert manifest["heldout"] == manifest["regularisation"] == [] == list((tmp_path / "reg").iterdir())


def test_held_out_photos_are_listed_and_not_laid_out_to_train_on(root, tmp_path):
    write_tables(tmp_path, ["a", "held", "b"])
    assert build(root, tmp_path).returncode == 0
    manifest = read_manifest(tmp_path)
    assert [item["name"] for item in manifest["images"]] == ["a", "b"]
    assert [item["image"] for item in manifest["heldout"]] == ["upscaled/held.png"]
    assert manifest["heldout"][0]["face"] == [0.5, 0.48, 0.33, 0.45]
    assert not list((tmp_path / "image").rglob("held*"))


def test_every_picture_has_the_caption_that_the_class_is_preserved_by(root, tmp_path):
    write_tables(tmp_path, ["a", "held", "b"])
    assert build(root, tmp_path).returncode == 0
    manifest = read_manifest(tmp_path)
    assert [item["class_caption"] for item in manifest["images"]] == [
        "a young woman, a smiling",
        "a young woman, b smiling",
    ]
    assert manifest["bare_class"]["caption"] == "photo of a young woman"
    for item, key in [*((item, "class_caption") for item in manifest["images"]), (manifest["bare_class"], "caption")]:
        assert hashlib.sha256(item[key].encode()).hexdigest() == item[f"{key}_sha256"]
    assert not any("class_caption" in item for item in manifest["heldout"])


def test_another_number_of_repeats_leaves_no_old_folder_to_train_on(root, tmp_path):
    write_tables(tmp_path, ["a", "b", "c"])
    build(root, tmp_path)
    first = (tmp_path / "dataset.json").read_bytes()
    build(root, tmp_path, TRAIN | {"max_train_steps": 200})
    assert [p.name for p in (tmp_path / "image").iterdir()] == ["27_ohwx young woman"]
    build(root, tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == first


def test_regularisation_photos_are_squares_of_the_resolution_with_the_class_noun_or_their_own_caption(root, tmp_path):
    write_tables(tmp_path, ["a", "held", "b"])
    photos = regularisation_photos(tmp_path)
    (tmp_path / "others/nobody.txt").write_text("photo of a woman")
    odd = [tmp_path / "others/gone.jpg", tmp_path / "others/more", tmp_path / "others/b.txt"]
    for link in (odd[0], odd[2]):
        link.symlink_to("nowhere")
    odd[1].mkdir()
    done = build(root, tmp_path, others=photos, not_read=odd)
    assert done.returncode == 0, done.stderr
    assert "gone.jpg: left out: the file cannot be opened: no such file" in done.stdout
    assert "more: left out: a folder; move the photos in it up" in done.stdout
    assert "b.txt: a folder, a pipe or a link to nothing, so it is not read; remove it" in done.stdout
    assert "nobody.txt: belongs to no photo that is used, so it is not read" in done.stdout
    assert f"small.png: left out: 99 x {SIDE - 1} px, smaller than the resolution of {SIDE} px" in done.stdout
    assert "broken.jpg: left out: " in done.stdout
    assert done.stdout.splitlines()[-1] == "items: 3 computed, 0 reused"
    manifest = read_manifest(tmp_path)
    captions = {item["name"]: item["caption"] for item in manifest["regularisation"]}
    assert captions == {"b": "young woman", "b_png": "young woman", "wide": "photo of a woman in the rain"}
    reg = tmp_path / "reg" / "1_young woman"
    assert {(tmp_path / item["image"]).parent for item in manifest["regularisation"]} == {reg}
    assert len(list(reg.iterdir())) == 6
    assert (np.asarray(Image.open(reg / "wide.png")) == (255, 0, 0)).all(), "the middle square"
    upright = np.asarray(Image.open(reg / "b.png")).mean(axis=(1, 2))
    assert upright[:3].min() > 200 and upright[-3:].max() < 50
    assert "2 images x 2 for regularisation" in manifest["arithmetic"] and manifest["repeats"] == 10

    assert build(root, tmp_path, others=photos).stdout.splitlines()[-1] == "items: 0 computed, 3 reused"
    assert build(root, tmp_path).returncode == 0
    assert list((tmp_path / "reg").iterdir()) == [] and read_manifest(tmp_path)["regularisation"] == []


def test_a_photo_of_the_subject_is_no_regularisation_photo(root, tmp_path):
    write_tables(tmp_path, ["a", "b"])
    copy = tmp_path / "other.png"
    copy.write_bytes((tmp_path / "upscaled/b.png").read_bytes())
    done = build(root, tmp_path, others=[copy])
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "other.png is the subject's photo b.jpg; remove it from the regularisation folder" in done.stdout


def test_regularisation_photos_of_which_none_can_be_used_are_an_error(root, tmp_path):
    write_tables(tmp_path, ["a", "b"])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    done = build(root, tmp_path, others=[broken])
    assert done.returncode == 1 and "none of the 1 regularisation photos can be used" in done.stdout
    assert not (tmp_path / "dataset.json").exists()


def test_an_empty_set_is_one_line_not_a_traceback(root, tmp_path):
    write_tables(tmp_path, ["held"])
    done = build(root, tmp_path)
    assert done.returncode == 1
    assert "no training image" in done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / "dataset.json").exists()
