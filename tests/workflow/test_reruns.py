"""Only what changed runs again: the promise of this project, on its real rules and scripts, row by row.

Each row changes one thing in a finished project, calls snakemake, and says which rules ran and how many items they
really computed. A job that runs and computes nothing found its results in a store.
"""

import os
import shutil
import time
from pathlib import Path

import pytest

from infotext_reader import loras, parameters, text_chunks
from likeness.core.tensors import tensor_part
from project import CONFIG, Project
from training_in_project import TRAINED as MODELS

DATASET = ["detect_faces", "curate_photos", "crop_faces", "upscale_faces", "caption_faces", "build_dataset"]
TRAINED = ["cache_latents", "train_lora"]
SHOWN = ["plot_grid", "plot_sheets", "build_report", "build_index"]
JUDGED = ["sample_checkpoint", "score_checkpoint", "choose_checkpoint", *SHOWN]
PAGE = "build_dataset_page"
LATENTS = "results/ava/latents.safetensors"  # as far as a row needs to go; or MODELS
CELLS = 4  # pictures of one epoch: 2 weights x (1 prompt + the untrained one) x 1 seed; the base model has 2


@pytest.fixture
def project(finished_project, tmp_path) -> Project:
    """Finished, a copy for each row; its path has spaces and an accent, because users' paths do."""
    project = finished_project.copied(tmp_path / "my phötos and models")
    project.fork_jobs = True
    return project


def training_photo(project: Project) -> str:
    """The name of a photo that is trained on."""
    rows = [line.split("\t") for line in (project.folder / "results/ava/photos.tsv").read_text().splitlines()]
    columns = rows[0].index("photo"), rows[0].index("fate")
    return next(Path(row[columns[0]]).name for row in rows[1:] if row[columns[1]] == "train")


def none_computed(outcome, *but: str) -> bool:
    return not any(count for rule, count in outcome.computed.items() if rule not in but)


def append_comment(file: Path) -> None:
    file.write_text(file.read_text() + "\n# edited\n")


def test_nothing_changed(project):
    outcome = project.run()
    assert outcome.jobs == {} and "Nothing to be done" in outcome.text


def test_everything_only_touched(project):
    for file in project.folder.rglob("*"):
        if file.is_file() and file.relative_to(project.folder).parts[0] in ("photos", "scripts", "rules", "Snakefile"):
            os.utime(file)
    assert project.run().jobs == {}


def date_in_the_future(*files: Path) -> None:
    for file in files:
        os.utime(file, (time.time() + 3 * 86400,) * 2)


def test_everything_is_dated_in_the_future(project):
    """By a camera's wrong clock, or by an archive from another time zone: photos, code and the base model alike."""
    of_users = ("photos", "scripts", "rules", "Snakefile", "small_base", "resources")
    files = [file for file in project.folder.rglob("*") if file.is_file()]
    date_in_the_future(*(file for file in files if file.relative_to(project.folder).parts[0] in of_users))
    assert project.run().jobs == {}
    text = (project.folder / "photos" / training_photo(project)).with_suffix(".txt")
    text.write_text("ohwx woman in a red hat")
    photo = project.folder / "photos/21.jpg"
    project.add_photo(photo.name)
    date_in_the_future(text, photo)
    outcome = project.run(MODELS)
    assert outcome.computed["detect_faces"] == 1 and "train_lora" in outcome.jobs
    assert project.run(MODELS).jobs == {}, "and it is done"


def test_a_photo_is_replaced_by_an_older_one(project):
    photo = project.folder / "photos" / training_photo(project)
    project.add_photo(photo.name, brightness=0.9)
    os.utime(photo, (0, 0))
    assert project.run(LATENTS).computed["detect_faces"] == 1


def test_photo_changed_but_not_its_crop(project):
    photo = project.folder / "photos" / training_photo(project)
    data = photo.read_bytes()
    comment = b"new caption in some photo manager"
    photo.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
    outcome = project.run()
    assert outcome.computed["detect_faces"] == 1 and outcome.computed["crop_faces"] == 1
    assert none_computed(outcome, "detect_faces", "crop_faces")
    assert "train_lora" not in outcome.jobs, "after the data set, which is the same, Snakemake plans anew"


