"""A training learns what it is shown, whatever the ways to compute it, and saves what was asked for."""

import resource
import signal
import subprocess
import sys
from collections import Counter

import pytest
import safetensors.torch
import torch

from likeness.core.errors import LikenessError
from likeness.training import loop, step
from likeness.training.store import RunStore, SaveClock
from trained_run import WIDTH, loras, made_up_data, trained

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


def test_loss_falls_on_photos_of_training_and_on_held_out_ones(tmp_path, base_manifest):
    options = {"rank": 16, "alpha": 16, "lr_scheduler": "constant", "max_train_steps": 150, "epochs": 1}
    run = trained(tmp_path / "learned", base_manifest, learning_rate=1e-2, **options)
    silent = trained(tmp_path / "silent", base_manifest, learning_rate=1e-9, **options)
    mine, theirs = ([row["loss"] for row in course.metrics[-50:]] for course in (run, silent))
    assert sum(mine) < 0.9 * sum(theirs), "only attention learns, so the fall is small but sure"
    assert run.metrics[-1]["validation_loss"] < 0.9 * silent.metrics[-1]["validation_loss"]


@pytest.mark.parametrize("shuffle", [False, True])
def test_accumulated_and_whole_batches_train_alike(tmp_path, base_manifest, shuffle):
    options = {"shuffle_caption": shuffle, "max_train_steps": 4, "save_precision": "fp32"}
    one = trained(tmp_path / "one", base_manifest, batch_size=4, **options)
    two = trained(tmp_path / "two", base_manifest, batch_size=2, gradient_accumulation_steps=2, **options)
    assert [row["loss"] for row in one.metrics] == pytest.approx([row["loss"] for row in two.metrics], rel=1e-5)
    first, second = (safetensors.torch.load_file(run.lora(2)) for run in (one, two))
    assert all(torch.allclose(first[key], second[key], atol=2e-5) for key in first)


def test_a_compiled_u_net_trains_alike(request, root, tmp_path, base_manifest):
    """torch's compiler cannot work below a folder with a space. There it is reached by a link."""
    if " " in torch.__file__:
        (tmp_path / "env").symlink_to(sys.prefix)
        command = [tmp_path / "env/bin/python", "-m", "pytest", "-q", request.node.nodeid]
        again = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert again.returncode == 0, again.stdout
        assert "1 passed" in again.stdout
        return
    options = {"max_train_steps": 4, "epochs": 1, "batch_size": 5, "save_precision": "fp32"}
    options["preserve_class_share"] = 1.0  # else batches of several sizes, each compiled anew
    plain = trained(tmp_path / "plain", base_manifest, **options)
    compiled = trained(tmp_path / "compiled", base_manifest, compile=True, **options)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert [row["loss"] for row in compiled.metrics] == pytest.approx([row["loss"] for row in plain.metrics], rel=1e-4)
    first, second = (safetensors.torch.load_file(run.lora(1)) for run in (plain, compiled))
    assert sorted(first) == sorted(second)
    assert all(torch.allclose(first[key], second[key], atol=1e-4) for key in first)


