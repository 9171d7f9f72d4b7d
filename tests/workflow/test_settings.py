"""The settings that change what a stage makes, all in one run of the real workflow: from photos to the report."""

import json
import shutil

import numpy as np
import pandas as pd
import safetensors.torch
from PIL import Image

from project import CONFIG, ROOT, Project


def test_everything_at_once(tmp_path, model_files, small_base):
    """Regularisation photos, an own VAE, crops of each photo's shape, mirrored pictures, a masked loss, an average,
    LoKr with the text encoder, and two runs, of which one goes on from a file and finds its number of epochs itself."""
    project = Project(tmp_path / "project", model_files, small_base)
    project.fork_jobs = True
    others = project.folder / "others"
    others.mkdir()
    for photo in sorted((ROOT / "resources/strangers").glob("*.jpg"))[:3]:
        with Image.open(photo) as picture:
            picture.resize((192, 192)).save(others / photo.name)
    for number, photo in enumerate(sorted((project.folder / "photos").glob("*.jpg"))):
        with Image.open(ROOT / "resources/people/ava" / photo.name) as picture:  # so large that nothing is upscaled
            width, height = picture.size
            taller_than_wide = (width * 2 // 11, 0, width * 9 // 11, height)
            (picture.crop(taller_than_wide) if number % 2 else picture).save(photo, quality=92)
    shutil.copytree(small_base / "vae", project.folder / "my_vae")
    options = {
        **{"network": "lokr", "train_text_encoder": True, "masked_loss": True, "flip_aug": True, "ema_decay": 0.9},
        **{"shuffle_caption": True, "gradient_checkpointing": True, "min_snr_gamma": 5.0, "noise_offset": 0.05},
    }
    project.configure(
        vae="my_vae",
        buckets=True,
        resolution=192,  # the smallest with two shapes: 192 x 192 and 128 x 256
        subjects={"ava": CONFIG["subjects"]["ava"] | {"regularisation": "others"}},
        train=options,
    )
    project.run()
    dataset = json.loads((project.folder / "results/ava/dataset.json").read_text())
    assert len({tuple(item["size"]) for item in dataset["images"]}) == 2
    assert [item["caption"] for item in dataset["regularisation"]] == ["woman"] * 3
    assert len(list((project.folder / "results/ava/reg/1_woman").glob("*.png"))) == 3
    metrics = pd.read_csv(project.folder / "results/ava/portrait/log/metrics.tsv", sep="\t")
    assert np.isfinite(metrics.loss).all() and metrics.validation_loss.notna().sum() == 2
    (first, last) = sorted((project.folder / "results/ava/portrait/models").glob("*.safetensors"))
    keys = safetensors.torch.load_file(last)
    assert any(key.startswith("lora_te_") for key in keys) and any(key.endswith("lokr_w1") for key in keys)
    samples = pd.read_csv(project.folder / "results/ava/portrait/samples/000002.tsv", sep="\t")
    assert samples[samples.weight == 0.5].sha256.tolist() != samples[samples.weight == 1.0].sha256.tolist()

    shutil.copy(last, project.folder / "start.safetensors")
    more = {"network_weights": "start.safetensors", "epochs": None, "repeats": 1, "max_train_steps": 4}
    project.configure(**project.config | {"runs": {"portrait": {}, "more": {"train": more}}})
    outcome = project.run()
    models = json.loads((project.folder / "results/ava/more/models.json").read_text())
    assert models["epochs"][-1]["epoch"] == -(-4 // models["steps_per_epoch"])
    assert outcome.jobs["train_lora"] == 1 and (project.folder / "results/ava/more/report.html").is_file()
    assert (
        outcome.jobs["compare_runs"] == 1
        and "start.safetensors" in (project.folder / "results/ava/runs.html").read_text()
    )
    assert project.run().jobs == {}
