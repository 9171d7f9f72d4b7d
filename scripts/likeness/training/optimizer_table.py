"""The table of optimizers and their arguments. The names are those of kohya's trainer. This module imports no optimizer
library, because the check of the configuration uses the table."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """An optimizer: its module and class, its arguments besides the learning rate, and our defaults for them."""

    module: str
    name: str
    arguments: frozenset[str]
    defaults: Mapping[str, Any]
    adaptive: bool = False
    """True if the optimizer finds the step size itself. The learning rate is then a factor; its authors advise 1."""


class Values(NamedTuple):
    """The values that an argument may have: a description and a test."""

    expected: str
    fit: Callable[[object], bool]


def _numbers(low: float, high: float, *more: tuple[float, float]) -> Values:
    """A number from `low` to `high`. With further ranges `more`: a list with one number per range."""
    limits = [(low, high), *more]

    def fit(value: object) -> bool:
        numbers = value if more else [value]
        return isinstance(numbers, list) and len(numbers) == len(limits) and all(map(_is_between, numbers, limits))

    ranges = ", ".join(f"{a:g} to {b:g}" for a, b in limits)
    return Values(f"a list of {len(limits)} numbers, of {ranges}" if more else f"a number of {ranges}", fit)


def _is_between(value: object, limits: tuple[float, float]) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and limits[0] <= value <= limits[1]


_SWITCH = Values("true or false", lambda value: isinstance(value, bool))
_DECAY = (0, 0.999999)  # the share that a moving average keeps at each step; at 1 it would never change
# With values outside these ranges an optimizer raises an error, makes numbers that are not finite, or makes no step.
ARGUMENTS = {
    "betas": _numbers(*_DECAY, _DECAY),
    "beta1": _numbers(*_DECAY),
    "beta3": _numbers(*_DECAY),
    "eps": _numbers(1e-30, 0.1),  # fp32's smallest number is 1e-38; an eps of 0 could divide 0 by 0
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
# Adafactor's eps has two numbers: the eps of the squared gradients, and the least scale of a parameter, which is used
# for a matrix of zeros.
ADAFACTOR_EPS = _numbers(1e-30, 0.1, (1e-6, 1))


_ADAM = frozenset({"betas", "eps", "weight_decay"})
OPTIMIZERS = {
    # Loshchilov & Hutter 2019, arXiv:1711.05101
    "AdamW": Kind("torch.optim", "AdamW", _ADAM, {"weight_decay": 0.01}),
    # Dettmers et al. 2022, arXiv:2110.02861
    "AdamW8bit": Kind("bitsandbytes.optim", "AdamW8bit", _ADAM, {"weight_decay": 0.01}),
    # Shazeer & Stern 2018, arXiv:1804.04235. relative_step is on by default, as in kohya's trainer.
    "Adafactor": Kind(
        "transformers.optimization",
        "Adafactor",
        frozenset(
            {"relative_step", "scale_parameter", "warmup_init", "clip_threshold", "decay_rate", "beta1", "eps"}
            | {"weight_decay"}
        ),
        {"relative_step": True},
    ),
    # Defazio & Mishchenko 2023, arXiv:2301.07733. With decoupled decay it corresponds to AdamW.
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
# The learning rates that an adaptive optimizer accepts. AdamW's usual 1e-4 would make it ten thousand times slower,
# without an error. Guides recommend 1, some 0.5 for faces.
ADAPTIVE_RATES = (0.5, 2.0)


def endless_warm_up(warm_up: int, total: int | None) -> list[str]:
    """A list with an error message if the warm-up takes all `total` steps of a training. Empty otherwise, and if
    `total` is not known yet."""
    if total is None or warm_up < total:
        return []
    return [
        f"lr_warmup_steps: {warm_up} of {total} steps, so the full rate is never reached; a tenth of the steps is much"
    ]


def has_relative_step(optimizer: str, arguments: Mapping[str, Any]) -> bool:
    """True for Adafactor with relative_step: it finds the step sizes itself and ignores the learning rate."""
    return bool({**OPTIMIZERS[optimizer].defaults, **arguments}.get("relative_step"))
