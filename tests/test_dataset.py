"""The training set: repeats that add up to the steps asked for, and the folder layout that kohya's trainers read."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness import dataset, files
from likeness.errors import LikenessError

TRAIN = {"max_train_steps": 100, "epochs": 5, "batch_size": 2, "gradient_accumulation_steps": 1}


@pytest.mark.parametrize(
    ("steps", "batch", "accumulation", "images", "epochs", "repeats", "steps_per_epoch"),
    [
        (2000, 2, 1, 20, 10, 20, 200),
        (2000, 1, 1, 20, 10, 10, 200),
        (2000, 2, 4, 20, 10, 80, 200),
        (1500, 1, 1, 15, 1, 100, 1500),
        (100, 2, 1, 7, 3, 10, 35),  # 105 steps: at least as many as asked for
        (10, 1, 1, 50, 2, 1, 50),  # every image is seen once per epoch, even if that makes more steps
        (1, 1, 1, 1, 1, 1, 1),
    ],
)
def test_repeats_make_at_least_the_steps_asked_for(
    steps, batch, accumulation, images, epochs, repeats, steps_per_epoch
):
    assert dataset.repeats(steps, batch, accumulation, images, epochs) == repeats
    assert dataset.steps_per_epoch(images, repeats, batch, accumulation) == steps_per_epoch
    assert steps_per_epoch * epochs >= steps
    sentence = dataset.arithmetic(steps, batch, accumulation, images, epochs)
    assert f"= {repeats};" in sentence
    assert f"{steps_per_epoch * epochs} in all" in sentence


def test_no_image_is_an_error_that_says_where_to_look():
    with pytest.raises(LikenessError, match=r"no training image .* photos\.tsv"):
        dataset.repeats(2000, 2, 1, 0, 10)


def write_captions(folder: Path, names: list[str]) -> None:
    """captions.tsv and the upscaled pictures it names."""
    rows = []
    for i, name in enumerate(names):
        (folder / "upscaled").mkdir(exist_ok=True)
        picture = folder / "upscaled" / f"{name}.png"
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(picture)
        rows.append(
            {
                "photo": f"{name}.jpg",
                "image": f"upscaled/{name}.png",
                "image_sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
                "text": f'ohwx woman, "{name}"\tsmiling',
                "sha256": hashlib.sha256(f'ohwx woman, "{name}"\tsmiling'.encode()).hexdigest(),
            }
        )
    files.write_table(folder / "captions.tsv", rows, ["photo", "image", "image_sha256", "sha256", "text"])


def build(root: Path, folder: Path, train: dict) -> subprocess.CompletedProcess:
    subject = {"trigger": "ohwx", "class_noun": "young woman"}
    config = json.dumps({"subject": subject, "resolution": 8, "train": train})
    paths = {"captions": "captions.tsv", "dataset": "dataset.json", "folder": "image"}
    options = [word for name, path in paths.items() for word in (f"--{name}", folder / path)]
    command = [sys.executable, root / "scripts/build_dataset.py", "--config", config, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_folder_is_what_kohya_reads_and_the_manifest_says_the_same(root, tmp_path):
    write_captions(tmp_path, ["a", "b", "c"])
    done = build(root, tmp_path, TRAIN)
    assert done.returncode == 0, done.stderr
    assert "14 repeats" in done.stdout
    concept = tmp_path / "image" / "14_ohwx young woman"
    assert sorted(p.name for p in concept.iterdir()) == ["a.png", "a.txt", "b.png", "b.txt", "c.png", "c.txt"]
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert (manifest["subject"], manifest["repeats"]) == ("ohwx young woman", 14)
    for item in manifest["images"]:
        picture = tmp_path / item["image"]
        assert picture.parent == concept
        assert hashlib.sha256(picture.read_bytes()).hexdigest() == item["sha256"]
        assert picture.with_suffix(".txt").read_bytes() == item["caption"].encode()
        assert hashlib.sha256(item["caption"].encode()).hexdigest() == item["caption_sha256"]
        assert np.asarray(Image.open(picture)).shape == (8, 8, 3)


def test_another_number_of_repeats_leaves_no_old_folder_to_train_on(root, tmp_path):
    write_captions(tmp_path, ["a", "b", "c"])
    build(root, tmp_path, TRAIN)
    first = (tmp_path / "dataset.json").read_bytes()
    build(root, tmp_path, TRAIN | {"max_train_steps": 200})
    assert [p.name for p in (tmp_path / "image").iterdir()] == ["27_ohwx young woman"]
    build(root, tmp_path, TRAIN)
    assert (tmp_path / "dataset.json").read_bytes() == first


def test_an_empty_set_is_one_line_not_a_traceback(root, tmp_path):
    write_captions(tmp_path, [])
    done = build(root, tmp_path, TRAIN)
    assert done.returncode == 1
    assert "no training image" in done.stdout and "Traceback" not in done.stderr
    assert not (tmp_path / "dataset.json").exists()
