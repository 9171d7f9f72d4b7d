"""Called as people call it: activated or not, from elsewhere, with conda, with mistakes in the configuration."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest
import yaml
from docutils.core import publish_parts

from project import CONFIG, Project

SNAKEMAKE = Path(sys.executable).parent / "snakemake"
STAGES = {
    "fetch_models", "fetch_base", "detect_faces", "curate_photos", "crop_faces", "upscale_faces", "caption_faces",
    "build_dataset", "cache_latents", "train_lora", "sample_checkpoint", "score_checkpoint", "choose_checkpoint",
    "plot_grid", "build_report", "build_dataset_page", "build_index",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_files, small_base) -> Project:
    return Project(tmp_path_factory.mktemp("calls") / "a project", model_files, small_base)


def call(*arguments, cwd: Path, path: str = "/usr/local/bin:/usr/bin:/bin") -> subprocess.CompletedProcess:
    environment = {"PATH": path, "HOME": os.environ.get("HOME", "/")}
    return subprocess.run([*arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def test_dry_run_shows_the_whole_way(project):
    done = call(SNAKEMAKE, "-n", cwd=project.folder)
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M))
    assert set(jobs) >= STAGES and jobs["sample_checkpoint"] == "3"


def test_a_configfile_of_ones_own_trains_nobody_of_another(project, tmp_path):
    """Its subjects and runs are all there are; other settings are those of config.yaml where it is silent."""
    own = {"subjects": {"mine": CONFIG["subjects"]["ava"]}, "runs": {"first": {}, "second": {}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    done = call(SNAKEMAKE, "-n", "--configfile", tmp_path / "mine.yaml", cwd=project.folder)
    planned = set(re.findall(r"^Job \d+: (\w+/\w+): train the LoRA", done.stdout + done.stderr, re.M))
    assert planned == {"mine/first", "mine/second"}, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resolution: [64\nsample: {}\n", "config.yaml, line 2: while parsing a flow sequence, expected ',' or ']'"),
        ("resolution: 64\n\tsample: {}\n", "config.yaml, line 2: while scanning for the next token, found character"),
        ("sample:\n  steps: 2\n  steps: 3\n", "config.yaml, line 3: steps stands there twice, first in line 2"),
    ],
)
def test_a_slip_in_yaml_is_told_by_its_line(project, tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    done = call(SNAKEMAKE, "-n", "--snakefile", project.folder / "Snakefile", "--directory", tmp_path, cwd=tmp_path)
    told = done.stdout + done.stderr
    assert done.returncode != 0 and said in told and "Traceback" not in told, told


def test_a_setting_without_effect_is_said_once(project, tmp_path):
    (tmp_path / "more.yaml").write_text("train: {text_encoder_lr: 0.001}\n")
    done = call(SNAKEMAKE, "-n", "--configfile", tmp_path / "more.yaml", cwd=project.folder)
    assert done.returncode == 0
    said = "config: train.text_encoder_lr has no effect without train_text_encoder: true"
    assert (done.stdout + done.stderr).count(said) == 1


def test_from_an_activated_environment(project):
    done = call(
        "snakemake",
        "--cores",
        "1",
        "results/ava/photos.tsv",
        cwd=project.folder,
        path=f"{SNAKEMAKE.parent}:/usr/bin:/bin",
    )
    assert done.returncode == 0, done.stderr


def test_not_activated_the_rules_still_find_the_python_of_snakemake(project):
    """`python` on this PATH is another one, or none; the rules must not meet it."""
    (project.folder / "results/ava/faces.tsv").unlink(missing_ok=True)
    done = call(SNAKEMAKE, "--cores", "1", "results/ava/faces.tsv", cwd=project.folder)
    assert done.returncode == 0, done.stderr


def test_with_directory(project, tmp_path):
    """Everything is written in the other folder, whose own config.yaml and photos count."""
    shutil.copytree(project.folder / "photos", tmp_path / "photos")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    shutil.copytree(project.folder / "results/models", tmp_path / "results/models", copy_function=os.link)
    done = call(SNAKEMAKE, "--cores", "1", "--directory", tmp_path, "results/ava/photos.tsv", cwd=project.folder)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "results/ava/photos.tsv").read_text().splitlines()) == 9


def test_from_an_empty_folder_the_demonstration_is_what_runs(root, tmp_path):
    done = call(SNAKEMAKE, "-n", "--snakefile", root / "Snakefile", "--directory", tmp_path, cwd=tmp_path)
    assert done.returncode == 0 and "ava/portrait: train the LoRA" in done.stdout + done.stderr


def test_with_conda_environments(project):
    """Parse and dry run; a stand-in answers for conda, which this machine may not have."""
    stand_in = project.folder / "bin"
    stand_in.mkdir(exist_ok=True)
    conda = stand_in / "conda"
    info = {"conda_version": "25.1.0", "root_prefix": "/", "conda_prefix": "/", "platform": "linux-64"}
    conda.write_text(
        f"#!/bin/sh\ncase $1 in\n--version) echo conda 25.1.0;;\ninfo) echo '{json.dumps(info)}';;\n"
        'config) echo \'{"get": {"channel_priority": "strict"}}\';;\nesac\n'
    )
    conda.chmod(0o755)
    done = call(SNAKEMAKE, "-n", "--sdm", "conda", cwd=project.folder, path=f"{stand_in}:/usr/local/bin:/usr/bin:/bin")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train_lora" in done.stdout + done.stderr


def test_without_any_profile(project):
    assert call(SNAKEMAKE, "-n", "--workflow-profile", "none", cwd=project.folder).returncode == 0


def test_a_mistake_in_the_configuration_starts_no_job(project):
    good = (project.folder / "config.yaml").read_text()
    project.configure(train={"rank": 8, "alpha": 99})
    try:
        done = call(SNAKEMAKE, "--cores", "1", cwd=project.folder)
    finally:
        (project.folder / "config.yaml").write_text(good)
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "train: alpha 99 is larger than rank 8" in text
    assert "Traceback" not in text and "rule " not in text


def test_a_base_models_name_is_shown_as_it_is_in_snakemakes_report(root):
    """It would be read as reStructuredText: model_ is a link without an end, *my* is set in italics."""
    model = "models/*my*_`sd`|15|_"
    config = {"subjects": ["ava"], "runs": ["portrait"], "base_model": model}
    template = jinja2.Template((root / "rules/captions/workflow.rst").read_text())
    text = template.render(snakemake=SimpleNamespace(config=config))
    page = publish_parts(text, writer_name="html", settings_overrides={"halt_level": 2})["body"]
    assert model in html.unescape(re.sub(r"<.*?>", "", page))


@pytest.mark.parametrize("name", ["all.html", "all.zip"])
def test_snakemakes_own_report_has_the_results_with_captions_in_categories(finished_project, tmp_path, name):
    project = finished_project.copied(tmp_path / "project")
    project.configure(sample={"prompts": ["photo of {subject}</script><script>alert(1)</script>"]})
    done = call(SNAKEMAKE, "--report", name, cwd=project.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    made = project.folder / name
    page = zipfile.ZipFile(made).read("all/report.html").decode() if made.suffix == ".zip" else made.read_text()
    assert "photo of {subject}" in page and "<script>alert" not in page
    results = json.loads(re.search(r"^\s*var results = (\{.*\})", page, re.M)[1])
    named = {Path(result["name"]).name: result for result in results.values()}
    assert set(named) == {"choice.json", "ava_portrait.png", "README.md", "grid.png", "report.html", "dataset.html"}
    captions = {name: re.sub(r"<.*?>|\s+", " ", result["caption"]) for name, result in named.items()}
    assert "every epoch and weight that cannot be told apart" in captions["choice.json"]
    assert "open results/ava/portrait/report.html" in captions["report.html"]
    assert "what to photograph next" in captions["dataset.html"]
    assert all("ava" in caption for caption in captions.values())
    categories = json.loads(re.search(r"^\s*var categories = (\{.*\})", page, re.M)[1])
    assert set(categories) == {"The choice", "Evidence", "Data set"}
    assert "Subjects: ava. Runs: portrait." in page
