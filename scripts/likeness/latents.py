"""What training reads instead of pictures and words: VAE latents (mean and spread) and text hidden states."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image

from likeness.conditioning import CHUNK, conditioning, token_ids
from likeness.errors import LikenessError
from likeness.manifests import is_whole
from likeness.tensors import safetensors_bytes

# The lists of dataset.json: what is trained on, what validates, and the class that is kept.
GROUPS = ("images", "heldout", "regularisation")
MIRRORED = ("images", "regularisation")  # what training may show mirrored
VAE_SCALE = 8  # px of a picture for one of its latent


def encoded_image(vae, png: Path, size: Sequence[int], mirrored: bool = False) -> bytes:
    """The latent distribution of a picture of `size` (width, height) px as safetensors: mean and std, each
    (4, height/8, width/8), scaled. `mirrored` is that of the mirrored picture, which is not the mirrored latent.

    Noise is drawn from the spread at every step, so the cache does not freeze one sample of it. The VAE runs in fp32:
    in half precision some VAEs overflow. Raises LikenessError naming the photo if a number is not finite.
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
        spread = vae.encode(tensor).latent_dist
    scale = vae.config.scaling_factor
    latents = {"mean": spread.mean[0] * scale, "std": spread.std[0] * scale}
    if not all(torch.isfinite(t).all() for t in latents.values()):
        raise LikenessError(
            f"{png.name}: its latents are not finite; look at the picture, or use a VAE that works in fp32"
        )
    return safetensors_bytes(latents, {})


def encoded_caption(
    tokenizers: Sequence, encoders: Sequence, caption: str, clip_skip: int, max_token_length: int = CHUNK
) -> bytes:
    """A caption as safetensors: tokens (encoders, 77), hidden (77, width) and, for SDXL, pooled (width,). With a
    `max_token_length` of 150 or 225 tokens (encoders, 2 or 3, 77) and hidden (152 or 227, width)."""
    tokens = token_ids(tokenizers, caption, max_token_length)
    with torch.no_grad():
        read = conditioning(encoders, tokens[None].to(encoders[0].device), clip_skip)
    tensors = {name: tensor[0].float().cpu() for name, tensor in read._asdict().items() if tensor is not None}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise LikenessError(f"the text encoder gives numbers that are not finite for the caption {caption!r}")
    return safetensors_bytes({"tokens": tokens, **tensors}, {})


def latents_bytes(
    dataset: Mapping,
    flips: bool,
    image: Callable[[Mapping, bool], Path],
    caption: Callable[[str, int], Path],
    token_lengths: Sequence[int] = (CHUNK,),
) -> bytes:
    """latents.safetensors of a dataset.json, as `load_latents` reads it.

    `image` gives the file of an item's encoded picture, mirrored or not, `caption` that of encoded words for one of
    `token_lengths`, the max_token_length of the runs. For each item there is `{group}.{name}.mean .std` and, with
    `flips`, `.flipped_mean .flipped_std`; for each caption, which many photos share, those of the class too,
    `{caption_sha256}.tokens .hidden` and, for SDXL, `.pooled`; for the empty one `empty.tokens` and so on, and for 150
    tokens `empty/150.tokens`. The header names what they are from.
    """
    captions = [("", "empty"), *_class_captions(dataset)]
    captions += [(item["caption"], item["caption_sha256"]) for group in GROUPS for item in dataset[group]]
    tensors = {}
    for length in token_lengths:
        for words, key in captions:
            tensors |= _prefixed(_text_key(key, length), safetensors.torch.load_file(caption(words, length)))
    for group in GROUPS:
        for item in dataset[group]:
            parts = safetensors.torch.load_file(image(item, False))
            if flips and group in MIRRORED:
                parts |= {f"flipped_{part}": t for part, t in safetensors.torch.load_file(image(item, True)).items()}
            tensors |= _prefixed(f"{group}.{item['name']}", parts)
    return safetensors_bytes(tensors, {"items": _made_from(dataset), "flips": json.dumps(flips)})


