"""How often a training image is shown: the arithmetic between steps, epochs and images."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from likeness.errors import LikenessError

NO_IMAGE = "no training image is left; photos.tsv says why each photo was dropped, add better ones"

Size = tuple[int, int]  # width and height of a picture in px


def sizes(dataset: Mapping) -> tuple[list[Size], list[Size]]:
    """The sizes of the subject's pictures and of the regularisation ones, from dataset.json."""
    return tuple([tuple(item["size"]) for item in dataset[group]] for group in ("images", "regularisation"))


def schedule(train: Mapping, images: Sequence[Size], regularisation: Sequence[Size] = ()) -> dict[str, int]:
    """images, shown (pictures per epoch), repeats, epochs, steps_per_epoch and total_steps of a training.

    `train` holds batch_size, gradient_accumulation_steps and two of max_train_steps, epochs and repeats; the third
    follows, so that all epochs are whole and make at least max_train_steps. `images` are their sizes: only pictures
    of one size share a batch. With `regularisation` photos, all of one size, as many of them are shown as of
    the subject's. Raises LikenessError if there is no image.
    """
    if not images:
        raise LikenessError(NO_IMAGE)
    batch = train["batch_size"] * train["gradient_accumulation_steps"]
    once = Counter(images) + Counter(list(regularisation[:1]) * len(images))
    repeats, epochs, wanted = train["repeats"], train["epochs"], train["max_train_steps"]
    if repeats is None:
        repeats = math.ceil(wanted * batch / (once.total() * epochs))
    steps_per_epoch = sum(math.ceil(count * repeats / batch) for count in once.values())
    if epochs is None:
        epochs = math.ceil(wanted / steps_per_epoch)
    return {
        "images": len(images),
        "shown": once.total() * repeats,
        "repeats": repeats,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "total_steps": steps_per_epoch * epochs,
    }


def arithmetic(train: Mapping, images: Sequence[Size], regularisation: Sequence[Size] = ()) -> str:
    """The sum behind `schedule`, written out for a person."""
    steps = schedule(train, images, regularisation)
    batch = f"(batch {train['batch_size']} x accumulation {train['gradient_accumulation_steps']})"
    photos = f"{steps['images']} images" + (" x 2 for regularisation" if regularisation else "")
    found = []
    if train["repeats"] is None:
        wanted = f"{train['max_train_steps']} steps x {batch}"
        found.append(f"repeats = ceil({wanted} / ({photos} x {steps['epochs']} epochs)) = {steps['repeats']}")
    found.append(
        f"{photos} x {steps['repeats']} repeats / {batch} = {steps['steps_per_epoch']} optimisation steps per epoch"
    )
    if train["epochs"] is None:
        found.append(f"epochs = ceil({train['max_train_steps']} / {steps['steps_per_epoch']}) = {steps['epochs']}")
    shapes = len(set(images))
    if shapes > 1:
        found.append(f"{shapes} sizes, each with batches of its own")
    if train["repeats"] is None and steps["repeats"] == 1 and steps["total_steps"] > train["max_train_steps"]:
        found.append(f"more than the {train['max_train_steps']} asked for, because every epoch shows every photo")
    return "; ".join(found) + f"; {steps['total_steps']} in all"


def saved_epochs(epochs: int, every: int) -> list[int]:
    """The epochs whose LoRA is saved and judged: every so many, and the last."""
    return sorted({*range(every, epochs + 1, every), epochs})
