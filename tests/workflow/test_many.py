"""Thousands of photos, subjects and runs: what grows with them is handed to jobs in files, because Linux takes no
command of more than 128 KB. And photos of every name."""

import re
from pathlib import Path

import pandas as pd
from PIL import Image

from likeness.core.manifests import read_table
from likeness.core.provenance import file_sha256
from project import CONFIG, Project

LONGEST = 2**17
NAMES = (
    *(
        "<temp>.jpg",
        "temp.jpg",
        "x<script>.jpg",
        "<results>.jpg",
        "-rf.jpg",
        "--log.jpg",
        "@list.jpg",
        "~.jpg",
        "$HOME.jpg",
    ),
    *("%s.jpg", "a:b|c?.jpg", "'\".jpg", "new\nline.jpg", "x" * 251 + ".jpg", "\u00fc" * 125 + ".jpg"),
)


def commands(project: Project) -> dict[str, int]:
    """rule -> the length of its longest command, by a dry run, which writes nothing."""
    text = project.run("-n", "-p", "--forceall").text
    assert not (project.folder / "results/.cache").exists()
    found: dict[str, int] = {}
    for command, rule in re.findall(r"^Shell command: (.*?scripts/(\w+)\.py .*)", text, re.M):
        found[rule] = max(len(command), found.get(rule, 0))
    return found


def test_no_command_grows(tmp_path, model_files, small_base):
    project = Project(tmp_path / "project", model_files, small_base, photos=3)
    few = {"ava": CONFIG["subjects"]["ava"] | {"regularisation": "others"}}
    others = project.folder / "others"
    others.mkdir()
    (others / "000.jpg").touch()
    project.configure(subjects=few, runs={"run000": {}, "run001": {}})
    before = commands(project)
    for number in range(200):
        for folder in (project.folder / "photos", others):
            for name in (f"{number:03d}.jpg", f"{number:03d}.txt"):
                (folder / name).touch()
        (project.folder / "photos" / f"link{number:03d}.jpg").symlink_to("nowhere")
    many = {f"s{number:02d}": few["ava"] for number in range(8)}
    prompts = [f"photo of {{subject}}'s {number:03d}. house, {'写' * 300}" for number in range(100)]
    project.configure(
        subjects={"ava": few["ava"], **many},
        runs={f"run{number:03d}": {} for number in range(8)},
        sample={"prompts": prompts},
    )
    after = commands(project)
    assert before.keys() == after.keys()
    # Hashes and names are of one length; the config of a job has its subject's and its run's settings alone, and where
    # they are long the path of a file with them.
    grown = {rule: (before[rule], after[rule]) for rule in before if after[rule] > before[rule]}
    assert not grown


def test_thousands_of_photos_are_one_command(tmp_path, model_files, small_base):
    project = Project(tmp_path / "project", model_files, small_base, photos=3)
    project.fork_jobs = True
    names = [f"a_camera's_long_name_for_a_photo_{number:05d}.jpg" for number in range(3200)]
    for name in names:
        (project.folder / "photos" / name).write_bytes(b"no photo")
    assert sum(map(len, names)) > LONGEST
    project.run("results/ava/faces.tsv")
    faces = pd.read_csv(project.folder / "results/ava/faces.tsv", sep="\t")
    assert len(faces.photo.unique()) == 3203


def test_names_that_snakemake_a_shell_or_a_program_could_take_for_something_else(tmp_path, model_files, small_base):
    folder = "-<temp> @photos & $HOME"
    project = Project(tmp_path / "project", model_files, small_base, photos=0)
    project.fork_jobs = True
    (project.folder / "temp").mkdir()
    hashes = {}
    for name in NAMES:
        photo = project.folder / folder / name
        photo.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8 + len(hashes))).save(photo, "PNG")
        hashes[name] = file_sha256(photo)
    project.configure(subjects={"ava": CONFIG["subjects"]["ava"] | {"photos": folder}})
    project.run("results/ava/faces.tsv")
    rows = read_table(project.folder / "results/ava/faces.tsv")
    assert {Path(row.photo).name: row.sha256 for row in rows.itertuples()} == hashes
