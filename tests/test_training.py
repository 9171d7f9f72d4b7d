"""Training does what the papers' formulas say, and ends in the same bytes whether or not it was interrupted."""

import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import safetensors.torch
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import train_lora
from likeness.dataset import schedule
from likeness.errors import LikenessError
from likeness.training import course, loop, optimizers, step
from likeness.training.launch import INTERRUPTED
from likeness.training.metrics import MetricsLog
from likeness.training.plan import batches, run_key, step_seed
from likeness.training.store import RunStore, SaveClock
from trained_run import base_width, made_up_data, short_settings, trained, trainers_options
from waiting import wait_for

WIDTH = 32  # of the small base's text encoder


@pytest.fixture(autouse=True)
def every_step_is_reported(monkeypatch):
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 0.0)


def default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def loras(run) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.store.folder.glob("epoch-*.safetensors"))]


def test_loss_falls_on_photos_of_training_and_on_held_out_ones(tmp_path, base_manifest):
    options = {"rank": 16, "alpha": 16, "lr_scheduler": "constant", "max_train_steps": 150, "epochs": 1}
    run = trained(tmp_path / "learned", base_manifest, learning_rate=1e-2, **options)
    silent = trained(tmp_path / "silent", base_manifest, learning_rate=1e-9, **options)
    mine, theirs = ([row["loss"] for row in course.metrics[-50:]] for course in (run, silent))
    assert sum(mine) < 0.9 * sum(theirs), "only attention learns, so the fall is small but sure"
    assert run.metrics[-1]["validation_loss"] < 0.9 * silent.metrics[-1]["validation_loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("text_encoder", [False, True])
def test_asked_to_stop_at_every_step_it_ends_in_the_same_bytes(tmp_path, base_manifest, precision, text_encoder):
    options = {"precision": precision, "train_text_encoder": text_encoder, "max_train_steps": 6, "batch_size": 2}
    whole = trained(tmp_path / "whole", base_manifest, **options)

    def interrupt(metrics):
        os.kill(os.getpid(), signal.SIGTERM)

    stops, done = 0, False
    try:
        while not done and stops < 20:
            run = trained(tmp_path / "cut", base_manifest, report=interrupt, **options)
            run.store._lock.close()
            done, stops = run.done, stops + 1
    finally:
        default_signals()
    assert done and stops >= 3
    assert loras(run) == loras(whole) and len(loras(run)) == 2
    assert run.metrics == whole.metrics


def train_until_killed(folder: Path, base: dict, kill_at: int, settings: dict) -> None:
    """In a process of its own: SIGKILL itself once a step is done."""
    loop.SETTLE_SECONDS = 0.0
    SaveClock.SECONDS = 0.05  # so that states are some steps old when the kill comes

    def kill(metrics):
        if metrics[-1]["step"] >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(folder, base, report=kill, settings=settings)


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        (10, {"precision": "fp16", "train_text_encoder": True, "ema_decay": 0.9, "dropout": 0.1}),
        (
            5,
            {
                **{"optimizer": "Prodigy", "learning_rate": 1.0, "flip_aug": True, "shuffle_caption": True},
                **{"noise_offset": 0.1, "preserve_class": 2.0, "masked_loss": True, "masked_prior": 1.0},
            },
        ),
    ],
    ids=["AdamW", "Prodigy"],
)
def test_killed_at_random_steps_it_ends_in_the_same_bytes(tmp_path, base_manifest, kills, changes):
    """Without a warning, by SIGKILL; and its folder is moved halfway, as results/ may be."""
    settings = short_settings(max_train_steps=60, epochs=3, **changes)
    whole = trained(tmp_path / "whole", base_manifest, settings=settings)
    steps = len(whole.metrics)
    assert steps >= 60
    context = multiprocessing.get_context("forkserver")  # a fork of this process would inherit busy threads
    context.set_forkserver_preload(["trained_run", "likeness.training.loop", "peft"])
    folder = tmp_path / "cut"
    for number, kill_at in enumerate(sorted(random.Random(7).sample(range(1, steps), kills))):
        child = context.Process(target=train_until_killed, args=(folder, base_manifest, kill_at, settings))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL, kill_at
        if number == kills // 2:
            folder = folder.rename(tmp_path / "moved")
    run = trained(folder, base_manifest, settings=settings)
    assert run.done and loras(run) == loras(whole) and len(loras(run)) == 3
    assert run.metrics == whole.metrics
    assert (run.store.folder / "history").read_text().count("epoch ") == 3, "no epoch is finished twice"


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
    state = RunStore(tmp_path / "store", lock=False).load_state()
    assert 3 <= state["step"] == len(seen)
    assert all(torch.isfinite(parameter).all() for parameter in state["parameters"])


