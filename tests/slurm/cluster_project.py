"""A project whose jobs run on the cluster of these tests."""

import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from project import Project

# What a user of this cluster changes in profiles/slurm: the account, the names of the partitions, the model of GPU.
ACCOUNT = "lab"
PARTITIONS = {"cpu": "batch", "gpu": "accel"}
MODEL = "toy"

# The name of a project's folder; it has what means something to a shell.
FOLDER = "the lab & ava in $HOME"

LAUNCHER = Path(__file__).with_name("snakemake_soon.py")


def write_profile(folder: Path, without_gpu: Iterable[str] = ()) -> None:
    """Change profiles/slurm in a project for this cluster; the rules `without_gpu` ask for none."""
    profile, partitions = (yaml.safe_load((folder / name).read_text()) for name in ("profile.yaml", "partitions.yaml"))
    profile["default-resources"]["slurm_account"] = ACCOUNT
    for rule, resources in profile["set-resources"].items():
        profile["set-resources"][rule] = resources | ({"gpu": 0} if rule in without_gpu else {"gpu_model": MODEL})
    partitions["partitions"] = {PARTITIONS[name]: limits for name, limits in partitions["partitions"].items()}
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    (folder / "partitions.yaml").write_text(yaml.safe_dump(partitions))


class ClusterProject(Project):
    """Its Snakemake submits by profiles/slurm, in which a user has written what is theirs. Simulated GPUs compute
    nothing: the trainer is told to use the CPU of the node that it is sent to, what else needs a GPU asks for none. Its
    Python is in its folder, as a user's is.
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
