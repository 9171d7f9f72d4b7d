"""A training whose job is cancelled ends in the bytes of one that nothing happened to; no epoch is trained twice."""

import re

import pytest

from cluster import jobs, output, running, states
from cluster_project import ClusterProject
from training_in_project import (
    TRAINED,
    assert_as_if_nothing_had_happened,
    forget,
    log,
    prepare,
    trainer,
    trainers,
)
from waiting import wait_for

EPOCHS = 6
EPOCH_SECONDS = 0.7


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory, model_files, small_base) -> ClusterProject:
    """Everything up to training is done, without the cluster, to save time."""
    project = ClusterProject(tmp_path_factory.mktemp("faults") / "project", model_files, small_base)
    project.on_cluster = False
    prepare(project, EPOCHS, EPOCH_SECONDS)
    return project


@pytest.fixture(scope="module")
def undisturbed(project) -> list[bytes]:
    """The checkpoints of a training on this machine, without any cluster."""
    project.run(TRAINED)
    project.on_cluster = True
    return project.loras()


@pytest.fixture(autouse=True)
def untrained(cluster, project, undisturbed):
    """Every test starts with nothing trained, and leaves an idle cluster, also if it fails."""
    forget(project)
    yield
    for process in (project.head, *trainers(project)):
        process.kill()
    project.head.wait()
    output("scancel", "--user=root")
    wait_for("the end of all jobs", lambda: not output("squeue", "--noheader"))
    wait_for("idle nodes", lambda: states() == ["idle"])


def assert_well_ended(project, head, undisturbed) -> None:
    """Snakemake, which was never started again, ends well."""
    status = head.wait(timeout=600)
    assert status == 0, project.output.read_text() + project.logs()
    assert_as_if_nothing_had_happened(project, undisturbed)


def wait_for_word(project, pattern: str) -> None:
    """Until the trainer says it: in its own log, because srun forwards nothing of a job that is being ended."""
    wait_for(pattern, lambda: log(project).exists() and re.search(pattern, log(project).read_text()))


def attempts(project, since: int = 0) -> list[tuple[str, int]]:
    """The state and the time limit of every training job but so many of the first."""
    return [(job.state, job.minutes) for job in jobs(project.folder)][since:]


def test_cancelled(project, undisturbed):
    """The trainer saves and leaves; the next attempt goes on from that step."""
    before = len(attempts(project))
    head = project.start(TRAINED)
    trainer(project)
    number, _ = running("train_lora")
    output("scancel", number)
    wait_for_word(project, "SIGTERM: (saved|leaving)")
    assert_well_ended(project, head, undisturbed)
    assert "resuming after step" in log(project).read_text()
    assert attempts(project, before) == [("CANCELLED", 120), ("COMPLETED", 240)]