def test_a_full_disk_is_an_error_that_keeps_the_last_state(tmp_path, base_manifest, monkeypatch):
    monkeypatch.setattr(SaveClock, "SECONDS", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics):
        if len(metrics) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(LikenessError, match="free some space and run the same command again"):
            trained(tmp_path, base_manifest, report=fill, max_train_steps=20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert RunStore(tmp_path / "store", exclusive=False).load_state()["step"] == 3
    resumed = trained(tmp_path, base_manifest, max_train_steps=20)
    assert loras(resumed) == loras(trained(tmp_path / "whole", base_manifest, max_train_steps=20))


def test_memory_that_runs_out_is_an_error_that_says_what_to_change(tmp_path, base_manifest, monkeypatch):
    def too_large(*_arguments):
        return torch.empty(2**62, dtype=torch.uint8)

    for module, part in ((step, "losses"), (loop, "validation_losses")):
        with monkeypatch.context() as patch:
            patch.setattr(module, part, too_large)
            with pytest.raises(LikenessError, match="gradient_checkpointing: true.*batch_size.*resolution below 1024"):
                dataset, latents = made_up_data(WIDTH)
                trained(tmp_path / part, base_manifest, (dataset | {"resolution": 1024}, latents))


def test_gradient_checkpointing_trains_alike_and_computes_the_text_encoder_twice(tmp_path, base_manifest, monkeypatch):
    from transformers.models.clip.modeling_clip import CLIPMLP

    keep, calls = CLIPMLP.forward, Counter()
    options = {"train_text_encoder": True, "max_train_steps": 4, "epochs": 1, "learning_rate": 0.01}
    losses = {}
    for checkpointing in (False, True):

        def counted(self, hidden, checkpointing=checkpointing):
            calls[checkpointing] += torch.is_grad_enabled()
            return keep(self, hidden)

        monkeypatch.setattr(CLIPMLP, "forward", counted)
        run = trained(tmp_path / str(checkpointing), base_manifest, gradient_checkpointing=checkpointing, **options)
        losses[checkpointing] = [row["loss"] for row in run.metrics]
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert calls[True] == 2 * calls[False] > 0


def test_lora_is_fp32_on_a_half_precision_base(tmp_path, base_manifest):
    run = trained(tmp_path, base_manifest, precision="bf16")
    assert {p.dtype for p in run.networks["unet"].parameters()} == {torch.float32}
    assert run.networks["unet"].model.conv_in.weight.dtype == torch.bfloat16


def test_the_moving_average_is_what_is_saved(tmp_path, base_manifest):
    """By diffusers' own, from the weights after each step; they themselves are trained as without it."""
    from diffusers.training_utils import EMAModel

    options = {"max_train_steps": 10, "epochs": 10, "batch_size": 5, "learning_rate": 0.01, "save_precision": "fp32"}
    plain = trained(tmp_path / "plain", base_manifest, **options)
    averaged = trained(tmp_path / "average", base_manifest, ema_decay=0.4, **options)
    assert [row["loss"] for row in averaged.metrics] == [row["loss"] for row in plain.metrics]
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    weight = torch.nn.Parameter(torch.zeros_like(safetensors.torch.load_file(plain.lora(1))[name]))  # where up starts
    mean = EMAModel([weight], decay=0.4)
    for number in range(1, 11):
        weight.data = safetensors.torch.load_file(plain.lora(number))[name]
        mean.step([weight])
        found = safetensors.torch.load_file(averaged.lora(number))[name]
        assert torch.allclose(found, mean.shadow_params[0], atol=1e-7), number
    assert mean.cur_decay_value == 0.4 and not torch.allclose(found, weight, atol=1e-4)


def test_only_the_epochs_asked_for_are_saved_and_the_last(tmp_path, base_manifest):
    every = trained(tmp_path / "every", base_manifest, epochs=5, max_train_steps=15)
    some = trained(tmp_path / "some", base_manifest, epochs=5, max_train_steps=15, save_every_n_epochs=2)
    names = [path.name for path in sorted(some.store.folder.glob("epoch-*.safetensors"))]
    assert names == [f"epoch-00000{n}.safetensors" for n in (2, 4, 5)]
    assert loras(some) == [loras(every)[n - 1] for n in (2, 4, 5)]
    some.store._lock.close()
    more = trained(tmp_path / "some", base_manifest, epochs=5, max_train_steps=15)
    assert loras(more) == loras(every), "an epoch that was passed over is trained anew when it is asked for"


def test_a_warm_up_that_never_ends_is_refused_before_anything_is_loaded(tmp_path, base_manifest):
    settings = {"max_train_steps": None, "epochs": 2, "repeats": 1, "lr_warmup_steps": 40}
    with pytest.raises(LikenessError, match="lr_warmup_steps: 40 of 6 steps, so the full rate is never reached"):
        trained(tmp_path, base_manifest, lr_scheduler="cosine", **settings)
