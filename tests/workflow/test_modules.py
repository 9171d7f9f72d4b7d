"""Another workflow uses this one as a module, or from a checkout that cannot be written."""

import shutil
from pathlib import Path

import pytest
import yaml

from project import CONFIG, Project

SNAKEFILE = """
configfile: "lab.yaml"
module likeness:
    snakefile: "{project}/Snakefile"
    config: config["likeness"]
    prefix: "faces"
use rule * from likeness as likeness_*
rule all:
    default_target: True
    input: rules.likeness_all.input, "own.txt"
rule own:
    input: rules.likeness_choose_checkpoint.output.choice.format(subject="ava", run="portrait")
    output: "own.txt"
    shell: "cp {{input}} {{output}}"
"""


@pytest.fixture
def checkout(finished_project, tmp_path) -> Path:
    """The project as it was cloned: without results."""
    project = finished_project.copied(tmp_path / "likeness")
    shutil.rmtree(project.folder / "results")
    shutil.rmtree(project.folder / ".snakemake")
    return project.folder


@pytest.fixture
def lab(finished_project, checkout, tmp_path) -> Project:
    """Another folder, with the photos and the base model in it."""
    lab = finished_project.copied(tmp_path / "lab")
    for name in ("results", ".snakemake", "rules", "scripts", "envs", "profiles", "resources"):
        shutil.rmtree(lab.folder / name)
    for name in ("Snakefile", "config.yaml"):
        (lab.folder / name).unlink()
    lab.in_one_thread, lab.fork_jobs = (), True
    return lab


def test_another_workflow_runs_this_one_as_a_module_to_its_end(lab, checkout):
    (lab.folder / "Snakefile").write_text(SNAKEFILE.format(project=checkout))
    (lab.folder / "lab.yaml").write_text(yaml.safe_dump({"likeness": CONFIG, "temperature": 4}))
    (lab.folder / "config.yml").write_text("theirs: 1\n")
    outcome = lab.run()
    assert outcome.jobs["likeness_train_lora"] == outcome.jobs["own"] == 1
    results = lab.folder / "faces/results"
    assert (results / "index.html").is_file() and (results / "ava/portrait/best/choice.json").is_file()
    assert {path.name for path in (lab.folder / "results").iterdir()} == {".cache"}, (
        "all but what jobs keep has the prefix"
    )
    assert lab.run().jobs == {}, "nothing is done again"


def test_a_checkout_that_cannot_be_written_works_on_a_folder_elsewhere(lab, checkout):
    (lab.folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    for path in [checkout, *checkout.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = {path: path.stat().st_mtime_ns for path in checkout.rglob("*")}
    place = ("--snakefile", str(checkout / "Snakefile"), "--directory", str(lab.folder))
    outcome = lab.run(*place, "results/ava/latents.safetensors")
    assert outcome.jobs["cache_latents"] == 1 and (lab.folder / "results/ava/latents.safetensors").is_file()
    assert {path: path.stat().st_mtime_ns for path in checkout.rglob("*")} == before
