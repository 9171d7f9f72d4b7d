"""How many optimisation steps a training has, and which part of its settings decides its result."""

import math

from likeness.dataset import repeats, steps_per_epoch
from likeness.provenance import canonical, digest


def plan(train: dict, images: int) -> dict:
    """Repeats, optimisation steps per epoch and in total, by kohya's arithmetic."""
    n = repeats(
        train["max_train_steps"], train["batch_size"], train["gradient_accumulation_steps"], images, train["epochs"]
    )
    steps = steps_per_epoch(images, n, train["batch_size"], train["gradient_accumulation_steps"])
    return {"images": images, "repeats": n, "steps_per_epoch": steps, "total_steps": steps * train["epochs"]}


def run_key(train: dict, resolution: int, dataset: dict, base: dict, code: str) -> str:
    """The run store's name: the hash of everything that the LoRA's bytes depend on.

    How many epochs there are in all matters only where the schedule is stretched over them: with a constant learning
    rate a longer training goes on from a shorter one.
    """
    images = [[item["name"], item["sha256"], item["caption_sha256"]] for item in dataset["images"]]
    steps = plan(train, len(images))
    settings = {key: value for key, value in train.items() if key not in ("epochs", "max_train_steps")}
    settings["repeats"] = steps["repeats"]
    if train["lr_scheduler"] != "constant":
        settings["total_steps"] = steps["total_steps"]
    return digest(canonical(settings), str(resolution), canonical(images), base["digest"], code)[:32]


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise: made from the step's number, so that a resumed run needs no generator state."""
    return int(digest(f"{seed}/{step}")[:15], 16)


def epoch_of(step: int, steps_in_epoch: int) -> int:
    """The epoch (from 1) that the step (from 0) belongs to."""
    return math.floor(step / steps_in_epoch) + 1
