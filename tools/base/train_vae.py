"""Train the base model's autoencoder on the drawn faces, and write it as diffusers does.

    python tools/base/train_vae.py FACES OUTPUT --steps 6000

The encoder is not trained. Its weights are computed in seconds, so that the latents are the principal components of
patches of 8 x 8 px; from these the pixels of a face can be restored with 28 dB. An encoder that was trained on two
cores still gave grey pictures after half an hour. Only the decoder is trained, so a better decoder can be used with the
same U-Net. FACES is the folder of draw_faces.py. A stopped training resumes from the state beside OUTPUT.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from course import DEVICE, SIDE, ZOOM, picture, trained

PATCH = 8  # px of a picture per latent pixel
# SD has 4. 40 faces were restored from their components alone. Their similarity to the original (SFace) was 0.48 with 4
# components, 0.75 with 8, 0.83 with 12 and 0.90 with 16; two photos of one person have about 0.67.
LATENT_CHANNELS = 12
GROUPS = 8
MEASURED_PICTURES = 1000
# The variances of the components differ by a factor of 100. Each component is scaled so that its new variance is the
# square root of the old one: the small ones are not lost in the noise of nearly all timesteps, and the large ones still
# count more. SPREAD is the standard deviation of all of them together. With it, all stay on the linear part of SiLU
# (LIFT).
SPREAD = 0.75
# The factor on the latents for the U-Net. With 1, a picture's mean brightness would have 0.7 of the power of the noise
# in the last timestep. The seed would then decide light and layout, and "dark background" in a prompt would have no
# effect (Lin et al. 2024).
SCALING_FACTOR = 0.5
POSTERIOR = 0.05  # the std of a latent; the decoder is trained with it
# LARGE are constants that are normalised together with the latents; LIFT moves the latents to the linear part of SiLU.
LARGE, LIFT = 100.0, 10.0

BATCH = 8
LEARNING_RATE = 1e-3
EMA_DECAY = 0.998
EDGES = 0.5
COLOURS = 2.0
# At first the number of steps matters more than the size of the pictures. Crops of a quarter are four times as fast.
CROP, CROPPED = 64, 0.9  # px of a crop, and the share of steps with crops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    paths = sorted(args.faces.glob("[0-9]*.jpg"))
    torch.manual_seed(0)
    vae = small_vae()
    write_encoder(vae, *components(torch.stack([picture(path) for path in paths[:MEASURED_PICTURES]])))
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    vae.to(DEVICE)

    def loss_of(step: int) -> torch.Tensor:
        random = np.random.default_rng([0, step])
        chosen = random.integers(len(paths), size=BATCH)
        pictures = torch.stack([random_part(paths[i], random) for i in chosen]).to(DEVICE)
        if step < CROPPED * args.steps:
            top, left = random.integers(SIDE - CROP + 1, size=2)
            pictures = pictures[:, :, top : top + CROP, left : left + CROP]
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.sample(torch.Generator(DEVICE).manual_seed(step))
        return distance(vae.decode(latents).sample.float(), pictures)

    learned = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    vae = trained(vae, learned, loss_of, args.steps, LEARNING_RATE, EMA_DECAY, args.output.with_suffix(".pt"))
    vae.half().save_pretrained(args.output)


def small_vae() -> AutoencoderKL:
    """SD's autoencoder with fewer channels, but with three times as many channels in the latents."""
    vae = AutoencoderKL(
        block_out_channels=(16, 48, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=GROUPS,
        sample_size=SIDE,
        scaling_factor=SCALING_FACTOR,
    )
    # Normalisation removes the mean brightness, and the decoder learns slowly to keep it. Constants of both signs that
    # are larger than the decoder's values keep it.
    last = vae.decoder.up_blocks[-1].resnets[-1].conv2
    sign = torch.tensor([1.0, -1.0]).repeat(len(last.bias) // 2)
    torch.nn.init.zeros_(last.weight)
    last.bias.data = 2 * sign
    torch.nn.init.constant_(vae.decoder.conv_norm_out.weight, 2.0)
    return vae


def components(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of all patches, (3, PATCH, PATCH), and their largest principal components, (LATENT_CHANNELS, 3, PATCH,
    PATCH), scaled as described at SPREAD."""
    patches = torch.nn.functional.unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH**2)
    mean = patches.mean(dim=0)
    variances, directions = torch.linalg.eigh((patches - mean).T.double().cov())
    variances, directions = variances.flip(0)[:LATENT_CHANNELS], directions.T.flip(0)[:LATENT_CHANNELS]
    # The solver chooses the sign of a component arbitrarily. It is set so that the largest number is positive.
    directions *= directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    scales = variances**-0.25
    scales *= SPREAD * (LATENT_CHANNELS / (scales.square() * variances).sum()).sqrt()
    shape = (3, PATCH, PATCH)
    return mean.view(shape), (scales[:, None] * directions).float().view(-1, *shape)


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, mean: torch.Tensor, components: torch.Tensor) -> None:
    """Set the encoder's weights so that its mean is the components of every patch, although its layers are not
    linear."""
    encoder = vae.encoder
    for block in encoder.modules():
        if isinstance(block, ResnetBlock2D | Attention):
            _pass_on(block)
    _project(encoder, mean, components)
    _lift_over_normalisation(encoder)
    torch.nn.init.dirac_(_fill(vae.quant_conv))


def _pass_on(block: ResnetBlock2D | Attention) -> None:
    """Set the weights of a block so that it adds nothing to its input."""
    if isinstance(block, Attention):
        _fill(block.to_out[0])
        return
    _fill(block.conv2)
    if block.conv_shortcut is not None:
        torch.nn.init.dirac_(_fill(block.conv_shortcut))


def _project(encoder: torch.nn.Module, mean: torch.Tensor, components: torch.Tensor) -> None:
    """Set three strided convolutions: the first two sort pixels into channels, the third projects on the components."""
    torch.nn.init.dirac_(_fill(encoder.conv_in))
    first, second, third = (encoder.down_blocks[i].downsamplers[0].conv for i in range(3))
    for conv, channels in ((first, 3), (second, 12)):
        weight = _fill(conv)
        for channel, y, x in itertools.product(range(channels), range(2), range(2)):
            weight[4 * channel + 2 * y + x, channel, y, x] = 1
    # An input channel of the third convolution is one colour of one pixel. The channel's number consists of the colour
    # and of bits of y and x.
    sorted_by_bits = components.view(-1, 3, 2, 2, 2, 2, 2, 2)  # component, colour, bits of y (4, 2, 1), of x (4, 2, 1)
    projection = sorted_by_bits.permute(0, 1, 4, 7, 3, 6, 2, 5).reshape(LATENT_CHANNELS, 48, 2, 2)
    _fill(third)[:LATENT_CHANNELS, :48, :2, :2] = projection
    third.bias[:LATENT_CHANNELS] = -(components * mean).sum(dim=(1, 2, 3))


def _lift_over_normalisation(encoder: torch.nn.Module) -> None:
    """Set the layers around the last normalisation, so that they keep the latents. Each latent is normalised together
    with its negative and large constants, so that it is divided by a known number. SiLU is used on its linear part. The
    difference of the latent and its negative is then the latent again."""
    spread = encoder.down_blocks[3].resnets[0].conv_shortcut
    weight, group = _fill(spread), spread.out_channels // GROUPS
    slots = -(-LATENT_CHANNELS // GROUPS)
    plus = [latent % GROUPS * group + 2 * (latent // GROUPS) for latent in range(LATENT_CHANNELS)]
    for latent, channel in enumerate(plus):
        weight[channel, latent], weight[channel + 1, latent] = 1, -1
    constants = torch.zeros(GROUPS, group)
    constants[:, 2 * slots :: 2], constants[:, 2 * slots + 1 :: 2] = LARGE, -LARGE
    spread.bias.copy_(constants.flatten())
    encoder.conv_norm_out.weight.fill_(LARGE * ((group - 2 * slots) / group) ** 0.5)
    encoder.conv_norm_out.bias.fill_(LIFT)
    weight = _fill(encoder.conv_out)
    for latent, channel in enumerate(plus):
        weight[latent, channel, 1, 1], weight[latent, channel + 1, 1, 1] = 0.5, -0.5
    encoder.conv_out.bias[LATENT_CHANNELS:] = 2 * np.log(POSTERIOR)


def _fill(layer: torch.nn.Conv2d | torch.nn.Linear) -> torch.Tensor:
    """Set the weight and the bias of a layer to zero, and return the weight."""
    torch.nn.init.zeros_(layer.bias)
    return torch.nn.init.zeros_(layer.weight)


def random_part(face: Path, random: np.random.Generator) -> torch.Tensor:
    """A random part of a drawn face, mirrored or not."""
    side = random.uniform(ZOOM, 1)
    top, left = random.uniform(0, 1 - side, size=2)
    return picture(face, top, left, side, mirrored=bool(random.integers(2)))


def distance(redrawn: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """The loss: mean differences of pixels, of edges (differences of neighbours) and of colours, at four sizes. With
    pixels alone the decoder would blur, and brightness would be nearly all of the loss."""
    difference, total = redrawn - pictures, 0
    for _ in range(4):
        edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        colours = (difference - difference.mean(dim=1, keepdim=True)).abs().mean()
        total = total + difference.abs().mean() + EDGES * edges + COLOURS * colours
        difference = torch.nn.functional.avg_pool2d(difference, 2)
    return total


if __name__ == "__main__":
    main()
