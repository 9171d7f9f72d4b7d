"""What training reads instead of pictures and words: VAE latents (mean and spread) and text hidden states."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from likeness.conditioning import conditioning, token_ids
from likeness.errors import LikenessError
from likeness.tensors import safetensors_bytes


def encoded_image(vae, png: Path, resolution: int) -> bytes:
    """A picture's latent distribution as safetensors: mean and std, each (4, resolution/8, resolution/8), scaled.

    Noise is drawn from the spread at every step, so the cache does not freeze one sample of it. The VAE runs in fp32:
    in half precision some VAEs overflow. Raises LikenessError naming the photo if a number is not finite.
    """
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    if pixels.shape[:2] != (resolution, resolution):
        raise LikenessError(f"{png.name} is {pixels.shape[1]}x{pixels.shape[0]}; expected {resolution}x{resolution}")
    tensor = torch.from_numpy(pixels.copy()).to(vae.device, torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        spread = vae.encode(tensor).latent_dist
    scale = vae.config.scaling_factor
    latents = {"mean": spread.mean[0] * scale, "std": spread.std[0] * scale}
    if not all(torch.isfinite(t).all() for t in latents.values()):
        raise LikenessError(
            f"{png.name}: its latents are not finite; look at the picture, or use a VAE that works in fp32"
        )
    return safetensors_bytes(latents, {})


def encoded_caption(tokenizers: Sequence, encoders: Sequence, caption: str, clip_skip: int) -> bytes:
    """A caption as safetensors: tokens (encoders, 77), hidden (77, width) and, for SDXL, pooled (width,)."""
    tokens = token_ids(tokenizers, caption)
    with torch.no_grad():
        read = conditioning(encoders, tokens[None].to(encoders[0].device), clip_skip)
    tensors = {name: tensor[0].float().cpu() for name, tensor in read._asdict().items() if tensor is not None}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LikenessError(f"the text encoder gives numbers that are not finite for the caption {caption!r}")
    return safetensors_bytes({"tokens": tokens, **tensors}, {})


def latents_bytes(items: list[dict], image: Callable[[dict], Path], caption: Callable[[str], Path]) -> bytes:
    """latents.safetensors: for each item `{name}.mean .std .tokens .hidden` (and `.pooled` for SDXL), and of the empty
    caption `empty_tokens .hidden`; the header names what they are from."""
    empty = safetensors.torch.load_file(caption(""))
    tensors = {f"empty_{part}": tensor for part, tensor in empty.items()}
    for item in items:
        parts = safetensors.torch.load_file(image(item)) | safetensors.torch.load_file(caption(item["caption"]))
        tensors |= {f"{item['name']}.{part}": tensor for part, tensor in parts.items()}
    made_from = [[item["name"], item["sha256"], item["caption_sha256"]] for item in items]
    return safetensors_bytes(tensors, {"items": json.dumps(made_from, ensure_ascii=True)})


def load_latents(path: Path, items: list[dict]) -> dict[str, torch.Tensor]:
    """Stacked in the order of `items`: mean and std (n, 4, h, w), tokens (n, encoders, 77), hidden (n, 77, width), for
    SDXL pooled (n, width); and of the empty caption empty_tokens, empty_hidden and empty_pooled, without the n.

    Raises LikenessError if the file was made from other pictures or captions than the dataset now holds.
    """
    with safetensors.safe_open(path, "pt") as f:
        made_from = json.loads((f.metadata() or {}).get("items", "[]"))
    if made_from != [[item["name"], item["sha256"], item["caption_sha256"]] for item in items]:
        raise LikenessError(f"{path.name} was not made from this dataset; run: snakemake --forcerun cache_latents")
    tensors = safetensors.torch.load_file(path)
    empty = {name: tensor for name, tensor in tensors.items() if name.startswith("empty_")}
    parts = ("mean", "std", *(name.removeprefix("empty_") for name in empty))
    return empty | {part: torch.stack([tensors[f"{item['name']}.{part}"] for item in items]) for part in parts}
