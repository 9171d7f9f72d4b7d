"""Other base models than the configuration's: the pictures are drawn with one, or a run is trained on one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from infotext_reader import parameters, text_chunks
from project import CONFIG, Project
from small_base import saved_small_base

CELLS = 4  # pictures of one epoch: 2 weights x (1 prompt + the untrained one) x 1 seed; the base model has 2
DRAWN = 2 * CELLS + 2  # of a run: two epochs and the base model
JUDGED = ["sample_checkpoint", "score_checkpoint", "choose_checkpoint", "plot_grid", "plot_sheets", "build_report"]
SAMPLE = CONFIG["sample"]


@pytest.fixture(scope="session")
def finetune(tmp_path_factory, model_files) -> Path:
    """A diffusers folder with the sizes of the small base model and other weights."""
    return saved_small_base(model_files, tmp_path_factory.mktemp("base") / "finetune", seed=2)


@pytest.fixture
def project(finished_project, finetune, tmp_path) -> Project:
    """A finished project, with the finetune beside its base model."""
    project = finished_project.copied(tmp_path / "project")
    project.fork_jobs = True
    shutil.copytree(finetune, project.folder / "finetune v2")
    return project


def manifests(project: Project) -> dict[str, dict]:
    """The manifests of the base models, by the model that each names."""
    files = (project.folder / "results").glob("base*.json")
    return {base["model"]: base for base in (json.loads(file.read_text()) for file in files)}


def result(project: Project, path: str) -> dict:
    return json.loads((project.folder / "results/ava" / path).read_text())


def models_in_pictures(project: Project, run: str) -> set[tuple[str, str]]:
    """The names and hashes of the models that the pictures of a run say, with the base model's."""
    pictures = (project.folder / f"results/ava/{run}/samples").rglob("*.png")
    said = [parameters(text_chunks(picture)["parameters"]) for picture in pictures]
    assert len(said) == DRAWN
    return {(found["Model"], found["Model hash"]) for found in said}


def drawn_with(model: str, **settings) -> Mapping:
    return {"sample": {"base_model": model, **settings}}


def test_another_model_draws_and_nothing_is_trained_for_it(project):
    """And a second run that only draws with another model shares the training with the first."""
    loras = project.loras()
    project.configure(runs={"portrait": {}, "finetune": drawn_with("finetune v2", clip_skip=2)})
    outcome = project.run()
    assert set(outcome.jobs) == {"fetch_base", "train_lora", *JUDGED, "compare_runs", "build_index"}
    assert (outcome.computed["train_lora"], outcome.computed["sample_checkpoint"]) == (0, DRAWN)
    assert [tensors(lora) for lora in project.loras("finetune")] == [tensors(lora) for lora in loras]
    bases = manifests(project)
    assert bases.keys() == {"small_base", "finetune v2"}
    for run, model in (("portrait", "small_base"), ("finetune", "finetune v2")):
        choice, card = result(project, f"{run}/best/choice.json"), project.folder / f"results/ava/{run}/best/README.md"
        assert choice["trained_on"] == {"model": "small_base", "digest": bases["small_base"]["digest"]}
        assert choice["drawn_with"] == {"model": model, "digest": bases[model]["digest"]}
        assert models_in_pictures(project, run) == {(model, bases[model]["digest"][:10])}
        assert f"with `{model}`" in card.read_text() or f"trained on, `{model}`" in card.read_text()
        assert model in result(project, f"{run}/best/ava_{run}.json")["notes"]
    page = (project.folder / "results/ava/runs.html").read_text()
    assert "finetune v2, which draws finetune" in page and "sample.clip_skip 2" in page
    assert project.run().jobs == {}, "and it is done"


def tensors(lora: bytes) -> bytes:
    """The bytes of a LoRA after its header, which has the run's name."""
    from likeness.core.tensors import tensor_part

    return tensor_part(lora)


def test_the_model_that_draws_is_changed_and_changed_back(project):
    project.configure(sample=SAMPLE | {"base_model": "finetune v2"})
    outcome = project.run()
    assert set(outcome.jobs) == {"fetch_base", *JUDGED, "build_index"}
    assert outcome.computed["sample_checkpoint"] == DRAWN
    project.configure()
    outcome = project.run()
    assert set(outcome.jobs) == {*JUDGED, "build_index"} and outcome.computed["sample_checkpoint"] == 0


def test_a_run_on_another_base_model_touches_only_that_run(project):
    loras = project.loras()
    runs = {"portrait": {}, "finetune": {"base_model": "finetune v2"}}
    project.configure(runs=runs)
    outcome = project.run()
    own = {"fetch_base", "cache_latents", "train_lora", *JUDGED}
    assert set(outcome.jobs) == {*own, "compare_runs", "build_index"}
    assert [outcome.jobs[rule] for rule in ("fetch_base", "cache_latents", "train_lora", "build_report")] == [
        1,
        1,
        1,
        1,
    ]
    assert (outcome.computed["train_lora"], outcome.computed["sample_checkpoint"]) == (2, DRAWN)
    assert project.loras() == loras and [tensors(lora) for lora in project.loras("finetune")] != list(
        map(tensors, loras)
    )
    digest = manifests(project)["finetune v2"]["digest"]
    choice = result(project, "finetune/best/choice.json")
    assert choice["trained_on"]["digest"] == choice["drawn_with"]["digest"] == digest
    runs["finetune"]["clip_skip"] = 2
    project.configure(runs=runs)
    outcome = project.run()
    assert [outcome.jobs[rule] for rule in ("cache_latents", "train_lora", "build_report")] == [1, 1, 1]
    assert outcome.computed["train_lora"] == 2, "the captions are read in another way"

    assert outcome.computed["cache_latents"] > 0
    runs["finetune"] |= drawn_with("small_base")
    project.configure(runs=runs)
    outcome = project.run()
    assert "train_lora" not in outcome.jobs and outcome.computed["sample_checkpoint"] == DRAWN
    assert result(project, "finetune/best/choice.json")["drawn_with"]["model"] == "small_base"


def other_family(folder: Path) -> None:
    """Let the configurations of a diffusers folder be those of SDXL."""
    config = folder / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"addition_embed_type": "text_time"}))


def test_a_model_of_another_family_is_an_error_before_any_job(project):
    other_family(project.folder / "finetune v2")
    project.configure(sample=SAMPLE | {"base_model": "finetune v2"})
    outcome = project.run(check=False)
    assert outcome.status == 1 and outcome.jobs == {}
    (line,) = [line.strip() for line in outcome.text.splitlines() if "no other family" in line]
    assert line == (
        "runs.portrait.sample.base_model: 'finetune v2' is a Stable Diffusion XL, but the LoRA is trained on "
        "'small_base', a Stable Diffusion 1.x, and works with no other family; name a model of that one"
    )