def test_photo_changed(project):
    loras = project.loras()
    project.add_photo(training_photo(project), brightness=0.8)
    outcome = project.run()
    assert set(outcome.jobs) == {*DATASET, PAGE, *TRAINED, *JUDGED}
    assert [outcome.computed[rule] for rule in ("detect_faces", "crop_faces", "upscale_faces")] == [1, 1, 1]
    assert outcome.computed["train_lora"] == 2
    assert outcome.jobs["sample_checkpoint"] == 2, "the base model's pictures do not depend on the photos"
    assert outcome.computed["sample_checkpoint"] == 2 * CELLS
    assert project.loras() != loras


def test_photo_added_then_removed(project):
    loras = project.loras()
    project.add_photo("20.jpg")
    outcome = project.run()
    assert outcome.computed["detect_faces"] == 1 and outcome.computed["crop_faces"] == 1
    assert outcome.computed["upscale_faces"] <= 2, "the new photo, and at most one that moved from the held-out side"
    (project.folder / "photos/20.jpg").unlink()
    outcome = project.run()
    assert set(outcome.jobs) >= {*DATASET, *TRAINED}
    assert none_computed(outcome), "an earlier data set is found in the stores, its training too"
    assert project.loras() == loras
    assert not list(project.folder.glob("results/ava/*/20*")), "the removed photo's files are gone"


def test_late_parameter(project):
    project.configure(sample={"steps": 3})
    outcome = project.run()
    assert set(outcome.jobs) == set(JUDGED)
    assert outcome.computed["sample_checkpoint"] == 2 * CELLS + 2


def test_one_more_weight(project):
    project.configure(sample={"weights": [0.5, 0.75, 1.0]})
    outcome = project.run()
    assert set(outcome.jobs) == set(JUDGED)
    assert outcome.computed["sample_checkpoint"] == 4, "the new weight's pictures: 2 prompts of 2 epochs"
    assert outcome.computed["score_checkpoint"] == 4, "and no other picture is looked at"


def test_one_more_prompt(project):
    project.configure(sample={"far_prompts": ["{subject} as an astronaut"]})
    outcome = project.run()
    assert set(outcome.jobs) == set(JUDGED)
    assert outcome.computed["sample_checkpoint"] == 2 * 2 + 1, "2 weights of 2 epochs, and the base model"
    assert outcome.computed["score_checkpoint"] == 2 * 2 + 1


def test_a_prompt_of_another_kind(project):
    """The same words as another kind of prompt: the same pictures."""
    (near,) = CONFIG["sample"]["prompts"]
    project.configure(sample={"prompts": ["{subject} outdoors"], "canary_prompts": [near]})
    outcome = project.run()
    assert outcome.computed["sample_checkpoint"] == outcome.computed["score_checkpoint"] == 2 * 2 + 1


@pytest.mark.parametrize(
    ("change", "rescored"), [({"beta": 1.0}, []), ({"copy_limit": 0.9, "leak_limit": 0.4}, ["score_checkpoint"])]
)
def test_selection_rule(project, change, rescored):
    """Other limits sort the same measurements anew; nothing is drawn or looked at."""
    project.configure(select=change)
    outcome = project.run()
    assert set(outcome.jobs) == {"choose_checkpoint", *SHOWN, *rescored}
    assert none_computed(outcome)


def test_a_run_of_another_name(project):
    """Its pictures say the new name of their LoRA, and are neither drawn nor looked at again."""
    project.configure(runs={"renamed": {}})
    outcome = project.run()
    assert set(outcome.jobs) == {"train_lora", *JUDGED}
    assert none_computed(outcome)
    first = next((project.folder / "results/ava/renamed/samples/000002").glob("*.png"))
    assert list(loras(parameters(text_chunks(first)["parameters"])["Prompt"])) == ["ava_renamed-000002"]


def test_rank_beside_a_setting_of_the_same_value_and_back(project):
    """Snakemake compares params as a set of values: {8, 16} and {8, 16} would be no change."""
    project.configure(train={"lr_scheduler_num_cycles": 16})
    project.run(MODELS)
    loras = project.loras()
    project.configure(train={"lr_scheduler_num_cycles": 16, "rank": 16})
    outcome = project.run()
    assert set(outcome.jobs) == {"train_lora", *JUDGED}
    assert outcome.computed["train_lora"] == 2
    project.configure(train={"lr_scheduler_num_cycles": 16})
    outcome = project.run(MODELS)
    assert outcome.jobs["train_lora"] == 1 and none_computed(outcome)
    assert project.loras() == loras


