"""The course of a training for whoever watches: a progress bar where somebody looks, lines in the log elsewhere."""

import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta

from likeness import cli

SMOOTHED_OVER = 50  # steps; single losses differ tenfold by their timestep alone
LINE_SECONDS = 60  # between lines in the log: an hour's training is a page of them
# Measured on the demonstration: the loss of 4 pictures deviates by 0.9 of its mean, so that of one by 1.8, and the mean
# over so many steps by 0.13. By chance none is more than twice another.
JUDGED_OVER = 200
DIVERGED = 3.0  # times the lowest
SPEED_OVER = 30  # seconds of steps that the speed is taken from


class Course:
    """The bar and the log lines of a training from `step` to `total`; silent where `visible` is False."""

    def __init__(self, step: int, total: int, visible: bool = True):
        self.total, self._visible = total, visible
        self._bar = cli.progress(None, initial=step, total=total, desc="train_lora", unit="step") if visible else None
        self._times = [(time.monotonic(), step)]
        self._said = time.monotonic()
        self._looked_at, self._lowest, self._diverged = 0, math.inf, False

    def step(self, step: int) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def show(self, metrics: Sequence[Mapping], memory: int) -> None:
        """What is known after the last row of `metrics`; `memory` is the peak in bytes."""
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
        if now - self._said >= LINE_SECONDS and speed > 0:
            self._said = now
            left = timedelta(seconds=round((self.total - last["step"]) / speed))
            about = ", ".join(f"{name} {value}" for name, value in numbers.items())
            self.say(f"step {last['step']} of {self.total}, {about}, {speed:.2f} steps/s, {left} left")

    def _warn_of_divergence(self, metrics: Sequence[Mapping]) -> None:
        """Say once that the loss has risen as it does not by chance."""
        while len(metrics) - self._looked_at >= JUDGED_OVER and not self._diverged:
            self._looked_at += JUDGED_OVER
            loss, step = smoothed(metrics[: self._looked_at], over=JUDGED_OVER), metrics[self._looked_at - 1]["step"]
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


def smoothed(metrics: Sequence[Mapping], name: str = "loss", over: int = SMOOTHED_OVER) -> float:
    """The mean of the last steps that have it."""
    last = [row[name] for row in metrics[-over:] if row[name] != ""]
    return sum(last) / max(len(last), 1)
