"""A training tells its course: in its log, in metrics.tsv and in TensorBoard."""

import os
import re
import signal
import sys

import pandas as pd
import pytest

import train_lora
from likeness.core.errors import LikenessError
from likeness.training import course
from likeness.training.metrics import MetricsLog
from likeness.training.store import RunStore, SaveClock
from trained_run import (
    WIDTH,
    assert_the_states_are_finite,
    default_signals,
    made_up_data,
    short_settings,
    trained,
    trainers_options,
)

pytestmark = pytest.mark.usefixtures("every_step_is_reported")


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