def spoil_gradients(monkeypatch, at: set[int]) -> None:
    """Losses stay as they are, but the gradients of these batches (from 1) are not finite."""
    keep, batch = step.losses, iter(range(1, 1000))

    def spoiled(train, schedule, predicted, *others):
        found = keep(train, schedule, predicted, *others)
        return found + (0 * predicted.float()).square().sum().sqrt() if next(batch) in at else found

    monkeypatch.setattr(step, "losses", spoiled)


def assert_the_states_are_finite(folder: Path, step: int) -> None:
    state = RunStore(folder / "store", lock=False).load_state()
    assert state["step"] == step
    assert all(torch.isfinite(tensor).all() for tensor in [*state["parameters"], *(state["average"] or [])])


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
    settings["learning_rate"] = 1e30  # beyond what a configuration may ask for
    with pytest.raises(LikenessError, match=r"the LoRA is not finite at step 1; photos: 00, 01, 02, 03, 04\. Try"):
        trained(tmp_path, base_manifest, settings=settings)
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"lock", "owner"}


def test_a_validation_loss_that_is_not_finite_stops_and_names_the_photo(tmp_path, base_manifest):
    dataset, latents = made_up_data(WIDTH)
    latents["heldout"]["mean"][1][:] = float("nan")
    with pytest.raises(LikenessError, match=r"the loss on held-out photos is not finite at step 5; photos: h01\. "):
        trained(tmp_path, base_manifest, (dataset, latents))
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"lock", "owner"}


@pytest.mark.parametrize(("full", "mode"), [("table", "w"), ("events", "wb")])
def test_a_full_disk_under_the_metrics_is_a_sentence_and_the_step_is_safe(
    tmp_path, base_manifest, monkeypatch, full, mode
):
    monkeypatch.setattr(SaveClock, "SECONDS", 0)

    def write(metrics):
        if len(metrics) == 3:
            getattr(log, full).close()
            setattr(log, full, open("/dev/full", mode))  # noqa: SIM115 - closed by log
        log.write(metrics)

    with (
        pytest.raises(LikenessError, match="/dev/full: no space left on device; free some space and run the same"),
        MetricsLog(tmp_path / "log/metrics.tsv") as log,
    ):
        trained(tmp_path, base_manifest, report=write)
    assert_the_states_are_finite(tmp_path, 3)


def test_tensorboard_and_the_table_tell_the_same(tmp_path, base_manifest):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(tmp_path / "log/metrics.tsv") as log:
        run = trained(tmp_path, base_manifest, report=log.write)
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    for name in ("loss", "lr", "gradient_norm", "validation_loss"):
        measured = [(row["step"], row[name]) for row in run.metrics if row[name] != ""]
        assert [(event.step, event.value) for event in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in measured
        ]
    table = pd.read_csv(tmp_path / "log/metrics.tsv", sep="\t", keep_default_na=False)
    assert table.loss.tolist() == [row["loss"] for row in run.metrics]


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
    assert RunStore(tmp_path / "store", lock=False).load_state()["step"] == 3
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


def validation_losses(run) -> list:
    return [row["validation_loss"] for row in run.metrics]


