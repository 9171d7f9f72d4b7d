"""Every optimizer steps as its paper's formulas say, recomputed here in double precision with numpy."""

import math

import numpy as np
import pytest
import torch

from likeness.errors import LikenessError
from likeness.training import optimizers

TRAIN = {
    "optimizer": "AdamW",
    "optimizer_args": {},
    "learning_rate": 1e-2,
    "text_encoder_lr": 1e-2,
    "train_text_encoder": False,
    "lr_scheduler": "constant",
    "lr_scheduler_num_cycles": 3,
    "lr_scheduler_power": 1.0,
    "lr_warmup_steps": 0,
}
STEPS = 30


def train(**changes) -> dict:
    return TRAIN | changes


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 6))


def gradient(x: np.ndarray) -> np.ndarray:
    """Of a bowl that is steeper in some directions, around a point that is not the origin."""
    steepness = np.linspace(0.5, 3, x.size).reshape(x.shape)
    return steepness * (x - 0.3)


def steps_of(settings: dict) -> list[np.ndarray]:
    """The parameter after each step of the optimizer that training uses, in double precision."""
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = optimizers.optimizer(settings, {"unet": [parameter]}, fused=False)
    course = []
    for _ in range(STEPS):
        parameter.grad = torch.from_numpy(gradient(parameter.detach().numpy()))
        optimizer.step()
        course.append(parameter.detach().numpy().copy())
    return course


def assert_same_course(settings: dict, expected: list[np.ndarray]) -> None:
    for step, (found, wanted) in enumerate(zip(steps_of(settings), expected, strict=True)):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-9), f"step {step + 1}"


def test_adamw():
    """Loshchilov & Hutter, algorithm 2."""
    x, m, v, course = start(), 0, 0, []
    lr, b1, b2, eps, decay = 1e-2, 0.9, 0.999, 1e-8, 0.01
    for t in range(1, STEPS + 1):
        g = gradient(x)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
        course.append(x)
    assert_same_course(train(), course)


@pytest.mark.parametrize("scale_parameter", [True, False])
@pytest.mark.parametrize("warmup_init", [True, False])
def test_adafactor_with_relative_steps(scale_parameter, warmup_init):
    """Shazeer & Stern, algorithms 4 and 5: factored second moments, update clipping, relative step size."""
    x, course = start(), []
    row = col = 0
    for t in range(1, STEPS + 1):
        g = gradient(x)
        rho = min(1e-6 * t if warmup_init else 1e-2, 1 / math.sqrt(t))
        alpha = (max(1e-3, rms(x)) if scale_parameter else 1.0) * rho
        beta = 1 - t**-0.8
        squared = g**2 + 1e-30
        row = beta * row + (1 - beta) * squared.mean(axis=1, keepdims=True)
        col = beta * col + (1 - beta) * squared.mean(axis=0, keepdims=True)
        update = g / np.sqrt(row * col / row.mean())
        x = x - alpha * update / max(1, rms(update))
        course.append(x)
    arguments = {"scale_parameter": scale_parameter, "warmup_init": warmup_init}
    assert_same_course(train(optimizer="Adafactor", optimizer_args=arguments), course)


def rms(x: np.ndarray) -> float:
    return math.sqrt((x**2).mean())


def test_lion():
    """Chen et al., program 1."""
    x, m, course = start(), 0, []
    for _ in range(STEPS):
        g = gradient(x)
        x = x * (1 - 1e-2 * 0.1) - 1e-2 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        course.append(x)
    assert_same_course(train(optimizer="Lion", optimizer_args={"weight_decay": 0.1}), course)


def test_dadaptadam():
    """Defazio & Mishchenko, algorithm 5 (D-Adapted Adam), with decoupled decay."""
    x, course = start(), []
    b1, b2, eps, decay, d = 0.9, 0.999, 1e-8, 0.01, 1e-6
    m = v = s = np.zeros_like(x)
    r = 0.0
    for _ in range(STEPS):
        g = gradient(x)
        # The numerator takes the second moment of the step before.
        r = math.sqrt(b2) * r + (1 - math.sqrt(b2)) * d * float((g * s / (np.sqrt(v) + eps)).sum())
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * g**2
        s = math.sqrt(b2) * s + (1 - math.sqrt(b2)) * d * g
        before = d
        size = np.abs(s).sum()
        d = max(d, r / ((1 - math.sqrt(b2)) * size))
        x = x - before * decay * x - m / (np.sqrt(v) + eps)
        course.append(x)
    settings = train(optimizer="DAdaptAdam", learning_rate=1.0, optimizer_args={"weight_decay": decay})
    assert_same_course(settings, course)


