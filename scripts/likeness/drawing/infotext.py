"""A1111's infotext: the settings of a picture as text in its metadata. "PNG Info" and many other programs read it.

It has three parts, each on its own lines: the prompt; "Negative prompt: ...", even if it is empty, because ComfyUI
(pnginfo.ts) reads no infotext without this line; and "key: value" pairs, separated by commas. A value with a comma, a
colon or a line break is written as a JSON string. The format is otherwise that of A1111, which writes it in
modules/processing.py (create_infotext) and reads it in modules/infotext_utils.py (parse_generation_parameters).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from likeness.core.tensors import read_metadata


class UsedLora(NamedTuple):
    """A LoRA that a prompt calls: the file's name without its suffix, the weight, and the file's `lora_hash`."""

    name: str
    weight: float
    hash: str


def lora_hash(data: bytes) -> str:
    """A1111's short hash of a LoRA file that was made here: of the bytes after the header. It stands in the header."""
    return read_metadata(data)["sshs_model_hash"][:12]


def lora_tag(name: str, weight: float) -> str:
    """The text that calls a LoRA in a prompt."""
    return f"<lora:{name}:{weight:g}>"


def called_lora(text: str) -> str:
    """The name of the first LoRA that the prompt of an infotext calls. Raises ValueError if it calls none."""
    match = re.search(r"<lora:([^:>]+):", text)
    if match is None:
        raise ValueError(f"an infotext without a LoRA: {text[:80]!r}")
    return match[1]


def infotext(
    prompt: str,
    seed: int,
    size: tuple[int, int],
    settings: Mapping[str, Any],
    base: Mapping[str, Any],
    lora: UsedLora | None,
) -> str:
    """The infotext of a picture of `size` (width, height) px. `settings` are negative_prompt, steps, sampler,
    guidance_scale and clip_skip; `base` is base.json.

    The model's hash covers all its files, because a diffusers folder has no single file that A1111 would hash.
    """
    pairs: dict[str, object] = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler"],
        "CFG scale": f"{settings['guidance_scale']:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
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
    """An infotext with further pairs at its end, as A1111's scripts add them."""
    return f"{text}, {_pairs(pairs)}"


def hires_pairs(factor: float, strength: float, upscaler: str) -> dict[str, object]:
    """The pairs of A1111's hires fix (modules/processing.py)."""
    names = {"Real-ESRGAN": "R-ESRGAN 4x+"}
    upscaler = names.get(upscaler, upscaler)
    return {"Denoising strength": f"{strength:g}", "Hires upscale": f"{factor:g}", "Hires upscaler": upscaler}


def face_pass_pairs(prompt: str, strength: float) -> dict[str, object]:
    """The pairs of the extension ADetailer (aaaaadetailer.py, extra_params) that are true of the face pass. Its model
    mediapipe_face_full has the same detector."""
    return {
        "ADetailer model": "mediapipe_face_full",
        "ADetailer prompt": prompt,
        "ADetailer denoising strength": f"{strength:g}",
        "ADetailer inpaint only masked": True,
    }


def inpaint_pairs(strength: float, others: Sequence[str]) -> dict[str, object]:
    """The pairs of a face that was redrawn alone in a picture: A1111's strength of an inpainting, and the prompts of
    other faces in the same picture, which A1111 shows and does not use."""
    pairs: dict[str, object] = {"Denoising strength": f"{strength:g}"}
    return pairs | ({"Other faces": "; ".join(others)} if others else {})


def _pairs(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items())


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(",:\n") & set(value) else value


class Recipe(NamedTuple):
    """What an infotext says: the two prompts, with the tags of the LoRAs, and the pairs by their keys."""

    prompt: str
    negative_prompt: str
    pairs: dict[str, str]


def recipe(text: str) -> Recipe:
    """An infotext, read as A1111 reads it (modules/infotext_utils.py, parse_generation_parameters)."""
    *lines, last = text.strip().split("\n")
    start = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:").strip()
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    return Recipe("\n".join(lines[:start]).strip(), negative, {key: _unquoted(value) for key, value in pairs})


def _unquoted(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value


def without_loras(prompt: str) -> tuple[str, dict[str, float]]:
    """A prompt without the tags of its LoRAs, and {name: weight} of these."""
    tag = r"\s*<lora:([^:>]+):([^:>]+)>"
    return re.sub(tag, "", prompt).strip(), {name: float(weight) for name, weight in re.findall(tag, prompt)}
