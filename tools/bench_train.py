"""Compare the trainer with a plain diffusers + peft loop: steps per second, time to the first step, peak memory.

    python tools/bench_train.py [--bases demo sd15] [--turns 4]

demo is the demonstration's base model with the settings of config.yaml. sd15 is Stable Diffusion 1.5 in full size with
random weights, which do not change the speed. The variants train the same LoRA (layers, rank, alpha, precision, batch):

    plain          a loop like diffusers' examples/text_to_image/train_text_to_image_lora.py
    plain, cached  the same loop with latents and text states computed once, before the first step
    likeness       likeness.training.loop.train
    compiled       the same with train.compile (CUDA graphs)
    deterministic  the same with train.deterministic

Each variant is a process of its own. They take turns of some steps, so that other programs slow all of them down alike.
The time of a step is the median over the turns; the first turn is a warm-up and does not count. With a GPU all variants
run on it, also at batch size 8. The last two run only on a GPU: on a CPU compilation takes minutes, and all variants
are deterministic. The FLOPs of a step are counted for the plain loop's U-Net with its LoRA, forward and backward, and
compared with the rate of the fastest large matrix product of the same precision.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from bench_task import CAPTION, IMAGES, TASKS, Finished, Task, Turns  # noqa: E402

# Modules that import bitsandbytes (peft, parts of diffusers) are imported after `redirect`, because it prints a notice.
from likeness.core.devices import torch_device  # noqa: E402
from likeness.core.pinned_models import CLIP_VOCABULARY, fetch_models, model_path  # noqa: E402
from likeness.models.base_model import load_manifest, manifest  # noqa: E402
from likeness.models.families import SD15  # noqa: E402
from likeness.models.lora_file import DTYPES  # noqa: E402
from likeness.training import adapters, loop, store  # noqa: E402
from plain_training import lora_config, plain, plain_cached  # noqa: E402
from random_base import save_random  # noqa: E402

MODELS = ROOT / "results/models"
MATRICES = {"cpu": (2048, 4096), "cuda": (4096, 8192, 16384)}  # sides; GPUs reach their full rate only with large ones


class Measured(NamedTuple):
    """The results of a variant: seconds per step, seconds to the end of the first step, peak memory in bytes, number of
    trained parameters."""

    seconds: float
    first: float
    memory: int
    trained: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=["demo", "sd15"], default=["demo", "sd15"])
    parser.add_argument("--turns", type=int, default=4, help="measured turns of each variant")
    args = parser.parse_args()
    from bench_faces import hardware  # not at the top: a measured process would import the detector

    fetch_models(MODELS)
    kind, name, rates = in_process(machine)
    print(f"{hardware()}{', ' + name if kind == 'cuda' else ''}")
    ratios = {}
    with tempfile.TemporaryDirectory() as temporary:
        for task in (task for task in TASKS[kind] if task.base in args.bases):
            folder = Path(temporary) / task.base
            if not folder.is_dir():
                in_process(make_base, task, folder)
            measured = measure(task, folder, args.turns, Path(temporary))
            show(task, measured, in_process(flops, task, folder), rates[task.precision])
            ratios[task.base, task.batch] = measured["plain"].seconds / measured["likeness"].seconds
    print(f"\nratio: {ratios.get(('sd15', 1)) or next(iter(ratios.values())):.2f}")


def show(task: Task, measured: dict[str, Measured], count: float, rate: float) -> None:
    print(f"\n{task.base}: {task.resolution} px, batch {task.batch}, rank {task.rank}, {task.precision}; ", end="")
    print(f"{count / 1e12:.3g} TFLOP per step, measured matrix products {rate / 1e12:.3g} TFLOP/s\n")
    print("variant        steps/s  over plain  first step s  peak GB  share of the measured rate")
    for name, one in measured.items():
        over = measured["plain"].seconds / one.seconds
        share = count / one.seconds / rate
        print(
            f"{name:14} {1 / one.seconds:7.3f} {over:11.2f} {one.first:13.1f} {one.memory / 1e9:8.2f} {share:27.1%}",
            flush=True,
        )


# --- processes -----------------------------------------------------------------------------------------------------


def in_process(function, *arguments):
    """The result of a function that runs in a process of its own, so that its memory is counted alone."""
    with ProcessPoolExecutor(1, get_context("spawn"), redirect, (os.devnull,)) as pool:
        return pool.submit(function, *arguments).result()


def measure(task: Task, folder: Path, turns: int, logs: Path) -> dict[str, Measured]:
    """The results of all variants. The processes run to their first step one after the other; then they take turns."""
    variants = {"plain": plain, "plain, cached": plain_cached, "likeness": ours}
    if torch.cuda.is_available():
        variants["compiled"] = partial(ours, compile=True)
        variants["deterministic"] = partial(ours, deterministic=True)
    context, ends, processes, firsts = get_context("spawn"), {}, [], {}
    for name, variant in variants.items():
        here, there = context.Pipe()
        log = logs / f"{name}.log"
        process = context.Process(target=child, args=(variant, task, folder, there, log, time.monotonic()))
        process.start()
        there.close()
        ends[name] = here, log
        processes.append(process)
        firsts[name] = answer(here, log)
    answers = {name: [] for name in variants}
    for _ in range(1 + turns):
        for name, (end, log) in ends.items():
            end.send(True)
            answers[name].append(answer(end, log))
    for end, _ in ends.values():
        end.send(False)
    for process in processes:
        process.join()
    trained = {trained for *_, trained in firsts.values()}
    if len(trained) > 1:
        sys.exit(f"the variants do not train the same: {firsts}")
    return {
        name: Measured(statistics.median(s for s, *_ in results[1:]) / task.turn, firsts[name][0], *results[-1][1:])
        for name, results in answers.items()
    }


def answer(end: Connection, log: Path) -> tuple[float, int, int]:
    """The report of a variant after its turn. If the variant failed, end this program."""
    try:
        return end.recv()
    except EOFError:
        sys.exit(f"{log.stem} failed:\n{log.read_text()}")


def child(variant, task: Task, folder: Path, end: Connection, log: Path, began: float) -> None:
    """Run one variant, with its output in a file."""
    redirect(log)
    device = torch_device()
    try:
        variant(task, folder, device, Turns(end, device, task.turn, began))
    except Finished:
        end.close()


def redirect(output: Path | str) -> None:
    """Redirect the output of this process to a file, because the libraries print progress bars and notices."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


