"""A1111's infotext: the settings of a picture as text inside it, which "PNG Info" and many other programs take apart.

Three parts, each on lines of its own: the prompt; "Negative prompt: ...", empty too, because ComfyUI (pnginfo.ts) reads
no picture without; and "key: value" pairs with commas between them, the value as a JSON string where it holds a comma,
a colon or a line break. Otherwise as A1111 writes it (modules/processing.py, create_infotext) and reads it
(modules/infotext_utils.py, parse_generation_parameters).
"""

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

from likeness.tensors import read_metadata


class UsedLora(NamedTuple):
    """A LoRA as a prompt calls it: the file's name without its ending, its weight, and `lora_hash` of the file."""

    name: str
    weight: float
    hash: str


def lora_hash(data: bytes) -> str:
    """A1111's short hash of a LoRA file of ours: of the bytes behind the header, in which it stands."""
    return read_metadata(data)["sshs_model_hash"][:12]


def lora_tag(name: str, weight: float) -> str:
    """What calls a LoRA in a prompt."""
    return f"<lora:{name}:{weight:g}>"


def called_lora(text: str) -> str:
    """The name of the LoRA that the prompt of an infotext calls first."""
    return re.search(r"<lora:([^:>]+):", text)[1]


def infotext(prompt: str, seed: int, resolution: int, settings: Mapping, base: Mapping, lora: UsedLora | None) -> str:
    """How a picture was drawn. `settings` are negative_prompt, steps, sampler, guidance_scale and clip_skip; `base` is
    base.json.

    The model's hash is that of every file which is read of it: a diffusers folder has no file that A1111 would hash.
    """
    pairs = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler"],
        "CFG scale": f"{settings['guidance_scale']:g}",
        "Seed": seed,
        "Size": f"{resolution}x{resolution}",
        "Model hash": base["digest"][:10],
        "Model": PurePath(base["model"]).name.removesuffix(".safetensors"),
    }
    if settings["clip_skip"] > 1:
        pairs["Clip skip"] = settings["clip_skip"]
    if lora:
        prompt = f"{prompt} {lora_tag(lora.name, lora.weight)}"
        pairs["Lora hashes"] = f"{lora.name}: {lora.hash}"
    return "\n".join([prompt, f"Negative prompt: {settings['negative_prompt']}", _pairs(pairs)])


def with_pairs(text: str, pairs: Mapping[str, object]) -> str:
    """An infotext with more pairs at its end, as A1111's scripts add theirs."""
    return f"{text}, {_pairs(pairs)}"


def _pairs(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items())


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(",:\n") & set(value) else value
