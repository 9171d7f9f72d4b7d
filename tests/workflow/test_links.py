"""Photos on another disk, results on a third, and the project itself behind a link."""

import shutil
from pathlib import Path

import pytest

from likeness.core.manifests import read_table
from project import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_files, small_base) -> Project:
    """Its data set is finished; called through a link."""
    place = tmp_path_factory.mktemp("links")
    project = Project(place / "home/me/project", model_files, small_base)
    project.fork_jobs = True
    (place / "archive/2026").mkdir(parents=True)
    (place / "scratch").mkdir()
    for folder, elsewhere in (("photos", "archive/2026/ava"), ("results", "scratch/results")):
        shutil.move(project.folder / folder, place / elsewhere)
        (project.folder / folder).symlink_to(place / elsewhere)
    (place / "work").symlink_to(place / "home/me")
    project.folder = place / "work/project"
    project.run("results/ava/latents.safetensors", "results/ava/dataset.html")
    return project


def test_every_photo_is_found_from_the_tables(project):
    table = project.folder / "results/ava/photos.tsv"
    for row in read_table(table).to_dict("records"):
        assert (table.parent / row["photo"]).is_file()
        assert Path(row["photo"]).name in (project.folder / "results/ava/dataset.html").read_text()


def test_called_by_another_way_nothing_is_done_again(project):
    project.folder = project.folder.resolve()
    assert project.run("results/ava/latents.safetensors", "results/ava/dataset.html").jobs == {}


def test_the_run_goes_to_its_end(project):
    project.run()
    assert (project.folder / "results/index.html").is_file()
    assert project.run().jobs == {}
