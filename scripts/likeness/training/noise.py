"""Everything random of one optimisation step, drawn on the CPU from the step's own seed, for every device alike."""

from collections.abc import Mapping

import torch

from likeness.training.plan import step_seed


def drawn(train: Mapping, step: int, n: int, shape: torch.Size, timesteps: int) -> dict[str, torch.Tensor]:
    """`posterior` and `noise` (n, *shape), `timesteps` (n,) and, for caption dropout, `dropped` (n,) bool."""
    generator = torch.Generator().manual_seed(step_seed(train["seed"], step))
    posterior = torch.randn(n, *shape, generator=generator)
    noise = torch.randn(n, *shape, generator=generator)
    if train["noise_offset"]:
        # Whole channels are moved, so that very dark and very bright pictures can be learned.
        # Source: Guttenberg 2023, "Diffusion with Offset Noise".
        noise += train["noise_offset"] * torch.randn(n, shape[0], 1, 1, generator=generator)
    if train["multires_noise_iterations"]:
        noise = _multires(noise, train["multires_noise_iterations"], train["multires_noise_discount"], generator)
    times = torch.randint(0, timesteps, (n,), generator=generator)
    dropped = torch.rand(n, generator=generator) < train["caption_dropout_rate"]
    return {"posterior": posterior, "noise": noise, "timesteps": times, "dropped": dropped}


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
