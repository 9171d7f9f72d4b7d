"""The length of a training: how the numbers of steps, epochs, repeats and images follow from each other."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from likeness.core.errors import LikenessError

NO_IMAGE = "no training image is left; photos.tsv says why each photo was dropped, add better ones"

Size = tuple[int, int]  # width and height of a picture in px


class Length(Protocol):
    """The settings of `train` that decide the length of a training. One of the last three is None and follows from the
    other two."""

    batch_size: int
    gradient_accumulation_steps: int
    max_train_steps: int | None
    epochs: int | None
    repeats: int | None


class Schedule(NamedTuple):
    """The length of a training. `shown` is the number of pictures per epoch, including regularisation pictures."""

    images: int
    shown: int
    repeats: int
    epochs: int
    steps_per_epoch: int
    total_steps: int


def sizes(dataset: Mapping[str, Any]) -> tuple[list[Size], list[Size]]:
    """The sizes of the subject's pictures and of the regularisation pictures in a dataset.json."""
    images, regularisation = (
        [(item["size"][0], item["size"][1]) for item in dataset[group]] for group in ("images", "regularisation")
    )
    return images, regularisation


def schedule(length: Length, images: Sequence[Size], regularisation: Sequence[Size] = ()) -> Schedule:
    """The length of a training on pictures of the sizes `images`. It has whole epochs, with at least max_train_steps
    steps. All pictures of a batch have one size. If there are `regularisation` pictures, which all have one size, an
    epoch shows as many of them as of the subject's. Raises LikenessError if there is no image.
    """
    if not images:
        raise LikenessError(NO_IMAGE)
    batch = length.batch_size * length.gradient_accumulation_steps
    size_counts = Counter(images) + Counter(list(regularisation[:1]) * len(images))
    repeats, epochs, steps = length.repeats, length.epochs, length.max_train_steps or 0
    if repeats is None:
        repeats = math.ceil(steps * batch / (size_counts.total() * (epochs or 1)))
    steps_per_epoch = sum(math.ceil(count * repeats / batch) for count in size_counts.values())
    if epochs is None:
        epochs = math.ceil(steps / steps_per_epoch)
    return Schedule(
        images=len(images),
        shown=size_counts.total() * repeats,
        repeats=repeats,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        total_steps=steps_per_epoch * epochs,
    )


def arithmetic(length: Length, images: Sequence[Size], regularisation: Sequence[Size] = ()) -> str:
    """The calculation of `schedule` as text for the user."""
    steps = schedule(length, images, regularisation)
    batch = f"(batch {length.batch_size} x accumulation {length.gradient_accumulation_steps})"
    photos = f"{steps.images} images" + (" x 2 for regularisation" if regularisation else "")
    parts = []
    if length.repeats is None:
        pictures = f"{length.max_train_steps} steps x {batch}"
        parts.append(f"repeats = ceil({pictures} / ({photos} x {steps.epochs} epochs)) = {steps.repeats}")
    parts.append(f"{photos} x {steps.repeats} repeats / {batch} = {steps.steps_per_epoch} optimisation steps per epoch")
    if length.epochs is None:
        parts.append(f"epochs = ceil({length.max_train_steps} / {steps.steps_per_epoch}) = {steps.epochs}")
    size_count = len(set(images))
    if size_count > 1:
        parts.append(f"{size_count} sizes, each with batches of its own")
    if length.repeats is None and steps.repeats == 1 and steps.total_steps > (length.max_train_steps or 0):
        parts.append(f"more than the {length.max_train_steps} asked for, because every epoch shows every photo")
    return "; ".join(parts) + f"; {steps.total_steps} in all"


def saved_epochs(epochs: int, every: int) -> list[int]:
    """The epochs whose LoRA is saved and judged: every `every`-th epoch and the last one."""
    return sorted({*range(every, epochs + 1, every), epochs})
