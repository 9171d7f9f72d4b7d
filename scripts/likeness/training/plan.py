"""Which part of a training's settings decides its result, and the order in which pictures are shown."""

from collections.abc import Mapping, Sequence

import torch

from likeness.dataset import Size, schedule, sizes
from likeness.provenance import canonical, digest

# What changes where a training runs or which of its epochs are kept, and nothing of an epoch's weights.
NOT_IN_KEY = ("device", "gpus", "epochs", "max_train_steps", "save_every_n_epochs", "network_weights")


def run_key(train: Mapping, dataset: Mapping, base: Mapping, weights: str, code: str) -> str:
    """The run store's name: the hash of everything that the LoRA's bytes depend on. `weights` is the sha256 of the file
    to go on from, "" for none.

    How many epochs there are in all matters only where the schedule is stretched over them: with a constant learning
    rate a longer training goes on from a shorter one.
    """
    steps = schedule(train, *sizes(dataset))
    settings = {key: value for key, value in train.items() if key not in NOT_IN_KEY}
    settings["repeats"] = steps["repeats"]
    if not train["preserve_class"]:
        del settings["preserve_class_share"]
    if train["lr_scheduler"] not in ("constant", "constant_with_warmup"):
        settings["total_steps"] = steps["total_steps"]
    names = ["name", "sha256", "caption_sha256", "size"] + ["face"] * train["masked_loss"]
    names += ["class_caption_sha256"] * bool(train["preserve_class"])
    groups = (dataset["images"], dataset["regularisation"])
    pictures = [[[item.get(name) for name in names] for item in group] for group in groups]
    if train["preserve_class"]:
        pictures.append(dataset["bare_class"]["caption_sha256"])
    return digest(canonical(settings), canonical(pictures), base["digest"], weights, code)[:32]


def heldout_digest(items: Sequence[Mapping]) -> str:
    """What the validation losses depend on beside the LoRA: the held-out photos, which the run's key leaves out."""
    names = ("name", "sha256", "caption_sha256", "size")
    return digest(canonical([[item[name] for name in names] for item in items]))


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise: made from the step's number, so that a resumed run needs no generator state."""
    return int(digest(f"{seed}/{step}")[:15], 16)


def batches(train: Mapping, epoch: int, repeats: int, images: Sequence[Size], regularisation: Sequence[Size]) -> list:
    """The pictures of each optimisation step of an epoch (from 1): lists of numbers, the regularisation pictures
    counted on after the images.

    Every image comes `repeats` times, and beside each a regularisation picture, all of them in turn over the epochs.
    Pictures of one step have one size; the last step of each size may have fewer.
    """
    count = len(images) * repeats
    shown = [number % len(images) for number in range(count)]
    if regularisation:
        first = (epoch - 1) * count
        shown += [len(images) + (first + number) % len(regularisation) for number in range(count)]
    generator = torch.Generator().manual_seed(step_seed(train["seed"], -epoch))
    by_size: dict[Size, list[int]] = {}
    all_sizes = [*images, *regularisation]
    for place in torch.randperm(len(shown), generator=generator).tolist():
        by_size.setdefault(all_sizes[shown[place]], []).append(shown[place])
    step = train["batch_size"] * train["gradient_accumulation_steps"]
    made = [numbers[i : i + step] for numbers in by_size.values() for i in range(0, len(numbers), step)]
    if len(by_size) == 1:
        return made
    return [made[place] for place in torch.randperm(len(made), generator=generator).tolist()]
