"""How often a training image is shown: the arithmetic between steps, epochs and images."""

import math

from likeness.errors import LikenessError


def repeats(max_train_steps: int, batch_size: int, gradient_accumulation_steps: int, images: int, epochs: int) -> int:
    """How often each image is shown per epoch, so that all epochs make at least `max_train_steps` optimisation steps.

    Raises LikenessError if there is no image.
    """
    if images < 1:
        raise LikenessError("no training image is left; photos.tsv says why each photo was dropped, add better ones")
    return math.ceil(max_train_steps * batch_size * gradient_accumulation_steps / (images * epochs))


def steps_per_epoch(images: int, repeats: int, batch_size: int, gradient_accumulation_steps: int) -> int:
    """Optimisation steps of one epoch; the last may see fewer images."""
    return math.ceil(images * repeats / (batch_size * gradient_accumulation_steps))


def arithmetic(
    max_train_steps: int, batch_size: int, gradient_accumulation_steps: int, images: int, epochs: int
) -> str:
    """The sum behind `repeats` and `steps_per_epoch`, written out for a person."""
    r = repeats(max_train_steps, batch_size, gradient_accumulation_steps, images, epochs)
    steps = steps_per_epoch(images, r, batch_size, gradient_accumulation_steps)
    return (
        f"repeats = ceil({max_train_steps} steps x batch {batch_size} x accumulation {gradient_accumulation_steps} / "
        f"({images} images x {epochs} epochs)) = {r}; {images} images x {r} repeats / "
        f"({batch_size} x {gradient_accumulation_steps}) = {steps} steps per epoch, {steps * epochs} in all"
    )
