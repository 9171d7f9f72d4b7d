"""Optimizers and learning-rate schedules, by the names and arguments that kohya's users know.

Nothing heavy is imported until an optimizer is made: config.py reads the table to check `optimizer_args`.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from likeness import imports
from likeness.errors import LikenessError


class Kind(NamedTuple):
    """Where an optimizer lives, which arguments it takes beside the learning rate, and our defaults for them."""

    module: str
    name: str
    arguments: frozenset[str]
    defaults: Mapping
    adaptive: bool = False
    """It finds the step size itself; the learning rate is a factor on it, 1 as its authors say."""


class Values(NamedTuple):
    """What an argument may be, in words and as a test."""

    expected: str
    fit: Callable[[object], bool]


def _numbers(low: float, high: float, *more: tuple[float, float]) -> Values:
    """A number from `low` to `high`; with `more` ends, a list of as many numbers."""
    ends = [(low, high), *more]

    def fit(value: object) -> bool:
        found = value if more else [value]
        return isinstance(found, list) and len(found) == len(ends) and all(map(_is_between, found, ends))

    ranges = ", ".join(f"{a:g} to {b:g}" for a, b in ends)
    return Values(f"a list of {len(ends)} numbers, of {ranges}" if more else f"a number of {ranges}", fit)


def _is_between(value: object, ends: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and ends[0] <= value <= ends[1]


_SWITCH = Values("true or false", lambda value: isinstance(value, bool))
_MEMORY = (0, 0.999999)  # the share of an average that it keeps at each step; at 1 it would never change
# Beyond these an optimizer raises an error, makes numbers that are not finite, or no step at all.
ARGUMENTS = {
    "betas": _numbers(*_MEMORY, _MEMORY),
    "beta1": _numbers(*_MEMORY),
    "beta3": _numbers(*_MEMORY),
    "eps": _numbers(1e-30, 0.1),  # 1e-38 is the smallest number of fp32, and 0 divided by 0 is none
    "weight_decay": _numbers(0, 10),
    "clip_threshold": _numbers(0.01, 1000),
    "decay_rate": _numbers(-1, -0.01),
    "d0": _numbers(1e-12, 1),
    "d_coef": _numbers(0.01, 100),
    "growth_rate": _numbers(1.0001, 1e6),
    "slice_p": Values("a whole number of 1 to 1000", lambda value: type(value) is int and 1 <= value <= 1000),
    **dict.fromkeys(("decouple", "decoupled_weight_decay", "relative_step", "safeguard_warmup"), _SWITCH),
    **dict.fromkeys(("scale_parameter", "use_bias_correction", "warmup_init"), _SWITCH),
}
# Of the squares of gradients, and of a matrix that is still 0, by which its steps are measured.
ADAFACTOR_EPS = _numbers(1e-30, 0.1, (1e-6, 1))


_ADAM = frozenset({"betas", "eps", "weight_decay"})
OPTIMIZERS = {
    # Loshchilov & Hutter 2019, arXiv:1711.05101
    "AdamW": Kind("torch.optim", "AdamW", _ADAM, {"weight_decay": 0.01}),
    # Dettmers et al. 2022, arXiv:2110.02861
    "AdamW8bit": Kind("bitsandbytes.optim", "AdamW8bit", _ADAM, {"weight_decay": 0.01}),
    # Shazeer & Stern 2018, arXiv:1804.04235. relative_step as in kohya: on, unless a run turns it off.
    "Adafactor": Kind(
        "transformers.optimization",
        "Adafactor",
        frozenset(
            {"relative_step", "scale_parameter", "warmup_init", "clip_threshold", "decay_rate", "beta1", "eps"}
            | {"weight_decay"}
        ),
        {"relative_step": True},
    ),
    # Defazio & Mishchenko 2023, arXiv:2301.07733. Decoupled decay is what makes it AdamW.
    "DAdaptAdam": Kind(
        "dadaptation",
        "DAdaptAdam",
        _ADAM | {"decouple", "use_bias_correction", "d0", "growth_rate"},
        {"decouple": True},
        adaptive=True,
    ),
    # Mishchenko & Defazio 2024, arXiv:2306.06101
    "Prodigy": Kind(
        "prodigyopt",
        "Prodigy",
        _ADAM
        | {"beta3", "decouple", "use_bias_correction", "safeguard_warmup", "d0", "d_coef", "growth_rate", "slice_p"},
        {"decouple": True},
        adaptive=True,
    ),
    # Chen et al. 2023, arXiv:2302.06675
    "Lion": Kind("lion_pytorch", "Lion", frozenset({"betas", "weight_decay", "decoupled_weight_decay"}), {}),
}
# A learning rate of 1e-4, right for AdamW, would slow an adaptive optimizer down ten thousand times, without an error.
# Guides that do not write 1 write 0.5 for faces.
ADAPTIVE_RATES = (0.5, 2.0)


def problems(train: Mapping) -> list[str]:
    """What is wrong between the optimizer, its arguments, the rates and the schedule: a sentence each, with what to
    write instead. `train` is the section of the configuration."""
    name, arguments = train["optimizer"], train["optimizer_args"]
    kind = OPTIMIZERS[name]
    found = [
        f"optimizer_args.{key}: {name} has no such argument; it takes {', '.join(sorted(kind.arguments))}"
        for key in sorted(set(arguments) - kind.arguments)
    ]
    for key in sorted(set(arguments) & kind.arguments):
        values = ADAFACTOR_EPS if (name, key) == ("Adafactor", "eps") else ARGUMENTS[key]
        if not values.fit(arguments[key]):
            found.append(f"optimizer_args.{key}: found {arguments[key]!r:.200}; expected {values.expected}")
    low, high = ADAPTIVE_RATES
    rates = {"learning_rate": train["learning_rate"]}
    if train["train_text_encoder"]:
        rates["text_encoder_lr"] = train["text_encoder_lr"]
    if kind.adaptive:
        found += [
            f"{key}: {rate:g} with {name}, which finds the step size itself and takes this as a factor on it; "
            f"write {key}: 1"
            for key, rate in rates.items()
            if not low <= rate <= high
        ]
        if len(set(rates.values())) > 1:
            found.append(f"text_encoder_lr: {name} has one step size for all; write the same as learning_rate")
    if train["lr_warmup_steps"] and train["lr_scheduler"] == "constant":
        found.append("lr_warmup_steps: constant has no warm-up; write lr_scheduler: constant_with_warmup")
    found += endless_warm_up(train, train["max_train_steps"])
    if train["loraplus_lr_ratio"] != 1:
        if train["network"] in ("loha", "lokr"):
            found.append(f"loraplus_lr_ratio: network {train['network']} has no second matrix; expected lora or locon")
        if kind.adaptive or has_relative_step(train):
            found.append(f"loraplus_lr_ratio: {name} finds the step sizes itself; expected AdamW, AdamW8bit or Lion")
    if has_relative_step(train) and train["lr_scheduler"] != "constant":
        found.append(
            f"lr_scheduler: {train['lr_scheduler']} with Adafactor's relative_step, which is a schedule itself; write "
            "lr_scheduler: constant, or optimizer_args: {relative_step: false}"
        )
    if arguments.get("warmup_init") and not has_relative_step(train):
        found.append("optimizer_args.warmup_init: needs relative_step: true")
    return found


def endless_warm_up(train: Mapping, total: int | None) -> list[str]:
    """A sentence if the warm-up takes all of a training's `total` steps; none where these are not known yet."""
    if total is None or train["lr_warmup_steps"] < total:
        return []
    return [
        f"lr_warmup_steps: {train['lr_warmup_steps']} of {total} steps, so the full rate is never reached; a tenth of "
        "the steps is much"
    ]


