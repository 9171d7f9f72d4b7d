"""The losses are the papers' formulas, recomputed here in double precision."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from likeness.training import losses, noise

TRAIN = {
    "loss": "l2",
    "huber_c": 0.1,
    "huber_schedule": "snr",
    "min_snr_gamma": None,
    "debiased_estimation": False,
    "noise_offset": 0.0,
    "multires_noise_iterations": 0,
    "multires_noise_discount": 0.3,
    "caption_dropout_rate": 0.0,
    "flip_aug": False,
    "preserve_class": 0.0,
    "preserve_class_share": 0.5,
    "masked_prior": 0.0,
    "dco_beta": None,
    "timestep_sampling": "uniform",
    "seed": 42,
}
TIMES = torch.tensor([0, 10, 500, 999])


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(**(TRAIN | changes))


def schedule(prediction_type: str = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", prediction_type=prediction_type)


def kept() -> np.ndarray:
    """How much of the picture's variance is left at each of TIMES, by SD's scaled linear betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)[TIMES.numpy()]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 4, 8, 8, generator=generator)


def measured(prediction_type: str = "epsilon", mask=None, **changes) -> np.ndarray:
    predicted, wanted = pair()
    return (
        losses.losses(settings(**changes), schedule(prediction_type), predicted, wanted, TIMES, mask).double().numpy()
    )


def squared() -> np.ndarray:
    predicted, wanted = (tensor.double().numpy() for tensor in pair())
    return (predicted - wanted) ** 2


def test_plain_loss_is_the_mean_squared_error():
    assert measured() == pytest.approx(squared().mean((1, 2, 3)), rel=1e-6)


def test_velocity_is_what_the_paper_defines():
    clean, drawn = pair()
    found = losses.training_target(schedule("v_prediction"), clean, drawn, TIMES).double().numpy()
    a, s = np.sqrt(kept())[:, None, None, None], np.sqrt(1 - kept())[:, None, None, None]
    assert found == pytest.approx(a * drawn.double().numpy() - s * clean.double().numpy(), rel=1e-4, abs=1e-5)
    assert losses.training_target(schedule(), clean, drawn, TIMES) is drawn


