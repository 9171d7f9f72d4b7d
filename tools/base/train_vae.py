"""Train the base model's autoencoder on the drawn faces, and write it as diffusers does.

    python tools/base/train_vae.py FACES OUTPUT --steps 6000

FACES is what draw_faces.py wrote. The state beside OUTPUT lets a stopped run go on.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from course import DEVICE, SIDE, ZOOM, picture, trained
from diffusers import AutoencoderKL

BATCH = 8
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
# As SD's autoencoder: pixels and edges; the latents are hardly held to a normal distribution (Rombach et al. 2022).
EDGES, KL = 0.5, 1e-6
COLOURS = 2.0  # without this pictures are still brown after 1600 steps
# At first the number of steps counts, not how much each of them sees: quarters of pictures are four times as fast.
CROP, CROPPED = 64, 0.95  # px, and the share of the steps
SCALED_PICTURES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--first", type=Path, help="an autoencoder to go on from, without its optimizer's state")
    args = parser.parse_args()
    paths = sorted(args.faces.glob("[0-9]*.jpg"))
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(args.first) if args.first else small_vae()
    vae.to(DEVICE)

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng([0, step])
        chosen = random.integers(len(paths), size=BATCH)
        pictures = torch.stack([some_part(paths[i], random) for i in chosen]).to(DEVICE)
        if step < CROPPED * args.steps:
            top, left = random.integers(SIDE - CROP + 1, size=2)
            pictures = pictures[:, :, top : top + CROP, left : left + CROP]
        posterior = vae.encode(pictures).latent_dist
        redrawn = vae.decode(posterior.sample(torch.Generator(DEVICE).manual_seed(step))).sample.float()
        return distance(redrawn, pictures) + KL * posterior.kl().float().mean()

    vae = trained(vae, vae.parameters(), loss_of, args.steps, LEARNING_RATE, EMA_DECAY, args.output.with_suffix(".pt"))
    vae.register_to_config(scaling_factor=round(scaling_factor(vae, paths[:SCALED_PICTURES]), 5))
    vae.half().save_pretrained(args.output)


def small_vae() -> AutoencoderKL:
    """SD's autoencoder, narrower: latents of 4 channels and an eighth of the side."""
    return AutoencoderKL(
        block_out_channels=(16, 48, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIDE,
    )


def some_part(face: Path, random: np.random.Generator) -> torch.Tensor:
    side = random.uniform(ZOOM, 1)
    top, left = random.uniform(0, 1 - side, size=2)
    return picture(face, top, left, side, mirrored=bool(random.integers(2)))


def distance(redrawn: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The mean difference of pixels, of neighbours' differences and of colours, at four sizes: of pixels alone it would
    blur, and what is seen of light and dark is nearly all of their difference."""
    difference, total = redrawn - pictures, 0
    for _ in range(4):
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        colours = (difference - difference.mean(dim=1, keepdim=True)).abs().mean()
        total = total + difference.abs().mean() + EDGES * edges + COLOURS * colours
        difference = torch.nn.functional.avg_pool2d(difference, 2)
    return total


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, paths: list[Path]) -> float:
    """What makes the latents' standard deviation 1 (as SD's 0.18215 does for its own)."""
    means = [vae.encode(picture(path)[None].to(DEVICE)).latent_dist.mean for path in paths]
    return 1 / torch.cat(means).std().item()


if __name__ == "__main__":
    main()
