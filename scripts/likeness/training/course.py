"""Shows the course of a training: a progress bar on a terminal, and lines in the log."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from likeness.core import cli

SMOOTHED_OVER = 50  # steps of the shown mean loss; single losses differ tenfold because their timesteps differ
LINE_SECONDS = 60  # between two lines in the log, so that an hour of training is a page
# Divergence is judged by mean losses over this many steps. Measured on the demonstration, the standard deviation of the
# loss of 4 pictures is 0.9 of its mean. So that of one picture is 1.8, and that of a mean over 200 steps 0.13: by
# chance, no such mean is more than twice another.
JUDGED_OVER = 200
DIVERGED = 3.0  # the training diverges if the mean loss is this many times the lowest mean
SPEED_OVER = 30  # seconds over which the speed is measured


class Course:
    """The bar and the log lines of a training from `step` to `total`; silent where `visible` is False."""

    def __init__(self, step: int, total: int, visible: bool = True):
        self.total, self._visible = total, visible
        self._bar = cli.progress(None, initial=step, total=total, desc="train_lora", unit="step") if visible else None
        self._times = [(time.monotonic(), step)]
        self._last_line = time.monotonic()
        self._judged, self._lowest, self._diverged = 0, math.inf, False

    def step(self, step: int) -> None:
        """Move the bar to `step`."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, metrics: Sequence[Mapping[str, Any]], memory: int) -> None:
        """Show the numbers after the last row of `metrics`. `memory` is the peak in bytes."""
        self._warn_of_divergence(metrics)
        now, last = time.monotonic(), metrics[-1]
        self._times = [entry for entry in self._times if now - entry[0] <= SPEED_OVER] or self._times[-1:]
        began, step = self._times[0]
        self._times.append((now, last["step"]))
        speed = (last["step"] - step) / max(now - began, 1e-9)
        numbers = {"epoch": last["epoch"], "loss": f"{smoothed(metrics):.4f}"}
        if any(row["preservation"] != "" for row in metrics[-SMOOTHED_OVER:]):
            numbers["preservation"] = f"{smoothed(metrics, 'preservation'):.5f}"
        numbers["lr"] = f"{last['lr']:.2e}"
        if last["lr_text_encoder"] != "":
            numbers["lr_text_encoder"] = f"{last['lr_text_encoder']:.2e}"
        numbers["memory"] = f"{memory / 2**30:.1f} GiB"
        if self._bar is not None:
            self._bar.set_postfix(numbers, refresh=False)
        if now - self._last_line >= LINE_SECONDS and speed > 0:
            self._last_line = now
            left = timedelta(seconds=round((self.total - last["step"]) / speed))
            about = ", ".join(f"{name} {value}" for name, value in numbers.items())
            self.say(f"step {last['step']} of {self.total}, {about}, {speed:.2f} steps/s, {left} left")

    def _warn_of_divergence(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Warn once if the loss has risen by more than chance explains."""
        while len(metrics) - self._judged >= JUDGED_OVER and not self._diverged:
            self._judged += JUDGED_OVER
            loss, step = smoothed(metrics[: self._judged], over=JUDGED_OVER), metrics[self._judged - 1]["step"]
            self._diverged = loss > DIVERGED * self._lowest
            if self._diverged:
                self.say(
                    f"the loss has risen to {loss:.3f} at step {step}, {loss / self._lowest:.1f} times its lowest: the "
                    "training diverges, and checkpoints from here on are spoilt; lower train.learning_rate and "
                    "train.text_encoder_lr, or let them fall (train.lr_scheduler: cosine)"
                )
            self._lowest = min(self._lowest, loss)

    def say(self, text: str) -> None:
        if self._visible:
            cli.say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def smoothed(metrics: Sequence[Mapping[str, Any]], name: str = "loss", over: int = SMOOTHED_OVER) -> float:
    """The mean of the metric `name` over the last `over` steps, without steps at which it was not measured."""
    last = [row[name] for row in metrics[-over:] if row[name] != ""]
    return sum(last) / max(len(last), 1)
