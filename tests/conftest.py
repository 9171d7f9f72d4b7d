"""What tests share: the model files, the demonstration's people, and small base models and pages of results made on
the spot."""

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

# pytest explains the failed assertions of these helpers as it does those of tests.
pytest.register_assert_rewrite("base_layouts", "face_photos", "made_photos", "trained_run")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # for subprocesses of tests; pytest has its own setting


# The slowest files first. If a process starts one of them last, the other processes have no work for minutes.
LONGEST_FIRST = (
    *("training_processes", "parity", "trained_captions", "not_finite", "training"),
    *("reruns", "faults", "class_pictures", "gpus"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run unit tests first, and within each kind the slowest files. `make test` keeps this order
    (--no-loadscope-reorder)."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ("unit" not in item.path.parts, order.get(item.path.stem, len(order))))


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """A lock: only one process of tests at a time runs the code within it."""
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of this repository."""
    return ROOT


@pytest.fixture(scope="session")
def model_files(tmp_path_factory) -> Path:
    """The pinned model files, fetched by the workflow's program once and kept for later runs of the tests."""
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
    from small_base import saved_small_base

    return saved_small_base(model_files, tmp_path_factory.mktemp("base") / "small", seed=1)


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory, model_files, small_base) -> Project:
    """A project that ran to its end, made once for all processes of tests. Tests use copies of it."""
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
def page(tmp_path_factory, ava) -> Path:
    """The report of a run whose best cell is epoch 2 at weight 0.8."""
    from made_pages import report_page

    return report_page(tmp_path_factory.mktemp("run"), ava)


@pytest.fixture(scope="session")
def dataset_page(page) -> Path:
    """The small page of the same data set, as written by its script before anything is trained."""
    from made_run import build_dataset_page

    build_dataset_page(page.parent, page.with_name("dataset.html"))
    return page.with_name("dataset.html")


@pytest.fixture(scope="session")
def gallery_page(tmp_path_factory, ava) -> Path:
    """The gallery of made portraits: two scenes and a place."""
    from made_pages import gallery_page

    return gallery_page(tmp_path_factory.mktemp("gallery"), ava)


@pytest.fixture(scope="session")
def runs_page(tmp_path_factory, ava) -> Path:
    """The page that compares two runs; the second has the higher identity."""
    from made_pages import runs_page

    return runs_page(tmp_path_factory.mktemp("subject"), ava)


@pytest.fixture(scope="session")
def index_page(tmp_path_factory, ava) -> Path:
    """The first page of two subjects with two runs each."""
    from made_pages import index_page

    return index_page(tmp_path_factory.mktemp("results"), ava)


@pytest.fixture(scope="session")
def base_manifest(tmp_path_factory, small_base) -> dict:
    """base.json of the small base model, loaded."""
    from likeness.models.base_model import load_manifest, manifest

    path = tmp_path_factory.mktemp("manifest") / "base.json"
    path.write_text(json.dumps(manifest("small", small_base, path.parent)))
    return load_manifest(path)
