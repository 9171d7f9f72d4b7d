"""A training ends in the same bytes however often it was stopped or killed, and two processes train as one."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import safetensors.torch

from likeness.core.errors import LikenessError
from likeness.training import loop
from likeness.training.launch import INTERRUPTED
from likeness.training.store import SaveClock
from trained_run import base_width, default_signals, loras, made_up_data, short_settings, trained, trainers_options
from waiting import wait_for

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


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
    loop.SECONDS_BETWEEN_READS = 0.0
    SaveClock.SECONDS = 0.05  # so that states are some steps old when the kill comes

    def kill(metrics):
        if metrics[-1]["step"] >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    trained(folder, base, report=kill, settings=settings)


@pytest.mark.parametrize(
    ("kills", "changes"),
    [
        (5, {"precision": "fp16", "train_text_encoder": True, "ema_decay": 0.9, "dropout": 0.1}),
        (
            3,
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
    # Pictures one by one: the same rounding.
    alone = settings.model_copy(update={"batch_size": 1, "gradient_accumulation_steps": 2})
    one = trained(tmp_path / "one", base_manifest, data, settings=alone)
    options = trainers_options(tmp_path / "two", base_manifest, *data, settings.model_copy(update={"gpus": 2}))
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
    assert shown[0] == shown[1] and any(shown[0]) == bool(settings.preserve_class)
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
