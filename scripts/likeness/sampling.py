"""Drawing pictures from a checkpoint at several weights, with the same seeds for every checkpoint and weight."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch

from likeness.conditioning import conditioning, token_ids
from likeness.families import FAMILIES


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


def load_pipeline(base: dict, lora: Path | None, device: torch.device):
    """The base model ready to draw by DPM++ 2M Karras (A1111's default), the LoRA loaded by diffusers' own loader."""
    import diffusers
    from diffusers import DPMSolverMultistepScheduler

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    extras = {} if base["family"] == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = getattr(diffusers, FAMILIES[base["family"]].pipeline).from_pretrained(
        base["path"], dtype=dtype, local_files_only=True, **extras
    )
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.set_progress_bar_config(disable=True)
    if lora:
        pipeline.load_lora_weights(lora, adapter_name="lora")
    return pipeline.to(device)


def drawn(pipeline, wanted: list[Cell], sample: dict, resolution: int) -> Iterator[tuple[Cell, "object"]]:
    """(cell, PIL image) for each wanted cell, `batch_size` at a time; noise comes from the CPU on every device."""
    for weight, group in groupby(wanted, key=lambda cell: cell.weight):
        if weight:
            pipeline.set_adapters("lora", weight)
        same_weight = list(group)
        for start in range(0, len(same_weight), sample["batch_size"]):
            batch = same_weight[start : start + sample["batch_size"]]
            images = pipeline(
                **_read(pipeline, [cell.prompt for cell in batch], [sample["negative_prompt"]] * len(batch), sample),
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
    parts = [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None)]
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
