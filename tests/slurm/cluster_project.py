"""A project whose jobs run on the cluster of these tests."""

import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from project import Project

# The changes of profiles/slurm for this cluster: the account, the names of the partitions, the model of GPU.
ACCOUNT = "lab"
PARTITIONS = {"cpu": "batch", "gpu": "accel"}
MODEL = "toy"

# The name of a project's folder. It contains characters with a meaning for the shell.
FOLDER = "the lab & ava in $HOME"

LAUNCHER = Path(__file__).with_name("snakemake_soon.py")


def write_profile(folder: Path, without_gpu: Iterable[str] = ()) -> None:
    """Change profiles/slurm in a project for this cluster. The rules `without_gpu` request no GPU."""
    profile, partitions = (yaml.safe_load((folder / name).read_text()) for name in ("profile.yaml", "partitions.yaml"))
    profile["default-resources"]["slurm_account"] = ACCOUNT
    for rule, resources in profile["set-resources"].items():
        profile["set-resources"][rule] = resources | ({"gpu": 0} if rule in without_gpu else {"gpu_model": MODEL})
    partitions["partitions"] = {PARTITIONS[name]: limits for name, limits in partitions["partitions"].items()}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    (folder / "partitions.yaml").write_text(yaml.safe_dump(partitions))


class ClusterProject(Project):
    """A project whose Snakemake submits by profiles/slurm, changed for this cluster. Simulated GPUs cannot compute, so
    the trainer uses the CPU of its node, and the other rules request no GPU. The project's Python is in its folder, as
    a user's is.
    """

    on_cluster = True

    def __init__(self, *arguments):
        super().__init__(*arguments)
        write_profile(self.folder / "profiles/slurm", without_gpu=set(self.in_one_thread) - {"train_lora"})
        (self.folder / ".venv").symlink_to(sys.prefix)

    def configure(self, **changes) -> None:
        super().configure(**(changes | {"train": changes.get("train", {}) | {"device": "cpu"}}))

    def snakemake(self) -> list:
        return [self.folder / ".venv/bin/python", LAUNCHER] if self.on_cluster else super().snakemake()

    def place(self, cores: str) -> list[str]:
        return ["--workflow-profile", "profiles/slurm"] if self.on_cluster else super().place(cores)
