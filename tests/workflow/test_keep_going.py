"""A job fails: the first page is made of what there is, and names who is not finished and why."""

import re
import shutil

from project import CONFIG, Project


def cards(html: str) -> list[str]:
    """The subjects with a choice."""
    return re.findall(r"best picture of (\w+), portrait", html)


def notices(html: str) -> list[str]:
    return re.findall(r'role="alert">(.*?)</p>', html, re.S)


def test_one_subject_of_two_fails(finished_project, tmp_path):
    project = finished_project.copied(tmp_path / "project")
    project.fork_jobs = True
    (project.folder / "few").mkdir()
    shutil.copy(project.folder / "photos/00.jpg", project.folder / "few")
    ava = CONFIG["subjects"]["ava"]
    project.configure(subjects={"ava": ava, "mia": ava | {"photos": "few"}})
    assert project.run("--keep-going", check=False).status != 0
    page = project.folder / "results/index.html"
    (notice,) = notices(page.read_text())
    assert cards(page.read_text()) == ["ava"] and ">mia<" in page.read_text()
    assert notice.startswith("portrait is not finished: 1 of 1 photos can be used")

    project.configure(subjects={"ava": ava})
    assert project.run().jobs == {"build_index": 1}, "mia is no longer asked for"
    assert "mia" not in page.read_text()


def test_a_run_that_was_chosen_from_before_fails(finished_project, tmp_path):
    project = finished_project.copied(tmp_path / "project")
    project.fork_jobs = True
    for number in range(1, 8):
        (project.folder / f"photos/{number:02d}.jpg").unlink()
    assert project.run(check=False).status != 0
    html = (project.folder / "results/index.html").read_text()
    (notice,) = notices(html)
    assert cards(html) == ["ava"] and notice.startswith("portrait is not finished: 1 of 1 photos can be used")


def test_without_anything_chosen_there_is_no_first_page(model_files, small_base, tmp_path):
    project = Project(tmp_path / "project", model_files, small_base, photos=1)
    project.fork_jobs = True
    assert project.run("--keep-going", check=False).status != 0
    assert not (project.folder / "results/index.html").exists()
