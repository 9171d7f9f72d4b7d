"""Measure the trainer beside a plain diffusers + peft loop: steps per second, time to the first step, peak memory.

    python tools/bench_train.py [--bases demo sd15] [--turns 4]

demo is the demonstration's base as config.yaml trains it; sd15 is Stable Diffusion 1.5 in full size with random
weights: speed does not depend on them. The variants train the same LoRA (layers, rank, alpha, precision, batch):

    plain          a loop like diffusers' examples/text_to_image/train_text_to_image_lora.py
    plain, cached  the same loop with latents and text states computed once, before the first step
    likeness       likeness.training.loop.train
    compiled       the same with train.compile (CUDA graphs)
    deterministic  the same with train.deterministic

Each is a process of its own, and they take turns of some steps, so that what else the machine does slows all of them
down alike. A step's time is the median over the turns; the first turn warms up and does not count. With a GPU all of it
runs there, also at batch 8, and the last two only there: on a CPU compiling takes minutes, and all is deterministic
anyway. The FLOPs of a step are counted on the plain loop's U-Net with its LoRA, forward and backward, and compared with
the rate of the fastest large matrix product of the same precision.
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
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from PIL import Image
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

# What brings bitsandbytes (peft, parts of diffusers) is imported after `redirect`, because it prints a notice.
from likeness.base_model import load_manifest, load_part, manifest  # noqa: E402
from likeness.config import Train  # noqa: E402
from likeness.devices import is_emulated, peak_memory, torch_device  # noqa: E402
from likeness.families import SD15  # noqa: E402
from likeness.lora_file import DTYPES, unet_modules  # noqa: E402
from likeness.models import CLIP_VOCABULARY, fetch_models, model_path  # noqa: E402
from likeness.single_file import write_config  # noqa: E402
from likeness.training import adapters, loop, store  # noqa: E402

MODELS = ROOT / "results/models"
IMAGES = 8
CAPTION = "photo of ohwx woman, smiling, dark background"
MATRICES = {"cpu": (2048, 4096), "cuda": (4096, 8192, 16384)}  # sides; GPUs reach their rate with the large ones only


class Task(NamedTuple):
    """What all variants train. `turn` is how many steps are taken at a time."""

    base: str
    resolution: int
    batch: int
    rank: int
    precision: str
    turn: int

    def settings(self, **more) -> dict:
        """As train_lora hands them over; AdamW at a constant rate, and an end that is never reached."""
        changes = {"rank": self.rank, "alpha": self.rank / 2, "batch_size": self.batch, "precision": self.precision}
        train = Train(**changes, max_train_steps=100_000, epochs=1, lr_scheduler="constant", preserve_class=0.0, **more)
        return train.with_schedule() | {"clip_skip": 1}


# What is fast on this CPU.
CPU_PRECISION = "fp32" if is_emulated("bf16", torch.device("cpu")) else "bf16"
TASKS = {
    # A CPU's step takes seconds with the large base, so one at a time is enough to be measured.
    "cpu": [Task("demo", 128, 4, 16, "fp32", 10), Task("sd15", 512, 1, 128, CPU_PRECISION, 1)],
    "cuda": [
        Task("demo", 128, 4, 16, "fp32", 50),
        Task("sd15", 512, 1, 128, "bf16", 50),
        Task("sd15", 512, 8, 128, "bf16", 20),
    ],
}


class Measured(NamedTuple):
    """Of one variant: seconds per step, seconds to the end of the first step, peak memory in bytes, trained numbers."""

    seconds: float
    first: float
    memory: int
    trained: int


class Finished(Exception):
    """No more turns are wanted."""


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
    """The answer of a function that runs in a process of its own, so that its memory is not counted with others'."""
    with ProcessPoolExecutor(1, get_context("spawn"), redirect, (os.devnull,)) as pool:
        return pool.submit(function, *arguments).result()


def measure(task: Task, folder: Path, turns: int, logs: Path) -> dict[str, Measured]:
    """Every variant's numbers. One process after the other gets to its first step; then they take turns."""
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
        name: Measured(statistics.median(s for s, *_ in found[1:]) / task.turn, firsts[name][0], *found[-1][1:])
        for name, found in answers.items()
    }


def answer(end: Connection, log: Path) -> tuple[float, int, int]:
    """What a variant says after its turn; ends this program if the variant failed."""
    try:
        return end.recv()
    except EOFError:
        sys.exit(f"{log.stem} failed:\n{log.read_text()}")


def child(variant, task: Task, folder: Path, end: Connection, log: Path, began: float) -> None:
    """Run one variant; what it prints goes to a file."""
    redirect(log)
    device = torch_device()
    try:
        variant(task, folder, device, Turns(end, device, task.turn, began))
    except Finished:
        end.close()


def redirect(output: Path | str) -> None:
    """Let a file have what this process prints: libraries' bars and notices would stand among the tables."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)


class Turns:
    """Called after every step. At the end of the first step and of each turn it reports seconds, peak memory and how
    many numbers are trained, and waits until it is this process's turn again."""

    def __init__(self, end: Connection, device, turn: int, began: float):
        self._end, self._device, self._turn, self._began, self._steps = end, device, turn, began, 0
        self.trained = 0

    def step(self) -> None:
        self._steps += 1
        if (self._steps - 1) % self._turn:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._end.send((time.monotonic() - self._began, peak_memory(self._device), self.trained))
        if not self._end.recv():
            raise Finished
        self._began = time.monotonic()


# --- the variants --------------------------------------------------------------------------------------------------


