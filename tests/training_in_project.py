"""A training in a project that is long enough to be interrupted, and readers of its state."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import psutil

from project import Project
from waiting import wait_for

TRAINED = "results/ava/portrait/models.json"
# Small settings for sampling and scoring, which are not interrupted.
SHORT_SAMPLES = {"weights": [1.0], "steps": 1}


def prepare(project: Project, epochs: int, epoch_seconds: float) -> None:
    """Run all rules before the training, and set the training to a number of epochs that take a number of seconds each
    on this machine."""
    forget(project)
    project.configure(train={"epochs": 2, "max_train_steps": 40}, sample=SHORT_SAMPLES)
    project.run(TRAINED)
    steps = max(5, min(60, round(epoch_seconds / seconds_per_step(project))))
    project.configure(train={"epochs": epochs, "max_train_steps": steps * epochs}, sample=SHORT_SAMPLES)
    project.run("results/ava/latents.safetensors")
    forget(project)


def seconds_per_step(project: Project) -> float:
    """The speed of training on this machine, measured by the time between two epochs."""
    first, second = sorted(project.folder.glob("results/.cache/runs/*/epoch-*.safetensors"))
    models = json.loads((project.folder / TRAINED).read_text())
    return (second.stat().st_mtime - first.stat().st_mtime) / models["steps_per_epoch"]


def forget(project: Project) -> None:
    """Delete the results of the training."""
    shutil.rmtree(project.folder / "results/ava/portrait", ignore_errors=True)
    shutil.rmtree(project.folder / "results/.cache/runs", ignore_errors=True)
    log(project).unlink(missing_ok=True)


def log(project: Project) -> Path:
    return project.folder / "results/logs/ava/portrait/train_lora.log"


def trainer(project: Project) -> psutil.Process:
    """Wait for the training process and return it once it trains. Its log is new, because Snakemake deletes the old log
    before it starts a job."""

    def trains() -> psutil.Process | None:
        begun = log(project).exists() and re.search(r"^(saved|resuming)", log(project).read_text(), re.M)
        return next(iter(trainers(project)), None) if begun else None

    return wait_for("a trainer that trains", trains, seconds=600, by=project.head)


def begun(project: Project) -> tuple[subprocess.Popen, psutil.Process]:
    """A Snakemake that was just started, and its trainer, which trains."""
    head = project.start(TRAINED)
    return head, trainer(project)


def held(project: Project) -> tuple[subprocess.Popen, psutil.Process]:
    """The same with the trainer suspended, so that it is not done before what is to happen has happened, on however
    fast a machine."""
    head, training = begun(project)
    training.suspend()
    return head, training


def wait_for_word(project: Project, pattern: str) -> None:
    """Wait until the trainer says it. Its own log is read, because srun forwards nothing of a job that is being
    ended."""

    def said() -> bool:
        return log(project).exists() and bool(re.search(pattern, log(project).read_text()))

    wait_for(pattern, said, by=project.head)


def trainers(project: Project) -> list[psutil.Process]:
    """All processes that run the trainer, the oldest first."""
    found = [process for process in psutil.process_iter(["cmdline"]) if is_trainer(process, project.folder)]
    return sorted(found, key=psutil.Process.create_time)


def is_trainer(process: psutil.Process, folder: Path) -> bool:
    words = process.info["cmdline"] or []
    try:
        # The second argument is compared, because a SLURM job also has an srun with the same command after its own
        # arguments.
        return words[1:2] != [] and words[1].endswith("scripts/train_lora.py") and process.cwd() == str(folder)
    except psutil.Error:
        return False


def epochs_trained(project: Project) -> list[int]:
    """All epochs that any process finished, in order, by the history in the run store."""
    (history,) = project.folder.glob("results/.cache/runs/*/history")
    return [int(line.split()[1]) for line in history.read_text().splitlines()]


def assert_as_if_nothing_had_happened(project: Project, undisturbed: list[bytes]) -> None:
    assert project.loras() == undisturbed
    trained = epochs_trained(project)
    assert trained == sorted(set(trained)), f"an epoch was trained twice: {trained}"
