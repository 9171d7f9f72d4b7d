"""The key of a training in the run store, and the order in which the training shows the pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from likeness.core.provenance import canonical, digest
from likeness.training.schedule import Size, schedule, sizes
from likeness.training.settings import Settings

# Settings that do not change the weights of an epoch: where the training runs, how long, and which epochs are kept.
NOT_IN_KEY = {"device", "gpus", "epochs", "max_train_steps", "save_every_n_epochs", "network_weights"}


def run_key(settings: Settings, dataset: Mapping[str, Any], base: Mapping[str, Any], weights: str, code: str) -> str:
    """The name of the run store: the hash of everything that determines the LoRA's bytes. `weights` is the sha256 of
    the LoRA file to start from, or "". `code` is the hash of the code.

    The total number of steps is a part only if the learning-rate schedule depends on it. With a constant learning rate
    a longer training continues a shorter one.
    """
    steps = schedule(settings, *sizes(dataset))
    values = settings.model_dump(exclude=NOT_IN_KEY) | {"repeats": steps.repeats}
    if not settings.preserve_class:
        del values["preserve_class_share"]
    if settings.lr_scheduler not in ("constant", "constant_with_warmup"):
        values["total_steps"] = steps.total_steps
    names = ["name", "sha256", "caption_sha256", "size"] + ["face"] * settings.masked_loss
    names += ["class_caption_sha256"] * bool(settings.preserve_class)
    groups = (dataset["images"], dataset["regularisation"])
    pictures = [[[item.get(name) for name in names] for item in group] for group in groups]
    if settings.preserve_class:
        pictures.append(dataset["bare_class"]["caption_sha256"])
    return digest(canonical(values), canonical(pictures), base["digest"], weights, code)[:32]


def heldout_digest(items: Sequence[Mapping[str, Any]]) -> str:
    """The hash of the held-out photos. The validation losses depend on them, but the LoRA and so the key do not."""
    names = ("name", "sha256", "caption_sha256", "size")
    return digest(canonical([[item[name] for name in names] for item in items]))


def step_seed(seed: int, step: int) -> int:
    """The seed of the random numbers of a step. It depends only on its arguments, so that a resumed run needs no
    generator state."""
    return int(digest(f"{seed}/{step}")[:15], 16)


def batches(
    settings: Settings, epoch: int, repeats: int, images: Sequence[Size], regularisation: Sequence[Size]
) -> list[list[int]]:
    """The pictures of each optimisation step of an epoch, as lists of picture numbers. Epochs are counted from 1. The
    numbers of regularisation pictures follow those of the images.

    Every image is shown `repeats` times, each time with one regularisation picture; these take turns over the epochs.
    All pictures of a step have one size. The last step of each size may have fewer pictures.
    """
    count = len(images) * repeats
    shown = [number % len(images) for number in range(count)]
    if regularisation:
        first = (epoch - 1) * count
        shown += [len(images) + (first + number) % len(regularisation) for number in range(count)]
    generator = torch.Generator().manual_seed(step_seed(settings.seed, -epoch))
    by_size: dict[Size, list[int]] = {}
    all_sizes = [*images, *regularisation]
    for position in torch.randperm(len(shown), generator=generator).tolist():
        by_size.setdefault(all_sizes[shown[position]], []).append(shown[position])
    step = settings.batch_size * settings.gradient_accumulation_steps
    steps = [numbers[i : i + step] for numbers in by_size.values() for i in range(0, len(numbers), step)]
    if len(by_size) == 1:
        return steps
    return [steps[position] for position in torch.randperm(len(steps), generator=generator).tolist()]
