"""The cached inputs of the training: VAE latents (mean and std) of the pictures, hidden states of the captions."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image

from likeness.core.errors import LikenessError
from likeness.core.manifests import again, is_whole
from likeness.core.tensors import safetensors_bytes
from likeness.models.conditioning import CHUNK, conditioning, token_ids

# The lists of dataset.json: the training images, the photos for validation, and the regularisation pictures.
GROUPS = ("images", "heldout", "regularisation")
MIRRORED = ("images", "regularisation")  # the groups that the training may mirror
VAE_SCALE = 8  # px of a picture per pixel of its latent


def encoded_image(vae: Any, png: Path, size: Sequence[int], mirrored: bool = False) -> bytes:
    """The latent distribution of a picture of `size` (width, height) px as safetensors: mean and std, each
    (4, height/8, width/8), multiplied by the VAE's scaling_factor. With `mirrored` the picture is mirrored before it is
    encoded; the latent of a mirrored picture is not the mirrored latent.

    The std is kept so that the training can draw a new sample at every step. The VAE runs in fp32, because some VAEs
    overflow in half precision. Raises LikenessError with the photo's name if a number is not finite or if the picture
    has another size.
    """
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    width, height = size
    if pixels.shape[:2] != (height, width):
        raise LikenessError(f"{png.name} is {pixels.shape[1]}x{pixels.shape[0]}; expected {width}x{height}")
    if mirrored:
        pixels = pixels[:, ::-1]
    tensor = torch.from_numpy(pixels.copy()).to(vae.device, torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(tensor).latent_dist
    scale = vae.config.scaling_factor
    latents = {"mean": posterior.mean[0] * scale, "std": posterior.std[0] * scale}
    if not all(torch.isfinite(t).all() for t in latents.values()):
        raise LikenessError(
            f"{png.name}: its latents are not finite; look at the picture, or use a VAE that works in fp32"
        )
    return safetensors_bytes(latents, {})


def encoded_caption(
    tokenizers: Sequence[Any],
    encoders: Sequence[Any],
    caption: str,
    clip_skip: int,
    max_token_length: int = CHUNK,
) -> bytes:
    """A caption as safetensors: tokens (encoders, 77), hidden (77, width) and, for SDXL, pooled (width,). If
    `max_token_length` is 150 or 225: tokens (encoders, 2 or 3, 77) and hidden (152 or 227, width)."""
    tokens = token_ids(tokenizers, caption, max_token_length)
    with torch.no_grad():
        states = conditioning(encoders, tokens[None].to(encoders[0].device), clip_skip)
    tensors = {name: tensor[0].float().cpu() for name, tensor in states._asdict().items() if tensor is not None}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LikenessError(f"the text encoder gives numbers that are not finite for the caption {caption!r}")
    return safetensors_bytes({"tokens": tokens, **tensors}, {})


def latents_bytes(
    dataset: Mapping[str, Any],
    flips: bool,
    image: Callable[[Mapping[str, Any], bool], Path],
    caption: Callable[[str, int], Path],
    token_lengths: Sequence[int] = (CHUNK,),
) -> bytes:
    """The content of latents.safetensors for a dataset.json; `load_latents` reads it.

    `image` gives the file with the encoded picture of an item, mirrored or not. `caption` gives the file with an
    encoded caption for one of `token_lengths`, the values of max_token_length in all runs.

    Names of the tensors:
    - each item: `{group}.{name}.mean` and `.std`; with `flips` also `.flipped_mean` and `.flipped_std`
    - each caption, also those without the person: `{caption_sha256}.tokens` and `.hidden`; for SDXL also `.pooled`.
      Items with equal captions share them.
    - the empty caption: `empty.tokens` and so on
    - a max_token_length above 75: `empty/150.tokens` and so on

    The header lists the hashes of the pictures and captions.
    """
    captions = [("", "empty"), *_class_captions(dataset)]
    captions += [(item["caption"], item["caption_sha256"]) for group in GROUPS for item in dataset[group]]
    tensors: dict[str, torch.Tensor] = {}
    for length in token_lengths:
        for text, key in captions:
            tensors |= _prefixed(_text_key(key, length), safetensors.torch.load_file(caption(text, length)))
    for group in GROUPS:
        for item in dataset[group]:
            parts = safetensors.torch.load_file(image(item, False))
            if flips and group in MIRRORED:
                parts |= {f"flipped_{part}": t for part, t in safetensors.torch.load_file(image(item, True)).items()}
            tensors |= _prefixed(f"{group}.{item['name']}", parts)
    return safetensors_bytes(tensors, {"items": _source_hashes(dataset), "flips": json.dumps(flips)})


def load_latents(
    path: Path, dataset: Mapping[str, Any], max_token_length: int = CHUNK
) -> dict[str, dict[str, list[torch.Tensor]]]:
    """The tensors of latents.safetensors as {group: {part: [one tensor per item, in the order of dataset.json]}}.

    Parts of every group: mean and std (4, h, w); tokens, hidden and, for SDXL, pooled as in `encoded_caption` for this
    `max_token_length`. Groups images and regularisation also have flipped_mean and flipped_std if the file was made
    with `flips`. Group images has class_tokens, class_hidden and class_pooled of the captions without the person. The
    groups "empty" and "bare_class" have tokens, hidden and pooled of one caption each.

    Raises LikenessError if the file is damaged, if it was made from other pictures or captions than those of `dataset`,
    or if a tensor is missing or does not have the size of its picture.
    """
    anew = again("cache_latents")
    try:
        if not is_whole(path):
            raise ValueError("its content is not what was written")
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise LikenessError(f"{path.name} is damaged ({error}); {anew}") from None
    if header.get("items") != _source_hashes(dataset):
        raise LikenessError(f"{path.name} was not made from this dataset; {anew}")

    def image_tensor(key: str, part: str, owner: str) -> torch.Tensor:
        if f"{key}.{part}" not in tensors:
            raise LikenessError(f"{path.name} has no {part} of {owner}; {anew}")
        return tensors[f"{key}.{part}"]

    def text_tensor(key: str, part: str, owner: str) -> torch.Tensor:
        return image_tensor(_text_key(key, max_token_length), part, owner)

    text_parts = ["tokens", "hidden"] + ["pooled"] * (f"{_text_key('empty', max_token_length)}.pooled" in tensors)
    latents = {"empty": {part: [text_tensor("empty", part, "the empty caption")] for part in text_parts}}
    bare_class = dataset["bare_class"]["caption_sha256"]
    latents["bare_class"] = {part: [text_tensor(bare_class, part, "the class")] for part in text_parts}
    for group in GROUPS:
        image_parts = ["mean", "std"]
        if json.loads(header["flips"]) and group in MIRRORED:
            image_parts += ["flipped_mean", "flipped_std"]
        items = [(item["name"], item["caption_sha256"]) for item in dataset[group]]
        latents[group] = {
            part: [image_tensor(f"{group}.{name}", part, name) for name, _ in items] for part in image_parts
        }
        latents[group] |= {part: [text_tensor(caption, part, name) for name, caption in items] for part in text_parts}
        for part in image_parts:
            for item, tensor in zip(dataset[group], latents[group][part], strict=True):
                width, height = item["size"]
                if tensor.shape[1:] != (height // VAE_SCALE, width // VAE_SCALE):
                    raise LikenessError(
                        f"{path.name}: the {part} of {item['name']} is {tuple(tensor.shape)}, not that of a picture of "
                        f"{width}x{height}; {anew}"
                    )
    for part in text_parts:
        classes = [(item["class_caption_sha256"], item["name"]) for item in dataset["images"]]
        latents["images"][f"class_{part}"] = [
            text_tensor(sha256, part, f"the class of {name}") for sha256, name in classes
        ]
    return latents


def _class_captions(dataset: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The captions that do not name the person, as (caption, sha256)."""
    captions = [(item["class_caption"], item["class_caption_sha256"]) for item in dataset["images"]]
    return [*captions, (dataset["bare_class"]["caption"], dataset["bare_class"]["caption_sha256"])]


def _text_key(key: str, max_token_length: int) -> str:
    return key if max_token_length == CHUNK else f"{key}/{max_token_length}"


def _prefixed(name: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _source_hashes(dataset: Mapping[str, Any]) -> str:
    """The names and hashes of all pictures and captions, as JSON for the file's header."""
    items = {group: [[i["name"], i["sha256"], i["caption_sha256"]] for i in dataset[group]] for group in GROUPS}
    return json.dumps(items | {"class": [sha256 for _, sha256 in _class_captions(dataset)]}, ensure_ascii=True)
