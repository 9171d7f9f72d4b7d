"""What `make demo` runs, with half of its training steps to save minutes: every trap photo gets its reason, every file
loads, the report opens."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
from PIL import Image

import fork_server
from project import ROOT

FATES = {
    "cut_short.jpg": "unreadable",
    "not_a_picture.jpg": "unreadable",
    "no_face.jpg": "no_face",
    "mirror.jpg": "several_faces",
    "far_away.jpg": "too_small",
    "blurred.jpg": "blurred",
    "too_dark.jpg": "bad_exposure",
    "half_a_face.jpg": "occluded",
    "somebody_else.jpg": "other_person",
    "07_brighter_copy.jpg": "near_duplicate",
    "two_people.jpg": "",
    "sideways_exif.jpg": "",
    "needs_upscaling.jpg": "",
    "transparent_corners.png": "",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, model_files) -> Path:
    """The results folder of the demonstration, run in a folder of its own."""
    folder = tmp_path_factory.mktemp("demonstration")
    written = shutil.ignore_patterns(".*")  # by another process of tests
    shutil.copytree(model_files, folder / "results/models", copy_function=os.link, ignore=written)
    (folder / "fewer.yaml").write_text("train: {max_train_steps: 200}\n")
    done = snakemake(folder)
    assert done.returncode == 0, done.stderr
    return folder / "results"


def snakemake(folder: Path) -> subprocess.CompletedProcess:
    program = Path(sys.executable).parent / "snakemake"
    # One core: the other one is busy with other tests, and two threads that share it wait for one another.
    where = ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", folder / "fewer.yaml"]
    environment = os.environ | fork_server.environment()
    return subprocess.run([program, "--cores", "1", *where], env=environment, capture_output=True, text=True)


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False)


def test_every_trap_is_dropped_or_mended_for_the_reason_a_person_would_give(results):
    photos = table(results / "ava/photos.tsv").set_index("photo")
    photos.index = [Path(name).name for name in photos.index]
    assert {name: photos.reason[name] for name in FATES} == FATES
    clean = photos[~photos.index.isin(FATES)]
    assert set(clean.fate) == {"train", "heldout"} and len(clean) == 24
    for page in ("ava/dataset.html", "ava/portrait/report.html"):
        html = (results / page).read_text()
        for name in FATES:
            assert name in html
        for sentence in photos.detail[photos.fate == "dropped"]:
            assert sentence.split(",")[0].split(":")[0] in html


def test_the_small_photo_is_upscaled_and_the_others_are_not(results):
    upscaled = table(results / "ava/upscaled.tsv")
    by_realesrgan = upscaled[upscaled.method == "realesrgan"]
    assert [Path(photo).name for photo in by_realesrgan.photo] == ["needs_upscaling.jpg"]
    for image in upscaled.image:
        assert Image.open(results / "ava" / image).size == (128, 128)


def test_the_training_set_is_in_kohyas_layout(results):
    (folder,) = (results / "ava/image").glob("*_*/")
    repeats, words = folder.name.split("_")
    pictures = sorted(p.stem for p in folder.glob("*.png"))
    assert words == "ohwx woman" and int(repeats) >= 1
    assert pictures == sorted(p.stem for p in folder.glob("*.txt")) and len(pictures) >= 20


def test_every_lora_loads_with_nothing_missing_and_nothing_unexpected(results):
    from diffusers import StableDiffusionPipeline
    from peft.tuners.tuners_utils import BaseTunerLayer

    loras = sorted(results.glob("ava/portrait/models/*.safetensors"))
    assert len(loras) == 4
    pipeline = StableDiffusionPipeline.from_pretrained(ROOT / "resources/base", safety_checker=None)
    for lora in [*loras, results / "ava/portrait/best/ava_portrait.safetensors"]:
        tensors = safetensors.torch.load_file(lora)
        keys = {key.split(".")[0] for key in tensors}
        assert {f"{key}.{part}" for key in keys for part in ("alpha", "lora_down.weight", "lora_up.weight")} == set(
            tensors
        )
        assert {tensors[f"{key}.alpha"].item() for key in keys} == {32.0}
        pipeline.load_lora_weights(lora, adapter_name="lora")
        networks = (pipeline.unet, pipeline.text_encoder)
        loaded = [layer for part in networks for layer in part.modules() if isinstance(layer, BaseTunerLayer)]
        assert len(loaded) == len(keys)
        assert all(layer.scaling["lora"] == 0.5 for layer in loaded), "alpha 32 / rank 64"
        pipeline.unload_lora_weights()


def test_before_training_it_draws_strangers_and_after_it_the_person(results):
    scores = table(results / "ava/portrait/scores.tsv")
    near = scores[scores.kind == "near"]
    assert near.face_found.mean() == 1
    before, after = near[near.epoch == 0].identity.mean(), near[(near.epoch == 4) & (near.weight == 1)].identity.mean()
    assert after - before > 0.2, "0.6 after all the steps (docs/likeness.md)"
    choice = json.loads((results / "ava/portrait/best/choice.json").read_text())
    assert choice["evidence"] == "measured" and choice["better_than_base"]


def test_the_choice_is_backed_by_all_files(results):
    best = results / "ava/portrait/best"
    choice = json.loads((best / "choice.json").read_text())
    assert {"epoch", "weight", "lora", "sha256", "score", "interval", "indistinguishable", "rule"} <= set(choice)
    sidecar = json.loads((best / "ava_portrait.json").read_text())
    assert sidecar["preferred weight"] == choice["weight"] and sidecar["activation text"].startswith("ohwx")
    chosen = results / f"ava/portrait/models/ava_portrait-{choice['epoch']:06d}.safetensors"
    assert (best / "ava_portrait.safetensors").read_bytes() == chosen.read_bytes()
    scores = table(results / "ava/portrait/scores.tsv")
    assert set(zip(scores.epoch, scores.weight, strict=True)) == {(0, 0.0)} | {
        (epoch, weight) for epoch in (1, 2, 3, 4) for weight in (0.6, 0.8, 1.0)
    }


def test_tensorboard_reads_the_course_of_training(results):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = table(results / "ava/portrait/log/metrics.tsv")
    events = EventAccumulator(str(results / "ava/portrait/log")).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(metrics.step)
    assert [event.value for event in losses] == pytest.approx(list(metrics.loss), rel=1e-6)


def test_the_log_begins_with_every_setting_and_the_sum_of_the_steps(results):
    log = (results / "logs/ava/portrait/train_lora.log").read_text()
    settings = json.loads((results / "ava/portrait/log/config.json").read_text())["train"]
    for name, value in settings.items():
        shown = f"{value:g}" if isinstance(value, float) else value
        assert f"  {name}: {shown}\n" in log
    models = json.loads((results / "ava/portrait/models.json").read_text())
    said = f"= {models['steps_per_epoch']} optimisation steps per epoch; {models['total_steps']} in all"
    assert said in log and log.index(said) < log.index("saved epoch 1 of 4")


def test_caches_are_private(results):
    for cache in [results / ".cache", *(results / ".cache").iterdir()]:
        assert cache.stat().st_mode & 0o077 == 0, cache


def test_the_second_call_has_nothing_to_do(results):
    done = snakemake(results.parent)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_a_strangers_picture_gets_her_face_and_keeps_the_rest(results):
    run = results / "ava/portrait"
    portraits = table(run / "portraits.tsv")
    place = portraits[portraits.kind == "place"]
    before, after = place[place.stage == "original"], place[place.stage == "face"]
    for recogniser in ("identity", "judge_identity"):
        gain = after[recogniser].astype(float).mean() - before[recogniser].astype(float).mean()
        assert gain > 0.15, f"{recogniser} of half a training (docs/portraits.md has that of the whole one)"
    original, drawn = (np.asarray(Image.open(run / rows.image.iloc[0]).convert("RGB")) for rows in (before, after))
    x, y, w, h = json.loads(after.box.iloc[0])
    left, top = round(x - 0.5 * w), round(y - 0.5 * h)
    head = np.zeros(original.shape[:2], bool)
    head[max(0, top) : round(y + 1.3 * h), max(0, left) : round(x + 1.5 * w)] = True
    assert (original[~head] == drawn[~head]).all() and (original[head] != drawn[head]).mean() > 0.3
    assert "meadow.jpg" in (run / "portraits.html").read_text()


def test_the_best_pictures_of_a_scene_come_first(results):
    portraits = table(results / "ava/portrait/portraits.tsv")
    final = portraits[(portraits.kind == "scene") & (portraits.final.astype(int) == 1)]
    assert set(final.stage) == {"plain"} and set(final.width) == {128} and len(final) == 4
    identities = list(final.identity.astype(float))
    assert identities == sorted(identities, reverse=True) and list(final.kept.astype(int)) == [1, 1, 0, 0]