@pytest.mark.parametrize(("prediction_type", "one"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr(prediction_type, one):
    snr = kept() / (1 - kept())
    expected = squared().mean((1, 2, 3)) * np.minimum(snr, 5) / (snr + one)
    assert measured(prediction_type, min_snr_gamma=5.0) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_debiased_estimation(prediction_type):
    snr = np.minimum(kept() / (1 - kept()), 1000)
    weight = 1 / np.sqrt(snr) if prediction_type == "epsilon" else 1 / (snr + 1)
    found = measured(prediction_type, debiased_estimation=True)
    assert found == pytest.approx(squared().mean((1, 2, 3)) * weight, rel=1e-4)


@pytest.mark.parametrize("kind", ["constant", "exponential", "snr"])
def test_pseudo_huber(kind):
    sigma = np.sqrt((1 - kept()) / kept())
    c = {
        "constant": np.full(4, 0.1),
        "exponential": 0.1 ** (TIMES.numpy() / 1000),
        "snr": 0.9 / (1 + sigma) ** 2 + 0.1,
    }[kind][:, None, None, None]
    expected = (2 * c * (np.sqrt(squared() + c**2) - c)).mean((1, 2, 3))
    assert measured(loss="huber", huber_schedule=kind) == pytest.approx(expected, rel=1e-4)


def test_a_mask_weighs_the_face_and_keeps_the_scale():
    mask = torch.full((4, 1, 8, 8), 0.1)
    mask[:, :, 2:6, 2:6] = 1.0
    weights = mask.double().numpy()
    expected = (squared() * weights / weights.mean((1, 2, 3), keepdims=True)).mean((1, 2, 3))
    assert measured(mask=mask) == pytest.approx(expected, rel=1e-5)
    assert measured(mask=torch.ones(4, 1, 8, 8)) == pytest.approx(measured(), rel=1e-6)


def test_noise_offset_moves_whole_channels():
    plain = noise.sample(settings(), 3, (2, 4, 8, 8), 1000)["noise"]
    moved = noise.sample(settings(noise_offset=0.1), 3, (2, 4, 8, 8), 1000)["noise"]
    difference = moved - plain
    assert difference.std((2, 3)).max() < 1e-6
    many = noise.sample(settings(noise_offset=0.1), 3, (2000, 4, 2, 2), 1000)["noise"]
    offsets = (many - noise.sample(settings(), 3, (2000, 4, 2, 2), 1000)["noise"]).mean((2, 3))
    assert float(offsets.std()) == pytest.approx(0.1, rel=0.03) and abs(float(offsets.mean())) < 0.005


def test_multires_noise_has_more_of_the_coarse_and_the_same_spread():
    """The mean of 16 x 16 px of white noise has a sixteenth of its spread; of multires noise, more."""

    def coarse(drawn: torch.Tensor) -> float:
        return float(torch.nn.functional.avg_pool2d(drawn, 16).std())

    plain = noise.sample(settings(), 3, (16, 4, 32, 32), 1000)["noise"]
    multires = noise.sample(
        settings(multires_noise_iterations=6, multires_noise_discount=0.8), 3, (16, 4, 32, 32), 1000
    )["noise"]
    assert float(multires.std()) == pytest.approx(1, abs=1e-3)
    assert coarse(plain) == pytest.approx(1 / 16, abs=0.01) and coarse(multires) > 1.5 * coarse(plain)


def test_the_noise_of_a_step_depends_on_its_number_only():
    again = noise.sample(settings(), 7, (4, 4, 8, 8), 1000)
    assert all(
        torch.equal(value, again[name]) for name, value in noise.sample(settings(), 7, (4, 4, 8, 8), 1000).items()
    )
    assert not torch.equal(noise.sample(settings(), 8, (4, 4, 8, 8), 1000)["noise"], again["noise"])
    share = noise.sample(settings(caption_dropout_rate=0.3), 7, (1000, 4, 2, 2), 1000)["dropped"].float().mean()
    assert float(share) == pytest.approx(0.3, abs=0.05) and not again["dropped"].any()


def test_half_of_the_pictures_are_mirrored_when_asked():
    flipped = noise.sample(settings(flip_aug=True), 7, (1000, 4, 2, 2), 1000)["flipped"].float().mean()
    assert float(flipped) == pytest.approx(0.5, abs=0.05)
    assert not noise.sample(settings(), 7, (1000, 4, 2, 2), 1000)["flipped"].any()


def test_timesteps_are_all_alike_or_mostly_the_middle_ones():
    for sampling, middle in (("uniform", 0.5), ("sigmoid", 0.728)):  # of a normal number, 0.728 lie within log 3
        times = noise.sample(settings(timestep_sampling=sampling), 7, (4000, 4, 1, 1), 1000)["timesteps"]
        assert int(times.min()) >= 0 and int(times.max()) <= 999
        share = ((times >= 250) & (times < 750)).float().mean()
        assert float(share) == pytest.approx(middle, abs=0.025)


def test_direct_consistency_teaches_less_where_the_lora_is_better_than_the_base():
    predicted, wanted = pair()
    predicted.requires_grad_()
    gradients = []
    for base_error in (0.0, 1.0, 3.0):  # beside the LoRA's: the base as good, and worse
        base_pred = wanted + (predicted.detach() - wanted) * (1 + base_error)
        loss = losses.losses(settings(dco_beta=2.0), schedule(), predicted, wanted, TIMES, base_pred=base_pred).mean()
        gradients.append(float(torch.autograd.grad(loss, predicted)[0].abs().sum()))
    plain = losses.losses(settings(), schedule(), predicted, wanted, TIMES).mean()
    assert gradients[0] == pytest.approx(float(torch.autograd.grad(plain, predicted)[0].abs().sum()), rel=1e-5)
    assert gradients[0] > 2 * gradients[1] > 4 * gradients[2] > 0


def test_shuffling_keeps_the_words_and_the_first_parts():
    caption = "ohwx woman, smiling, dark hair band, light, close-up"
    orders = {noise.shuffled(caption, 2, random.Random(n)) for n in range(50)}
    assert len(orders) == 6, "three parts have six orders"
    assert all(order.startswith("ohwx woman, smiling, ") for order in orders)
    assert {tuple(sorted(order.split(", "))) for order in orders} == {tuple(sorted(caption.split(", ")))}


def test_the_head_counts_ten_times_the_background():
    weights = losses.head_weights([0.5, 0.5, 0.25, 0.375], 32, 64)[0]
    assert weights[16, 32] == 1 and weights[0, 0] == weights[31, 63] == pytest.approx(0.1)
    across, down = (weights[16] == 1).sum(), (weights[:, 32] == 1).sum()
    assert (int(across), int(down)) == pytest.approx((1.6 * 0.25 * 64, 1.6 * 0.375 * 32), abs=1)
    assert (losses.head_weights(None, 4, 4) == 1).all()