def optimizer(train: Mapping, parameters: Mapping[str, list]):
    """The torch optimizer for `parameters`: a list for "unet", and for "text_encoder" where it is trained, each at its
    own rate; with LoRA+ also for "unet up" and "text_encoder up", the second matrices (Hayou et al. 2024,
    arXiv:2402.12354).

    Raises LikenessError if the package is not installed, or refuses an argument's value.
    """
    name = train["optimizer"]
    kind = OPTIMIZERS[name]
    groups = [{"params": params, "lr": _learning_rate(train, group)} for group, params in parameters.items()]
    arguments = {**kind.defaults, **train["optimizer_args"]}
    if name == "AdamW":
        # One pass over all numbers: measured on a CPU, 2.3 times foreach's speed, in less memory (docs/training.md).
        arguments["fused"] = True
    if has_relative_step(train):
        groups = [{"params": group["params"]} for group in groups]
        arguments["lr"] = None
    for key in ("betas", "eps"):
        if isinstance(arguments.get(key), list):
            arguments[key] = tuple(arguments[key])
    imports.show(kind.module.partition(".")[0])
    try:
        made = getattr(importlib.import_module(kind.module), kind.name)(groups, **arguments)
    except ImportError as error:
        package = kind.module.partition(".")[0]
        raise LikenessError(
            f"optimizer {name} needs the package {package}, which cannot be imported ({error}); run: make env"
        ) from None
    except (ValueError, TypeError, AssertionError) as error:
        raise LikenessError(f"optimizer_args: {name} refuses them ({error})") from None
    if has_relative_step(train):
        for group in made.param_groups:
            group["lr"] = 0.0  # not read, but torch's schedules want a number
    return made


def _learning_rate(train: Mapping, group: str) -> float:
    network, _, up = group.partition(" ")
    rate = train["learning_rate"] if network == "unet" else train["text_encoder_lr"]
    return rate * train["loraplus_lr_ratio"] if up else rate


def lr_scheduler(train: Mapping, optimizer, total: int):
    """The schedule over `total` optimisation steps; diffusers' own functions."""
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        train["lr_scheduler"],
        optimizer,
        num_warmup_steps=train["lr_warmup_steps"],
        num_training_steps=total,
        num_cycles=train["lr_scheduler_num_cycles"],
        power=train["lr_scheduler_power"],
    )


def rates(optimizer) -> list:
    """The step size of each group at the next step: for an adaptive optimizer, with what it has found so far. A float,
    or a tensor () on the device, so that nobody has to wait for it."""
    return [
        _relative_rate(optimizer, group)
        if group.get("relative_step")
        else float(group["lr"]) * float(group.get("d", 1.0))
        for group in optimizer.param_groups
    ]


def _relative_rate(optimizer, group: Mapping):
    """The largest of Adafactor's own step sizes in a group: by the number of steps, and by the parameter's size."""
    import torch

    states = [optimizer.state[parameter] for parameter in group["params"] if parameter in optimizer.state]
    if not states:
        return 0.0
    by_steps = optimizer._get_lr({**group, "scale_parameter": False}, states[0])  # all have taken the same steps
    if not group["scale_parameter"]:
        return by_steps
    return torch.stack([state["RMS"] for state in states]).max().clamp(min=group["eps"][1]) * by_steps


def has_relative_step(train: Mapping) -> bool:
    """Whether Adafactor finds the step sizes itself, and reads no learning rate."""
    kind = OPTIMIZERS[train["optimizer"]]
    return bool({**kind.defaults, **train["optimizer_args"]}.get("relative_step"))
