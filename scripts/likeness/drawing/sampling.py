"""Sampling pictures from a checkpoint at several weights, with the same seeds for every checkpoint and weight."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from likeness.core.devices import out_of_memory
from likeness.core.errors import LikenessError
from likeness.drawing.batches import Batches
from likeness.models.base_model import check_part, load_part
from likeness.models.conditioning import Conditioning
from likeness.models.families import FAMILIES
from likeness.models.lora_merge import MergedLora, Tensors, diffusers_reads, read_layers
from likeness.models.prompt_conditioning import prompt_conditioning
from likeness.models.prompts import literal

# A1111's names of samplers, each with diffusers' class and its settings (diffusers' documentation, Schedulers:
# "A1111/k-diffusion to diffusers"). All settings that differ are given, so that the scheduler_config.json of a base
# model cannot change the sampler.
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": False}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
}
# The settings that are read from the base model's scheduler_config.json: the noise schedule of its training, and the
# first and the last step of sampling. The other settings in the file are those of another sampler.
_NOISE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("rescale_betas_zero_snr", "timestep_spacing", "steps_offset", "set_alpha_to_one"),
)
# Settings that would turn each sampler into another one. clip_sample is among them because some schedulers of diffusers
# clip by default, and latents have values beyond 1.
_NO_OTHER = dict.fromkeys(
    ("clip_sample", "thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)


class Cell(NamedTuple):
    """One picture of a run's samples."""

    weight: float
    prompt: str
    kind: str
    """near, far or canary for prompts that name the person; untrained for those that must not; two_people."""
    seed: int


def cells(sample: Mapping[str, Any], subject: Mapping[str, Any], epoch: int) -> list[Cell]:
    """All pictures of one checkpoint, ordered by weight, prompt, seed. Epoch 0, the base model, has only weight 0."""
    noun = literal(subject["class_noun"])
    names = {"subject": f"{literal(subject['trigger'])} {noun}", "class_noun": noun}
    kinds = {
        "near": sample["prompts"],
        "far": sample["far_prompts"],
        "canary": sample["canary_prompts"],
        "untrained": sample["untrained_prompts"],
        "two_people": [sample["two_people_prompt"]] if sample["two_people_prompt"] else [],
    }
    prompts = [(prompt.format(**names), kind) for kind, texts in kinds.items() for prompt in texts]
    weights = sample["weights"] if epoch else [0.0]
    return [
        Cell(weight, prompt, kind, seed) for weight in weights for prompt, kind in prompts for seed in sample["seeds"]
    ]


class Pipeline(NamedTuple):
    """diffusers' pipeline, the function that sets the weight of the LoRA, and whether the conditioning depends on this
    weight."""

    diffusers: Any
    set_weight: Callable[[float], None]
    conditioning_by_weight: bool


def load_pipeline(
    base: Mapping[str, Any],
    lora: Path | None,
    device: torch.device,
    sampler: str = "DPM++ 2M Karras",
    merged: bool = False,
) -> Pipeline:
    """The base model with one of SAMPLERS, and with a LoRA if there is one.

    diffusers loads a LoRA or LoCon as it does for its users. Other kinds of networks, and with `merged` every kind, are
    merged into the weights by lora_merge: then a step takes no longer than without a LoRA, and another weight takes a
    second.
    Raises LikenessError if the model lacks a layer that the file has, or if a file of the base model was
    changed.
    """
    import diffusers

    family, dtype = FAMILIES[base["family"]], torch.float16 if device.type == "cuda" else torch.float32
    check_part(base, "scheduler")
    parts = {part: load_part(base, part, dtype) for part in family.parts if part != "scheduler"}
    own = json.loads((base["path"] / "scheduler/scheduler_config.json").read_text())
    noise = {key: own[key] for key in _NOISE if key in own}
    parts["scheduler"] = diffusers.DDIMScheduler.from_config(noise, clip_sample=False)
    # Not from_pretrained: model_index.json may list further parts and other classes, which are not available here.
    none = ("safety_checker", "feature_extractor", "requires_safety_checker")
    pipeline = getattr(diffusers, family.pipeline)(**parts, **({} if family.name == "sdxl" else dict.fromkeys(none)))
    scheduler, settings = SAMPLERS[sampler]
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(
        pipeline.scheduler.config, **_NO_OTHER, **settings, prediction_type=base["prediction_type"]
    )
    pipeline.set_progress_bar_config(disable=True)
    layers = read_layers(lora) if lora else {}
    set_weight = _with_lora(pipeline, lora, layers, merged) if lora else lambda weight: None
    return Pipeline(pipeline.to(device), set_weight, any(key.startswith("lora_te") for key in layers))