# --- the variants --------------------------------------------------------------------------------------------------


def ours(task: Task, folder: Path, device, turns: Turns, **more) -> None:
    """The project's trainer on random latents in the layout of cache_latents."""

    def step(course, _number: int) -> None:
        turns.step()

    def networks(*arguments):
        made = keep(*arguments)
        turns.trained = sum(parameter.numel() for network in made.values() for parameter in network.parameters())
        return made

    keep, adapters.networks = adapters.networks, networks
    loop.Course.step = step
    store.SaveClock.SECONDS = math.inf  # the plain loop saves no state either; store.py has the cost of saving
    side, base = task.resolution // 8, load_manifest(folder / "base.json")
    config = unet_config(folder)
    shape, width = (config["in_channels"], side, side), config["cross_attention_dim"]
    items = [
        {
            "name": f"{number:02d}",
            "sha256": f"{number}",
            "caption": CAPTION,
            "caption_sha256": hashlib.sha256(CAPTION.encode()).hexdigest(),
            "size": [task.resolution] * 2,
        }
        for number in range(IMAGES)
    ]
    words = {"tokens": [torch.zeros(1, 77, dtype=torch.int64)], "hidden": [torch.randn(77, width)]}
    latents = {
        "images": {
            "mean": [torch.randn(shape) for _ in items],
            "std": [torch.full(shape, 0.1) for _ in items],
            **{name: tensors * IMAGES for name, tensors in words.items()},
        },
        "heldout": {"mean": [], "std": [], "tokens": [], "hidden": []},
        "regularisation": {},
        "empty": words,
        "bare_class": words,
    }
    dataset = {"resolution": task.resolution, "images": items, "heldout": [], "regularisation": []}
    settings = task.settings(**more)
    with tempfile.TemporaryDirectory() as temporary:
        loop.train(settings, dataset, latents, base, store.RunStore(Path(temporary)), device, lambda rows: None)


# --- models and photos ---------------------------------------------------------------------------------------------


def make_base(task: Task, folder: Path) -> None:
    """Write a base model as a diffusers folder, its base.json, and photos of its size."""
    if task.base == "demo":
        shutil.copytree(ROOT / "resources/base", folder)
    else:
        # In the precision of the training here.
        save_random(SD15, model_path(MODELS, CLIP_VOCABULARY), folder, torch.bfloat16)
    (folder / "base.json").write_text(json.dumps(manifest(task.base, folder, folder)))
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        coarse = generator.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(coarse).resize([task.resolution] * 2).save(folder / f"photos/{number}.png")


def unet_config(folder: Path) -> dict:
    """The weights of a base model's U-Net."""
    return json.loads((folder / "unet/config.json").read_text())


def flops(task: Task, folder: Path) -> int:
    """The floating-point operations of a step, forward and backward, counted without computing them.

    Attention counts with its matrix products, without those that a flash kernel repeats in the backward pass.
    """
    from diffusers import UNet2DConditionModel

    side = task.resolution // 8
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(unet_config(folder))
        unet.requires_grad_(False).add_adapter(lora_config(unet.config, task))
        noisy = torch.zeros(task.batch, unet.config.in_channels, side, side)
        times = torch.zeros(task.batch, dtype=torch.int64)
        hidden = torch.zeros(task.batch, 77, unet.config.cross_attention_dim)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            unet(noisy, times, hidden).sample.sum().backward()
    return counter.get_total_flops()


def machine() -> tuple[str, str, dict[str, float]]:
    """The kind and name of the device, and by precision the FLOP/s of its fastest square matrix product."""
    device = torch_device()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    rates = {}
    for precision in ("fp32", "bf16"):
        found = []
        for side in MATRICES[device.type]:
            a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
            for _ in range(5):
                wait()
                began = time.perf_counter()
                a @ b
                wait()
                found.append(2 * side**3 / (time.perf_counter() - began))
        rates[precision] = max(found)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return device.type, name, rates


if __name__ == "__main__":
    main()
