"""Checks of a diffusers folder: it must be a complete Stable Diffusion model of a kind that can be trained."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.core.errors import LikenessError
from likeness.models.families import Family, check_schedule, family_of_folder
from likeness.models.kinds import (
    kind_of_numbers,
    kind_of_pipeline,
    kind_of_scheduler,
    kind_of_text_encoder,
    kind_of_unet,
    kind_of_vae,
    refuse,
)
from likeness.models.tokenizer import TOKENS
from likeness.models.weights import check_weights, empty_model, one_line

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

# The size of CLIP's vocabulary, which transformers uses if a config.json has none. UNMERGED tokens of it come from no
# merge: 256 bytes, the same 256 at the end of a word, and 2 marks.
VOCABULARY, UNMERGED = 49408, 514
# The share of the vocabulary that a tokenizer must have. Some models round the number of embeddings up, so they have
# slightly more than tokens. A truncated file lacks far more.
WHOLE_VOCABULARY = 0.9


def parts_with_weights(family: Family, own_vae: bool) -> list[str]:
    """The parts that have weights, without the VAE if the user has another one."""
    return [part for part in family.config if not (own_vae and part == "vae")]


def check_folder(folder: Path, what: str, own_vae: bool) -> None:
    """Raises LikenessError if a file that a later stage reads is missing or damaged, or if the model is of a kind that
    cannot be trained."""
    family = checked_family(folder, what, own_vae)
    models = {
        part: empty_model(part, read_config(folder / part / "config.json", what), what)
        for part in parts_with_weights(family, own_vae)
    }
    _check_layers(models["unet"], what)
    for part, model in models.items():
        check_weights(folder / part, part, model, what)
    _check_sizes({part: model.config for part, model in models.items()}, family, what)
    for part in family.text_encoders:
        _check_tokenizer(folder, part, what)


def checked_family(folder: Path, what: str, own_vae: bool) -> Family:
    """The family of a diffusers folder by its configurations. Raises LikenessError if one of them is missing or
    damaged, or if it shows that the model is of another kind."""
    if not (folder / "model_index.json").is_file() and (inside := _models_inside(folder)):
        raise LikenessError(f"{what}: no model_index.json in it; name what is in it: {inside[0]}")
    refuse(kind_of_pipeline(read_config(folder / "model_index.json", what)), what)
    _check_parts(folder, ("unet",), what)
    unet = read_config(folder / "unet/config.json", what)
    text_encoder = read_config(folder / "text_encoder/config.json", what) if (folder / "text_encoder").is_dir() else {}
    refuse(kind_of_unet(unet, text_encoder), what)
    _check_parts(folder, ("text_encoder",), what)
    family = family_of_folder(unet, text_encoder)
    _check_parts(folder, [part for part in family.parts if not (own_vae and part == "vae")], what)
    configs = {part: read_config(folder / part / "config.json", what) for part in parts_with_weights(family, own_vae)}
    for part, config in configs.items():
        kind = kind_of_text_encoder(config) if part in family.text_encoders else None
        refuse(kind or (kind_of_vae(config) if part == "vae" else None) or kind_of_numbers(config), what)
    scheduler = read_config(folder / "scheduler/scheduler_config.json", what)
    refuse(kind_of_scheduler(scheduler), what)
    check_schedule(scheduler, what)
    return family


def _models_inside(folder: Path) -> list[Path]:
    """The models in a folder that is not a model itself: those of a folder of the hub's cache, or single files."""
    whole = [index.parent for pattern in ("*", "snapshots/*") for index in folder.glob(f"{pattern}/model_index.json")]
    return sorted(whole) or sorted(folder.glob("[!.]*.safetensors"))


