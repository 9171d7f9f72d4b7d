"""One training per GPU, whoever started it: on machines said (CUDA_VISIBLE_DEVICES) to have one GPU or two."""

import re
import time

import psutil
import pytest

from project import CONFIG, Project
from training_in_project import is_trainer

SUBJECTS = {name: CONFIG["subjects"]["ava"] for name in ("ava", "twin")}
TRAINED = [f"results/{subject}/portrait/models.json" for subject in SUBJECTS]
# The default profile is what sets nothing here: the limit must come from the Snakefile.
NO_PROFILE = ("--workflow-profile", "none", "--scheduler", "greedy")


@pytest.fixture(scope="module")
def project(tmp_path_factory, model_files, small_base) -> Project:
    """Two subjects, ready to train."""
    project = Project(tmp_path_factory.mktemp("gpus") / "project", model_files, small_base)
    project.in_one_thread = ()
    train = {"epochs": 2, "max_train_steps": 40}
    # Different settings per subject cannot be had, so the second subject's photos differ instead: its own run store.
    for n in range(6):
        project.add_photo(f"{n:02d}.jpg")
    folder = project.folder / "photos"
    folder.rename(project.folder / "photos_ava")
    for n in range(7):
        project.add_photo(f"{n:02d}.jpg")
    folder.rename(project.folder / "photos_twin")
    subjects = {name: subject | {"photos": f"photos_{name}"} for name, subject in SUBJECTS.items()}
    project.configure(train=train, subjects=subjects)
    project.fork_jobs = True
    project.run(*(f"results/{subject}/latents.safetensors" for subject in SUBJECTS))
    project.fork_jobs = False
    return project


def trainers_and_threads(project: Project, gpus: str, *arguments: str) -> tuple[int, set[str]]:
    """Train both subjects and watch: the most training processes alive at one moment, and the numbers of threads that
    torch may use in one."""
    snakemake = project.start(
        *NO_PROFILE, *arguments, "--forcerun", "train_lora", "--", *TRAINED,
        environment={"CUDA_VISIBLE_DEVICES": gpus}, cores="2",
    )  # fmt: skip
    most, threads = 0, set()
    while snakemake.poll() is None:
        found = psutil.process_iter(["cmdline", "environ", "ppid"])
        trainers = without_forks([process for process in found if is_trainer(process, project.folder)])
        most = max(most, len(trainers))
        threads |= {trainer.info["environ"]["OMP_NUM_THREADS"] for trainer in trainers if trainer.info["environ"]}
        time.sleep(0.05)
    assert project.outcome(snakemake.returncode).status == 0, project.output.read_text() + project.logs()
    return most, threads


def without_forks(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Without those that are about to become another program: until then they look like who started them, while the
    further process of a training has a rank of its own."""

    def rank(process: psutil.Process) -> str | None:
        return (process.info["environ"] or {}).get("RANK")

    theirs = {(process.pid, rank(process)) for process in processes}
    return [process for process in processes if (process.info["ppid"], rank(process)) not in theirs]


def devices(project: Project) -> list[str]:
    logs = [project.folder / f"results/logs/{subject}/portrait/train_lora.log" for subject in SUBJECTS]
    return [re.findall(r"^device: GPU (.+)", log.read_text(), re.M)[-1] for log in logs]


def forget_training(project: Project) -> None:
    for store in project.folder.glob("results/.cache/runs/*/*"):
        store.unlink()


def test_two_subjects_take_turns_on_one_gpu(project):
    assert trainers_and_threads(project, "0", "--verbose") == (1, {"2"}), "each has all the cores to itself"
    assert devices(project) == ["0", "0"]
    rounds = project.output.read_text().count("Ready jobs: ")
    assert rounds == 2, "Snakemake sleeps while a job waits for the GPU: it looks at the start and at the end of one"


def test_two_subjects_train_side_by_side_on_two_gpus(project):
    forget_training(project)
    assert trainers_and_threads(project, "0,1") == (2, {"1"})
    assert sorted(devices(project)) == ["0", "1"]


def test_the_lock_holds_where_snakemakes_count_is_wrong(project):
    """`--resources gpu=2` on a machine with one: both jobs start, one waits for the device."""
    forget_training(project)
    assert trainers_and_threads(project, "0", "--resources", "gpu=2") == (2, {"1"})
    waited = [
        log
        for log in project.folder.glob("results/logs/*/portrait/train_lora.log")
        if "waiting for a free GPU" in log.read_text()
    ]
    assert len(waited) == 1


def train_on(project: Project, gpus: int, **changes: int) -> None:
    """`train.gpus`, all else as it is but for the changes."""
    train = project.config["train"] | {"gpus": gpus} | changes
    project.configure(train=train, subjects=project.config["subjects"])


def test_a_training_on_two_gpus_waits_until_both_are_free(project):
    forget_training(project)
    train_on(project, 2)
    assert trainers_and_threads(project, "0,1") == (2, {"1", "2"}), "two processes of one training share the cores"
    assert devices(project) == ["0, 1"] * 2


def test_more_gpus_than_there_are_is_an_error(project):
    forget_training(project)
    train_on(project, 3, batch_size=3)
    environment = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert project.run("--forcerun", "train_lora", "--", *TRAINED, environment=environment, check=False).status != 0
    assert "error: train.gpus: 3, and there are 2 here (0, 1); lower it" in project.logs()
