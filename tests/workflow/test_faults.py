"""A killed run goes on: whatever was killed, the next `snakemake --cores all` ends in the bytes of one never killed."""

import fcntl
import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from project import Project
from training_in_project import (
    TRAINED,
    assert_as_if_nothing_had_happened,
    begun,
    forget,
    held,
    log,
    prepare,
    wait_for_word,
)
from waiting import wait_for

EPOCHS = 10
EPOCH_SECONDS = 0.7  # so that six kills fall into different epochs


@pytest.fixture(scope="module")
def project(tmp_path_factory, finished_project) -> Project:
    """Everything up to training is done; training is long enough to be hit in the middle."""
    project = finished_project.copied(tmp_path_factory.mktemp("faults") / "project")
    project.fork_jobs = True
    prepare(project, EPOCHS, EPOCH_SECONDS)
    return project


@pytest.fixture(scope="module")
def undisturbed(project) -> list[bytes]:
    """The checkpoints of a training that nobody killed."""
    project.run(TRAINED)
    project.fork_jobs = False
    loras = project.loras()
    assert len(loras) == EPOCHS
    return loras


@pytest.fixture(autouse=True)
def untrained(project, undisturbed):
    """Every test starts with the data set there and nothing trained."""
    forget(project)


def test_trainer_killed_at_random_steps(project, undisturbed):
    """SIGKILL, three times, each at a random moment of some epoch."""
    moments = random.Random(7)
    for _ in range(3):
        snakemake, process = begun(project)
        time.sleep(moments.uniform(0, 0.6))
        process.kill()
        assert snakemake.wait(timeout=120) != 0
    project.run(TRAINED)
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_trainer_terminated(project, undisturbed):
    """SIGTERM: the step's end is saved, and training goes on from that very step."""
    snakemake, process = begun(project)
    process.terminate()
    assert snakemake.wait(timeout=120) != 0
    stopped = re.search(r"SIGTERM: saved the state after step (\d+)", log(project).read_text())
    project.run(TRAINED)
    assert stopped is None or f"resuming after step {stopped[1]} of" in log(project).read_text()
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_snakemake_killed_alone(project, undisturbed):
    """The trainer lives on as an orphan; the next call needs no --unlock, waits for it and takes what it made."""
    snakemake, orphan = held(project)
    snakemake.kill()
    snakemake.wait()
    assert orphan.is_running()
    again = project.start(TRAINED)
    wait_for_word(project, "trains this very run; waiting")
    orphan.resume()
    assert again.wait(timeout=300) == 0, project.logs()
    assert f"items: 0 computed, {EPOCHS} reused" in log(project).read_text()
    # Its work is done; Python may still be tidying up behind it.
    assert not psutil.wait_procs([orphan], timeout=10)[1] or orphan.status() == psutil.STATUS_ZOMBIE
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_both_killed(project, undisturbed):
    """A power cut."""
    snakemake, _ = begun(project)
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    project.run(TRAINED)
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_interrupted_at_the_keyboard(project, undisturbed):
    """Ctrl-C reaches everything in the group."""
    snakemake, _ = begun(project)
    os.killpg(snakemake.pid, signal.SIGINT)
    assert snakemake.wait(timeout=120) != 0
    project.run(TRAINED)
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_snakemake_terminated(project, undisturbed):
    """SIGTERM to Snakemake: it lets the running job end and starts no other."""
    snakemake, _ = begun(project)
    snakemake.terminate()
    snakemake.wait(timeout=300)
    project.run(TRAINED)
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_a_second_snakemake_does_not_touch_the_first(project, undisturbed):
    """Two heads on one folder: the second leaves with Snakemake's own message, the first ends well."""
    first, training = held(project)
    refused = project.run(TRAINED, check=False)
    assert refused.status != 0 and "cannot be locked" in refused.text
    training.resume()
    assert first.wait(timeout=300) == 0
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_a_dry_run_does_not_make_a_second_snakemake_possible(project, undisturbed):
    """Not one that began before the first Snakemake did and ended while that works, nor one after it."""
    with open(project.folder / ".snakemake/likeness.lock") as of_a_dry_run:
        fcntl.flock(of_a_dry_run, fcntl.LOCK_SH)
        first, training = held(project)
    project.run("--dry-run")
    assert "cannot be locked" in project.run(TRAINED, check=False).text
    training.resume()
    assert first.wait(timeout=300) == 0
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_the_locks_of_another_machine_stay(project, undisturbed):
    """Its Snakemake may be alive, where the file system's locks count on one machine only: --unlock is the user's."""
    snakemake, _ = begun(project)
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    machine = project.folder / ".snakemake/likeness.lock"
    machine.write_text("another machine")
    for _ in range(2):
        assert "cannot be locked" in project.run(TRAINED, check=False).text
    project.run("--unlock")
    project.run(TRAINED)
    assert machine.read_text() == socket.gethostname()
    assert_as_if_nothing_had_happened(project, undisturbed)


@pytest.fixture(params=["the same folder", "another mount of it"])
def seen_from(request, project, tmp_path) -> Iterator[Path]:
    """The project's folder as a second trainer sees it."""
    if request.param == "the same folder":
        yield project.folder
        return
    if subprocess.run(["mount", "--bind", project.folder, tmp_path], capture_output=True).returncode:
        pytest.skip("only root can mount a folder a second time")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def start_another(process: psutil.Process, log: Path, folder: Path) -> subprocess.Popen:
    """A second trainer, called as the first was, but for the log and where it sees the project."""
    command = process.cmdline()
    command[command.index("--log") + 1] = str(log)
    return subprocess.Popen(command, cwd=folder, env=process.environ(), stderr=subprocess.DEVNULL)


def test_two_trainers_on_one_store(project, undisturbed, seen_from):
    """The second waits, then finds everything done."""
    first, training = held(project)
    second_log = project.folder / "second.log"
    second = start_another(training, second_log, seen_from)
    waiting = "trains this very run; waiting for it to end"
    wait_for(waiting, lambda: second_log.exists() and waiting in second_log.read_text(), by=second)
    training.resume()
    assert first.wait(timeout=300) == 0 and second.wait(timeout=300) == 0
    assert f"items: 0 computed, {EPOCHS} reused" in second_log.read_text()
    assert_as_if_nothing_had_happened(project, undisturbed)


def test_a_trainer_that_lost_its_lock_leaves_the_run_to_the_next(project, undisturbed):
    """Lost as over a network: unnoticed. The first sleeps till the second has the lock, as on a node that hung."""
    snakemake, first = held(project)
    (store,) = project.folder.glob("results/.cache/runs/*")
    (store / "lock").unlink()
    owner = (store / "owner").read_text()
    second = start_another(first, project.folder / "second.log", project.folder)
    wait_for("another owner", lambda: (store / "owner").read_text() != owner, by=second)
    first.resume()
    assert snakemake.wait(timeout=300) != 0
    assert f"process {second.pid} on " in log(project).read_text()
    assert "this process leaves it to that one" in log(project).read_text()
    assert second.wait(timeout=300) == 0
    project.run(TRAINED)
    assert_as_if_nothing_had_happened(project, undisturbed)
