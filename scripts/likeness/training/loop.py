"""The training loop of a LoRA. The module can be read from top to bottom.

One optimisation step (step.py):
1. Sample the latents from their mean and std, and sample noise and timesteps on the CPU (noise.py).
2. Compute model_pred and target (epsilon or v), and the weighted error of each picture in fp32 (losses.py). The loss is
   their mean plus the weighted preservation loss, which measures how far the class has moved.
3. Clip the norm of the gradients to 1.0. For fp16 only, a loss scaler is used.
4. Let the optimizer (optimizers.py) change the adapters (adapters.py); the networks stay frozen.

No random state is kept between steps: the noise has a generator seeded by (seed, step), the order of the pictures one
seeded by (seed, epoch). So a saved state is the weights, their average, optimizer, schedule, scaler and step number,
and a resumed training ends in the same bytes as one that was never stopped.
"""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from likeness.core.devices import memory_explained, peak_memory
from likeness.core.errors import LikenessError
from likeness.models.lora_file import DTYPES, lora_bytes
from likeness.training import optimizers
from likeness.training.course import Course, smoothed
from likeness.training.optimizer_table import endless_warm_up
from likeness.training.plan import batches
from likeness.training.processes import Processes
from likeness.training.run import Run, metrics_record, new_run, restore, state_of, with_average_weights
from likeness.training.schedule import Schedule, saved_epochs, schedule, sizes
from likeness.training.settings import Settings
from likeness.training.step import optimisation_step, validation_losses
from likeness.training.store import RunStore, SaveClock

# Losses are read from the device this often. If each was read at its step, the GPU would wait for Python.
SECONDS_BETWEEN_READS = 1.0
# If a gradient is infinite in fp16, the loss scaler skips the step and halves its scale, which starts at 65536. After
# 24 skipped steps in a row the scale is 1/256, so the scale is not the cause of the infinite gradients.
MAX_SKIPPED = 24