def test_more_epochs(project):
    steady = {"lr_scheduler": "constant", "max_train_steps": 1}
    project.configure(train=steady)
    project.run()
    loras = project.loras()
    project.configure(train={**steady, "epochs": 3})
    outcome = project.run()
    assert outcome.computed["train_lora"] == 1, "a constant rate goes on from the last epoch"
    assert [tensor_part(lora) for lora in project.loras()[:2]] == [tensor_part(lora) for lora in loras]
    assert outcome.computed["sample_checkpoint"] == CELLS
    project.configure(train={"epochs": 3})
    assert project.run(MODELS).computed["train_lora"] == 3, "cosine_with_restarts is another schedule over three epochs"


def test_script_edited(project):
    append_comment(project.folder / "scripts/crop_faces.py")
    outcome = project.run()
    assert outcome.computed["crop_faces"] == 8
    assert none_computed(outcome, "crop_faces"), "the crops are the same, so nothing after them is computed"
    assert {"detect_faces", "curate_photos"}.isdisjoint(outcome.jobs)


def test_helper_module_edited(project):
    append_comment(project.folder / "scripts/likeness/captions/wording.py")
    outcome = project.run()
    # Once the data set is there, and the same, Snakemake plans anew: nothing is to be trained.
    later = {*TRAINED, *JUDGED} - {"cache_latents", "train_lora"}
    assert set(outcome.jobs) == {"caption_faces", "build_dataset", PAGE, *later}
    assert none_computed(outcome, "caption_faces") and outcome.computed["caption_faces"] > 0


def test_caption_written_beside_a_photo(project):
    text = (project.folder / "photos" / training_photo(project)).with_suffix(".txt")
    text.write_text("ohwx woman in a red hat")
    outcome = project.run(MODELS)
    assert "detect_faces" not in outcome.jobs and outcome.computed["train_lora"] == 2
    assert outcome.computed["cache_latents"] == 2, "the hidden states of a caption and of its class caption, no picture"


def test_config_of_another_run(project):
    runs = {"portrait": {}, "other": {"train": {"rank": 4, "alpha": 4}}}
    project.configure(runs=runs)
    outcome = project.run()
    assert set(outcome.jobs) == {"train_lora", *JUDGED, "compare_runs"} and outcome.jobs["train_lora"] == 1
    assert outcome.computed["sample_checkpoint"] == 2 * CELLS, "the base model's pictures are shared"
    portrait = project.loras()
    runs["other"]["train"]["learning_rate"] = 0.001
    project.configure(runs=runs)
    outcome = project.run()
    assert [outcome.jobs[rule] for rule in ("train_lora", "build_report", "compare_runs")] == [1, 1, 1]
    assert project.loras() == portrait


def test_checkpoint_deleted_by_hand(project):
    models = project.folder / "results/ava/portrait/models"
    loras = project.loras()
    next(models.glob("*.safetensors")).unlink()
    outcome = project.run("--forcerun", "train_lora")
    assert none_computed(outcome) and project.loras() == loras


def test_project_moved_to_another_folder(project):
    loras = project.loras()
    project.folder = project.folder.rename(project.folder.with_name("moved"))
    assert project.run().jobs == {}
    shutil.rmtree(project.folder / "results/.cache/runs")
    outcome = project.run("--forcerun", "train_lora", "--", MODELS)
    assert outcome.computed["train_lora"] == 2 and project.loras() == loras, "trained anew, to the same bytes"


def test_results_deleted(project):
    loras = project.loras()
    shutil.rmtree(project.folder / "results")
    project.link_models()
    outcome = project.run()
    assert set(outcome.jobs) == {"fetch_models", "fetch_base", *DATASET, PAGE, *TRAINED, *JUDGED}
    assert outcome.computed["detect_faces"] == 8 and outcome.computed["train_lora"] == 2
    assert outcome.computed["sample_checkpoint"] == 2 * CELLS + 2
    assert project.loras() == loras, "the same photos and settings give the same bytes"