def _with_lora(pipeline: Any, lora: Path, layers: Mapping[str, Tensors], merged: bool) -> Callable[[float], None]:
    """Load a LoRA file with these layers into the pipeline's models. Returns the function that sets its weight, which
    loads nothing again."""
    encoders = [getattr(pipeline, part) for part in _encoder_parts(pipeline)]
    if merged or not diffusers_reads(layers):
        return MergedLora(layers, pipeline.unet, encoders).set_weight
    from peft.tuners.tuners_utils import BaseTunerLayer

    pipeline.load_lora_weights(lora, adapter_name="lora")
    # The loader skips keys that it does not know, at best with a line in the log.
    placed = sum(
        isinstance(module, BaseTunerLayer) for model in (pipeline.unet, *encoders) for module in model.modules()
    )
    if placed != len(layers):
        raise LikenessError(
            f"{lora.name}: diffusers found a place for {placed} of its {len(layers)} layers; draw with the base model "
            "that it was trained on, and with the versions of envs/base.txt"
        )
    return lambda weight: pipeline.set_adapters("lora", weight)


def draw_pictures(
    pipeline: Pipeline, cells: Sequence[Cell], sample: Mapping[str, Any], size: tuple[int, int]
) -> Iterator[tuple[Cell, Image.Image]]:
    """Each cell with its picture of `size` (width, height) px, drawn in batches that fill the device. The noise is made
    on the CPU on every device.

    Cells with the same weight must be neighbours, so that each weight is set once. Each prompt is encoded once, or once
    for each weight if the LoRA changes the text encoders. The prompts of a batch have the same number of chunks. Raises
    LikenessError if there is not enough memory for a single picture.
    """
    conditionings: dict[str, Conditioning] = {}

    def conditioning(text: str) -> Conditioning:
        if text not in conditionings:
            conditionings[text] = conditioning_of(pipeline.diffusers, text, sample["clip_skip"])
        return conditionings[text]

    def length(cell: Cell) -> int:
        return conditioning(cell.prompt).hidden.shape[1]

    def images(batch: Sequence[Cell]) -> list[Image.Image]:
        prompts = [conditioning(cell.prompt) for cell in batch]
        inputs = prompt_inputs(prompts, conditioning(sample["negative_prompt"]))
        return _images(pipeline.diffusers, batch, inputs, sample, size)

    batches = Batches(pipeline.diffusers.device, size, sample["batch_size"])
    for weight, group in groupby(cells, key=lambda cell: cell.weight):
        pipeline.set_weight(weight)
        if pipeline.conditioning_by_weight:
            conditionings.clear()
        yield from batches.drawn(list(group), length, images)


def _images(
    pipeline: Any,
    batch: Sequence[Cell],
    inputs: Mapping[str, torch.Tensor],
    sample: Mapping[str, Any],
    size: tuple[int, int],
) -> list[Image.Image]:
    """The pictures of a batch. Raises LikenessError if there is not enough memory for a single one."""
    try:
        return pipeline(
            **inputs,
            num_inference_steps=sample["steps"],
            guidance_scale=sample["guidance_scale"],
            width=size[0],
            height=size[1],
            generator=[torch.Generator().manual_seed(cell.seed) for cell in batch],
        ).images
    except RuntimeError as error:
        explained = out_of_memory(error, {"resolution": max(size)})
        if not explained or len(batch) > 1:
            raise
        raise explained from None


def prompt_inputs(prompts: Sequence[Conditioning], negative: Conditioning) -> dict[str, torch.Tensor]:
    """The prompts of a batch, which have the same length, as arguments of a diffusers pipeline."""
    # diffusers needs both in the same length, so both are repeated. Attention to a repeated text is the same as
    # attention to the text. A1111 computes the two one after the other.
    length = math.lcm(prompts[0].hidden.shape[1], negative.hidden.shape[1])
    inputs = {}
    for name, texts in (("prompt_embeds", prompts), ("negative_prompt_embeds", [negative] * len(prompts))):
        inputs[name] = torch.cat([text.hidden.repeat(1, length // text.hidden.shape[1], 1) for text in texts])
        if texts[0].pooled is not None:
            pooled = [text.pooled for text in texts if text.pooled is not None]
            inputs[name.replace("prompt_embeds", "pooled_prompt_embeds")] = torch.cat(pooled)
    return inputs


def conditioning_of(pipeline: Any, text: str, clip_skip: int) -> Conditioning:
    """The conditioning on a prompt. The code is that of the training: diffusers supports neither weights nor more than
    77 tokens, and its clip_skip does not support the text encoders of transformers 5.6 and later."""
    parts = _encoder_parts(pipeline)
    encoders = [getattr(pipeline, part) for part in parts]
    tokenizers = [getattr(pipeline, part.replace("text_encoder", "tokenizer")) for part in parts]
    with torch.no_grad():
        return prompt_conditioning(encoders, tokenizers, text, clip_skip)


def _encoder_parts(pipeline: Any) -> list[str]:
    return [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None)]
