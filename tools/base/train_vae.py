"""Train the base model's autoencoder on the drawn faces, and write it as diffusers does.

    python tools/base/train_vae.py FACES OUTPUT --steps 6000

FACES is what draw_faces.py wrote. The state beside OUTPUT lets a stopped run go on.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from course import trained
from diffusers import AutoencoderKL

SIDE = 128  # px, of the base model's pictures
BATCH = 8
LEARNING_RATE = 7e-4
EMA_DECAY = 0.998
# As SD's autoencoder: pixels and edges; the latents are hardly held to a normal distribution (Rombach et al. 2022).
EDGES, KL = 1.0, 1e-6
ZOOM = 0.8  # the least share of a picture's side that is shown: as crops differ in how tight they are
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

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng([0, step])
        pictures = torch.stack([picture(paths[i], random) for i in random.integers(len(paths), size=BATCH)])
        posterior = vae.encode(pictures).latent_dist
        generator = torch.Generator().manual_seed(step)
        redrawn = vae.decode(posterior.sample(generator)).sample.float()
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


def picture(path: Path, random: np.random.Generator | None) -> torch.Tensor:
    """float32 (3, SIDE, SIDE), -1 to 1: the whole face, or with `random` a part of it, mirrored every other time."""
    image = cv2.imread(str(path))[:, :, ::-1]
    if random is not None:
        side = int(image.shape[0] * random.uniform(ZOOM, 1))
        top, left = random.integers(image.shape[0] - side + 1, size=2)
        image = image[top : top + side, left : left + side]
        image = image[:, ::-1] if random.integers(2) else image
    small = cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1).float() / 127.5 - 1


def distance(redrawn: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The mean difference of pixels, and of neighbours' differences at three sizes: edges, where L1 alone blurs."""
    difference = redrawn - pictures
    total = difference.abs().mean()
    for _ in range(3):
        total = total + EDGES * (difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean())
        difference = torch.nn.functional.avg_pool2d(difference, 2)
    return total


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, paths: list[Path]) -> float:
    """What makes the latents' standard deviation 1 (as SD's 0.18215 does for its own)."""
    means = [vae.encode(picture(path, None)[None]).latent_dist.mean for path in paths]
    return 1 / torch.cat(means).std().item()


if __name__ == "__main__":
    main()