def test_losses_on_other_held_out_photos_are_left_out(tmp_path, base_manifest, capsys):
    """The LoRA does not depend on them, so its training goes on from where it was."""
    options = {"lr_scheduler": "constant", "max_train_steps": None, "repeats": 2}
    data = made_up_data(WIDTH)
    for name in ("same", "other"):
        trained(tmp_path / name, base_manifest, data, epochs=1, **options).store._lock.close()
    same = trained(tmp_path / "same", base_manifest, data, epochs=2, **options)
    assert "held-out photos have changed" not in capsys.readouterr().out
    data[0]["heldout"][0]["sha256"] = "another photo"
    data[1]["heldout"]["mean"][0] += 1
    other = trained(tmp_path / "other", base_manifest, data, epochs=2, **options)
    assert capsys.readouterr().out.count("held-out photos have changed") == 1
    measured = validation_losses(other)
    assert len(measured) == 10 and measured[:9] == [""] * 9 and measured[9] > 0
    assert validation_losses(same)[4] > 0 and validation_losses(same)[9] not in ("", measured[9])
    assert loras(other) == loras(same)


def test_validation_is_the_error_on_held_out_photos_at_fixed_noise(tmp_path, base_manifest):
    """Once per epoch; of the silent LoRA of a first epoch without learning, it is the base model's."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    run = trained(tmp_path / "one", base_manifest, learning_rate=1e-9)
    per_epoch = len(run.metrics) // 2
    measured = [row["validation_loss"] for row in run.metrics if row["validation_loss"] != ""]
    assert len(measured) == 2 and measured[0] == run.metrics[per_epoch - 1]["validation_loss"]
    _, latents = made_up_data(WIDTH)
    unet = UNet2DConditionModel.from_pretrained(base_manifest["path"], subfolder="unet")
    schedule = DDPMScheduler.from_pretrained(base_manifest["path"], subfolder="scheduler")
    errors = []
    for number, name in enumerate(("h00", "h01")):
        generator = torch.Generator().manual_seed(step_seed(42, name))
        for times in ((100, 300), (500, 700), (900,)):  # at batch size 2
            noise = torch.randn(len(times), 4, 8, 8, generator=generator)
            clean = latents["heldout"]["mean"][number].repeat(len(times), 1, 1, 1)
            hidden = latents["heldout"]["hidden"][number].repeat(len(times), 1, 1)
            with torch.no_grad():
                found = unet(schedule.add_noise(clean, noise, torch.tensor(times)), torch.tensor(times), hidden).sample
            errors += (found - noise).square().mean((1, 2, 3)).tolist()
    assert measured[0] == pytest.approx(sum(errors) / len(errors), rel=1e-5)
    learned = trained(tmp_path / "two", base_manifest, learning_rate=1e-2)
    assert learned.metrics[-1]["validation_loss"] != pytest.approx(measured[0], rel=1e-4)


def test_the_log_tells_the_course_in_whole_lines(tmp_path, base_manifest, monkeypatch, capsys):
    """Where nobody looks at a bar: a line a minute, here one for every step, and one for every saved epoch."""
    monkeypatch.setattr(course, "LINE_SECONDS", 0)
    trained(tmp_path, base_manifest, train_text_encoder=True)
    started, *said = capsys.readouterr().out.splitlines()
    assert started == "training on cpu in 1 process"
    numbers = r"epoch 1, loss \d\.\d{4}, lr 7\.94e-05, lr_text_encoder 3\.97e-05, memory \d\.\d GiB"
    assert re.fullmatch(rf"step 2 of 10, {numbers}, \d+\.\d\d steps/s, \d+:\d\d:\d\d left", said[1]), said[1]
    assert sum(line.startswith("step ") for line in said) == 10
    saved = [line for line in said if line.startswith("saved epoch")]
    assert len(saved) == 2 and re.fullmatch(
        r"saved epoch 2 of 2, step 10 of 10, loss \d\.\d{4}, \d\.\d{4} on held-out photos", saved[1]
    )
    assert not any("\r" in line for line in said)


def test_only_the_epochs_asked_for_are_saved_and_the_last(tmp_path, base_manifest):
    every = trained(tmp_path / "every", base_manifest, epochs=5, max_train_steps=15)
    some = trained(tmp_path / "some", base_manifest, epochs=5, max_train_steps=15, save_every_n_epochs=2)
    names = [path.name for path in sorted(some.store.folder.glob("epoch-*.safetensors"))]
    assert names == [f"epoch-00000{n}.safetensors" for n in (2, 4, 5)]
    assert loras(some) == [loras(every)[n - 1] for n in (2, 4, 5)]
    some.store._lock.close()
    more = trained(tmp_path / "some", base_manifest, epochs=5, max_train_steps=15)
    assert loras(more) == loras(every), "an epoch that was passed over is trained anew when it is asked for"


def test_a_missing_caption_is_an_error_before_anything_is_loaded():
    dataset, _ = made_up_data(WIDTH)
    train_lora.refuse_missing_captions(dataset)
    dataset["images"][2]["caption"] = " "
    with pytest.raises(LikenessError, match=r"no caption for 02; write a \.txt beside the photo"):
        train_lora.refuse_missing_captions(dataset)


def test_training_goes_on_from_a_files_weights(tmp_path, base_manifest):
    first = trained(tmp_path / "first", base_manifest, learning_rate=0.01, save_precision="fp32")
    second = trained(
        tmp_path / "second", base_manifest, weights=first.lora(2), learning_rate=1e-9, save_precision="fp32"
    )
    before, after = (safetensors.torch.load_file(run.lora(2)) for run in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-7) for key in before)
    for wrong in ({"rank": 8}, {"alpha": 4}, {"network": "loha"}, {"layers": "attention"}):
        with pytest.raises(LikenessError, match="network_weights .*must be those that it was trained with"):
            trained(tmp_path / "wrong", base_manifest, weights=first.lora(2), **wrong)
    (tmp_path / "half.safetensors").write_bytes(first.lora(2).read_bytes()[:1000])
    with pytest.raises(LikenessError, match="network_weights .*damaged"):
        trained(tmp_path / "half", base_manifest, weights=tmp_path / "half.safetensors")


@pytest.mark.parametrize("kind", ["lora", "locon", "dora", "loha", "lokr"])
def test_every_kind_goes_on_from_its_own_file(tmp_path, base_manifest, kind):
    options = {"network": kind, "save_precision": "fp32"}
    first = trained(tmp_path / "first", base_manifest, learning_rate=0.01, **options)
    second = trained(tmp_path / "second", base_manifest, weights=first.lora(2), learning_rate=1e-9, **options)
    before, after = (safetensors.torch.load_file(run.lora(2)) for run in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_shuffled_captions_are_read_anew_at_every_step(tmp_path, base_manifest):
    """With every caption the same, cached or not, shuffled after its last part, nothing changes."""
    fixed = trained(tmp_path / "fixed", base_manifest, shuffle_caption=True, keep_tokens=4)
    free = trained(tmp_path / "free", base_manifest, shuffle_caption=True, keep_tokens=1)
    assert [row["loss"] for row in fixed.metrics] != [row["loss"] for row in free.metrics]
    dataset, latents = made_up_data(WIDTH)
    from likeness.conditioning import load_text_encoders, load_tokenizers
    from likeness.latents import encoded_caption

    texts = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    for group in ("images", "heldout"):
        read = [safetensors.torch.load(encoded_caption(*texts, item["caption"], 1)) for item in dataset[group]]
        latents[group] |= {name: [one[name] for one in read] for name in ("tokens", "hidden")}
    cached = trained(tmp_path / "cached", base_manifest, (dataset, latents))
    read = trained(tmp_path / "read", base_manifest, (dataset, latents), shuffle_caption=True, keep_tokens=4)
    assert [row["loss"] for row in read.metrics] == pytest.approx([row["loss"] for row in cached.metrics], rel=1e-5)


def test_captions_of_150_tokens_are_trained_on_as_they_are_cached_and_read(tmp_path, base_manifest):
    """The words behind the 75th token too, by a frozen text encoder and by one that learns."""
    from likeness.conditioning import load_text_encoders, load_tokenizers
    from likeness.latents import encoded_caption

    texts = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    losses, runs = {}, {"cached": {}, "read": {"shuffle_caption": True, "keep_tokens": 4}}
    runs["learning"] = {"train_text_encoder": True}
    for last in ("smiling", "crying"):
        dataset, latents = made_up_data(WIDTH)
        for group in ("images", "heldout"):
            for item in dataset[group]:
                item["caption"] = f"ohwx woman, light, {'hat ' * 100}, {last}"
            read = [safetensors.torch.load(encoded_caption(*texts, item["caption"], 1, 150)) for item in dataset[group]]
            latents[group] |= {name: [one[name] for one in read] for name in ("tokens", "hidden")}
        for name, changes in runs.items():
            changes |= {"max_token_length": 150, "max_train_steps": 1, "epochs": 1}
            run = trained(tmp_path / f"{last}_{name}", base_manifest, (dataset, latents), **changes)
            losses[last, name] = [row["loss"] for row in run.metrics]
        assert losses[last, "read"] == pytest.approx(losses[last, "cached"], rel=1e-5)
    assert all(losses["smiling", name] != losses["crying", name] for name in runs)


def start_trainer(monkeypatch, options: list[str]) -> None:
    """train_lora.py, in this process."""
    stores = []

    def opened(*arguments, **keywords):
        stores.append(RunStore(*arguments, **keywords))
        return stores[0]

    monkeypatch.setattr(train_lora, "RunStore", opened)
    monkeypatch.setattr(sys, "argv", ["train_lora.py", *options])
    try:
        train_lora.main()
    finally:
        default_signals()
        stores[0]._lock.close()


def test_metrics_of_a_finished_run_are_whole(tmp_path, base_manifest, monkeypatch, capsys):
    """Whatever its states are of: none is left, or another training of the run was stopped in its first epoch."""
    data = made_up_data(WIDTH)
    table = tmp_path / "log/metrics.tsv"
    some, every = (
        trainers_options(tmp_path, base_manifest, *data, short_settings(save_every_n_epochs=n)) for n in (2, 1)
    )
    start_trainer(monkeypatch, some)
    whole = table.read_bytes()
    assert whole.count(b"\n") == 1 + 10
    write = MetricsLog.write
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(MetricsLog, "write", lambda *rows: (write(*rows), os.kill(os.getpid(), signal.SIGTERM)))
        start_trainer(monkeypatch, every)
    assert 1 < table.read_bytes().count(b"\n") < 5
    start_trainer(monkeypatch, some)
    assert table.read_bytes() == whole
    for state in tmp_path.glob("runs/*/state*.pt"):
        state.unlink()
    capsys.readouterr()
    start_trainer(monkeypatch, some)
    assert table.read_bytes() == whole and "items: 0 computed, 1 reused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"shuffle_caption": True, "train_text_encoder": True, "preserve_class": 2.0}, 1e-5),
        ({"precision": "fp16"}, 1e-3),
    ],
    ids=["fp32", "fp16"],
)
def test_two_processes_train_as_one(tmp_path, root, base_manifest, changes, tolerance):
    """train.gpus: 2 has the losses and the LoRA of one process at the same global batch. Each epoch's last step has one
    picture, so nothing is left for the second process."""
    data, settings = made_up_data(base_width(base_manifest)), short_settings(repeats=1, max_train_steps=None, **changes)
    alone = settings | {"batch_size": 1, "gradient_accumulation_steps": 2}  # the same rounding: pictures one by one
    one = trained(tmp_path / "one", base_manifest, data, settings=alone)
    options = trainers_options(tmp_path / "two", base_manifest, *data, settings | {"gpus": 2})
    command = [sys.executable, root / "scripts/train_lora.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("training on cpu in 2 processes") == 1, "and only the first process speaks"
    two = pd.read_csv(tmp_path / "two/log/metrics.tsv", sep="\t", keep_default_na=False)
    assert len(two) == 6 and two.loss.tolist() == pytest.approx([row["loss"] for row in one.metrics], rel=tolerance)
    shown = [
        [str(value) != "" for value in column]
        for column in (two.preservation, [r["preservation"] for r in one.metrics])
    ]
    assert shown[0] == shown[1] and any(shown[0]) == bool(settings["preserve_class"])
    pairs = zip(two.preservation, one.metrics, strict=True)
    assert all(
        float(mine) == pytest.approx(row["preservation"], rel=1e-3, abs=1e-9) for mine, row in pairs if mine != ""
    )
    assert float(two.validation_loss.iloc[-1]) == pytest.approx(one.metrics[-1]["validation_loss"], rel=tolerance)
    first = safetensors.torch.load_file(one.lora(2))
    second = safetensors.torch.load_file(tmp_path / "two/models/ava_portrait-000002.safetensors")
    assert all(float((first[key].float() - second[key].float()).abs().max()) < 1e-4 for key in first)


def complete_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


@pytest.fixture
def in_two_processes(tmp_path, root, base_manifest):
    """The two processes of a long training that has begun, and its folder."""
    settings = short_settings(gpus=2, max_train_steps=100_000, epochs=1)
    options = trainers_options(tmp_path / "run", base_manifest, *made_up_data(base_width(base_manifest)), settings)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    with open(tmp_path / "output", "w") as output:
        command = [sys.executable, root / "scripts/train_lora.py", *options]
        first = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    table = tmp_path / "run/log/metrics.tsv"
    try:
        wait_for("its first step", lambda: complete_lines(table) > 1, seconds=120, by=first)
    except AssertionError as missing:
        missing.add_note((tmp_path / "output").read_text())
        raise
    (second,) = first.children()
    yield first, second, tmp_path
    for process in (first, second):
        if process.is_running():
            process.kill()


def test_two_processes_leave_together_when_the_first_is_asked_to(in_two_processes):
    first, second, folder = in_two_processes
    assert second.environ()["OMP_NUM_THREADS"] == "1", "they share the cores"
    first.send_signal(signal.SIGURG)
    assert first.wait(60) == INTERRUPTED, (folder / "output").read_text()
    wait_for("the second's end", lambda: not second.is_running(), seconds=10)
    assert list(folder.glob("run/runs/*/state.pt"))


def test_neither_of_two_processes_waits_for_a_dead_one(in_two_processes):
    first, second, folder = in_two_processes
    second.kill()
    assert first.wait(30) == 1
    assert "error: a process of this training ended with status -9" in (folder / "output").read_text()


def test_the_second_process_does_not_outlive_the_first(in_two_processes):
    first, second, _ = in_two_processes
    first.kill()
    first.wait(10)
    wait_for("the second's end", lambda: not second.is_running(), seconds=10)


def test_a_process_without_a_picture_is_an_error():
    settings = short_settings(batch_size=1, gradient_accumulation_steps=2)
    loop._refuse_idle_processes(settings, SimpleNamespace(count=2))
    with pytest.raises(LikenessError, match="a step has 2 pictures, too few for 3 processes; raise one of them"):
        loop._refuse_idle_processes(settings, SimpleNamespace(count=3))


class HostReads(TorchDispatchMode):
    """Counts how often Python reads a tensor's number, which on a GPU waits for all that was asked of it."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **keywords or {})