def _check_sizes(configs: Mapping[str, Any], family: Family, what: str) -> None:
    """Raises LikenessError if the sizes of the parts do not match, because they come from different models."""
    unet, texts = configs["unet"], [configs[part] for part in family.text_encoders]
    sizes = {"numbers for a token": (sum(text.hidden_size for text in texts), "text encoder", unet.cross_attention_dim)}
    if "vae" in configs:
        sizes["channels of a latent"] = (configs["vae"].latent_channels, "VAE", unet.in_channels)
        scale = configs["vae"].scaling_factor
        if not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise LikenessError(f"{what}: scaling_factor in vae/config.json is {scale!r}, expected above 0")
    if family.name == "sdxl":
        read = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
        sizes["numbers for a caption"] = (texts[1].projection_dim, "text_encoder_2", read)
    for of, (given, part, expected) in sizes.items():
        if any(each != given for each in (expected if isinstance(expected, list | tuple) else [expected])):
            raise LikenessError(
                f"{what}: its {part} gives {given} {of}, its U-Net reads {expected}: they are of two models, get the "
                "whole of one"
            )
    for part, text in zip(family.text_encoders, texts, strict=True):
        if text.max_position_embeddings < TOKENS:
            raise LikenessError(f"{what}: {part} reads {text.max_position_embeddings} tokens, expected {TOKENS}")


def _check_layers(unet: "UNet2DConditionModel", what: str) -> None:
    """Raises LikenessError if a U-Net lacks a layer that a LoRA is placed on."""
    from likeness.models.lora_file import unet_modules  # here, because it imports torch

    try:
        paths = {module.path for module in unet_modules(unet.config, convolutions=True)}
    except (LikenessError, LookupError, TypeError, ValueError) as error:
        absent = [one_line(error)]
    else:
        absent = sorted(paths - {name for name, _ in unet.named_modules()})
    if absent:
        raise LikenessError(
            f"{what}: its U-Net has other blocks than Stable Diffusion's ({absent[0]}), as distilled models of another "
            "size have (SSD-1B, Vega, KOALA, BK-SDM); expected the whole model"
        )


def _check_parts(folder: Path, parts: Iterable[str], what: str) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise LikenessError(f"{what}: no folder {part}; it is not a whole model in diffusers' layout")


def read_config(path: Path, what: str) -> dict[str, Any]:
    """The content of a model's configuration file. Raises LikenessError if the file is missing or damaged."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise LikenessError(f"{what}: no {name}; the download is incomplete, get it again") from None
    except (ValueError, OSError, RecursionError) as error:
        raise LikenessError(f"{what}: {name} is damaged or half downloaded ({error}); get it again") from None
    if not isinstance(config, dict):
        raise LikenessError(f"{what}: {name} is damaged (no JSON object); get it again")
    return config


def _check_tokenizer(folder: Path, text_encoder: str, what: str) -> None:
    """Raises LikenessError if the tokenizer of a text encoder is incomplete. transformers would silently make one with
    an empty vocabulary, and all captions would have the same tokens."""
    name = text_encoder.replace("text_encoder", "tokenizer")
    if not (folder / name / "tokenizer.json").is_file():
        for file in ("vocab.json", "merges.txt"):
            if not (folder / name / file).is_file():
                raise LikenessError(
                    f"{what}: no {name}/{file}, and no {name}/tokenizer.json in its place; without it no caption can "
                    "be read, get it again"
                )
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
        numbers = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        merges, last = numbers["merges"], max(numbers["vocab"].values())
    except Exception as error:
        raise LikenessError(f"{what}: {name} is damaged or half downloaded ({error}); get it again") from None
    expected = json.loads((folder / text_encoder / "config.json").read_text()).get("vocab_size", VOCABULARY)
    if last >= expected:
        raise LikenessError(
            f"{what}: {name} numbers its tokens up to {last}, {text_encoder} knows {expected}: they are of two models, "
            "get the whole of one"
        )
    for found, whole, of in ((len(tokenizer), expected, "tokens"), (len(merges), expected - UNMERGED, "merges")):
        if found < WHOLE_VOCABULARY * whole:
            raise LikenessError(
                f"{what}: {name} has {found} {of}, {text_encoder} was made with {whole}; a file in it is damaged or "
                "half downloaded, get it again"
            )
