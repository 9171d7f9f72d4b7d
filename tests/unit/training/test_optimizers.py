"""Every optimizer steps as its paper's formulas say, recomputed in double precision with numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import reference_optimizers as reference
from likeness.core.errors import LikenessError
from likeness.training import optimizer_table, optimizers
from likeness.training.settings import optimizer_problems

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
    "max_train_steps": None,
    "loraplus_lr_ratio": 1.0,
    "network": "lora",
}
STEPS = 30


def train(**changes) -> SimpleNamespace:
    return SimpleNamespace(**(TRAIN | changes))


def start() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 6))


def gradient(x: np.ndarray) -> np.ndarray:
    """Of a bowl that is steeper in some directions, around a point that is not the origin."""
    steepness = np.linspace(0.5, 3, x.size).reshape(x.shape)
    return steepness * (x - 0.3)


def steps_of(settings: dict) -> list[np.ndarray]:
    """The parameter after each step of the optimizer that training uses, in double precision."""
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = optimizers.optimizer(settings, {"unet": [parameter]})
    course = []
    for _ in range(STEPS):
        parameter.grad = torch.from_numpy(gradient(parameter.detach().numpy()))
        optimizer.step()
        course.append(parameter.detach().numpy().copy())
    return course


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, lambda x: reference.AdamW(x)),
        ({"optimizer": "Lion", "optimizer_args": {"weight_decay": 0.1}}, lambda x: reference.Lion(x, decay=0.1)),
        (
            {"optimizer": "DAdaptAdam", "learning_rate": 1.0, "optimizer_args": {"weight_decay": 0.01}},
            lambda x: reference.DAdaptAdam(x, decay=0.01),
        ),
        ({"optimizer": "Prodigy", "learning_rate": 1.0}, lambda x: reference.Prodigy(x)),
        *(
            (
                {"optimizer": "Adafactor", "optimizer_args": arguments},
                lambda x, arguments=arguments: reference.Adafactor(x, **arguments),
            )
            for arguments in (
                {},
                {"scale_parameter": False},
                {"warmup_init": True},
                {"scale_parameter": False, "warmup_init": True},
                {"scale_parameter": False, "relative_step": False},
            )
        ),
    ],
)
def test_steps_are_the_papers(settings, reference):
    theirs = reference([start()])
    for step, found in enumerate(steps_of(train(**settings)), start=1):
        theirs.step([gradient(theirs.x[0])], settings.get("learning_rate", TRAIN["learning_rate"]))
        assert found == pytest.approx(theirs.x[0], rel=1e-6, abs=1e-9), f"step {step}"


@pytest.mark.parametrize("name", ["AdamW", "Adafactor", "DAdaptAdam", "Prodigy", "Lion"])
def test_a_saved_state_goes_on_exactly(name):
    """What a resumed run does: a new optimizer with the saved state takes the very same steps."""
    settings = train(optimizer=name, learning_rate=1.0 if optimizer_table.OPTIMIZERS[name].adaptive else 1e-2)

    def stepped(parameter, optimizer, schedule, times):
        for _ in range(times):
            parameter.grad = torch.from_numpy(gradient(parameter.detach().numpy()))
            optimizer.step()
            schedule.step()

    def fresh(value):
        parameter = torch.nn.Parameter(value.clone())
        optimizer = optimizers.optimizer(settings, {"unet": [parameter]})
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


def test_adamw8bit_keeps_bytes_and_follows_adamw():
    """Large tensors have one byte for each moment; the course stays within what that can tell apart, and a saved state
    goes on exactly."""
    settings = train(optimizer="AdamW8bit")

    def fresh(value):
        parameter = torch.nn.Parameter(value.clone())
        return parameter, optimizers.optimizer(settings, {"unet": [parameter]})

    def stepped(parameter, optimizer, times):
        for _ in range(times):
            parameter.grad = parameter.detach() - 0.3
            optimizer.step()

    begin = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    whole, first = fresh(begin), fresh(begin)
    stepped(*whole, STEPS)
    stepped(*first, 13)
    (state,) = first[1].state.values()
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    second = fresh(first[0].detach())
    second[1].load_state_dict(first[1].state_dict())
    stepped(*second, STEPS - 13)
    assert torch.equal(second[0], whole[0])
    theirs = reference.AdamW([begin.double().numpy()])
    for _ in range(STEPS):
        theirs.step([theirs.x[0] - 0.3], settings.learning_rate)
    moved = np.abs(theirs.x[0] - begin.numpy()).mean()
    assert np.abs(whole[0].detach().numpy() - theirs.x[0]).mean() < 0.05 * moved


def test_each_network_learns_at_its_own_rate():
    settings = train(train_text_encoder=True, text_encoder_lr=1e-3, lr_scheduler="linear")
    parameters = {name: [torch.nn.Parameter(torch.ones(2))] for name in ("unet", "text_encoder")}
    optimizer = optimizers.optimizer(settings, parameters)
    schedule = optimizers.lr_scheduler(settings, optimizer, 10)
    assert optimizers.rates(optimizer) == [1e-2, 1e-3]
    optimizer.step()
    schedule.step()
    assert optimizers.rates(optimizer) == pytest.approx([0.9e-2, 0.9e-3])


def test_loras_second_matrices_may_learn_faster():
    settings = train(train_text_encoder=True, text_encoder_lr=1e-3, loraplus_lr_ratio=16)
    names = ("unet", "text_encoder", "unet up", "text_encoder up")
    parameters = {name: [torch.nn.Parameter(torch.ones(2))] for name in names}
    assert optimizers.rates(optimizers.optimizer(settings, parameters)) == pytest.approx([1e-2, 1e-3, 16e-2, 16e-3])


@pytest.mark.parametrize("network", ["loha", "lokr"])
def test_a_second_rate_needs_a_second_matrix(network):
    (sentence,) = optimizer_problems(train(loraplus_lr_ratio=4, network=network))
    assert sentence == f"loraplus_lr_ratio: network {network} has no second matrix; expected lora or locon"


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "Adafactor"])
def test_a_second_rate_needs_an_optimizer_that_takes_rates(name):
    (sentence,) = optimizer_problems(train(optimizer=name, learning_rate=1.0, loraplus_lr_ratio=4))
    assert sentence == f"loraplus_lr_ratio: {name} finds the step sizes itself; expected AdamW, AdamW8bit or Lion"


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam"])
def test_an_adaptive_optimizer_refuses_adamws_rate(name):
    assert optimizer_problems(train(optimizer=name, learning_rate=1.0)) == []
    for rate in (0.1, 5.0):
        assert len(optimizer_problems(train(optimizer=name, learning_rate=rate))) == 1
    (sentence,) = optimizer_problems(train(optimizer=name, learning_rate=1e-4))
    assert sentence.startswith("learning_rate: 0.0001") and "write learning_rate: 1" in sentence
    two = train(optimizer=name, learning_rate=1.0, train_text_encoder=True, text_encoder_lr=0.5)
    assert "one step size for all" in optimizer_problems(two)[0]


def test_relative_step_is_a_schedule_of_its_own():
    (sentence,) = optimizer_problems(train(optimizer="Adafactor", lr_scheduler="cosine"))
    assert "lr_scheduler: constant" in sentence
    plain = {"relative_step": False}
    assert optimizer_problems(train(optimizer="Adafactor", lr_scheduler="cosine", optimizer_args=plain)) == []
    (sentence,) = optimizer_problems(train(optimizer="Adafactor", optimizer_args=plain | {"warmup_init": True}))
    assert "relative_step: true" in sentence


def test_an_unknown_argument_is_named_with_those_there_are():
    (sentence,) = optimizer_problems(train(optimizer_args={"decouple": True}))
    assert sentence == "optimizer_args.decouple: AdamW has no such argument; it takes betas, eps, weight_decay"


def test_a_value_that_the_optimizer_refuses_is_an_error_that_names_it():
    with pytest.raises(LikenessError, match="AdamW refuses them"):
        optimizers.optimizer(train(optimizer_args={"betas": [2.0, 0.9]}), {"unet": [torch.nn.Parameter(torch.ones(2))]})


SWITCHES = ("relative_step", "scale_parameter", "warmup_init", "decouple", "use_bias_correction", "safeguard_warmup")
# Of each argument the two ends that are taken, and what lies beyond them or is of another kind.
ENDS: dict[str, tuple[list, list]] = {
    "betas": ([[0.0, 0.0], [0.999999, 0.999999]], [[0.9], [0.9, 1], [-0.1, 0.9], 0.9, [True, 0.9], [0.9, 0.9, 0.9]]),
    "beta1": ([0, 0.999999], [1, -0.1, [0.9]]),
    "beta3": ([0, 0.999999], [1, -0.1, True]),
    "eps": ([1e-30, 0.1], [0, -1e-8, 1, [1e-8, 1e-8]]),
    "weight_decay": ([0, 10], [-0.01, 11, True, [0.1]]),
    "clip_threshold": ([0.01, 1000], [0, 1e308]),
    "decay_rate": ([-1, -0.01], [0, 0.8, -2]),
    "d0": ([1e-12, 1], [0, -1e-6, 2]),
    "d_coef": ([0.01, 100], [0, 1e3]),
    "growth_rate": ([1.0001, 1e6], [1, 0.5, float("inf")]),
    "slice_p": ([1, 1000], [0, 1.5, True]),
    **dict.fromkeys((*SWITCHES, "decoupled_weight_decay"), ([False, True], [0, 1, [True]])),
}
ADAFACTOR_EPS = ([[1e-30, 1e-6], [0.1, 1]], [1e-8, [0, 1e-3], [1e-30, 0]])


@pytest.mark.parametrize("name", optimizer_table.OPTIMIZERS)
def test_arguments_within_their_ranges_are_steps_and_beyond_them_sentences(name):
    """On a matrix that is 0, as a LoRA's second one is at first, and on one without a gradient."""
    kind = optimizer_table.OPTIMIZERS[name]
    for key in kind.arguments:
        taken, refused = ADAFACTOR_EPS if (name, key) == ("Adafactor", "eps") else ENDS[key]
        for value in refused:
            (sentence,) = optimizer_problems(settings_with(name, key, value))
            assert sentence.startswith(f"optimizer_args.{key}: found {value!r}; expected "), sentence
        for value in taken:
            settings = settings_with(name, key, value)
            assert optimizer_problems(settings) == [], (key, value)
            parameters = [torch.nn.Parameter(torch.zeros(4, 6)), torch.nn.Parameter(torch.ones(4, 6))]
            optimizer = optimizers.optimizer(settings, {"unet": parameters})
            for _ in range(3):
                for parameter in parameters:
                    parameter.grad = torch.zeros(4, 6)
                parameters[0].grad += 1e-3
                optimizer.step()
            assert all(parameter.isfinite().all() for parameter in parameters), (key, value)
            assert parameters[0].any(), (key, value)


def settings_with(name: str, key: str, value) -> dict:
    rate = 1.0 if optimizer_table.OPTIMIZERS[name].adaptive else 1e-4
    return train(optimizer=name, learning_rate=rate, optimizer_args={key: value})
