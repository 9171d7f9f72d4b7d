"""Whatever a cluster does to a training, it ends in the bytes of one that nothing happened to, and no epoch is trained
twice. `make fault-table` writes docs/slurm.md's table: of each test that passed what its marker `fault` says (what
happens, what becomes of the training, what the user does) and what was seen."""

import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import psutil
import pytest

from cluster import jobs, output, running, states
from cluster_project import FOLDER, ClusterProject
from training_in_project import (
    TRAINED,
    assert_as_if_nothing_had_happened,
    begun,
    epochs_trained,
    forget,
    held,
    log,
    prepare,
    trainer,
    trainers,
    wait_for_word,
)
from waiting import wait_for

EPOCHS = 6
EPOCH_SECONDS = 0.7


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory, model_files, small_base) -> ClusterProject:
    """Everything up to training is done, without the cluster, to save time."""
    project = ClusterProject(tmp_path_factory.mktemp("faults") / FOLDER, model_files, small_base)
    project.on_cluster, project.fork_jobs = False, True
    prepare(project, EPOCHS, EPOCH_SECONDS)
    return project


@pytest.fixture(scope="module")
def undisturbed(project) -> list[bytes]:
    """The checkpoints of a training on this machine, without any cluster."""
    project.run(TRAINED)
    project.fork_jobs = False
    project.on_cluster = True
    return project.loras()


@pytest.fixture(autouse=True)
def untrained(cluster, project, undisturbed):
    """Every test starts with nothing trained, and leaves an idle cluster, also if it fails."""
    forget(project)
    yield
    end_all(project)
    wait_for("idle nodes", lambda: states() == ["idle"])


def end_all(project) -> None:
    """Whatever still runs."""
    for process in (project.head, *trainers(project)):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    project.head.wait()
    output("scancel", "--user=root")
    wait_for("the end of all jobs", lambda: not output("squeue", "--noheader"))


@pytest.fixture
def assert_well_ended(project, undisturbed, record_property) -> Callable:
    """Of a Snakemake: it ends well, and so does the training, which is noted for the table."""
    before = len(jobs(project.folder))

    def check(head) -> None:
        status = head.wait(timeout=600)
        assert status == 0, project.output.read_text() + project.logs()
        assert_as_if_nothing_had_happened(project, undisturbed)
        record_property("seen", seen(project, before))

    return check


def seen(project, before: int) -> str:
    """What became of the jobs after so many first ones, and of the training."""
    ended = [
        job.state.lower()
        + (f" after {again} restart{'s' if again > 1 else ''}" if (again := restarts(job.number)) else "")
        for job in jobs(project.folder)[before:]
    ]
    steps = re.findall(r"resuming after step (\d+ of \d+)", log(project).read_text())
    resumed = f"went on after step {', '.join(steps)}" if steps else "was never interrupted"
    trained = epochs_trained(project)
    return f"jobs: {', '.join(ended)}. It {resumed}; {len(trained)} epochs trained, each once; the same bytes"


def slurm_logs(project) -> str:
    """What every attempt said, the last one last."""
    logs = sorted(project.folder.glob("results/logs/slurm/rule_train_lora/**/*.log"), key=lambda log: int(log.stem))
    return "".join(log.read_text() for log in logs)


def attempts(project, since: int = 0) -> list[tuple[str, int]]:
    """The state and the time limit of every training job but so many of the first."""
    return [(job.state, job.minutes) for job in jobs(project.folder)][since:]


def assert_resumed(project) -> None:
    assert "resuming after step" in log(project).read_text()


def restarts(number: str) -> int:
    """How often SLURM itself has started a job again."""
    return int(re.search(r"Restarts=(\d+)", output("scontrol", "show", "job", number))[1])


@pytest.mark.fault(
    "`scancel` of its job",
    "it saves and leaves; Snakemake submits it again",
    "nothing",
)
def test_cancelled(project, assert_well_ended):
    """The trainer saves and leaves; the next attempt goes on from that step."""
    before = len(attempts(project))
    head, _ = begun(project)
    number, _ = running("train_lora")
    output("scancel", number)
    wait_for_word(project, "SIGTERM: (saved|leaving)")
    assert_well_ended(head)
    assert_resumed(project)
    assert attempts(project, before) == [("CANCELLED", 120), ("COMPLETED", 240)]


@pytest.mark.fault(
    "its time limit comes",
    "two minutes before, it is warned, saves and leaves; the next attempt gets twice the time",
    "nothing",
)
def test_time_limit(project, assert_well_ended):
    """The trainer is warned, saves and leaves; the next attempt has twice the time."""
    before = len(attempts(project))
    head, _ = held(project)  # SLURM looks every half minute; its warning wakes the trainer, too
    number, _ = running("train_lora")
    end = datetime.now() + timedelta(seconds=90)
    output("scontrol", "update", f"JobId={number}", f"EndTime={end:%Y-%m-%dT%H:%M:%S}")
    wait_for_word(project, "SIGURG: (saved|leaving)")
    assert_well_ended(head)
    assert_resumed(project)
    assert attempts(project, before)[-1] == ("COMPLETED", 240)


