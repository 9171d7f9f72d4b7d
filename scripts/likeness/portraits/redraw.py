"""Redrawing pictures from their own latents (image to image), as a whole, within a mask, or in tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from likeness.core.devices import out_of_memory
from likeness.core.errors import LikenessError
from likeness.drawing.batches import Batches, free_memory
from likeness.drawing.sampling import Pipeline, conditioning_of, prompt_inputs
from likeness.models.conditioning import Conditioning
from likeness.photos.images import lanczos

# Of the decoded part of a latent: with a smaller share of the mask, the seam would lie within the redrawn part.
MASKED_LATENT = 0.02
# px that two neighbouring tiles share, as a share of their side. At a strength of 0.35 no seam is seen.
TILE_OVERLAP = 0.25


class Redrawing(NamedTuple):
    """How pictures are redrawn. `strength` is A1111's denoising strength: with 0.4, the last 0.4 of the steps are
    drawn."""

    prompt: str
    negative_prompt: str
    strength: float
    steps: int
    guidance_scale: float
    clip_skip: int


class Piece(NamedTuple):
    """A picture that is redrawn: uint8 RGB (height, width, 3), whose sides are multiples of 8. `mask` is float (height,
    width), 1 where it is redrawn and 0 where it stays; None for everywhere."""

    image: np.ndarray
    seed: int
    mask: np.ndarray | None = None


def redrawing(settings: Mapping[str, Any], **of_this_pass: Any) -> Redrawing:
    """A Redrawing with the negative prompt, steps and guidance of `settings`, which has more keys."""
    keys = ("negative_prompt", "steps", "guidance_scale", "clip_skip")
    return Redrawing(**{key: settings[key] for key in keys}, **of_this_pass)


class Redrawer:
    """Redraws with diffusers' image-to-image pipeline, in batches that fill the device. Texts are encoded once."""

    def __init__(self, pipeline: Pipeline, batch_size: int | None = None):
        """`batch_size` is the user's; None for as many pictures as fit."""
        self.pipeline, self._batch_size = pipeline, batch_size
        self._texts: dict[tuple[str, float], Conditioning] = {}
        self._batches: dict[tuple[int, int], Batches] = {}

    def redrawn(self, pieces: Sequence[Piece], how: Redrawing, weight: float) -> Iterator[np.ndarray]:
        """The pieces, redrawn with the LoRA at a weight, each as soon as its batch is. All have a mask, or none.

        Outside a mask the latents of the picture take the place of the drawn ones after every step, with the same noise
        at the step's level (blended latents: Avrahami et al. 2022, "Blended Latent Diffusion", arXiv:2206.02779). The
        picture comes back decoded, so pixels outside the mask are nearly those of the piece, not exactly.

        If memory runs out, batches become smaller, then the VAE works in tiles, then it raises LikenessError.
        """
        self.pipeline.set_weight(weight)
        device, inputs = self.pipeline.diffusers.device, self._inputs(how, weight)

        def size(piece: Piece) -> tuple[int, int]:
            height, width = piece.image.shape[:2]
            return width, height

        def draw(batch: Sequence[Piece]) -> Sequence[np.ndarray]:
            texts = {name: tensor.repeat_interleave(len(batch), 0) for name, tensor in inputs.items()}
            return _redrawn_with_less_memory(self.pipeline.diffusers, batch, how, texts)

        for same_size, group in groupby(pieces, key=size):
            batches = self._batches.setdefault(same_size, Batches(device, same_size, self._batch_size))
            yield from (picture for _, picture in batches.drawn(list(group), size, draw))

    def _inputs(self, how: Redrawing, weight: float) -> dict[str, torch.Tensor]:
        """The prompt and the negative prompt as arguments of a diffusers pipeline, for one picture."""

        def conditioning(text: str) -> Conditioning:
            key = text, weight if self.pipeline.conditioning_by_weight else 0.0
            if key not in self._texts:
                self._texts[key] = conditioning_of(self.pipeline.diffusers, text, how.clip_skip)
            return self._texts[key]

        return prompt_inputs([conditioning(how.prompt)], conditioning(how.negative_prompt))


def _redrawn_with_less_memory(
    pipeline: Any, batch: Sequence[Piece], how: Redrawing, inputs: Mapping[str, torch.Tensor]
) -> Sequence[np.ndarray]:
    """A redrawn batch. For a single picture that needs too much memory, the VAE works in tiles."""
    try:
        return _redrawn(pipeline, batch, how, inputs)
    except RuntimeError as error:
        if len(batch) > 1 or not out_of_memory(error, {}):
            raise
    pipeline.vae.enable_tiling()
    free_memory(pipeline.device)
    try:
        return _redrawn(pipeline, batch, how, inputs)
    except RuntimeError as error:
        if not out_of_memory(error, {}):
            raise
        height, width = batch[0].image.shape[:2]
        raise LikenessError(
            f"out of memory while {width} x {height} px were redrawn; close other programs, or set a smaller width, "
            "height, hires or resolution"
        ) from None


