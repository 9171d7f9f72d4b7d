"""Real-ESRGAN at work on a real crop: the authors' network, whole weights, no seams, and the same person afterwards."""

import importlib.util
import json
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from likeness.config import checks
from likeness.core import manifests
from likeness.core.errors import LikenessError
from likeness.core.provenance import file_sha256
from likeness.faces import upscale
from likeness.faces.crops import crop_box, crop_face
from likeness.faces.detection import Detector, sharpness
from likeness.faces.identity import Recogniser, face_embedding, similarity
from likeness.photos import images
from project import CONFIG, ROOT

SIDE = 96  # px of the small crop
RESOLUTION = 256
SIZE = (RESOLUTION, RESOLUTION)
TILE = 256  # more than the small crop: it is enlarged in one piece


@pytest.fixture(scope="module")
def upsampler(model_files):
    return upscale.real_esrganer(model_files, TILE, torch.device("cpu"))


@pytest.fixture(scope="module")
def embed(model_files):
    face_models = Detector(model_files), Recogniser(model_files)
    return lambda image: face_embedding(image, *face_models)[1]


@pytest.fixture(scope="module")
def large_crop(ava, model_files) -> np.ndarray:
    """The face of one photo at more than the resolution."""
    photo = images.read_photo(sorted(ava.glob("*.jpg"))[0])
    row = Detector(model_files).faces(photo)[0] | {"width": photo.shape[1], "height": photo.shape[0]}
    return crop_face(photo, crop_box(row, 0.8), 512)


