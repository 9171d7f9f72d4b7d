"""The whole workflow on a cluster, through the profile that users have, with an account and partitions of theirs."""

import subprocess
import sys

import pytest

from cluster import Job, jobs, output
from cluster_project import ACCOUNT, FOLDER, MODEL, ClusterProject
from project import ROOT
from training_in_project import TRAINED, log
from waiting import wait_for

ON_CPUS = {"detect_faces", "crop_faces", "caption_faces", "score_checkpoint"}
# They need a GPU on other clusters (see test_the_check_...); here they are told to do without.
MADE_TO_DO_WITHOUT = {"upscale_faces", "cache_latents", "sample_checkpoint"}


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory, model_files, small_base) -> ClusterProject:
    """Everything was made once, on the cluster."""
    project = ClusterProject(tmp_path_factory.mktemp("workflow") / FOLDER, model_files, small_base)
    project.run()
    return project


@pytest.fixture(scope="module")
def submitted(project) -> dict[str, Job]:
    """The first job of every rule that the cluster was given."""
    return {job.rule: job for job in reversed(jobs(project.folder))}


def test_every_job_ran_where_its_rule_belongs(project, submitted):
    assert set(submitted) == {*ON_CPUS, *MADE_TO_DO_WITHOUT, "train_lora"}, "every other rule is local"
    for rule in ON_CPUS | MADE_TO_DO_WITHOUT:
        assert (submitted[rule].partition, submitted[rule].node) == ("batch", "c1")
    assert submitted["train_lora"].partition == "accel" and submitted["train_lora"].node in ("g1", "g2")
    assert {job.state for job in submitted.values()} == {"COMPLETED"}
    assert {job.account for job in submitted.values()} == {ACCOUNT}


def test_it_ends_in_what_one_machine_makes(project):
    loras = project.loras()
    assert len(loras) == 2 and (project.folder / "results/index.html").is_file()
    project.on_cluster = False
    try:
        assert project.run().jobs == {}, "what the cluster made is finished on one machine, too"
    finally:
        project.on_cluster = True


def test_the_log_of_every_job_is_kept(project, submitted):
    for rule, job in submitted.items():
        assert list(project.folder.glob(f"results/logs/slurm/rule_{rule}/**/{job.number}.log"))


def test_the_check_says_what_is_asked_for(project, submitted):
    threads = [f"{rule}=1" for rule in project.in_one_thread]
    check = subprocess.run(
        [sys.executable, ROOT / "tools/check_slurm.py", "--set-threads", *threads],
        cwd=project.folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    table, local, answers = check.stdout.split("\n\n")
    said = {}
    for line in table.splitlines()[1:]:
        rule, _, partition, *gpus, cores, megabytes, most, minutes, last = line.split()
        said[rule] = (partition, gpus, cores, megabytes, int(minutes))
        assert (int(most), int(last)) == (4 * int(megabytes), 4 * int(minutes)), "of the fourth attempt"
    assert said == {
        rule: (
            job.partition,
            [f"{MODEL}:1"] if rule == "train_lora" else [],
            job.requested["cpu"],
            job.requested["mem"].removesuffix("M"),
            job.minutes,
        )
        for rule, job in submitted.items()
    }
    assert "fetch_models" in local and "train_lora" not in local
    asked = answers.splitlines()[1:]
    assert len(asked) == 2 * len(said) and all("to start at" in line for line in asked), "the last attempt fits, too"


def test_the_check_of_the_profile_as_it_is_shipped():
    """Every rule that needs a GPU goes where there are some."""
    check = subprocess.run(
        [sys.executable, "tools/check_slurm.py"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in check.stdout.split("\n\n")[0].splitlines()[1:]]
    partitions = {partition: {row[0] for row in rows if row[2] == partition} for partition in ("cpu", "gpu")}
    drawn = {"draw_scene", "place_face"}  # the demonstration's portraits
    assert partitions == {"cpu": ON_CPUS | {"score_portraits"}, "gpu": {*MADE_TO_DO_WITHOUT, "train_lora"} | drawn}


def reasons_of_waiting() -> str:
    return output("squeue", "--noheader", "--states=PENDING", "--format=%r")


def test_a_training_on_two_gpus_has_them_on_one_node(project):
    """Where each node has one to spare, it waits for one that has two."""
    spare_one = ("--partition=accel", "--gpus=1", "--mem=1000", "--output=/dev/null", "--wrap=sleep 600")
    others = [output("sbatch", "--parsable", f"--nodelist={node}", *spare_one) for node in ("g1", "g2")]
    try:
        project.configure(train={"gpus": 2, "seed": 1})
        head = project.start(TRAINED)
        wait_for("its job in the queue", lambda: "Resources" in reasons_of_waiting(), by=head)
        output("scancel", others.pop())
        assert head.wait(timeout=300) == 0, project.output.read_text() + project.logs()
    finally:
        output("scancel", *others)
    job = jobs(project.folder)[-1]
    assert (job.rule, job.node) == ("train_lora", "g2")
    assert (job.requested["gres/gpu"], job.requested["mem"]) == ("2", "32000M"), "each process holds the model"
    assert "training on cpu in 2 processes" in log(project).read_text()
