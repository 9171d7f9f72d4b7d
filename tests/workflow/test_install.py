"""`install` keeps the folders of other programs up to date with the choice."""

import json

import pytest

from project import Project

BEST = "results/ava/portrait/best"
FILES = {"ava_portrait.safetensors", "ava_portrait.json", "ava_portrait.png"}


@pytest.fixture
def project(finished_project, tmp_path) -> Project:
    project = finished_project.copied(tmp_path / "project")
    project.fork_jobs = True
    for name in ("Lora", "loras"):
        (tmp_path / name).mkdir()
    return project


def installed(project: Project, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder.parent / name).glob("[!.]*")}


def test_the_lora_follows_the_choice_into_every_folder(project):
    folders = [str(project.folder.parent / name) for name in ("Lora", "loras")]
    project.configure(install={"folders": folders})
    assert project.run().jobs == {"install_lora": 1}
    best = {name: (project.folder / BEST / name).read_bytes() for name in FILES}
    assert installed(project, "Lora") == installed(project, "loras") == best
    assert project.run().jobs == {}

    (project.folder.parent / "loras/ava_portrait.png").unlink()
    assert project.run().jobs == {"install_lora": 1}, "a deleted file comes back"
    assert installed(project, "loras") == best
    assert project.run().jobs == {}

    epoch = 3 - json.loads((project.folder / BEST / "choice.json").read_text())["epoch"]
    (project.folder / "photos/decisions.yaml").write_text(f"runs: {{portrait: {{epoch: {epoch}, weight: 0.5}}}}")
    assert project.run().jobs["install_lora"] == 1
    assert (
        installed(project, "Lora")["ava_portrait.safetensors"]
        == (project.folder / BEST / "ava_portrait.safetensors").read_bytes()
    )
    assert installed(project, "Lora") != best


def test_every_epoch_of_a_run_may_be_compared_there(project):
    project.configure(install={"folders": [str(project.folder.parent / "Lora")], "every_epoch": "portrait"})
    project.run()
    models = {path.name for path in (project.folder / "results/ava/portrait/models").glob("*.safetensors")}
    assert len(models) == 2 and set(installed(project, "Lora")) == FILES | models


def test_a_lora_that_is_not_ours_ends_the_call_with_one_line_and_stays(project):
    theirs = project.folder.parent / "Lora/ava_portrait.safetensors"
    theirs.write_text("theirs")
    project.configure(install={"folders": [str(theirs.parent)]})
    outcome = project.run(check=False)
    assert outcome.status != 0 and theirs.read_text() == "theirs"
    last = outcome.text.splitlines()[-1]
    assert last.startswith("ava, portrait stopped: ") and "is there already and is not ours" in last


def test_a_folder_that_is_not_there_is_an_error_before_any_job(project):
    project.configure(install={"folders": [str(project.folder.parent / "gone")], "every_epoch": "other"})
    outcome = project.run(check=False)
    assert outcome.status != 0 and outcome.jobs == {}
    assert "install.folders: no folder" in outcome.text and "install.every_epoch: no run 'other'" in outcome.text
