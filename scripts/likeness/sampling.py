"""Drawing pictures from a checkpoint at several weights, with the same seeds for every checkpoint and weight."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, takewhile
from pathlib import Path
from typing import NamedTuple

import torch

from likeness.base_model import check_part, load_part
from likeness.conditioning import Conditioning
from likeness.devices import out_of_memory
from likeness.errors import LikenessError
from likeness.families import FAMILIES
from likeness.lora_merge import MergedLora, diffusers_reads, read_layers
from likeness.prompt_conditioning import prompt_conditioning
from likeness.prompts import literal

# A1111's names of samplers, and diffusers' classes for them with the settings that make the difference (diffusers'
# documentation, Schedulers: "A1111/k-diffusion to diffusers"). Written out, so that a base model's own
# scheduler_config.json cannot say otherwise.
_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2}
SAMPLERS = {
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": False}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "DDIM": ("DDIMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {"use_karras_sigmas": False}),
}
# What would make another sampler of each. diffusers clips by default, where a base model's file is of a sampler that
# does not; latents go beyond 1.
_NO_OTHER = dict.fromkeys(
    ("clip_sample", "thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"), False
)

# Pictures drawn at once on a CPU: 1.4 times as fast as one at a time on the demonstration's base (docs/sampling.md).
# Twice as many gained 9 % more there, and take twice the memory: at 512 px about 0.4 GB of VAE for each picture.
CPU_BATCH = 4
# Of the memory that is free on a GPU, what the first picture lets one plan with: the allocator's blocks never lie
# without gaps. Too much is no error, only a batch that is drawn again in halves.
PLANNED_SHARE = 0.9


class Cell(NamedTuple):
    """One picture of the plot."""

    weight: float
    prompt: str
    kind: str
    """near, far or canary for prompts that name the person; untrained for those that must not; two_people."""
    seed: int


def cells(sample: Mapping, subject: Mapping, epoch: int) -> list[Cell]:
    """Every picture of one checkpoint, ordered by weight, prompt, seed. Epoch 0, the base model, has weight 0 alone."""
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
    """diffusers' pipeline, what sets the weight of the LoRA in it, and whether that changes how it reads a prompt."""

    diffusers: object
    set_weight: Callable[[float], None]
    reads_by_weight: bool


def load_pipeline(base: dict, lora: Path | None, device: torch.device, sampler: str = "DPM++ 2M Karras") -> Pipeline:
    """The base model ready to draw by one of SAMPLERS.

    A LoRA or LoCon is loaded by diffusers' own loader, as by its users; the kinds that it does not read go into the
    weights by lora_merge. Raises LikenessError if a layer of the file finds no place in the model, or if a file of the
    base model was changed.
    """
    import diffusers

    family, dtype = FAMILIES[base["family"]], torch.float16 if device.type == "cuda" else torch.float32
    # Of the folder itself only the scheduler is read here, with the defaults of its own class.
    check_part(base, "scheduler")
    parts = {part: load_part(base, part, dtype) for part in family.parts if part != "scheduler"}
    extras = {} if family.name == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(
        base["path"], local_files_only=True, **parts, **extras
    )
    scheduler, settings = SAMPLERS[sampler]
    pipeline.scheduler = getattr(diffusers, scheduler).from_config(
        pipeline.scheduler.config, **_NO_OTHER, **settings, prediction_type=base["prediction_type"]
    )
    pipeline.set_progress_bar_config(disable=True)
    layers = read_layers(lora) if lora else {}
    set_weight = _with_lora(pipeline, lora, layers) if lora else lambda weight: None
    return Pipeline(pipeline.to(device), set_weight, any(key.startswith("lora_te") for key in layers))


def _with_lora(pipeline, lora: Path, layers: Mapping) -> Callable[[float], None]:
    """What sets the weight of a LoRA file with these layers, placed in the pipeline's models: in place, so that nothing
    is loaded again."""
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