def load_latents(
    path: Path, dataset: Mapping, max_token_length: int = CHUNK
) -> dict[str, dict[str, list[torch.Tensor]]]:
    """For each group of a dataset.json, in the order of its items: mean and std (4, h, w), and tokens, hidden and, for
    SDXL, pooled as `encoded_caption` makes them for this `max_token_length`; in images and regularisation also
    flipped_mean and flipped_std where they were made; in images class_tokens, class_hidden and class_pooled of the
    caption without the person. The groups "empty" and "bare_class" hold tokens, hidden and pooled of one caption each.

    Raises LikenessError if the file is damaged, was made from other pictures or captions than the dataset now holds, or
    a tensor in it is missing or of another size than its picture.
    """
    again = "run: snakemake --forcerun cache_latents"
    try:
        if not is_whole(path):
            raise ValueError("its content is not what was written")
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise LikenessError(f"{path.name} is damaged ({error}); {again}") from None
    if header.get("items") != _made_from(dataset):
        raise LikenessError(f"{path.name} was not made from this dataset; {again}")

    def found(key: str, part: str, whose: str) -> torch.Tensor:
        if f"{key}.{part}" not in tensors:
            raise LikenessError(f"{path.name} has no {part} of {whose}; {again}")
        return tensors[f"{key}.{part}"]

    def text(key: str, part: str, whose: str) -> torch.Tensor:
        return found(_text_key(key, max_token_length), part, whose)

    words = ["tokens", "hidden"] + ["pooled"] * (f"{_text_key('empty', max_token_length)}.pooled" in tensors)
    latents = {"empty": {part: [text("empty", part, "the empty caption")] for part in words}}
    bare_class = dataset["bare_class"]["caption_sha256"]
    latents["bare_class"] = {part: [text(bare_class, part, "the class")] for part in words}
    for group in GROUPS:
        shown = ["mean", "std"]
        if json.loads(header["flips"]) and group in MIRRORED:
            shown += ["flipped_mean", "flipped_std"]
        items = [(item["name"], item["caption_sha256"]) for item in dataset[group]]
        latents[group] = {part: [found(f"{group}.{name}", part, name) for name, _ in items] for part in shown}
        latents[group] |= {part: [text(caption, part, name) for name, caption in items] for part in words}
        for part in shown:
            for item, tensor in zip(dataset[group], latents[group][part], strict=True):
                width, height = item["size"]
                if tensor.shape[1:] != (height // VAE_SCALE, width // VAE_SCALE):
                    raise LikenessError(
                        f"{path.name}: the {part} of {item['name']} is {tuple(tensor.shape)}, not that of a picture of "
                        f"{width}x{height}; {again}"
                    )
    for part in words:
        classes = [(item["class_caption_sha256"], item["name"]) for item in dataset["images"]]
        latents["images"][f"class_{part}"] = [text(sha256, part, f"the class of {name}") for sha256, name in classes]
    return latents


def _class_captions(dataset: Mapping) -> list[tuple[str, str]]:
    """The captions without the person, and their sha256."""
    captions = [(item["class_caption"], item["class_caption_sha256"]) for item in dataset["images"]]
    return [*captions, (dataset["bare_class"]["caption"], dataset["bare_class"]["caption_sha256"])]


def _text_key(key: str, max_token_length: int) -> str:
    return key if max_token_length == CHUNK else f"{key}/{max_token_length}"


def _prefixed(name: str, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _made_from(dataset: Mapping) -> str:
    """What decides the latents, as text for a header."""
    items = {group: [[i["name"], i["sha256"], i["caption_sha256"]] for i in dataset[group]] for group in GROUPS}
    return json.dumps(items | {"class": [sha256 for _, sha256 in _class_captions(dataset)]}, ensure_ascii=True)
