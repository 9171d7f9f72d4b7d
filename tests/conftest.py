"""What tests share: the model files, the demonstration's people, and small base models made on the spot."""

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from project import Project

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # for subprocesses of tests; pytest has its own setting


# By how long they take. A process that begins one of them last leaves the other without work for minutes.
LONGEST_FIRST = ("training", "reruns", "report", "faults", "parity", "class_pictures", "gpus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first; make test keeps this order (--no-loadscope-reorder)."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Of the processes of tests, one at a time goes on from here."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The project."""
    return ROOT


@pytest.fixture(scope="session")
def model_files(tmp_path_factory) -> Path:
    """The pinned model files, fetched by the program that users have; once for all tests, and kept between runs."""
    folder = Path(os.environ.get("LIKENESS_TEST_MODELS") or ROOT / ".pytest_cache/models")
    script = ROOT / "scripts/fetch_models.py"
    folder.mkdir(parents=True, exist_ok=True)
    with one_process(folder.with_suffix(".lock")):
        subprocess.run(
            [sys.executable, script, "--models", folder, "--manifest", folder / "models.json"],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="session")
def ava() -> Path:
    """The demonstration's person, who does not exist, with the trap photos."""
    return ROOT / "resources/people/ava"


@pytest.fixture(scope="session")
def small_base(tmp_path_factory, model_files) -> Path:
    """A Stable Diffusion model of the real classes for 64 px pictures, as a diffusers folder."""
    from small_base import small_pipeline

    folder = tmp_path_factory.mktemp("base") / "small"
    merge_list = model_files / "bpe_simple_vocab_16e6.txt.gz"
    small_pipeline(merge_list, 64, width=16, text_width=32, seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory, model_files, small_base) -> Project:
    """Run to its end, once for all processes of tests; use copies of it."""
    project = Project(tmp_path_factory.mktemp("project") / "project", model_files, small_base)
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    finished = place / "finished"
    with one_process(place / "finished.lock"):
        if not finished.exists():
            project.fork_jobs = True
            project.run()
            project.folder.rename(finished)
    project.folder, project.fork_jobs = finished, False
    return project


@pytest.fixture(scope="session")
def base_manifest(tmp_path_factory, small_base) -> dict:
    """base.json of the small base model, loaded."""
    from likeness.base_model import load_manifest, manifest

    path = tmp_path_factory.mktemp("manifest") / "base.json"
    path.write_text(json.dumps(manifest("small", small_base, path.parent)))
    return load_manifest(path)
