"""Drawing pictures from a checkpoint at several weights, with the same seeds for every checkpoint and weight."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from likeness.base_model import load_part
from likeness.conditioning import conditioning, token_ids
from likeness.errors import LikenessError
from likeness.families import FAMILIES
from likeness.lora_merge import MergedLora, diffusers_reads, read_layers


class Cell(NamedTuple):
    """One picture of the plot."""

    weight: float
    prompt: str
    kind: str
    """"subject" for prompts that name the person, "untrained" for the one that must not."""
    seed: int


def cells(sample: dict, subject: dict, epoch: int) -> list[Cell]:
    """Every picture of one checkpoint, ordered by weight, prompt, seed. Epoch 0, the base model, has weight 0 alone."""
    names = {"subject": f"{subject['trigger']} {subject['class_noun']}", "class_noun": subject["class_noun"]}
    prompts = [(prompt.format(**names), "subject") for prompt in sample["prompts"]]
    prompts.append((sample["untrained_prompt"].format(**names), "untrained"))
    weights = sample["weights"] if epoch else [0.0]
    return [
        Cell(weight, prompt, kind, seed) for weight in weights for prompt, kind in prompts for seed in sample["seeds"]
    ]


class Pipeline(NamedTuple):
    """diffusers' pipeline, and what sets the weight of the LoRA in it."""

    diffusers: object
    set_weight: Callable[[float], None]


def load_pipeline(base: dict, lora: Path | None, device: torch.device) -> Pipeline:
    """The base model ready to draw by DPM++ 2M Karras (A1111's default).

    A LoRA or LoCon is loaded by diffusers' own loader, as by its users; the kinds that it does not read go into the
    weights by lora_merge. Raises LikenessError if a layer of the file finds no place in the model.
    """
    import diffusers
    from diffusers import DPMSolverMultistepScheduler

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    extras = {} if base["family"] == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = getattr(diffusers, FAMILIES[base["family"]].pipeline).from_pretrained(
        base["path"], dtype=dtype, local_files_only=True, vae=load_part(base, "vae", dtype), **extras
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, use_karras_sigmas=True, prediction_type=base["prediction_type"]
    )
    pipeline.set_progress_bar_config(disable=True)
    set_weight = _with_lora(pipeline, lora) if lora else lambda weight: None
    return Pipeline(pipeline.to(device), set_weight)


def _with_lora(pipeline, lora: Path) -> Callable[[float], None]:
    """What sets the weight of a LoRA file, placed in the pipeline's models."""
    layers = read_layers(lora)
    encoders = [getattr(pipeline, part) for part in _encoder_parts(pipeline)]
    if not diffusers_reads(layers):
        return MergedLora(layers, pipeline.unet, encoders).set_weight
    from peft.tuners.tuners_utils import BaseTunerLayer

    pipeline.load_lora_weights(lora, adapter_name="lora")
    # The loader passes over keys that it cannot place, with a line in the log at best.
    placed = sum(
        isinstance(module, BaseTunerLayer) for model in (pipeline.unet, *encoders) for module in model.modules()
    )
    if placed != len(layers):
        raise LikenessError(
            f"{lora.name}: diffusers found a place for {placed} of its {len(layers)} layers; draw with the base model "
            "that it was trained on, and with the versions of envs/base.txt"
        )
    return lambda weight: pipeline.set_adapters("lora", weight)


def drawn(pipeline: Pipeline, wanted: list[Cell], sample: dict, resolution: int) -> Iterator[tuple[Cell, "object"]]:
    """(cell, PIL image) for each wanted cell, `batch_size` at a time; noise comes from the CPU on every device."""
    for weight, group in groupby(wanted, key=lambda cell: cell.weight):
        pipeline.set_weight(weight)
        same_weight = list(group)
        for start in range(0, len(same_weight), sample["batch_size"]):
            batch = same_weight[start : start + sample["batch_size"]]
            prompts, negative = [cell.prompt for cell in batch], [sample["negative_prompt"]] * len(batch)
            images = pipeline.diffusers(
                **_read(pipeline.diffusers, prompts, negative, sample),
                num_inference_steps=sample["steps"],
                guidance_scale=sample["guidance_scale"],
                height=resolution,
                width=resolution,
                generator=[torch.Generator().manual_seed(cell.seed) for cell in batch],
            ).images
            yield from zip(batch, images, strict=True)


def _read(pipeline, prompts: list[str], negative: list[str], sample: dict) -> dict[str, torch.Tensor]:
    """What the pipeline takes instead of words. By the code that training reads captions with, also because diffusers'
    own clip_skip does not know the text encoders of transformers 5.6 and later."""
    parts = _encoder_parts(pipeline)
    encoders = [getattr(pipeline, part) for part in parts]
    tokenizers = [getattr(pipeline, part.replace("text_encoder", "tokenizer")) for part in parts]
    inputs = {}
    for name, texts in (("prompt_embeds", prompts), ("negative_prompt_embeds", negative)):
        tokens = torch.stack([token_ids(tokenizers, text) for text in texts]).to(encoders[0].device)
        with torch.no_grad():
            read = conditioning(encoders, tokens, sample["clip_skip"])
        inputs[name] = read.hidden
        if read.pooled is not None:
            inputs[name.replace("prompt_embeds", "pooled_prompt_embeds")] = read.pooled
    return inputs


def _encoder_parts(pipeline) -> list[str]:
    return [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None)]
