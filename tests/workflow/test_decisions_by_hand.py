"""decisions.yaml: each decision runs again what it concerns and no more, and without it everything is as before."""

import hashlib
import json
from pathlib import Path

import pytest
from test_reruns import MODELS, SHOWN, TRAINED, training_photo

from likeness.core.manifests import read_table
from likeness.training.checkpoints import checkpoint_file
from project import Project

PHOTOS = "results/ava/photos.tsv"
RUN = "results/ava/portrait"


@pytest.fixture
def project(finished_project, tmp_path) -> Project:
    project = finished_project.copied(tmp_path / "project")
    project.fork_jobs = True
    return project


def decide(project: Project, text: str) -> None:
    (project.folder / "photos/decisions.yaml").write_text(text)


def undecide(project: Project) -> None:
    (project.folder / "photos/decisions.yaml").unlink()


def results(project: Project) -> dict[str, str]:
    """The hash of every file of the results but logs and caches, whose text has times."""
    folder = project.folder / "results"
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not {".cache", "logs", "log"} & set(path.relative_to(folder).parts) and not path.name.startswith(".")
    }


def photo_row(project: Project, name: str) -> dict:
    rows = read_table(project.folder / PHOTOS).to_dict("records")
    return next(row for row in rows if Path(row["photo"]).name == name)


def test_a_photo_that_is_dropped_and_taken_back_leaves_the_same_bytes(project):
    before, photo = results(project), training_photo(project)
    decide(project, f"photos: {{{photo}: {{use: drop}}}}")
    outcome = project.run()
    assert outcome.status == 0 and photo_row(project, photo)["reason"] == "by_hand"
    assert outcome.computed["crop_faces"] == outcome.computed["upscale_faces"] == 0, "nothing of the others again"
    assert outcome.jobs["train_lora"] == 1
    undecide(project)
    outcome = project.run()
    assert outcome.jobs["curate_photos"] == 1 and not any(outcome.computed.values()), "all is in the caches"
    assert results(project) == before


def test_a_photo_that_is_kept_by_hand_is_trained_on_and_says_why(project):
    project.add_photo("blurred.jpg")
    project.run(PHOTOS)
    assert photo_row(project, "blurred.jpg")["reason"] == "blurred"
    decide(project, "photos: {blurred.jpg: {keep: blurred, use: train}}")
    outcome = project.run("results/ava/dataset.html")
    assert outcome.computed["crop_faces"] == 1
    row = photo_row(project, "blurred.jpg")
    assert row["fate"] == "train" and row["detail"].startswith("kept by you (decisions.yaml) although blurred")
    assert "kept by you" in (project.folder / "results/ava/dataset.html").read_text()


def test_a_crop_by_hand_makes_that_crop_alone(project):
    photo = training_photo(project)
    decide(project, f"photos: {{{photo}: {{crop: [112, 112, 200]}}}}")
    outcome = project.run("results/ava/latents.safetensors")
    assert outcome.computed["crop_faces"] == outcome.computed["upscale_faces"] == 1
    crops = read_table(project.folder / "results/ava/crops.tsv").set_index("photo")
    row = crops[[name.endswith(photo) for name in crops.index]].iloc[0]
    assert row["source_side"] == "200"


def test_a_crop_that_misses_the_face_is_one_readable_line(project):
    photo = training_photo(project)
    decide(project, f"photos: {{{photo}: {{crop: [8, 8, 16]}}}}")
    outcome = project.run("results/ava/crops.tsv", check=False)
    assert outcome.status != 0
    last = outcome.text.splitlines()[-1]
    assert last.startswith("ava, portrait stopped: ") and f"{photo}: the crop of decisions.yaml does not show" in last


def test_a_caption_by_hand_changes_no_picture(project):
    photo = training_photo(project)
    decide(project, f"photos: {{{photo}: {{caption: ohwx woman on a boat}}}}")
    outcome = project.run(MODELS)
    assert outcome.jobs == dict.fromkeys(["caption_faces", "build_dataset", *TRAINED], 1)
    captions = read_table(project.folder / "results/ava/captions.tsv")
    assert list(captions.loc[captions["source"] == "user", "text"]) == ["ohwx woman on a boat"]


def test_a_choice_by_hand_takes_that_checkpoint_and_draws_nothing(project):
    before = results(project)
    choice = json.loads((project.folder / RUN / "best/choice.json").read_text())
    epoch = 3 - choice["epoch"]  # there are two
    decide(project, f"runs: {{portrait: {{epoch: {epoch}, weight: 0.5}}}}")
    outcome = project.run()
    assert outcome.jobs == {"choose_checkpoint": 1, **dict.fromkeys(SHOWN, 1)}
    *_, chosen, likeness, lora, to_open = outcome.text.splitlines()
    assert chosen.startswith(f"ava, portrait: Use epoch {epoch} at weight 0.5, chosen by hand. The measure would have")
    assert likeness.startswith("  likeness 0") and lora == f"  LoRA: {RUN}/best/ava_portrait.safetensors"
    assert to_open.startswith("Open results/index.html. This call took ")
    by_hand = json.loads((project.folder / RUN / "best/choice.json").read_text())
    assert (by_hand["epoch"], by_hand["weight"]) == (epoch, 0.5)
    assert by_hand["measured_choice"]["epoch"] == choice["epoch"]
    saved = checkpoint_file(project.folder / RUN / "models.json", epoch)
    assert (project.folder / RUN / "best/ava_portrait.safetensors").read_bytes() == saved.read_bytes()
    assert "chosen by hand" in (project.folder / RUN / "report.html").read_text()
    undecide(project)
    project.run()
    assert results(project) == before


def test_a_mistake_is_an_error_before_any_job(project):
    decide(project, "photos: {gone.jpg: {use: drop}}")
    outcome = project.run(check=False)
    assert outcome.status != 0 and outcome.jobs == {}
    assert "photos.gone.jpg: no photo of this name" in outcome.text
