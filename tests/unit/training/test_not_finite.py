"""A training whose numbers are not finite stops with a sentence, and its last state is safe."""

import pytest
import torch

from likeness.core.errors import LikenessError
from likeness.training import step
from likeness.training.store import RunStore, SaveClock
from trained_run import WIDTH, assert_the_states_are_finite, made_up_data, short_settings, trained

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


def test_a_loss_that_is_not_finite_stops_names_the_photos_and_keeps_the_state(tmp_path, base_manifest, monkeypatch):
    dataset, latents = made_up_data(WIDTH)
    monkeypatch.setattr(SaveClock, "SECONDS", 0)
    seen = []

    def spoil(metrics):
        if len(metrics) == 3:
            latents["images"]["mean"][3][:] = float("nan")
        seen[:] = metrics

    with pytest.raises(LikenessError, match=r"not finite at step \d+; photos:.*03.*state is safe"):
        trained(tmp_path, base_manifest, (dataset, latents), report=spoil, max_train_steps=20)
    state = RunStore(tmp_path / "store", exclusive=False).load_state()
    assert 3 <= state["step"] == len(seen)
    assert all(torch.isfinite(parameter).all() for parameter in state["parameters"])


def spoil_gradients(monkeypatch, at: set[int]) -> None:
    """Losses stay as they are, but the gradients of these batches (from 1) are not finite."""
    keep, batch = step.losses, iter(range(1, 1000))

    def spoiled(train, schedule, predicted, *others):
        found = keep(train, schedule, predicted, *others)
        return found + (0 * predicted.float()).square().sum().sqrt() if next(batch) in at else found

    monkeypatch.setattr(step, "losses", spoiled)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_at_the_last_step_stops_too(tmp_path, base_manifest, monkeypatch, precision):
    spoil_gradients(monkeypatch, {10})
    with pytest.raises(LikenessError, match=r"the gradient is not finite at step 10; photos: 0\d.*state is safe"):
        trained(tmp_path, base_manifest, precision=precision, ema_decay=0.9)
    assert_the_states_are_finite(tmp_path, 5)
    assert [path.name for path in sorted((tmp_path / "store").glob("*.safetensors"))] == ["epoch-000001.safetensors"]


def test_a_loss_scaler_passes_over_a_gradient_that_is_not_finite(tmp_path, base_manifest, monkeypatch):
    spoil_gradients(monkeypatch, {3, 4, 10})
    run = trained(tmp_path, base_manifest, precision="fp16")
    spoiled = {row["step"] for row in run.metrics if not torch.tensor(row["gradient_norm"]).isfinite()}
    assert run.done and {3, 4, 10} <= spoiled and len(spoiled) < 10
    assert_the_states_are_finite(tmp_path, 10)


def test_a_loss_scaler_that_passes_over_every_step_stops(tmp_path, base_manifest, monkeypatch):
    spoil_gradients(monkeypatch, set(range(3, 1000)))
    options = {"precision": "fp16", "epochs": 1, "max_train_steps": 50}
    with pytest.raises(LikenessError, match=r"the gradient is not finite at step 2[4-6]; photos: 0\d"):
        trained(tmp_path / "long", base_manifest, **options)
    spoil_gradients(monkeypatch, set(range(1, 1000)))
    with pytest.raises(LikenessError, match=r"the gradient is not finite at step 10; photos: 0\d"):
        trained(tmp_path / "short", base_manifest, precision="fp16")


def test_a_lora_too_large_for_its_file_is_never_saved(tmp_path, base_manifest):
    """After the only step of an epoch, whose own loss and gradient were finite."""
    settings = short_settings(batch_size=5, epochs=2, max_train_steps=2)
    settings = settings.model_copy(update={"learning_rate": 1e30})  # beyond what a configuration may ask for
    with pytest.raises(LikenessError, match=r"the LoRA is not finite at step 1; photos: 00, 01, 02, 03, 04\. Try"):
        trained(tmp_path, base_manifest, settings=settings)
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"lock", "owner"}


def test_a_validation_loss_that_is_not_finite_stops_and_names_the_photo(tmp_path, base_manifest):
    dataset, latents = made_up_data(WIDTH)
    latents["heldout"]["mean"][1][:] = float("nan")
    with pytest.raises(LikenessError, match=r"the loss on held-out photos is not finite at step 5; photos: h01\. "):
        trained(tmp_path, base_manifest, (dataset, latents))
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"lock", "owner"}
