"""The pictures and the training loop of both parts of the base model. A stopped training can be resumed."""

import csv
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.core.devices import is_emulated  # noqa: E402

SIDE = 128  # px, of the base model's pictures
ZOOM = 0.9  # the least share of a picture's side that is shown, because crops of photos differ in tightness
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

SAVE_EVERY = 200  # steps; two to four minutes on two cores
WARM_UP = 200  # steps
FALL = 0.2  # share of the steps, at the end, in which the learning rate falls to 0, to reduce the noise of the weights
CLIP = 1.0  # largest norm of the gradients


def trained(
    model: torch.nn.Module,
    parameters: Iterable[torch.nn.Parameter],
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    learning_rate: float,
    ema_decay: float,
    state: Path,
) -> torch.nn.Module:
    """The model's moving average after `steps` steps of AdamW at a rate that is constant, then falls.

    `loss_of(step)` computes the loss of a step, with random numbers seeded by the step. So a training that is resumed
    from the file `state` ends like one that was never stopped. A table beside it has the mean loss between two saves.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
    done = 0
    if state.exists():
        saved = torch.load(state, map_location=DEVICE, weights_only=True)
        done = saved["step"]
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
    losses = []
    bar = tqdm(range(done, steps), initial=done, total=steps, unit="step")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / WARM_UP, (steps - step) / (FALL * steps))
        with half_precision():
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            mean = sum(losses) / len(losses)
            bar.set_postfix(loss=f"{mean:.4f}")
            _save(
                state,
                {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )
            with open(state.with_suffix(".tsv"), "a", newline="") as file:
                csv.writer(file, delimiter="\t").writerow([step + 1, f"{mean:.5f}"])
            losses.clear()
    return average.module


def half_precision() -> torch.autocast:
    """Autocast to bf16 if the processor has instructions for it. It is then 1.4 to 1.7 times as fast as fp32, otherwise
    much slower."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=not is_emulated("bf16", DEVICE))


def picture(face: Path, top: float = 0, left: float = 0, side: float = 1, mirrored: bool = False) -> torch.Tensor:
    """A square part of a drawn face, float32 (3, SIDE, SIDE), -1 to 1. `top`, `left` and `side` are shares of its
    side."""
    image = cv2.imread(str(face))[:, :, ::-1]
    top, left, side = (round(value * len(image)) for value in (top, left, side))
    part = image[top : top + side, left : left + side]
    part = np.ascontiguousarray(part[:, ::-1] if mirrored else part)
    small = cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small).permute(2, 0, 1).float() / 127.5 - 1


def _save(path: Path, content: dict) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)
