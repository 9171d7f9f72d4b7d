"""Measure how fast the pictures of several LoRAs at several weights are drawn, compared with a simple script.

    python tools/bench_sample.py [--loras 4] [--steps 12]

`plain` is a simple script: it loads the pipeline again for each LoRA and draws one picture per call. `one by one` is
this project's code with one picture per call: it changes the weights in place and encodes each prompt once. `likeness`
also draws in batches, as the workflow does. The variants take turns, LoRA by LoRA, so that other programs slow all of
them down alike. All must draw the same pictures. The LoRAs are random. The models are fetched first.
"""

import argparse
import gc
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bench_base import prepared_base
from bench_faces import MODELS, ROOT, hardware
from likeness.core.devices import torch_device
from likeness.core.pinned_models import fetch_models
from likeness.drawing.sampling import SAMPLERS, Cell, draw_pictures, load_pipeline
from likeness.models import base_model
from likeness.models.families import FAMILIES
from likeness.models.lora_file import lora_bytes, unet_modules

BASE, SIDE = ROOT / "resources/base", 128
RANK = 16
PROMPTS = ["photo of ohwx woman", "photo of ohwx woman smiling, dark background", "photo of a woman, portrait"]
WEIGHTS, SEEDS = (0.6, 0.8, 1.0), (1, 2)
CELLS = [Cell(weight, prompt, "near", s) for weight, prompt, s in itertools.product(WEIGHTS, PROMPTS, SEEDS)]
SAMPLER = "DPM++ 2M Karras"
# The largest difference of a pixel, in levels of 255. A batch adds numbers in another order, which is visible in fp16.
SAME = {"cpu": 1, "cuda": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loras", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="of the sampler")
    args = parser.parse_args()
    fetch_models(MODELS)
    device = torch_device()
    settings = {"negative_prompt": "blurred", "steps": args.steps, "guidance_scale": 7.0, "clip_skip": 1}
    variants = {"plain": plain, "one by one": one_by_one, "likeness": likeness}
    seconds, busy = ({name: [] for name in variants} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        base = prepared_base(BASE, Path(folder))
        for n in tqdm(range(args.loras), desc="LoRAs", disable=None):
            lora = random_lora(Path(folder) / f"{n}.safetensors", base, seed=n)
            pictures = {}
            for name in list(variants)[:: 1 if n % 2 else -1]:
                gc.collect()
                started, computing = time.perf_counter(), time.process_time()
                pictures[name] = np.array(variants[name](base, lora, settings, device), dtype=int)
                seconds[name].append(time.perf_counter() - started)
                busy[name].append(time.process_time() - computing)
            check_same(pictures, device)
    show(seconds, busy, device)


def plain(base: dict, lora: Path, settings: dict, device: torch.device) -> list[np.ndarray]:
    import diffusers

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pipeline = getattr(diffusers, FAMILIES[base["family"]].pipeline).from_pretrained(
        base["path"], dtype=dtype, safety_checker=None, local_files_only=True
    )
    name, scheduler = SAMPLERS[SAMPLER]
    pipeline.scheduler = getattr(diffusers, name).from_config(pipeline.scheduler.config, **scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(lora, adapter_name="lora")
    pipeline = pipeline.to(device)
    pictures = []
    for weight in WEIGHTS:
        pipeline.set_adapters("lora", weight)
        for prompt, seed in itertools.product(PROMPTS, SEEDS):
            picture = pipeline(
                prompt,
                negative_prompt=settings["negative_prompt"],
                num_inference_steps=settings["steps"],
                guidance_scale=settings["guidance_scale"],
                height=SIDE,
                width=SIDE,
                generator=torch.Generator().manual_seed(seed),
            ).images[0]
            pictures.append(np.asarray(picture))
    return pictures


def one_by_one(base: dict, lora: Path, settings: dict, device: torch.device) -> list[np.ndarray]:
    return _drawn(base, lora, settings | {"batch_size": 1}, device)


def likeness(base: dict, lora: Path, settings: dict, device: torch.device) -> list[np.ndarray]:
    return _drawn(base, lora, settings | {"batch_size": None}, device)


def _drawn(base: dict, lora: Path, sample: dict, device: torch.device) -> list[np.ndarray]:
    return [
        np.asarray(image)
        for _, image in draw_pictures(load_pipeline(base, lora, device, SAMPLER), CELLS, sample, (SIDE, SIDE))
    ]


def random_lora(file: Path, base: dict, seed: int) -> Path:
    """A LoRA of the U-Net's attention and feed-forward layers that changes what is drawn."""
    unet, generator = base_model.load_part(base, "unet"), torch.Generator().manual_seed(seed)
    tensors = {}
    for module in unet_modules(unet.config):
        weight = unet.get_submodule(module.path).weight
        down = torch.randn(RANK, *weight.shape[1:], generator=generator)
        up = 0.02 * torch.randn(weight.shape[0], RANK, *[1] * (weight.dim() - 2), generator=generator)
        tensors |= {f"{module.key}.lora_down.weight": down, f"{module.key}.lora_up.weight": up}
        tensors[f"{module.key}.alpha"] = torch.tensor(float(RANK))
    file.write_bytes(lora_bytes(tensors, "fp16"))
    return file


def check_same(pictures: dict[str, np.ndarray], device: torch.device) -> None:
    """End this program with a message if the variants drew different pictures."""
    apart = max(np.abs(pictures["plain"] - other).max() for other in pictures.values())
    if apart > SAME[device.type]:
        raise SystemExit(f"the variants' pictures differ by {apart} levels of 255, so their times are no comparison")


def show(seconds: dict[str, Sequence[float]], busy: dict[str, Sequence[float]], device: torch.device) -> None:
    """Print the table. On a CPU the ratio is that of the CPU seconds `busy`, which other processes hardly change."""
    loras, base = len(seconds["plain"]), BASE.relative_to(ROOT)
    print(f"{hardware()}, {torch.get_num_threads()} threads, {device.type}; base model: {base}, {SIDE} px")
    print(
        f"{loras} LoRAs x {len(WEIGHTS)} weights x {len(PROMPTS)} prompts x {len(SEEDS)} seeds; median of the LoRAs\n"
    )
    print("variant        s per LoRA  pictures/s  over plain  CPU s  over plain")
    medians = {name: [float(np.median(times[name])) for times in (seconds, busy)] for name in seconds}
    for name, (wall, cpu) in medians.items():
        over, over_cpu = (medians["plain"][i] / medians[name][i] for i in range(2))
        print(f"{name:14} {wall:10.2f} {len(CELLS) / wall:11.2f} {over:11.2f} {cpu:6.2f} {over_cpu:11.2f}")
    judged = 1 if device.type == "cpu" else 0
    print(f"\nratio: {medians['plain'][judged] / medians['likeness'][judged]:.2f}")


if __name__ == "__main__":
    main()