class Stop:
    """Remembers a SIGTERM, SIGINT or SIGURG (SLURM sends the last one): `name` is then the signal's name, and the
    training saves its state after the current step and ends."""

    def __init__(self) -> None:
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            signal.signal(number, self._set)

    def _set(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


class UnreadStep(NamedTuple):
    """A finished step whose `numbers` (loss, gradient norm, preservation) and `rates` may still be on the device."""

    row: dict[str, Any]
    rates: list[Any]
    numbers: torch.Tensor
    batch: list[int]


@dataclass
class Training:
    """A run in progress: `unread` steps have losses on the device, `report` gets the metrics, `store` the states."""

    run: Run
    total: int
    store: RunStore
    course: Course
    report: Callable[[list[dict[str, Any]]], None]
    explain_memory_errors: Callable[[], contextlib.AbstractContextManager[None]]
    """Turns an out-of-memory error into a LikenessError with advice."""
    unread: list[UnreadStep] = field(default_factory=list)
    clock: SaveClock = field(default_factory=SaveClock)
    losses_read_at: float = field(default_factory=time.monotonic)

    def step(self, epoch: int, batch: list[int], asked_to_stop: bool) -> bool:
        """Run one optimisation step. Returns True if a process was asked to stop."""
        run = self.run
        rates = optimizers.rates(run.optimizer)
        row = {"epoch": epoch, "step": run.step + 1, "validation_loss": ""}
        with self.explain_memory_errors():
            numbers, stopped = optimisation_step(run, batch, asked_to_stop)
        run.step += 1
        self.unread.append(UnreadStep(row, rates, numbers, batch))
        self.course.step(run.step)
        return stopped

    def read_losses(self) -> None:
        """Read the losses of the unread steps from the device and add them to the metrics. Raises LikenessError if a
        loss, a gradient or the LoRA is not finite."""
        run, photos = self.run, set[str]()
        rows = torch.stack([step.numbers for step in self.unread]).tolist()
        for step, (loss, norm, preservation) in zip(self.unread, rows, strict=True):
            lr, *others = map(float, step.rates)
            rates = {"lr": lr, "lr_text_encoder": others[0] if run.settings.train_text_encoder else ""}
            losses = {"loss": loss, "preservation": "" if preservation < 0 else preservation}
            run.metrics.append(step.row | rates | losses | {"gradient_norm": norm})
            photos = {run.pictures.items[number]["name"] for number in step.batch}
            if not math.isfinite(loss + preservation):
                raise _not_finite("the loss", step.row["step"], photos)
            if _is_beyond_recovery(run, self.total):
                raise _not_finite("the gradient", step.row["step"], photos)
        if not _is_finite(run):
            raise _not_finite("the LoRA", run.step, photos)
        self.unread.clear()
        self.losses_read_at = time.monotonic()

    def losses_are_due(self) -> bool:
        return time.monotonic() - self.losses_read_at >= SECONDS_BETWEEN_READS

    def show(self) -> None:
        self.report(self.run.metrics)
        self.course.show(self.run.metrics, peak_memory(self.run.processes.device))

    def validate(self) -> None:
        """Write the mean loss on the held-out photos into the last row of the metrics. Raises LikenessError if a loss
        is not finite."""
        run = self.run
        with self.explain_memory_errors():
            losses = validation_losses(run)
        photos = [item["name"] for item, loss in zip(run.heldout.items, losses, strict=True) if not math.isfinite(loss)]
        if photos:
            raise _not_finite("the loss on held-out photos", run.step, photos)
        run.metrics[-1]["validation_loss"] = sum(losses) / len(losses) if losses else ""

    def save(self) -> None:
        if self.run.processes.first:
            self.store.save_state(state_of(self.run))
        self.clock.restart()


def train(
    settings: Settings,
    dataset: Mapping[str, Any],
    latents: Mapping[str, Any],
    base: dict[str, Any],
    store: RunStore,
    device: torch.device,
    report: Callable[[list[dict[str, Any]]], None],
    weights: Path | None = None,
) -> bool:
    """Train until the store has the LoRA of every epoch that is to be saved. Returns True then, and False if a signal
    ended the training before.

    `dataset` is dataset.json, `latents` the result of load_latents, `weights` a LoRA file to start from. `report` gets
    all metrics whenever there are new ones: a row per step with the columns of metrics.COLUMNS; validation_loss is only
    in the last row of an epoch. Raises LikenessError if a loss, a gradient or the LoRA is not finite, or if memory or
    the disk run out; the last saved state stays valid.
    """
    stop, processes = Stop(), Processes(device)
    _refuse_idle_processes(settings, processes)
    images, regularisation = sizes(dataset)
    steps = schedule(settings, images, regularisation)
    per_epoch, total = steps.steps_per_epoch, steps.total_steps
    if mistakes := endless_warm_up(settings.lr_warmup_steps, total):
        raise LikenessError(*mistakes)
    to_save = saved_epochs(steps.epochs, settings.save_every_n_epochs)
    explain_memory_errors = functools.partial(
        memory_explained, settings.model_dump() | {"resolution": dataset["resolution"]}
    )
    with explain_memory_errors():
        run = new_run(settings, dataset, latents, base, total, processes, weights)

    state = store.load_state(before=_last_step_before(store, to_save, per_epoch))
    course = Course(state["step"] if state else 0, total, visible=processes.first)
    course.say(f"training on {processes.device.type} in {processes.count} process{'es' * (processes.count > 1)}")
    if state:
        course.say(f"resuming after step {state['step']} of {total}")
        restore(run, state, course.say)
        report(run.metrics)
    last_finished_epoch = run.step // per_epoch
    if processes.first and last_finished_epoch in to_save and not store.has_epoch(last_finished_epoch):
        # The process was killed after it saved this state and before it saved the LoRA of the epoch.
        _save_epoch(run, store, last_finished_epoch)

    training = Training(run, total, store, course, report, explain_memory_errors)
    stopped = False
    with contextlib.closing(course):
        while run.step < total:
            epoch = run.step // per_epoch + 1
            order = batches(settings, epoch, steps.repeats, images, regularisation)
            for batch in order[run.step - (epoch - 1) * per_epoch :]:
                stopped = training.step(epoch, batch, bool(stop.name))
                if stopped:
                    stop.name = stop.name or "another process was asked to stop"
                if run.step == epoch * per_epoch:
                    break
                due = stopped or training.clock.due()
                if due or training.losses_are_due():
                    training.read_losses()
                    if due:
                        training.save()
                    training.show()
                if stopped:
                    course.say(f"{stop.name}: saved the state after step {run.step} of {total}; run again to go on")
                    return False
            training.read_losses()
            training.validate()
            if epoch in to_save or stopped:
                training.save()
            if epoch in to_save and processes.first:
                _save_epoch(run, store, epoch)
            training.show()
            if epoch in to_save:
                course.say(_saved_message(run, epoch, steps))
            if stopped and run.step < total:
                course.say(f"{stop.name}: leaving between epochs; run the same command to go on")
                return False
    return True


# --- errors ------------------------------------------------------------------------------------------------------


def _refuse_idle_processes(settings: Settings, processes: Processes) -> None:
    """Raises LikenessError if a step has fewer pictures than there are processes."""
    pictures = settings.batch_size * settings.gradient_accumulation_steps
    if pictures < processes.count:
        raise LikenessError(
            f"batch_size x gradient_accumulation_steps: a step has {pictures} picture{'s' * (pictures > 1)}, too few "
            f"for {processes.count} processes; raise one of them, or start fewer processes"
        )


def _not_finite(what: str, step: int, photos: Iterable[str]) -> LikenessError:
    return LikenessError(
        f"{what} is not finite at step {step}; photos: {', '.join(sorted(photos))}. "
        "Try a lower learning_rate, precision bf16 or fp32; the last saved state is safe"
    )


def _is_beyond_recovery(run: Run, total: int) -> bool:
    """True if the last gradient was not finite. With a loss scaler, which skips such steps: True if the gradients of
    the last MAX_SKIPPED steps were not finite."""
    steps = min(MAX_SKIPPED, total) if run.scaler.is_enabled() else 1
    last = run.metrics[-steps:]
    return len(last) == steps and not any(math.isfinite(row["gradient_norm"]) for row in last)


def _is_finite(run: Run) -> bool:
    """True if every number of the LoRA is finite, also in the precision in which it is saved."""
    largest = torch.stack(torch._foreach_norm([p.detach() for p in run.parameters], math.inf)).max().item()
    return largest <= torch.finfo(DTYPES[run.settings.save_precision]).max  # False for nan


# --- files -----------------------------------------------------------------------------------------------


def _last_step_before(store: RunStore, to_save: list[int], per_epoch: int) -> float:
    """The last step of the first epoch that is missing in the store. A state after a later step cannot be used, because
    this epoch would not be saved."""
    missing = [epoch for epoch in to_save if not store.has_epoch(epoch)]
    return missing[0] * per_epoch if missing else float("inf")


def _save_epoch(run: Run, store: RunStore, epoch: int) -> None:
    with with_average_weights(run):
        tensors = {key: tensor for network in run.networks.values() for key, tensor in network.tensors().items()}
        store.save_epoch(epoch, lora_bytes(tensors, run.settings.save_precision), metrics_record(run))


def _saved_message(run: Run, epoch: int, steps: Schedule) -> str:
    """The line in the log about a saved epoch."""
    text = f"saved epoch {epoch} of {steps.epochs}, step {run.step} of {steps.total_steps}"
    text += f", loss {smoothed(run.metrics):.4f}"
    validation_loss = run.metrics[-1]["validation_loss"]
    return text if validation_loss == "" else f"{text}, {validation_loss:.4f} on held-out photos"