@pytest.fixture(scope="module")
def small_crop(large_crop) -> np.ndarray:
    return cv2.resize(large_crop, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def enlarged(small_crop, upsampler) -> np.ndarray:
    return upscale.enlarged(small_crop, upsampler)


def test_the_published_weights_fill_the_authors_network_completely(upsampler, model_files):
    names = model_files / "REALESRGAN_X4PLUS_UP4X.param", model_files / "REALESRGAN_X4PLUS_UP4X.bin"
    weights = upscale.state_dict(*names, upsampler.model)
    assert sum(tensor.numel() for tensor in weights.values()) == 16_697_987
    upsampler.model.load_state_dict(weights, strict=True)
    assert type(upsampler).__module__.startswith("realesrgan.")


def test_no_space_for_temporary_files_is_a_sentence(model_files, tmp_path, monkeypatch):
    """The limit on a file's size is met the way a full disk is: the write fails half-way."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(LikenessError, match=f"{tmp_path}.* too large .* free some space"):
            upscale.real_esrganer(model_files, TILE, torch.device("cpu"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_weights_cut_short_are_refused(model_files, upsampler, tmp_path):
    whole = model_files / "REALESRGAN_X4PLUS_UP4X.bin"
    short = tmp_path / "short.bin"
    short.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(LikenessError, match="cut short"):
        upscale.state_dict(model_files / "REALESRGAN_X4PLUS_UP4X.param", short, upsampler.model)


def test_no_stand_in_for_torchvision_is_left_behind(upsampler):
    assert not [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    assert importlib.util.find_spec("torchvision") is None
    from transformers.utils import is_torchvision_available

    assert not is_torchvision_available()


def test_enlarged_face_is_sharper_than_lanczos_and_the_same_person(small_crop, large_crop, enlarged, embed):
    assert enlarged.shape == (4 * SIDE, 4 * SIDE, 3)
    result = upscale.upscaled(small_crop, SIZE, lambda _: enlarged, embed, 0.6)
    assert (result.method, result.detail) == ("realesrgan", "")
    assert result.image.shape == (RESOLUTION, RESOLUTION, 3)
    plain = images.lanczos(small_crop, RESOLUTION, RESOLUTION)
    assert grey_sharpness(result.image) > grey_sharpness(plain) + 0.05
    # Like the photo that the small crop was made from, not only like the small crop.
    assert similarity(embed(result.image), embed(large_crop)) > 0.6
    # The same picture: colours and places stay, only detail is added.
    assert np.abs(result.image.astype(int) - plain).mean() < 6


def grey_sharpness(image: np.ndarray) -> float:
    return sharpness(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def test_a_face_that_changed_is_refused_and_lanczos_used(small_crop, enlarged, embed):
    result = upscale.upscaled(small_crop, SIZE, lambda _: enlarged, embed, 1.0)
    assert result.method == "lanczos"
    assert 0.5 < result.similarity < 1
    assert "changed the face" in result.detail and "Lanczos" in result.detail
    assert np.array_equal(result.image, images.lanczos(small_crop, RESOLUTION, RESOLUTION))


def test_another_face_is_refused(small_crop, embed, root):
    stranger = np.asarray(Image.open(root / "resources/strangers/00000.jpg").convert("RGB"))
    result = upscale.upscaled(small_crop, SIZE, lambda _: stranger, embed, 0.6)
    assert result.method == "lanczos" and "changed the face" in result.detail


def test_without_a_face_there_is_nothing_to_compare_so_lanczos_is_used(embed):
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    result = upscale.upscaled(grey, SIZE, lambda _: grey, embed, 0.6)
    assert (result.method, result.similarity) == ("lanczos", None)
    assert result.detail == "no face found in the crop, so Lanczos was used"


def not_needed(_):
    raise AssertionError("no model is needed")


def test_large_crops_are_reduced_and_fitting_ones_left_alone(large_crop):
    reduced = upscale.upscaled(large_crop, SIZE, not_needed, not_needed, 0.6)
    assert reduced.image.shape == (RESOLUTION, RESOLUTION, 3) and large_crop.shape[0] > RESOLUTION
    same = upscale.upscaled(reduced.image, SIZE, not_needed, not_needed, 0.6)
    assert np.array_equal(same.image, reduced.image)
    assert (same.method, same.similarity) == ("lanczos", None)


def test_tiles_leave_no_seams(large_crop, upsampler):
    """A strip across the eyes in two tiles: as if it had been enlarged in one piece, within 4 levels of 255."""
    strip = cv2.resize(large_crop, (128, 128), interpolation=cv2.INTER_AREA)[48:72]
    whole = upscale.enlarged(strip, upsampler)
    upsampler.tile_size = 64
    tiled = upscale.enlarged(strip, upsampler)
    upsampler.tile_size = TILE
    assert not np.array_equal(tiled, whole)  # there were two
    assert np.abs(tiled.astype(int) - whole).max() <= 4


def test_a_tile_that_fails_is_an_error_not_the_tile_before(upsampler):
    with pytest.raises(LikenessError, match="smaller upscale.tile"):
        upsampler.model(torch.zeros(1, 1, 8, 8))  # as RealESRGANer calls it; two channels are missing


def test_a_crop_of_another_shape_keeps_it(small_crop, large_crop):
    tall = upscale.upscaled(large_crop[:, 64:-64], (192, 256), not_needed, not_needed, 0.6)
    assert tall.image.shape == (256, 192, 3) and tall.method == "lanczos"
    wide = upscale.upscaled(small_crop[8:-8], (192, 160), lambda crop: crop, lambda _: np.ones(3) / 3**0.5, 0.6)
    assert wide.image.shape == (160, 192, 3) and wide.method == "realesrgan"


def test_script_makes_training_images_once(root, model_files, small_crop, large_crop, tmp_path):
    first = run_script(root, model_files, tmp_path, {"small": small_crop, "large": large_crop, "held": large_crop})
    assert first.returncode == 0, first.stderr
    # The held-out crop is the large one again.
    assert first.stdout.splitlines()[-1] == "items: 2 computed, 1 reused"
    table = manifests.read_table(tmp_path / "upscaled.tsv").set_index("photo")
    assert list(table.index) == ["held.jpg", "large.jpg", "small.jpg"]
    assert list(table["fate"]) == ["heldout", "train", "train"]
    assert list(table["method"]) == ["lanczos", "lanczos", "realesrgan"]
    assert float(table.loc["small.jpg", "similarity"]) > 0.6
    # Of the square in the photo, which the crop stage has already reduced where it was the larger one.
    assert table.loc["small.jpg", "scale"] == f"{RESOLUTION / SIDE:.3f}" and table.loc["large.jpg", "scale"] == "0.256"
    assert (table["face_fraction"] == "0.450").all() and (table["brightness"] == "0.5").all()
    assert (table["face"] == "[0.5,0.48,0.33,0.45]").all()
    for row in table.itertuples():
        assert Image.open(tmp_path / row.image).size == (RESOLUTION, RESOLUTION)
    made = {path: path.read_bytes() for path in [tmp_path / "upscaled.tsv", *(tmp_path / "upscaled").iterdir()]}

    again = run_script(root, model_files, tmp_path, {"small": small_crop, "large": large_crop, "held": large_crop})
    assert again.stdout.splitlines()[-1] == "items: 0 computed, 3 reused"
    assert {path: path.read_bytes() for path in made} == made
    assert "| torch\n" not in again.stderr  # of -X importtime: what is reused needs no model


@pytest.fixture(scope="module")
def published(upsampler) -> dict:
    """The published weights, under the network's own names."""
    return upsampler.model.state_dict()


@pytest.mark.parametrize("kind", ["params_ema", "params", "bare", "safetensors"])
def test_weights_of_the_users_own_are_taken_as_authors_save_them(kind, published, upsampler, tmp_path):
    if kind == "safetensors":
        file = tmp_path / "own.safetensors"
        save_file({name: tensor.clone() for name, tensor in published.items()}, file)
    else:
        file = tmp_path / "own.pth"
        torch.save(published if kind == "bare" else {kind: published}, file)
    taken = upscale.own_state_dict(file, upsampler.model)
    assert taken.keys() == published.keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in taken.items())