def drawn(
    pipeline: Pipeline, wanted: Sequence[Cell], sample: Mapping, resolution: int
) -> Iterator[tuple[Cell, "object"]]:
    """(cell, PIL image) for each wanted cell, in batches that fill the device; the noise is the CPU's on every device.

    Cells of one weight stand together, so that each weight is set once; each prompt is read once, or once for each
    weight where the LoRA changes the text encoders. Prompts of one batch have one number of chunks. Raises
    LikenessError if there is no memory for a single picture.
    """
    device = pipeline.diffusers.device
    # On a GPU the first picture is drawn alone: it tells what one takes.
    measuring = sample["batch_size"] is None and device.type == "cuda"
    size = 1 if measuring else sample["batch_size"] or CPU_BATCH
    read: dict[str, Conditioning] = {}
    for weight, group in groupby(wanted, key=lambda cell: cell.weight):
        pipeline.set_weight(weight)
        if pipeline.reads_by_weight:
            read.clear()
        waiting = list(group)
        while waiting:
            next_cells = waiting[:size]
            for text in (sample["negative_prompt"], *(cell.prompt for cell in next_cells)):
                if text not in read:
                    read[text] = _read(pipeline.diffusers, text, sample["clip_skip"])
            length = read[next_cells[0].prompt].hidden.shape[1]
            batch = list(takewhile(lambda cell: read[cell.prompt].hidden.shape[1] == length, next_cells))  # noqa: B023
            images = _images(pipeline.diffusers, batch, read, sample, resolution)
            if images is None:
                size, measuring = len(batch) // 2, False
                continue
            yield from zip(batch, images, strict=True)
            waiting = waiting[len(batch) :]
            if measuring:
                size, measuring = _room(device), False


def _images(pipeline, batch: Sequence[Cell], read: Mapping, sample: Mapping, resolution: int) -> list | None:
    """The PIL images of a batch; None if the device has no memory for so many.

    Raises LikenessError if it has none for one.
    """
    prompts, negative = [read[cell.prompt] for cell in batch], [read[sample["negative_prompt"]]] * len(batch)
    # diffusers wants both of one length. Attention to a text that stands there several times is attention to the text,
    # which A1111 has by reading the two one after the other.
    length = math.lcm(*(texts[0].hidden.shape[1] for texts in (prompts, negative)))
    inputs = {}
    for name, texts in (("prompt_embeds", prompts), ("negative_prompt_embeds", negative)):
        inputs[name] = torch.cat([text.hidden.repeat(1, length // text.hidden.shape[1], 1) for text in texts])
        if texts[0].pooled is not None:
            inputs[name.replace("prompt_embeds", "pooled_prompt_embeds")] = torch.cat([text.pooled for text in texts])
    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipeline.device)
    try:
        return pipeline(
            **inputs,
            num_inference_steps=sample["steps"],
            guidance_scale=sample["guidance_scale"],
            height=resolution,
            width=resolution,
            generator=[torch.Generator().manual_seed(cell.seed) for cell in batch],
        ).images
    except RuntimeError as error:
        explained = out_of_memory(error, {"resolution": resolution})
        if not explained:
            raise
        if len(batch) == 1:
            raise explained from None
    torch.cuda.empty_cache()  # after the except block: until then the error holds the tensors of its frames
    return None


def _room(device: torch.device) -> int:
    """Pictures that a GPU draws at once, by what the batch of one before took at its peak."""
    held = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
    return max(1, int(PLANNED_SHARE * free / (torch.cuda.max_memory_allocated(device) - held)))


def _read(pipeline, text: str, clip_skip: int) -> Conditioning:
    """What the U-Net reads of a prompt. By the code that training reads captions with, because diffusers reads neither
    weights nor more than 77 tokens, and its clip_skip does not know the text encoders of transformers 5.6 and later."""
    parts = _encoder_parts(pipeline)
    encoders = [getattr(pipeline, part) for part in parts]
    tokenizers = [getattr(pipeline, part.replace("text_encoder", "tokenizer")) for part in parts]
    with torch.no_grad():
        return prompt_conditioning(encoders, tokenizers, text, clip_skip)


def _encoder_parts(pipeline) -> list[str]:
    return [name for name in ("text_encoder", "text_encoder_2") if getattr(pipeline, name, None)]
