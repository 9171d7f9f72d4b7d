"""What training reads instead of pictures and words: VAE latents (mean and spread) and text hidden states."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

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


def encoded_caption(tokenizer, text_encoder, caption: str) -> bytes:
    """A caption's token ids (77,) and the text encoder's last hidden state (77, width) as safetensors."""
    ids = tokenizer(caption, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        hidden = text_encoder(ids.to(text_encoder.device))[0]
    if not torch.isfinite(hidden).all():
        raise LikenessError(f"the text encoder gives numbers that are not finite for the caption {caption!r}")
    return safetensors_bytes({"tokens": ids[0], "hidden": hidden[0].float()}, {})


def latents_bytes(items: list[dict], image: Callable[[dict], Path], caption: Callable[[str], Path]) -> bytes:
    """latents.safetensors: for each item `{name}.mean .std .tokens .hidden`, and `empty_tokens`, `empty_hidden` of the
    empty caption; the header names what they are from."""
    empty = safetensors.torch.load_file(caption(""))
    tensors = {f"empty_{part}": tensor for part, tensor in empty.items()}
    for item in items:
        parts = safetensors.torch.load_file(image(item)) | safetensors.torch.load_file(caption(item["caption"]))
        tensors |= {f"{item['name']}.{part}": tensor for part, tensor in parts.items()}
    made_from = [[item["name"], item["sha256"], item["caption_sha256"]] for item in items]
    return safetensors_bytes(tensors, {"items": json.dumps(made_from, ensure_ascii=True)})


def load_latents(path: Path, items: list[dict]) -> dict[str, torch.Tensor]:
    """Stacked in the order of `items`: mean and std (n, 4, h, w), tokens (n, 77), hidden (n, 77, width); and of the
    empty caption empty_tokens (77,), empty_hidden (77, width).

    Raises LikenessError if the file was made from other pictures or captions than the dataset now holds.
    """
    with safetensors.safe_open(path, "pt") as f:
        made_from = json.loads((f.metadata() or {}).get("items", "[]"))
    if made_from != [[item["name"], item["sha256"], item["caption_sha256"]] for item in items]:
        raise LikenessError(f"{path.name} was not made from this dataset; run: snakemake --forcerun cache_latents")
    tensors = safetensors.torch.load_file(path)
    stacked = {
        part: torch.stack([tensors[f"{item['name']}.{part}"] for item in items])
        for part in ("mean", "std", "tokens", "hidden")
    }
    return stacked | {name: tensors[name] for name in ("empty_tokens", "empty_hidden")}
