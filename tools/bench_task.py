"""The tasks that the variants of bench_train train, and the turns in which they run."""

import time
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from likeness.core.devices import is_emulated, peak_memory
from likeness.training.settings import Settings

IMAGES = 8
CAPTION = "photo of ohwx woman, smiling, dark background"


class Task(NamedTuple):
    """The training of all variants. `turn` is the number of steps in a turn."""

    base: str
    resolution: int
    batch: int
    rank: int
    precision: str
    turn: int

    def settings(self, **more) -> Settings:
        """The settings as train_lora passes them: AdamW at a constant rate, with more steps than are ever run."""
        changes = {"rank": self.rank, "alpha": self.rank / 2, "batch_size": self.batch, "precision": self.precision}
        changes |= {"max_train_steps": 100_000, "epochs": 1, "lr_scheduler": "constant", "preserve_class": 0.0}
        return Settings(**changes, **more).filled_in()


# The fastest precision on this CPU.
CPU_PRECISION = "fp32" if is_emulated("bf16", torch.device("cpu")) else "bf16"
TASKS = {
    # On a CPU a step with the large base model takes seconds, so a turn has one step.
    "cpu": [Task("demo", 128, 4, 16, "fp32", 10), Task("sd15", 512, 1, 128, CPU_PRECISION, 1)],
    "cuda": [
        Task("demo", 128, 4, 16, "fp32", 50),
        Task("sd15", 512, 1, 128, "bf16", 50),
        Task("sd15", 512, 8, 128, "bf16", 20),
    ],
}


class Finished(Exception):
    """Raised in a variant when no more turns follow."""


class Turns:
    """A callback for every step. After the first step and after each turn it reports the seconds, the peak memory and
    the number of trained parameters, and waits for the next turn of this process."""

    def __init__(self, end: Connection, device, turn: int, began: float):
        self._end, self._device, self._turn, self._began, self._steps = end, device, turn, began, 0
        self.trained = 0

    def step(self) -> None:
        self._steps += 1
        if (self._steps - 1) % self._turn:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._end.send((time.monotonic() - self._began, peak_memory(self._device), self.trained))
        if not self._end.recv():
            raise Finished
        self._began = time.monotonic()
