"""Whoever reads the log of a long training, or looks at its bar, learns how far it is and how long it will take."""

import io

import pytest

from likeness.core import cli
from likeness.training import course


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, to be set by hand."""
    now = [0.0]
    monkeypatch.setattr(course.time, "monotonic", lambda: now[0])
    return now


def rows(count: int, **more) -> list[dict]:
    """Of steps whose losses are 1, 2, 3 and so on."""
    row = {"epoch": 1, "lr": 1e-4, "lr_text_encoder": "", "preservation": ""} | more
    return [row | {"step": n, "loss": float(n)} for n in range(1, count + 1)]


def test_the_log_gets_a_line_a_minute_with_all_that_the_bar_shows(clock, capsys):
    shown = course.Course(0, 1_000_000)
    for minute_half in range(1, 5):
        clock[0] = 30.0 * minute_half
        shown.show(rows(60 * minute_half, lr_text_encoder=5e-5, preservation=0.025), 3 * 2**30)
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("step"))
    assert first == (
        "step 120 of 1000000, epoch 1, loss 95.5000, preservation 0.02500, lr 1.00e-04, lr_text_encoder 5.00e-05, "
        "memory 3.0 GiB, 2.00 steps/s, 5 days, 18:52:20 left"
    )
    assert second.startswith("step 240 of 1000000, epoch 1, loss 215.5000")
    shown.close()


def test_the_bar_shows_the_same_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(cli, "terminal", terminal)
    shown = course.Course(3, 10)
    shown.step(4)
    shown.show(rows(4), 2**30)
    shown.close()
    last = terminal.getvalue().split("\r")[-1]
    for part in ("train_lora", "4/10", "epoch=1", "loss=2.5000", "lr=1.00e-04", "memory=1.0 GiB"):
        assert part in last, last
    assert "preservation" not in last, "no class was preserved"


def test_other_processes_are_silent(capsys):
    silent = course.Course(0, 10, visible=False)
    silent.step(1)
    silent.say("saved")
    silent.close()
    assert capsys.readouterr().out == ""


def losses(*values: float) -> list[dict]:
    """Rows, with each loss for as many steps as are judged together."""
    every = [value for value in values for _ in range(course.JUDGED_OVER)]
    return [row | {"loss": loss} for row, loss in zip(rows(len(every)), every, strict=True)]


def test_a_training_that_diverges_is_said_once_with_what_to_do(capsys):
    shown, metrics = course.Course(0, 1000), losses(0.08, 0.05, 0.09, 0.12, 0.2, 0.4, 0.4)
    for known in range(40, len(metrics) + 1, 40):
        shown.show(metrics[:known], 0)
    (said,) = (line for line in capsys.readouterr().out.splitlines() if "diverges" in line)
    assert said.startswith("the loss has risen to 0.200 at step 1000, 4.0 times its lowest")
    assert "lower train.learning_rate" in said


def test_a_loss_that_falls_or_is_noisy_is_no_divergence(capsys):
    course.Course(0, 1000).show(losses(0.3, 0.1, 0.05, 0.12, 0.06, 0.14), 0)
    assert "diverges" not in capsys.readouterr().out
