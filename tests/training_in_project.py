"""A training in a project that is long enough to be hit in the middle, and what it says about itself."""

import json
import re
import shutil
from pathlib import Path

import psutil

from project import Project
from waiting import wait_for

TRAINED = "results/ava/portrait/models.json"
# Sampling and judging are not what is hit.
SHORT_SAMPLES = {"weights": [1.0], "steps": 1}


def prepare(project: Project, epochs: int, epoch_seconds: float) -> None:
    """Do everything up to training, and set the training to so many epochs of so many seconds on this machine."""
    forget(project)
    project.configure(train={"epochs": 2, "max_train_steps": 40}, sample=SHORT_SAMPLES)
    project.run(TRAINED)
    steps = max(5, min(60, round(epoch_seconds / seconds_per_step(project))))
    project.configure(train={"epochs": epochs, "max_train_steps": steps * epochs}, sample=SHORT_SAMPLES)
    project.run("results/ava/latents.safetensors")
    forget(project)


def seconds_per_step(project: Project) -> float:
    """How fast this machine trains, by the time between two epochs."""
    first, second = sorted(project.folder.glob("results/.cache/runs/*/epoch-*.safetensors"))
    models = json.loads((project.folder / TRAINED).read_text())
    return (second.stat().st_mtime - first.stat().st_mtime) / models["steps_per_epoch"]


def forget(project: Project) -> None:
    """Take away what was trained."""
    shutil.rmtree(project.folder / "results/ava/portrait", ignore_errors=True)
    shutil.rmtree(project.folder / "results/.cache/runs", ignore_errors=True)
    log(project).unlink(missing_ok=True)


def log(project: Project) -> Path:
    return project.folder / "results/logs/ava/portrait/train_lora.log"


def trainer(project: Project) -> psutil.Process:
    """The training process, once it trains. The log is its own: Snakemake deletes a log before it starts a job."""

    def trains() -> psutil.Process | None:
        begun = log(project).exists() and re.search(r"^(saved|resuming)", log(project).read_text(), re.M)
        return next(iter(trainers(project)), None) if begun else None

    return wait_for("a trainer that trains", trains, seconds=600, by=project.head)


def trainers(project: Project) -> list[psutil.Process]:
    """Every process that runs the trainer, the oldest first."""
    found = [process for process in psutil.process_iter(["cmdline"]) if is_trainer(process, project.folder)]
    return sorted(found, key=psutil.Process.create_time)


def is_trainer(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or []
    try:
        # The second word: in a SLURM job there is also an srun, with the same words behind its own.
        return words[1:2] != [] and words[1].endswith("scripts/train_lora.py") and process.cwd() == str(folder)
    except psutil.Error:
        return False


def epochs_trained(project: Project) -> list[int]:
    """Every epoch that any process finished, in order, by the run store's own history."""
    (history,) = project.folder.glob("results/.cache/runs/*/history")
    return [int(line.split()[1]) for line in history.read_text().splitlines()]


def assert_as_if_nothing_had_happened(project: Project, undisturbed: list[bytes]) -> None:
    assert project.loras() == undisturbed
    trained = epochs_trained(project)
    assert trained == sorted(set(trained)), f"an epoch was trained twice: {trained}"
