"""Optimizers and learning-rate schedules, made from the training settings."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from likeness.core import imports
from likeness.core.errors import LikenessError
from likeness.training.optimizer_table import OPTIMIZERS, has_relative_step
from likeness.training.settings import Settings


def optimizer(settings: Settings, parameters: Mapping[str, list[torch.nn.Parameter]]) -> torch.optim.Optimizer:
    """The torch optimizer for `parameters`, with one parameter group and learning rate per name: "unet", and
    "text_encoder" if it is trained. With LoRA+ also "unet up" and "text_encoder up", the second matrices (Hayou et al.
    2024, arXiv:2402.12354).

    Raises LikenessError if the optimizer's package cannot be imported, or if it refuses the value of an argument.
    """
    name = settings.optimizer
    kind = OPTIMIZERS[name]
    groups = [{"params": params, "lr": _learning_rate(settings, group)} for group, params in parameters.items()]
    arguments = {**kind.defaults, **settings.optimizer_args}
    if name == "AdamW":
        # fused passes over the numbers once. On a CPU it is 2.3 times as fast as foreach, with less memory
        # (docs/training.md).
        arguments["fused"] = True
    if has_relative_step(name, settings.optimizer_args):
        groups = [{"params": group["params"]} for group in groups]
        arguments["lr"] = None
    for key in ("betas", "eps"):
        if isinstance(arguments.get(key), list):
            arguments[key] = tuple(arguments[key])
    imports.show(kind.module.partition(".")[0])
    try:
        instance = getattr(importlib.import_module(kind.module), kind.name)(groups, **arguments)
    except ImportError as error:
        package = kind.module.partition(".")[0]
        raise LikenessError(
            f"optimizer {name} needs the package {package}, which cannot be imported ({error}); run: make env"
        ) from None
    except (ValueError, TypeError, AssertionError) as error:
        raise LikenessError(f"optimizer_args: {name} refuses them ({error})") from None
    if has_relative_step(name, settings.optimizer_args):
        for group in instance.param_groups:
            group["lr"] = 0.0  # Adafactor ignores it, but torch's schedules need a number
    return instance


def _learning_rate(settings: Settings, group: str) -> float:
    """The learning rate of a parameter group, by its name."""
    network, _, up = group.partition(" ")
    rate = settings.learning_rate if network == "unet" else settings.text_encoder_lr
    return rate * settings.loraplus_lr_ratio if up else rate


def lr_scheduler(settings: Settings, optimizer: torch.optim.Optimizer, total: int) -> LRScheduler:
    """The learning-rate schedule over `total` optimisation steps, made by diffusers."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=total,
        num_cycles=settings.lr_scheduler_num_cycles,
        power=settings.lr_scheduler_power,
    )


def rates(optimizer: torch.optim.Optimizer) -> list[float | torch.Tensor]:
    """The step size of each parameter group at the next step. For an adaptive optimizer it is the learning rate times
    its current estimate. Each is a float or a tensor () on the device, which is not read here, so that Python does not
    wait for the device."""
    return [
        _relative_rate(optimizer, group)
        if group.get("relative_step")
        else float(group["lr"]) * float(group.get("d", 1.0))
        for group in optimizer.param_groups
    ]


def _relative_rate(optimizer: Any, group: Mapping[str, Any]) -> float | torch.Tensor:
    """The largest step size that Adafactor uses in a group. It depends on the number of steps and on the parameter's
    RMS."""
    states = [optimizer.state[parameter] for parameter in group["params"] if parameter in optimizer.state]
    if not states:
        return 0.0
    # All parameters have the same number of steps, so the first state stands for all.
    by_steps = optimizer._get_lr({**group, "scale_parameter": False}, states[0])
    if not group["scale_parameter"]:
        return by_steps
    return torch.stack([state["RMS"] for state in states]).max().clamp(min=group["eps"][1]) * by_steps