def test_weights_of_the_users_own_draw_the_picture(published, small_crop, upsampler, tmp_path):
    torch.save({"params_ema": published}, tmp_path / "own.pth")
    own = upscale.real_esrganer(tmp_path / "no models", TILE, torch.device("cpu"), tmp_path / "own.pth")
    eye = small_crop[36:48, 32:48]
    assert np.array_equal(upscale.enlarged(eye, own), upscale.enlarged(eye, upsampler))


def test_weights_that_do_not_fit_are_refused_in_a_sentence(published, upsampler, tmp_path):
    torch.save({"params": {name: tensor[:2] for name, tensor in published.items()}}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
    unreadable = dict.fromkeys(["list.pth", "text.pth", "text.safetensors"], "cannot be read")
    for name, words in (unreadable | {"other.pth": "another network"}).items():
        with pytest.raises(LikenessError, match=words) as caught:
            upscale.own_state_dict(tmp_path / name, upsampler.model)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_a_mistake_in_the_configuration(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "small_base").mkdir()
    roots = [tmp_path, ROOT]
    with pytest.raises(LikenessError, match="upscale.weights: no file 'mine.pth'"):
        checks.checked_config(CONFIG | {"upscale": {"weights": "mine.pth"}}, roots)
    (tmp_path / "mine.pth").touch()
    checks.checked_config(CONFIG | {"upscale": {"weights": "mine.pth"}}, roots)


def test_other_weights_make_new_pictures_and_the_same_under_another_name_none(
    root, model_files, published, small_crop, tmp_path
):
    def last_line(*options) -> str:
        done = run_script(root, model_files, tmp_path, {"small": small_crop[::4, ::4]}, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    assert last_line() == "items: 1 computed, 0 reused"
    torch.save({"params": published}, tmp_path / "own.pth")
    assert last_line("--weights", tmp_path / "own.pth") == "items: 1 computed, 0 reused"
    (tmp_path / "own.pth").rename(tmp_path / "renamed.pth")
    assert last_line("--weights", tmp_path / "renamed.pth") == "items: 0 computed, 1 reused"


def run_script(
    root: Path, models: Path, folder: Path, crops: dict[str, np.ndarray], *more: str | Path
) -> subprocess.CompletedProcess:
    (folder / "crops").mkdir(exist_ok=True)
    rows = []
    for name, crop in sorted(crops.items()):
        (folder / f"crops/{name}.png").write_bytes(images.png_bytes(crop))
        fate = "heldout" if name == "held" else "train"
        row = {"photo": f"{name}.jpg", "fate": fate, "crop": f"crops/{name}.png"}
        row |= {"sha256": file_sha256(folder / row["crop"])}
        row |= {"source_side": "1000" if name == "large" else str(crop.shape[0]), "face_fraction": "0.450"}
        row |= {"face": "[0.5,0.48,0.33,0.45]", "size": json.dumps([RESOLUTION, RESOLUTION])}
        rows.append(row | {"yaw": "0", "pitch": "0", "roll": "0", "brightness": "0.5", "attributes": "{}"})
    manifests.write_table(folder / "crops.tsv", rows, list(rows[0]))
    config = json.dumps({"resolution": RESOLUTION, "upscale": {"tile": TILE, "min_similarity": 0.6}})
    paths = {"crops": "crops.tsv", "cache": "cache", "upscaled": "upscaled.tsv", "folder": "upscaled"}
    options = [word for name, path in paths.items() for word in (f"--{name}", folder / path)]
    command = [sys.executable, "-X", "importtime", root / "scripts/upscale_faces.py", "--config", config, *options]
    return subprocess.run([*command, "--models", models, *more], capture_output=True, text=True)