@pytest.mark.fault(
    "`scontrol requeue`",
    "SLURM starts the same job again, which goes on from the last saved state",
    "nothing",
)
def test_requeued(project, assert_well_ended):
    head, _ = begun(project)
    number, _ = running("train_lora")
    output("scontrol", "requeue", number)
    assert_well_ended(head)
    assert_resumed(project)
    assert restarts(number) == 1


@pytest.mark.fault(
    "a partition of higher priority takes its place (`PreemptMode=REQUEUE`)",
    "as with `scontrol requeue`",
    "nothing",
)
def test_preempted(project, assert_well_ended):
    """Jobs of a higher partition take all GPUs; once they are done, the training goes on."""
    head, _ = begun(project)
    number, _ = running("train_lora")
    output("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    assert_well_ended(head)
    assert_resumed(project)
    assert restarts(number) == 1


@pytest.mark.fault(
    "its node's slurmd dies, and SLURM starts the job on another node while the first trainer still runs",
    "the second trainer waits until the first one ends, and takes the epochs that the first one made",
    "nothing",
)
def test_slurmd_killed(cluster, project, assert_well_ended):
    """The cluster takes the node for dead and starts the job on the other, while the first trainer lives on."""
    head, first = held(project)
    _, node = running("train_lora")
    cluster.kill(f"slurmd.{node}")
    try:
        wait_for("a second trainer", lambda: len(trainers(project)) == 2, by=head)
        wait_for_word(project, "trains this very run; waiting")
        assert running("train_lora")[1] != node
        first.resume()
        assert_well_ended(head)
    finally:
        cluster.start_slurmd(node)


@pytest.mark.fault(
    "its node is drained",
    "it runs on; SLURM starts later jobs on other nodes",
    "nothing",
)
def test_node_drained(project, assert_well_ended):
    head, training = held(project)
    number, node = running("train_lora")
    output("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    try:
        elsewhere = output("srun", "--partition=accel", "--gpus=1", "printenv", "SLURMD_NODENAME")
        assert {node, elsewhere} == {"g1", "g2"}
        training.resume()
        assert_well_ended(head)
    finally:
        output("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert restarts(number) == 0


@pytest.mark.fault(
    "slurmctld is killed and started again",
    "it runs on; Snakemake asks SLURM again for the job's state",
    "nothing",
)
def test_slurmctld_restarted(cluster, project, assert_well_ended):
    head, training = held(project)
    number, _ = running("train_lora")
    cluster.kill("slurmctld")
    time.sleep(5)  # several of Snakemake's questions go unanswered
    cluster.start_slurmctld()
    training.resume()
    assert_well_ended(head)
    assert restarts(number) == 0


@pytest.mark.fault(
    "a second Snakemake in the same folder",
    'it leaves with "Directory cannot be locked"',
    "nothing",
)
def test_second_snakemake(project, assert_well_ended):
    head, training = held(project)
    refused = project.run(TRAINED, check=False)
    assert refused.status != 0 and "cannot be locked" in refused.text
    training.resume()
    assert_well_ended(head)


@pytest.mark.fault(
    "Snakemake itself is killed (`kill -9`, the login node)",
    "the job runs on, and no Snakemake waits for it",
    "give the same command again; the new job waits until the old one ends, and takes the epochs that the old one made",
)
def test_snakemake_killed_and_started_again(project, assert_well_ended):
    """Its job runs on. The next Snakemake knows nothing of it and submits another, which waits for the first one's end
    and takes what it made."""
    head, first = held(project)
    head.kill()
    head.wait()
    head = project.start(TRAINED)
    wait_for("a second trainer", lambda: len(trainers(project)) == 2, by=head)
    wait_for_word(project, "trains this very run; waiting")
    first.resume()
    assert_well_ended(head)


@pytest.mark.fault(
    "the disk of `results/` is full",
    "it says so and leaves; what was saved is safe",
    "free some space, give the same command",
)
def test_full_disk(project, assert_well_ended):
    """Full for a training's state, that is; what a log takes is left. After some space was made the same command goes
    on."""
    results, kept = project.folder / "results", project.folder / "results.kept"
    results.rename(kept)
    results.mkdir()
    try:
        size = int(output("du", "--summarize", "--block-size=1M", str(kept)).split()[0]) + 64
        output("mount", "-t", "tmpfs", "-o", f"size={size}M", "tmpfs", str(results))
        output("cp", "--archive", f"{kept}/.", str(results))
        head = project.start(TRAINED, "--retries", "0")
        trainer(project)
        with open(results / "filler", "wb", buffering=0) as filler:  # a buffer would be written again by `truncate`
            with pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(2**16))
            filler.truncate(filler.tell() - 2**16)
        assert head.wait(timeout=120) != 0
        assert "no space left on device" in slurm_logs(project)
        (results / "filler").unlink()
        assert_well_ended(project.start(TRAINED))
    finally:
        end_all(project)
        subprocess.run(["umount", results])
        results.rmdir()
        kept.rename(results)
