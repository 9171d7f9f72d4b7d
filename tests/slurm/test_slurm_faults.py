"""Whatever a cluster does to a training, it ends in the bytes of one that nothing happened to, and no epoch is trained
twice. The table of docs/slurm.md is made of these."""

import re
import time
from contextlib import suppress
from datetime import datetime, timedelta

import psutil
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
        with suppress(psutil.NoSuchProcess):
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


def slurm_logs(project) -> str:
    """What every attempt said, the last one last."""
    logs = sorted(project.folder.glob("results/logs/slurm/rule_train_lora/**/*.log"), key=lambda log: int(log.stem))
    return "".join(log.read_text() for log in logs)


def attempts(project, since: int = 0) -> list[tuple[str, int]]:
    """The state and the time limit of every training job but so many of the first."""
    return [(job.state, job.minutes) for job in jobs(project.folder)][since:]


def restarts(number: str) -> int:
    """How often SLURM itself has started a job again."""
    return int(re.search(r"Restarts=(\d+)", output("scontrol", "show", "job", number))[1])


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


def test_time_limit(project, undisturbed):
    """The trainer is warned, saves and leaves; the next attempt has twice the time."""
    before = len(attempts(project))
    head = project.start(TRAINED)
    # So that it is not done before SLURM, which looks every half minute, warns it: that wakes it, too.
    trainer(project).suspend()
    number, _ = running("train_lora")
    end = datetime.now() + timedelta(seconds=90)
    output("scontrol", "update", f"JobId={number}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    wait_for_word(project, "SIGURG: (saved|leaving)")
    assert_well_ended(project, head, undisturbed)
    assert attempts(project, before)[-1] == ("COMPLETED", 240)


def test_requeued(project, undisturbed):
    head = project.start(TRAINED)
    trainer(project)
    number, _ = running("train_lora")
    output("scontrol", "requeue", number)
    assert_well_ended(project, head, undisturbed)
    assert restarts(number) == 1


def test_preempted(project, undisturbed):
    """Jobs of a higher partition take all GPUs; once they are done, the training goes on."""
    head = project.start(TRAINED)
    trainer(project)
    number, _ = running("train_lora")
    output("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    assert_well_ended(project, head, undisturbed)
    assert restarts(number) == 1


def test_slurmd_killed(cluster, project, undisturbed):
    """The cluster takes the node for dead and starts the job on the other, while the first trainer lives on."""
    head = project.start(TRAINED)
    first = trainer(project)
    _, node = running("train_lora")
    first.suspend()  # so that it is not done before the cluster has noticed
    cluster.kill(f"slurmd.{node}")
    try:
        wait_for("a second trainer", lambda: len(trainers(project)) == 2)
        wait_for_word(project, "trains this very run; waiting")
        assert running("train_lora")[1] != node
        first.resume()
        assert_well_ended(project, head, undisturbed)
    finally:
        cluster.start_slurmd(node)


def test_what_a_training_does_not_notice(cluster, project, undisturbed):
    """Its node is drained, slurmctld is killed and started again, a second Snakemake wants to work in the folder."""
    head = project.start(TRAINED)
    training = trainer(project)
    training.suspend()  # so that it is not done before all that
    number, node = running("train_lora")
    refused = project.run(TRAINED, check=False)
    assert refused.status != 0 and "cannot be locked" in refused.text
    output("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        elsewhere = output("srun", "--partition=accel", "--gpus=1", "printenv", "SLURMD_NODENAME")
        assert {node, elsewhere} == {"g1", "g2"}
        cluster.kill("slurmctld")
        time.sleep(5)  # several of Snakemake's questions go unanswered
        cluster.start_slurmctld()
        training.resume()
        assert_well_ended(project, head, undisturbed)
    finally:
        output("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert restarts(number) == 0


def test_snakemake_killed_and_started_again(project, undisturbed):
    """Its job runs on. The next Snakemake knows nothing of it and submits another, which waits for the first one's end
    and takes what it made."""
    head = project.start(TRAINED)
    first = trainer(project)
    first.suspend()  # so that it is not done before the other comes
    head.kill()
    head.wait()
    head = project.start(TRAINED)
    wait_for("a second trainer", lambda: len(trainers(project)) == 2)
    wait_for_word(project, "trains this very run; waiting")
    first.resume()
    assert_well_ended(project, head, undisturbed)


def test_full_disk(project, undisturbed):
    """The disk of the run stores fills up; after some space was made the same command goes on."""
    runs = project.folder / "results/.cache/runs"
    runs.mkdir(parents=True, exist_ok=True)
    output("mount", "-t", "tmpfs", "-o", "size=64M,mode=700", "tmpfs", str(runs))
    try:
        head = project.start(TRAINED, "--retries", "0")
        trainer(project)
        with open(runs / "filler", "wb") as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(2**16))
        assert head.wait(timeout=120) != 0
        assert "no space left on device" in slurm_logs(project)
        (runs / "filler").unlink()
        assert_well_ended(project, project.start(TRAINED), undisturbed)
    finally:
        output("umount", str(runs))
