"""Redrawing a picture from its own latents (image to image), as a whole or within a mask."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from likeness.core.devices import out_of_memory
from likeness.core.errors import LikenessError
from likeness.drawing.sampling import Pipeline, conditioning_of, prompt_inputs
from likeness.models.conditioning import Conditioning
from likeness.photos.images import lanczos

# Of the decoded part of a latent: with a smaller share of the mask, the seam would lie within the redrawn part.
MASKED_LATENT = 0.02
# px that two neighbouring tiles share, as a share of their side. At a strength of 0.35 no seam is seen.
TILE_OVERLAP = 0.25


class Redrawing(NamedTuple):
    """How a picture is redrawn. `strength` is A1111's denoising strength: with 0.4, the last 0.4 of the steps are
    drawn."""

    prompt: str
    negative_prompt: str
    strength: float
    steps: int
    guidance_scale: float
    clip_skip: int
    seed: int


def redrawing(settings: Mapping[str, Any], **of_this_pass: Any) -> Redrawing:
    """A Redrawing with the negative prompt, steps and guidance of `settings`, which has more keys."""
    keys = ("negative_prompt", "steps", "guidance_scale", "clip_skip")
    return Redrawing(**{key: settings[key] for key in keys}, **of_this_pass)


def redrawn(
    pipeline: Pipeline,
    image: np.ndarray,
    how: Redrawing,
    mask: np.ndarray | None = None,
    texts: MutableMapping[str, Conditioning] | None = None,
) -> np.ndarray:
    """uint8 RGB (height, width, 3), redrawn by diffusers' image-to-image pipeline. The sides are multiples of 8.

    `mask` is float (height, width), 1 where the picture is redrawn and 0 where it stays. Outside of it the latents of
    the picture take the place of the drawn ones after every step, with the same noise at the step's level (blended
    latents: Avrahami et al. 2022, "Blended Latent Diffusion", arXiv:2206.02779). The picture comes back decoded, so
    pixels outside the mask are nearly those of `image`, not exactly.

    `texts` keeps the conditionings from one call to the next, as long as the pipeline and the LoRA's weight are the
    same. If memory runs out, the VAE works in tiles; then raises LikenessError.
    """
    inputs = _text_inputs(pipeline, how, {} if texts is None else texts)
    try:
        return _redrawn(pipeline, image, how, mask, inputs)
    except RuntimeError as error:
        if not out_of_memory(error, {}):
            raise
    pipeline.diffusers.vae.enable_tiling()
    if pipeline.diffusers.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        return _redrawn(pipeline, image, how, mask, inputs)
    except RuntimeError as error:
        if not out_of_memory(error, {}):
            raise
        height, width = image.shape[:2]
        raise LikenessError(
            f"out of memory while a picture of {width} x {height} px was redrawn; set a smaller width, height or hires"
        ) from None


def _text_inputs(pipeline: Pipeline, how: Redrawing, texts: MutableMapping[str, Conditioning]) -> dict[str, Any]:
    """The prompt and the negative prompt as arguments of a diffusers pipeline. A text is encoded once."""
    for text in {how.prompt, how.negative_prompt} - set(texts):
        texts[text] = conditioning_of(pipeline.diffusers, text, how.clip_skip)
    return prompt_inputs([texts[how.prompt]], texts[how.negative_prompt])


def _redrawn(
    pipeline: Pipeline, image: np.ndarray, how: Redrawing, mask: np.ndarray | None, inputs: Mapping[str, Any]
) -> np.ndarray:
    from diffusers import AutoPipelineForImage2Image

    drawer = AutoPipelineForImage2Image.from_pipe(pipeline.diffusers)
    drawer.set_progress_bar_config(disable=True)
    return np.asarray(
        drawer(
            **inputs,
            image=Image.fromarray(image),
            # diffusers rounds down. A pass of no step at all would change nothing without a word.
            strength=min(1.0, max(how.strength, 1.01 / how.steps)),
            num_inference_steps=how.steps,
            guidance_scale=how.guidance_scale,
            generator=torch.Generator().manual_seed(how.seed),
            **({} if mask is None else {"callback_on_step_end": _blending(drawer, image, mask, how.seed)}),
        ).images[0]
    )


def _blending(drawer: Any, image: np.ndarray, mask: np.ndarray, seed: int) -> Callable[..., dict[str, torch.Tensor]]:
    """The callback that puts the picture's own latents in the place of the drawn ones outside a mask."""
    generator = torch.Generator().manual_seed(seed)  # the same numbers as the pipeline's
    own = _encoded(drawer, image, generator)
    noise = torch.randn(own.shape, generator=generator, dtype=own.dtype).to(own.device)
    cells = mask.reshape(own.shape[2], mask.shape[0] // own.shape[2], own.shape[3], -1).mean(axis=(1, 3))
    redraws = torch.from_numpy(cells > MASKED_LATENT).to(own.device)

    def blended(pipeline: Any, step: int, _: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        later = pipeline.scheduler.timesteps[-pipeline.num_timesteps :][step + 1 :]
        known = pipeline.scheduler.add_noise(own, noise, later[:1]) if len(later) else own
        return state | {"latents": torch.where(redraws, state["latents"], known.to(state["latents"].dtype))}

    return blended


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


def redrawn_in_tiles(image: np.ndarray, side: int, redraw: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A picture whose tiles of `side` px (height, width) were redrawn one by one and faded into each other.

    A picture that is not larger than a tile is redrawn as a whole. Sides that are no multiple of 8 are enlarged for the
    redrawing and reduced again.
    """
    height, width = image.shape[:2]
    total, weights = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    for top, bottom in _spans(height, side):
        for left, right in _spans(width, side):
            tile = image[top:bottom, left:right]
            fitting = [-(-length // 8) * 8 for length in tile.shape[1::-1]]
            new = lanczos(redraw(lanczos(tile, *fitting)), *tile.shape[1::-1])
            fade = np.minimum.outer(_ramp(bottom - top, side), _ramp(right - left, side))[..., None]
            total[top:bottom, left:right] += fade * new
            weights[top:bottom, left:right] += fade
    return np.rint(total / weights).astype(np.uint8)


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