def test_no_step_waits_for_the_device(tmp_path, base_manifest, monkeypatch):
    """Python reads as many numbers in a training of many steps as in one of few, while none is due to be shown."""
    monkeypatch.setattr(loop, "SETTLE_SECONDS", 1000)
    counts = []
    for repeats in (1, 4):
        with HostReads() as reads:
            settings = {"epochs": 1, "repeats": repeats, "max_train_steps": None, "preserve_class": 2.0}
            run = trained(tmp_path / str(repeats), base_manifest, **settings)
        assert len(run.metrics) == (3 if repeats == 1 else 10)
        counts.append(reads.count)
    assert counts[0] == counts[1] > 0


def test_adafactors_rate_is_known_without_waiting_for_the_device():
    settings = short_settings(optimizer="Adafactor", lr_scheduler="constant")
    parameters = [torch.nn.Parameter(torch.full((2, 3), size)) for size in (0.5, 2.0)]
    optimizer = optimizers.optimizer(settings, {"unet": parameters})
    assert optimizers.rates(optimizer) == [0.0]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with HostReads() as reads:
        rates = optimizers.rates(optimizer)
    assert reads.count == 0
    assert [float(rate) for rate in rates] == pytest.approx([2.0 * 1e-2]), "that of the largest parameter"


def test_a_warm_up_that_never_ends_is_refused_before_anything_is_loaded(tmp_path, base_manifest):
    settings = {"max_train_steps": None, "epochs": 2, "repeats": 1, "lr_warmup_steps": 40}
    with pytest.raises(LikenessError, match="lr_warmup_steps: 40 of 6 steps, so the full rate is never reached"):
        trained(tmp_path, base_manifest, lr_scheduler="cosine", **settings)