def _redrawn(
    pipeline: Any, batch: Sequence[Piece], how: Redrawing, inputs: Mapping[str, torch.Tensor]
) -> Sequence[np.ndarray]:
    """A redrawn batch: uint8 RGB (height, width, 3) each."""
    from diffusers import AutoPipelineForImage2Image

    drawer = AutoPipelineForImage2Image.from_pipe(pipeline)
    drawer.set_progress_bar_config(disable=True)
    images = drawer(
        **inputs,
        image=[Image.fromarray(piece.image) for piece in batch],
        # diffusers rounds down. A pass of no step at all would change nothing without a word.
        strength=min(1.0, max(how.strength, 1.01 / how.steps)),
        num_inference_steps=how.steps,
        guidance_scale=how.guidance_scale,
        generator=[torch.Generator().manual_seed(piece.seed) for piece in batch],
        **({} if batch[0].mask is None else {"callback_on_step_end": _blending(drawer, batch)}),
    ).images
    return [np.asarray(image) for image in images]


def _blending(drawer: Any, batch: Sequence[Piece]) -> Callable[..., dict[str, torch.Tensor]]:
    """The callback that puts the pictures' own latents in the place of the drawn ones outside the masks."""
    generators = [torch.Generator().manual_seed(piece.seed) for piece in batch]  # the same numbers as the pipeline's
    pairs = list(zip(batch, generators, strict=True))
    own = torch.cat([_encoded(drawer, piece.image, generator) for piece, generator in pairs])
    noise = torch.cat([torch.randn(own[:1].shape, generator=generator, dtype=own.dtype) for generator in generators])
    noise = noise.to(own.device)
    redraws = torch.stack([_redrawn_latents(piece, own.shape[2]) for piece in batch])[:, None].to(own.device)

    def blended(pipeline: Any, step: int, _: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        later = pipeline.scheduler.timesteps[-pipeline.num_timesteps :][step + 1 :]
        known = pipeline.scheduler.add_noise(own, noise, later[:1].repeat(len(batch))) if len(later) else own
        return state | {"latents": torch.where(redraws, state["latents"], known.to(state["latents"].dtype))}

    return blended


def _redrawn_latents(piece: Piece, height: int) -> torch.Tensor:
    """Which latents of a piece with a mask are redrawn: bool (height, width)."""
    mask = np.asarray(piece.mask)
    factor = mask.shape[0] // height
    return torch.from_numpy(mask.reshape(height, factor, -1, factor).mean(axis=(1, 3)) > MASKED_LATENT)


def _encoded(drawer: Any, image: np.ndarray, generator: torch.Generator) -> torch.Tensor:
    """The latents of a picture, as the image-to-image pipeline itself encodes them."""
    vae, dtype = drawer.vae, drawer.vae.dtype
    overflows = dtype == torch.float16 and vae.config.force_upcast  # SDXL's VAE does in half precision
    if overflows:
        vae.to(torch.float32)
    pixels = drawer.image_processor.preprocess(Image.fromarray(image)).to(drawer.device, vae.dtype)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.sample(generator) * vae.config.scaling_factor
    if overflows:
        vae.to(dtype)
    return latents.to(dtype)


def tiles(image: np.ndarray, side: int) -> list[np.ndarray]:
    """The tiles of at most `side` px (height, width) of a picture, which overlap. Tiles whose sides are no multiple of
    8 are enlarged to one."""
    return [_fitting(image[rows, columns]) for rows, columns in _places(image.shape[:2], side)]


def joined(redrawn: Sequence[np.ndarray], size: tuple[int, int], side: int) -> np.ndarray:
    """The picture of `size` (height, width) whose redrawn tiles fade into each other: uint8 (height, width, 3)."""
    total, weights = np.zeros((*size, 3)), np.zeros((*size, 1))
    for tile, (rows, columns) in zip(redrawn, _places(size, side), strict=True):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        fade = np.minimum.outer(_ramp(height, side), _ramp(width, side))[..., None]
        total[rows, columns] += fade * lanczos(tile, width, height)
        weights[rows, columns] += fade
    return np.rint(total / weights).astype(np.uint8)


def _fitting(tile: np.ndarray) -> np.ndarray:
    width, height = (-(-length // 8) * 8 for length in tile.shape[1::-1])
    return lanczos(tile, width, height)


def _places(size: tuple[int, int], side: int) -> list[tuple[slice, slice]]:
    """The rows and columns of each tile."""
    return [(slice(*rows), slice(*columns)) for rows in _spans(size[0], side) for columns in _spans(size[1], side)]


def _spans(length: int, side: int) -> list[tuple[int, int]]:
    """The starts and ends of tiles of at most `side` px that cover a length and share at least TILE_OVERLAP."""
    if length <= side:
        return [(0, length)]
    count = 1 + -(-(length - side) // int(side * (1 - TILE_OVERLAP)))
    starts = np.rint(np.linspace(0, length - side, count)).astype(int)
    return [(int(start), int(start) + side) for start in starts]


def _ramp(length: int, side: int) -> np.ndarray:
    """The weights of a tile's px along one side: rising from its edges over the part that tiles share."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
    return np.minimum(1.0, distance / (side * TILE_OVERLAP))
