"""What trains the base model of the demonstration: none of its people are in the data, and it goes on after a kill."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import course
import train_unet
import train_vae
from likeness.core.manifests import read_table
from likeness.faces.detection import Detector
from project import ROOT

TOOLS = ROOT / "tools/base"
ASIDE, FARTHER = "resources/calibration/205/2.jpg", "resources/calibration/170/0.jpg"


def run(program: str, *arguments: object) -> str:
    done = subprocess.run([sys.executable, TOOLS / program, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def faces(root, ava, model_files, tmp_path_factory) -> Path:
    """Three strangers, and a photo of ava, as if the generator had drawn them."""
    folder = tmp_path_factory.mktemp("faces")
    drawn = [*sorted((root / "resources/strangers").glob("*.jpg"))[:3], ava / "03.jpg"]
    for i, photo in enumerate(drawn):
        shutil.copy(photo, folder / f"{i:06d}.jpg")
    with open(folder / "names.tsv", "w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerows([["face", "noun", "age"], *([f"{i:06d}", "woman", "old" if i == 1 else ""] for i in range(4))])
    run("choose_faces.py", folder, model_files)
    return folder


def test_who_is_like_the_people_of_the_demonstration_is_left_out(faces):
    assert read_table(faces / "faces.tsv")["face"].tolist() == ["000000", "000001", "000002"]


def test_a_view_is_told_of_as_it_is_seen(root, model_files):
    """Somebody who looks aside, and in the mirror; somebody farther away, and a part of that picture; nobody."""
    row, detector = {"noun": "woman", "age": "old"}, Detector(model_files)

    def said(image: np.ndarray) -> list[str]:
        return train_unet.caption_parts(row, cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA), detector)

    aside, farther = (cv2.imread(str(root / photo))[:, :, ::-1] for photo in (ASIDE, FARTHER))
    seen, mirrored = said(aside), said(aside[:, ::-1])
    assert seen[:4] == ["old woman", "neutral expression", "looking to the right", "head turned to the right"]
    assert [part.replace("left", "right") for part in mirrored] == seen
    assert "head turned to the left" in mirrored and "looking to the left" in mirrored
    assert "close-up" not in said(farther)
    assert said(farther[32:-32, 32:-32])[-1] == "close-up", "a part of the picture shows the face larger"
    assert said(np.zeros_like(aside)) == [], "no face, no caption"


def test_the_encoder_keeps_all_of_a_patch_that_so_few_numbers_can(faces):
    """No twelve numbers tell more of the patches than twelve principal components do (Eckart and Young 1936)."""
    pictures = torch.stack([course.picture(path) for path in sorted(faces.glob("*.jpg"))])
    vae = train_vae.small_vae()
    train_vae.write_encoder(vae, *train_vae.components(pictures))
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist
    patches = pictures.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(-1, 192).double().numpy()
    numbers = latents.mean.permute(0, 2, 3, 1).reshape(-1, 12).double().numpy()
    numbers = np.column_stack([numbers, np.ones(len(numbers))])
    told = numbers @ np.linalg.lstsq(numbers, patches, rcond=None)[0]
    least = np.square(np.linalg.svd(patches - patches.mean(axis=0), compute_uv=False)[12:]).sum()
    assert np.square(patches - told).sum() == pytest.approx(least, rel=0.01)
    assert latents.mean.std().item() == pytest.approx(train_vae.SPREAD, rel=0.02)
    assert latents.std.mean().item() == pytest.approx(train_vae.POSTERIOR, rel=1e-3)


def test_what_it_writes_is_a_whole_model_of_stable_diffusion(root, faces, model_files, tmp_path):
    from diffusers import StableDiffusionPipeline

    run("train_vae.py", faces, tmp_path / "young", "--steps", 1)
    with pytest.raises(AssertionError, match="train it longer"):
        run("train_unet.py", faces, tmp_path / "young", model_files, tmp_path / "base", "--steps", 1)
    shutil.copytree(root / "resources/base/vae", tmp_path / "vae")
    run("train_unet.py", faces, tmp_path / "vae", model_files, tmp_path / "base", "--steps", 1)
    assert sum(path.stat().st_size for path in (tmp_path / "base").rglob("*.safetensors")) < 40e6
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("photo of a woman, smiling", num_inference_steps=2, height=128, width=128).images[0]
    assert image.size == (128, 128)


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(course, "SAVE_EVERY", 2)

    def weights(name: str, stopped_at: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)

        def loss_of(step: int) -> torch.Tensor:
            if step == stopped_at:
                raise KeyboardInterrupt
            return model(torch.randn(8, 4, generator=torch.Generator().manual_seed(step))).square().mean()

        return course.trained(model, model.parameters(), loss_of, 7, 0.1, 0.9, tmp_path / f"{name}.pt").weight

    whole = weights("whole")
    with pytest.raises(KeyboardInterrupt):
        weights("stopped", stopped_at=5)
    assert torch.equal(weights("stopped"), whole)