def test_regularisation_photos_come_as_often_as_the_subjects():
    train = short_settings(batch_size=4)
    shown = [
        number
        for epoch in (1, 2)
        for batch in batches(train, epoch, 4, [(64, 64)] * 5, [(64, 64)] * 3)
        for number in batch
    ]
    counts = Counter(shown)
    assert [counts[number] for number in range(5)] == [8] * 5
    assert sorted(counts[number] for number in range(5, 8)) == [13, 13, 14], "in turn over both epochs"


def test_pictures_of_different_sizes_never_share_a_batch():
    images = [(64, 64)] * 3 + [(64, 96)] * 2
    train = short_settings(batch_size=2, max_train_steps=None, repeats=3)
    made = batches(train, 1, 3, images, [])
    assert len(made) == schedule(train, images)["steps_per_epoch"] == 5 + 3
    assert all(len({images[number] for number in batch}) == 1 for batch in made)
    assert Counter(number for batch in made for number in batch) == dict.fromkeys(range(5), 3)


DATASET = {"images": [{"name": "a", "sha256": "1", "caption_sha256": "2", "size": [64, 64], "face": [0, 0, 1, 1]}]}
DATASET["images"][0] |= {"class_caption_sha256": "3"}
DATASET |= {"regularisation": [], "heldout": [], "bare_class": {"caption_sha256": "4"}}


def test_run_key_knows_rank_from_alpha_and_ignores_what_changes_nothing():
    def key(dataset=DATASET, weights="", **changes):
        return run_key(short_settings(**changes), dataset, {"digest": "base"}, weights, "code")

    assert key() != key(rank=16)
    assert key() != key(epochs=4), "cosine is stretched over all epochs"
    assert key(lr_scheduler="constant", max_train_steps=1) == key(lr_scheduler="constant", max_train_steps=1, epochs=4)
    assert key() == key(device="cpu") == key(gpus=2) == key(save_every_n_epochs=2) == key(network_weights="a")
    assert key() != key(weights="sha256 of another file")
    assert key() == key(DATASET | {"heldout": DATASET["images"]}), "validation changes nothing of the LoRA"
    moved = DATASET | {"images": [DATASET["images"][0] | {"face": [0, 0, 0.5, 1]}]}
    assert key() == key(moved) and key(masked_loss=True) != key(moved, masked_loss=True)
    assert key() == key(preserve_class_share=1.0), "of nothing"
    other_class = DATASET | {"bare_class": {"caption_sha256": "5"}}
    assert key() == key(other_class) and key(preserve_class=1.0) != key(other_class, preserve_class=1.0)