def ours(task: Task, folder: Path, device, turns: Turns, **more) -> None:
    """The project's trainer on made-up latents, as cache_latents would have left them."""

    def step(course, _number: int) -> None:
        turns.step()

    def networks(*arguments):
        made = keep(*arguments)
        turns.trained = sum(parameter.numel() for network in made.values() for parameter in network.parameters())
        return made

    keep, adapters.networks = adapters.networks, networks
    loop.Course.step = step
    store.SaveClock.SECONDS = math.inf  # the plain loop saves nothing meanwhile; its cost is told in store.py
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


def plain(task: Task, folder: Path, device, turns: Turns) -> None:
    """Photos are decoded, encoded and their captions read at every step, as the example does it."""
    plain_loop(task, folder, device, turns, cached=False)


def plain_cached(task: Task, folder: Path, device, turns: Turns) -> None:
    plain_loop(task, folder, device, turns, cached=True)


def plain_loop(task: Task, folder: Path, device, turns: Turns, cached: bool) -> None:
    """The example's loop. One difference: the LoRA is fp32 in bf16 too, as ours is; the example keeps it in bf16."""
    from diffusers.training_utils import cast_training_params

    settings, dtype = task.settings(), DTYPES[task.precision]
    base = load_manifest(folder / "base.json")
    accelerator = Accelerator(
        mixed_precision="no" if task.precision == "fp32" else task.precision, cpu=device.type == "cpu"
    )
    noise_scheduler = load_part(base, "scheduler")
    text_encoder, vae, unet = (load_part(base, part).to(device, dtype) for part in ("text_encoder", "vae", "unet"))
    unet.add_adapter(lora_config(unet.config, task))
    if task.precision != "fp32":
        cast_training_params(unet, dtype=torch.float32)
    parameters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    turns.trained = sum(parameter.numel() for parameter in parameters)
    optimizer = torch.optim.AdamW(parameters, lr=settings["learning_rate"], weight_decay=1e-2)
    lr_scheduler = get_scheduler("constant", optimizer)

    def latents(pixels: torch.Tensor) -> torch.Tensor:
        return vae.encode(pixels.to(dtype)).latent_dist.sample() * vae.config.scaling_factor

    data = Photos(folder / "photos", load_part(base, "tokenizer"))
    if cached:
        with torch.no_grad():
            data = [
                {
                    "latents": latents(item["pixels"][None].to(device))[0],
                    "hidden": text_encoder(item["tokens"][None].to(device))[0][0],
                }
                for item in data
            ]
        del vae, text_encoder
    loader = torch.utils.data.DataLoader(data, batch_size=task.batch, shuffle=True)
    unet, optimizer, loader, lr_scheduler = accelerator.prepare(unet, optimizer, loader, lr_scheduler)
    unet.train()
    bar = tqdm(total=settings["max_train_steps"], desc="Steps")
    while True:
        for batch in loader:
            with accelerator.accumulate(unet):
                clean = batch["latents"] if cached else latents(batch["pixels"])
                noise = torch.randn_like(clean)
                times = torch.randint(0, noise_scheduler.config.num_train_timesteps, clean.shape[:1], device=device)
                noisy = noise_scheduler.add_noise(clean, noise, times)
                hidden = batch["hidden"] if cached else text_encoder(batch["tokens"], return_dict=False)[0]
                predicted = unet(noisy, times, hidden, return_dict=False)[0]
                loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
                train_loss = accelerator.gather(loss.repeat(task.batch)).mean().item()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            bar.update(1)
            accelerator.log({"train_loss": train_loss})  # to no tracker
            bar.set_postfix(step_loss=loss.detach().item(), lr=lr_scheduler.get_last_lr()[0])
            turns.step()


class Photos(torch.utils.data.Dataset):
    """Opens a photo each time it is asked for: pixels fp32 (3, h, w) in -1 to 1, tokens int64 (77,)."""

    def __init__(self, folder: Path, tokenizer):
        self._paths, self._tokenizer = sorted(folder.glob("*.png")), tokenizer

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        with Image.open(self._paths[number]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return {"pixels": pixels, "tokens": self._tokenizer(CAPTION, **options).input_ids[0]}


def lora_config(unet_config, task: Task):
    """On the layers that the trainer takes."""
    from peft import LoraConfig

    targets = [module.path for module in unet_modules(unet_config)]
    alpha = task.settings()["alpha"]
    return LoraConfig(r=task.rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=targets)


# --- what they run on ----------------------------------------------------------------------------------------------


def make_base(task: Task, folder: Path) -> None:
    """A base model as a diffusers folder, its base.json, and photos of its size."""
    if task.base == "demo":
        shutil.copytree(ROOT / "resources/base", folder)
    else:
        save_random(model_path(MODELS, CLIP_VOCABULARY), folder)
    (folder / "base.json").write_text(json.dumps(manifest(task.base, folder, folder)))
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(IMAGES):
        coarse = generator.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(coarse).resize([task.resolution] * 2).save(folder / f"photos/{number}.png")


def unet_config(folder: Path) -> dict:
    """The numbers of a base model's U-Net."""
    return json.loads((folder / "unet/config.json").read_text())


def save_random(vocabulary: Path, folder: Path) -> None:
    """Stable Diffusion 1.5 with random weights in bf16, the precision it is trained in here."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    write_config(SD15, folder, vocabulary)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(dict(SD15.config[part])).to(torch.bfloat16).save_pretrained(folder / part)
    CLIPTextModel(CLIPTextConfig(**SD15.config["text_encoder"])).bfloat16().save_pretrained(folder / "text_encoder")


def flops(task: Task, folder: Path) -> int:
    """Floating-point operations of one step, forward and backward, counted without computing anything.

    Attention is counted as its matrix products: the ones that a flash kernel does again in the backward pass are no
    part of the model.
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
    """The device's kind and name, and by precision the FLOP/s of its fastest square matrix product."""
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
