"""Everything random of one optimisation step, drawn on the CPU from the step's own seed, for every device alike."""

import random
from collections.abc import Mapping

import torch

from likeness.training.plan import step_seed

# Of the pictures that the class is preserved on, the share that is shown with the bare class ("photo of a woman"), and
# with nothing; the others are shown with their own caption without the person. Only what is shown is preserved, and
# these two are what people draw the class by, and what guidance is measured from.
BARE_CLASS, NOTHING = 0.15, 0.15
CLASS_CAPTION, BARE_CLASS_CAPTION, EMPTY_CAPTION = range(3)


def drawn(train: Mapping, step: int, shape: tuple[int, ...], timesteps: int) -> dict[str, torch.Tensor]:
    """For `shape` (n, c, h, w) latents: `posterior` and `noise` of that shape, `timesteps` (n,), and as bool (n,) the
    pictures whose caption is `dropped`, that are `flipped`, and that the class is `preserved` on; for these, which of
    CLASS_CAPTION, BARE_CLASS_CAPTION and EMPTY_CAPTION is the `class_words`, int64 (n,)."""
    generator = torch.Generator().manual_seed(step_seed(train["seed"], step))
    posterior = torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    if train["noise_offset"]:
        # Whole channels are moved, so that very dark and very bright pictures can be learned.
        # Source: Guttenberg 2023, "Diffusion with Offset Noise".
        noise += train["noise_offset"] * torch.randn(*shape[:2], 1, 1, generator=generator)
    if train["multires_noise_iterations"]:
        noise = _multires(noise, train["multires_noise_iterations"], train["multires_noise_discount"], generator)
    times = _timesteps(train["timestep_sampling"], shape[0], timesteps, generator)
    dropped = torch.rand(shape[0], generator=generator) < train["caption_dropout_rate"]
    flipped = torch.rand(shape[0], generator=generator) < 0.5 * train["flip_aug"]
    preserved = _preserved(train, shape[0], generator)
    chance = torch.rand(shape[0], generator=generator)
    class_words = (chance < BARE_CLASS + NOTHING).long() + (chance < NOTHING).long()
    return {
        **{"posterior": posterior, "noise": noise, "timesteps": times, "dropped": dropped, "flipped": flipped},
        **{"preserved": preserved, "class_words": class_words},
    }


def _timesteps(sampling: str, n: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """int64 (n,), below `timesteps`: all alike, or mostly those in the middle, by the sigmoid of normal numbers (Esser
    et al. 2024, arXiv:2403.03206, 3.1; ai-toolkit's timestep_type sigmoid)."""
    if sampling == "uniform":
        return torch.randint(0, timesteps, (n,), generator=generator)
    return (torch.sigmoid(torch.randn(n, generator=generator)) * timesteps).long().clamp(max=timesteps - 1)


def _preserved(train: Mapping, n: int, generator: torch.Generator) -> torch.Tensor:
    """Which of `n` pictures the class is preserved on, bool (n,): the share that is asked for, by chance where it is no
    whole number of pictures, so that it is right on average for steps of any size."""
    if not train["preserve_class"]:
        return torch.zeros(n, dtype=torch.bool)
    share = train["preserve_class_share"]
    count = torch.floor(n * share + torch.rand((), generator=generator))
    return torch.randperm(n, generator=generator) < count


def shuffled(caption: str, keep: int, chance: random.Random) -> str:
    """A caption with the parts between its commas in another order, but for the first `keep`."""
    parts = [part.strip() for part in caption.split(",")]
    rest = parts[keep:]
    chance.shuffle(rest)
    return ", ".join([*parts[:keep], *rest])


def _multires(noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator) -> torch.Tensor:
    """Noise with coarser and coarser noise added, at a spread of 1 again.

    Source: Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training"; each level is 2 to 4 times coarser.
    """
    n, c, height, width = noise.shape
    for level in range(iterations):
        coarser = float(torch.rand((), generator=generator)) * 2 + 2
        h, w = (max(1, int(side / coarser**level)) for side in (height, width))
        level_noise = torch.randn(n, c, h, w, generator=generator)
        noise = noise + discount**level * torch.nn.functional.interpolate(level_noise, (height, width), mode="bilinear")
        if min(h, w) == 1:
            break
    return noise / noise.std()