def test_prodigy():
    """Mishchenko & Defazio, algorithm 4 (Prodigy with Adam)."""
    x = x0 = start()
    course = []
    b1, b2, eps, d = 0.9, 0.999, 1e-8, 1e-6
    b3 = math.sqrt(b2)
    m = v = s = np.zeros_like(x)
    r = 0.0
    for _ in range(STEPS):
        g = gradient(x)
        r = b3 * r + d / 1e-6 * d * float((g * (x0 - x)).sum())
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g**2
        s = b3 * s + d / 1e-6 * d * g
        before, d = d, max(d, r / np.abs(s).sum())
        x = x - before * m / (np.sqrt(v) + d * eps)
        course.append(x)
    assert_same_course(train(optimizer="Prodigy", learning_rate=1.0), course)


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "DAdaptAdam", "Prodigy", "Lion"])
def test_a_saved_state_goes_on_exactly(name):
    """What a resumed run does: a new optimizer with the saved state takes the very same steps."""
    settings = train(optimizer=name, learning_rate=1.0 if optimizers.OPTIMIZERS[name].adaptive else 1e-2)

    def stepped(parameter, optimizer, schedule, times):
        for _ in range(times):
            parameter.grad = torch.from_numpy(gradient(parameter.detach().numpy()))
            optimizer.step()
            schedule.step()

    def fresh(value):
        parameter = torch.nn.Parameter(value.clone())
        optimizer = optimizers.optimizer(settings, {"unet": [parameter]}, fused=False)
        return parameter, optimizer, optimizers.lr_scheduler(settings, optimizer, STEPS)

    whole = fresh(torch.from_numpy(start()))
    stepped(*whole, STEPS)
    first = fresh(torch.from_numpy(start()))
    stepped(*first, 13)
    second = fresh(first[0].detach())
    if name == "Prodigy":  # its state holds where it began
        assert "p0" in next(iter(first[1].state.values()))
    second[1].load_state_dict(first[1].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    stepped(*second, STEPS - 13)
    assert torch.equal(second[0], whole[0])
    assert optimizers.rates(second[1]) == optimizers.rates(whole[1])


def test_each_network_learns_at_its_own_rate():
    settings = train(train_text_encoder=True, text_encoder_lr=1e-3, lr_scheduler="linear")
    parameters = {name: [torch.nn.Parameter(torch.ones(2))] for name in ("unet", "text_encoder")}
    optimizer = optimizers.optimizer(settings, parameters, fused=False)
    schedule = optimizers.lr_scheduler(settings, optimizer, 10)
    assert optimizers.rates(optimizer) == [1e-2, 1e-3]
    optimizer.step()
    schedule.step()
    assert optimizers.rates(optimizer) == pytest.approx([0.9e-2, 0.9e-3])


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam"])
def test_an_adaptive_optimizer_refuses_adamws_rate(name):
    assert optimizers.problems(train(optimizer=name, learning_rate=1.0)) == []
    (sentence,) = optimizers.problems(train(optimizer=name, learning_rate=1e-4))
    assert sentence.startswith("learning_rate: 0.0001") and "write learning_rate: 1" in sentence
    two = train(optimizer=name, learning_rate=1.0, train_text_encoder=True, text_encoder_lr=0.5)
    assert "one step size for all" in optimizers.problems(two)[0]


def test_relative_step_is_a_schedule_of_its_own():
    (sentence,) = optimizers.problems(train(optimizer="Adafactor", lr_scheduler="cosine"))
    assert "lr_scheduler: constant" in sentence
    plain = {"relative_step": False}
    assert optimizers.problems(train(optimizer="Adafactor", lr_scheduler="cosine", optimizer_args=plain)) == []
    (sentence,) = optimizers.problems(train(optimizer="Adafactor", optimizer_args=plain | {"warmup_init": True}))
    assert "relative_step: true" in sentence


def test_an_unknown_argument_is_named_with_those_there_are():
    (sentence,) = optimizers.problems(train(optimizer_args={"decouple": True}))
    assert sentence == "optimizer_args.decouple: AdamW has no such argument; it takes betas, eps, weight_decay"


def test_a_value_that_the_optimizer_refuses_is_an_error_that_names_it():
    with pytest.raises(LikenessError, match="AdamW refuses them"):
        optimizers.optimizer(
            train(optimizer_args={"betas": [2.0, 0.9]}), {"unet": [torch.nn.Parameter(torch.ones(2))]}, fused=False
        )
