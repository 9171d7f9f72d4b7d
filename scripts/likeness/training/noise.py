"""All random numbers of one optimisation step. They are sampled on the CPU from a seed of the step, so that they are
the same on every device."""

import random

import torch

from likeness.training.plan import step_seed
from likeness.training.settings import Settings

# Pictures on which the class is preserved have one of three captions. BARE_CLASS is the share with the class alone
# ("photo of a woman"), NO_WORDS the share with the empty caption. The others have their own caption without the person.
# Only captions that are shown are preserved: people draw the class with the first, and guidance uses the second.
BARE_CLASS, NO_WORDS = 0.15, 0.15
CLASS_CAPTION, BARE_CLASS_CAPTION, EMPTY_CAPTION = range(3)


def sample(settings: Settings, step: int, shape: tuple[int, ...], timesteps: int) -> dict[str, torch.Tensor]:
    """The random numbers of a step for latents of `shape` (n, c, h, w), below `timesteps` timesteps.

    - posterior, noise: normal, of `shape`
    - timesteps: int64 (n,)
    - dropped, flipped, preserved: bool (n,); true for pictures whose caption is dropped, that are mirrored, and on
      which the class is preserved
    - class_words: int64 (n,), the caption for preservation: CLASS_CAPTION, BARE_CLASS_CAPTION or EMPTY_CAPTION
    """
    generator = torch.Generator().manual_seed(step_seed(settings.seed, step))
    posterior = torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    if settings.noise_offset:
        # One offset per channel, so that very dark and very bright pictures can be learned.
        # Source: Guttenberg 2023, "Diffusion with Offset Noise".
        noise += settings.noise_offset * torch.randn(*shape[:2], 1, 1, generator=generator)
    if settings.multires_noise_iterations:
        noise = _multires(noise, settings.multires_noise_iterations, settings.multires_noise_discount, generator)
    times = _timesteps(settings.timestep_sampling, shape[0], timesteps, generator)
    dropped = torch.rand(shape[0], generator=generator) < settings.caption_dropout_rate
    flipped = torch.rand(shape[0], generator=generator) < 0.5 * settings.flip_aug
    preserved = _preserved(settings, shape[0], generator)
    chance = torch.rand(shape[0], generator=generator)
    class_words = (chance < BARE_CLASS + NO_WORDS).long() + (chance < NO_WORDS).long()
    return {
        **{"posterior": posterior, "noise": noise, "timesteps": times, "dropped": dropped, "flipped": flipped},
        **{"preserved": preserved, "class_words": class_words},
    }


def _timesteps(sampling: str, n: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """Sampled timesteps, int64 (n,), below `timesteps`. They are uniform, or with "sigmoid" mostly in the middle: the
    sigmoid of normal numbers (Esser et al. 2024, arXiv:2403.03206, 3.1; ai-toolkit's timestep_type sigmoid)."""
    if sampling == "uniform":
        return torch.randint(0, timesteps, (n,), generator=generator)
    return (torch.sigmoid(torch.randn(n, generator=generator)) * timesteps).long().clamp(max=timesteps - 1)


def _preserved(settings: Settings, n: int, generator: torch.Generator) -> torch.Tensor:
    """The pictures on which the class is preserved, bool (n,). Their number is n * preserve_class_share, rounded up or
    down by chance, so that the share is right on average for steps of any size."""
    if not settings.preserve_class:
        return torch.zeros(n, dtype=torch.bool)
    share = settings.preserve_class_share
    count = torch.floor(n * share + torch.rand((), generator=generator))
    return torch.randperm(n, generator=generator) < count


def shuffled(caption: str, keep: int, chance: random.Random) -> str:
    """A caption whose parts between commas are shuffled, except for the first `keep`."""
    parts = [part.strip() for part in caption.split(",")]
    rest = parts[keep:]
    chance.shuffle(rest)
    return ", ".join([*parts[:keep], *rest])


def _multires(noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator) -> torch.Tensor:
    """Noise to which coarser levels of noise are added; the sum is scaled to a standard deviation of 1. Each level is 2
    to 4 times as coarse as the one before.

    Source: Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training".
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
