"""Training does what the papers' formulas say, and ends in the same bytes whether or not it was interrupted."""

import math
import os
import signal

import pytest
import safetensors.torch
import torch

from likeness.errors import LikenessError
from likeness.training import loop, noise
from likeness.training.plan import plan, run_key
from trained_run import SHORT, made_up_latents, trained

DATASET = {"images": [{"name": "a", "sha256": "1", "caption_sha256": "2"}]}
BASE = {"digest": "base"}


def settings(**changes) -> dict:
    from likeness.config import Train

    return Train(**(SHORT | changes)).model_dump()


def test_steps_follow_kohyas_arithmetic():
    assert plan(settings(max_train_steps=1000, epochs=10, batch_size=2), 15) == {
        "images": 15,
        "repeats": 14,
        "steps_per_epoch": 105,
        "total_steps": 1050,
    }


def test_first_loss_is_the_formulas_in_double_precision(tmp_path, base_manifest):
    """With up = 0 the LoRA is silent, so the first loss is the base model's: recomputed here from the definition."""
    from diffusers import UNet2DConditionModel

    run = trained(tmp_path, base_manifest, min_snr_gamma=5.0, noise_offset=0.1)
    items, latents = made_up_latents(5, 32)
    train = settings(min_snr_gamma=5.0, noise_offset=0.1)
    batch = loop._batches(loop._epoch_order(42, 1, 5, plan(train, 5)["repeats"]), train)[0]
    drawn = {name: t.double() for name, t in noise.drawn(train, 0, len(batch), (4, 8, 8), 1000).items()}
    t = drawn["timesteps"].long()
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[t][:, None, None, None]
    clean = latents["mean"][batch].double() + latents["std"][batch].double() * drawn["posterior"]
    noisy = kept.sqrt() * clean + (1 - kept).sqrt() * drawn["noise"]
    unet = UNet2DConditionModel.from_pretrained(base_manifest["path"], subfolder="unet").double()
    with torch.no_grad():
        predicted = unet(noisy, t, latents["hidden"][batch].double()).sample
    snr = (kept / (1 - kept)).flatten()
    losses = ((predicted - drawn["noise"]) ** 2).mean((1, 2, 3)) * snr.clamp(max=5) / snr
    assert run.metrics[0]["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)


def test_cosine_with_restarts_has_its_cycles(tmp_path, base_manifest):
    run = trained(tmp_path, base_manifest, max_train_steps=30, lr_scheduler_num_cycles=3)
    rates = [row["lr"] for row in run.metrics]
    total = len(rates)
    expected = [1e-4 * 0.5 * (1 + math.cos(math.pi * ((3 * step / total) % 1))) for step in range(total)]
    assert rates == pytest.approx(expected)


def test_loss_falls(tmp_path, base_manifest):
    run = trained(
        tmp_path, base_manifest, rank=16, alpha=16, learning_rate=1e-2, max_train_steps=150, lr_scheduler="constant"
    )
    losses = [row["loss"] for row in run.metrics]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20]), "only attention learns, so the fall is small but sure"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_interrupted_at_any_step_ends_in_the_same_bytes(tmp_path, base_manifest, precision, text_encoder):
    options = {"precision": precision, "train_text_encoder": text_encoder, "max_train_steps": 6, "batch_size": 2}
    whole = trained(tmp_path / "whole", base_manifest, **options)

    def interrupt(metrics):
        os.kill(os.getpid(), signal.SIGTERM)

    stops, done = 0, False
    loop_held, loop.LOSSES_HELD = loop.LOSSES_HELD, 1
    try:
        while not done and stops < 20:  # a TERM after every step
            run = trained(tmp_path / "cut", base_manifest, report=interrupt, **options)
            run.store._lock.close()
            done, stops = run.done, stops + 1
    finally:
        loop.LOSSES_HELD = loop_held
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    assert done and stops >= 3
    assert [run.lora(n).read_bytes() for n in (1, 2)] == [whole.lora(n).read_bytes() for n in (1, 2)]
    assert run.metrics == whole.metrics


def test_accumulated_and_whole_batches_train_alike(tmp_path, base_manifest):
    one = trained(tmp_path / "one", base_manifest, batch_size=4, max_train_steps=4, save_precision="fp32")
    two = trained(
        tmp_path / "two",
        base_manifest,
        batch_size=2,
        gradient_accumulation_steps=2,
        max_train_steps=4,
        save_precision="fp32",
    )
    first, second = (safetensors.torch.load_file(run.lora(2)) for run in (one, two))
    assert all(torch.allclose(first[key], second[key], atol=2e-5) for key in first)


def test_a_loss_that_is_not_finite_stops_and_names_the_photos(tmp_path, base_manifest):
    items, latents = made_up_latents(5, 32)
    latents["mean"][3] = float("nan")
    with pytest.raises(LikenessError, match=r"not finite at step \d+; photos of that batch:.*03"):
        trained(tmp_path, base_manifest, latents=latents)


def test_lora_is_fp32_on_a_half_precision_base(tmp_path, base_manifest):
    run = trained(tmp_path, base_manifest, precision="bf16")
    assert {p.dtype for p in run.networks["unet"].parameters()} == {torch.float32}
    assert run.networks["unet"].model.conv_in.weight.dtype == torch.bfloat16


def test_run_key_knows_rank_from_alpha_and_ignores_what_changes_nothing():
    key = run_key(settings(), 64, DATASET, BASE, "code")
    assert key != run_key(settings(rank=16), 64, DATASET, BASE, "code")
    assert key != run_key(settings(epochs=4), 64, DATASET, BASE, "code"), "cosine is stretched over all epochs"
    constant = settings(lr_scheduler="constant", max_train_steps=1)
    longer = settings(lr_scheduler="constant", max_train_steps=1, epochs=4)
    assert run_key(constant, 64, DATASET, BASE, "code") == run_key(longer, 64, DATASET, BASE, "code")
