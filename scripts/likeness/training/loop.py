"""Training a LoRA, to be read from top to bottom.

Step (step.py): latents drawn from their spread, noise (noise.py), uniform timesteps on the CPU's generator, epsilon or
v target, fp32 error per picture with its weights (losses.py), mean, and beside it how far the class has moved;
gradients clipped to 1.0; a loss scaler for fp16 only; one step of the optimizer (optimizers.py) on what adapters.py put
onto the frozen networks.

Nothing random outlives a step: noise comes from a generator seeded by (seed, step), order from one seeded by
(seed, epoch). So a state is weights, their average, optimizer, schedule, scaler and the step's number, and a resumed
run ends in the same bytes as one that was never stopped.
"""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from likeness.dataset import saved_epochs, schedule, sizes
from likeness.devices import memory_explained, peak_memory
from likeness.errors import LikenessError
from likeness.lora_file import DTYPES, lora_bytes
from likeness.training import optimizers
from likeness.training.course import Course, smoothed
from likeness.training.plan import batches
from likeness.training.processes import Processes
from likeness.training.run import Run, averaged, measured, prepared, restore, state_of
from likeness.training.step import optimisation_step, validation_losses
from likeness.training.store import RunStore, SaveClock

# Losses stay on the device for this long: reading one at each step would make the GPU wait for Python.
SETTLE_SECONDS = 1.0
# A loss scaler passes over a step whose gradient is infinite in fp16 and halves its scale, from 65536: after so many in
# a row the scale is 1/256, and it is not the scale that makes them so.
MAX_SKIPPED = 24


class Stop:
    """Set by SIGTERM, SIGINT and SIGURG (what SLURM is asked to send): save at the next step's end and leave."""

    def __init__(self):
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            signal.signal(number, self._set)

    def _set(self, number, _frame):
        self.name = signal.Signals(number).name


class Taken(NamedTuple):
    """A step whose `numbers` (loss, norm of the gradients, preservation) and `rates` may still be on the device."""

    row: dict
    rates: list
    numbers: torch.Tensor
    batch: list[int]


def train(
    settings: dict,
    dataset: Mapping,
    latents: Mapping,
    base: dict,
    store: RunStore,
    device: torch.device,
    report: Callable[[list[dict]], None],
    weights: Path | None = None,
) -> bool:
    """Train until the LoRA of every epoch to be saved is in the store; True if done, False if a signal asked to leave.

    `settings` is the train section with clip_skip, `dataset` is dataset.json, `latents` what load_latents gives,
    `weights` a LoRA file to go on from. `report` gets the metrics whenever some are new: of each step epoch, step,
    loss, lr, lr_text_encoder and gradient_norm; of an epoch's last also validation_loss. Raises LikenessError, with the
    last state safe, if a loss, a gradient or the LoRA is not finite, or memory or the disk run out.
    """
    stop, processes = Stop(), Processes(device)
    _refuse_idle_processes(settings, processes)
    images, regularisation = sizes(dataset)
    steps = schedule(settings, images, regularisation)
    per_epoch, total = steps["steps_per_epoch"], steps["total_steps"]
    if mistakes := optimizers.endless_warm_up(settings, total):
        raise LikenessError(*mistakes)
    wanted = saved_epochs(steps["epochs"], settings["save_every_n_epochs"])
    explained = functools.partial(memory_explained, settings | {"resolution": dataset["resolution"]})
    with explained():
        run = prepared(settings, dataset, latents, base, total, processes, weights)

    state = store.load_state(before=_last_step_before(store, wanted, per_epoch))
    course = Course(state["step"] if state else 0, total, visible=processes.first)
    course.say(f"training on {processes.device.type} in {processes.count} process{'es' * (processes.count > 1)}")
    if state:
        course.say(f"resuming after step {state['step']} of {total}")
        restore(run, state, course.say)
        report(run.metrics)
    ended = run.step // per_epoch
    if processes.first and ended in wanted and not store.has_epoch(ended):
        _save_epoch(run, store, ended)  # a kill came between its state, which is the one just read, and its file

    held: list[Taken] = []
    clock, settled = SaveClock(), time.monotonic()

    def settle() -> None:
        """Read what is held; refuse to go on from numbers that are not finite."""
        nonlocal settled
        read = torch.stack([taken.numbers for taken in held]).tolist()
        for taken, (loss, norm, preservation) in zip(held, read, strict=True):
            lr, *others = map(float, taken.rates)
            rates = {"lr": lr, "lr_text_encoder": others[0] if settings["train_text_encoder"] else ""}
            losses = {"loss": loss, "preservation": "" if preservation < 0 else preservation}
            run.metrics.append(taken.row | rates | losses | {"gradient_norm": norm})
            photos = {run.pictures.items[number]["name"] for number in taken.batch}
            if not math.isfinite(loss + preservation):
                raise _not_finite("the loss", taken.row["step"], photos)
            if _is_beyond_recovery(run, total):
                raise _not_finite("the gradient", taken.row["step"], photos)
        if not _fits(run):
            raise _not_finite("the LoRA", run.step, photos)
        held.clear()
        settled = time.monotonic()

    def show() -> None:
        report(run.metrics)
        course.show(run.metrics, peak_memory(processes.device))

    def validate() -> None:
        with explained():
            found = validation_losses(run)
        photos = [item["name"] for item, loss in zip(run.heldout.items, found, strict=True) if not math.isfinite(loss)]
        if photos:
            raise _not_finite("the loss on held-out photos", run.step, photos)
        run.metrics[-1]["validation_loss"] = sum(found) / len(found) if found else ""

    def save() -> None:
        if processes.first:
            store.save_state(state_of(run))
        clock.restart()

    with contextlib.closing(course):
        while run.step < total:
            epoch = run.step // per_epoch + 1
            order = batches(settings, epoch, steps["repeats"], images, regularisation)
            for batch in order[run.step - (epoch - 1) * per_epoch :]:
                rates = optimizers.rates(run.optimizer)
                row = {"epoch": epoch, "step": run.step + 1, "validation_loss": ""}
                with explained():
                    numbers, stopped = optimisation_step(run, batch, bool(stop.name))
                if stopped:
                    stop.name = stop.name or "another process was asked to stop"
                run.step += 1
                held.append(Taken(row, rates, numbers, batch))
                course.step(run.step)
                if run.step == epoch * per_epoch:
                    break
                due = stopped or clock.due()
                if due or time.monotonic() - settled >= SETTLE_SECONDS:
                    settle()
                    if due:
                        save()
                    show()
                if stopped:
                    course.say(f"{stop.name}: saved the state after step {run.step} of {total}; run again to go on")
                    return False
            settle()
            validate()
            if epoch in wanted or stopped:
                save()
            if epoch in wanted and processes.first:
                _save_epoch(run, store, epoch)
            show()
            if epoch in wanted:
                course.say(_saved(run, epoch, steps))
            if stopped and run.step < total:
                course.say(f"{stop.name}: leaving between epochs; run the same command to go on")
                return False
    return True


# --- what is refused ---------------------------------------------------------------------------------------------


def _refuse_idle_processes(settings: dict, processes: Processes) -> None:
    step = settings["batch_size"] * settings["gradient_accumulation_steps"]
    if step < processes.count:
        raise LikenessError(
            f"batch_size x gradient_accumulation_steps: a step has {step} picture{'s' * (step > 1)}, too few for "
            f"{processes.count} processes; raise one of them, or start fewer processes"
        )


def _not_finite(what: str, step: int, photos: Iterable[str]) -> LikenessError:
    return LikenessError(
        f"{what} is not finite at step {step}; photos: {', '.join(sorted(photos))}. "
        "Try a lower learning_rate, precision bf16 or fp32; the last saved state is safe"
    )


def _is_beyond_recovery(run: Run, total: int) -> bool:
    """Whether the last gradient was not finite; with a loss scaler, which passes over such steps, whether so many in a
    row were not that it will not help."""
    steps = min(MAX_SKIPPED, total) if run.scaler.is_enabled() else 1
    last = run.metrics[-steps:]
    return len(last) == steps and not any(math.isfinite(row["gradient_norm"]) for row in last)


def _fits(run: Run) -> bool:
    """Whether every number of the LoRA is finite, also in the precision in which it is saved."""
    largest = torch.stack(torch._foreach_norm([p.detach() for p in run.parameters], math.inf)).max().item()
    return largest <= torch.finfo(DTYPES[run.settings["save_precision"]]).max  # never true of nan


# --- files -----------------------------------------------------------------------------------------------


def _last_step_before(store: RunStore, wanted: list[int], per_epoch: int) -> float:
    """The last step that a state may have been saved after: at most the one that ends the first missing epoch."""
    missing = [epoch for epoch in wanted if not store.has_epoch(epoch)]
    return missing[0] * per_epoch if missing else float("inf")


def _save_epoch(run: Run, store: RunStore, epoch: int) -> None:
    with averaged(run):
        tensors = {key: tensor for network in run.networks.values() for key, tensor in network.tensors().items()}
        store.save_epoch(epoch, lora_bytes(tensors, run.settings["save_precision"]), measured(run))


def _saved(run: Run, epoch: int, steps: dict) -> str:
    """What is said of a saved epoch."""
    text = f"saved epoch {epoch} of {steps['epochs']}, step {run.step} of {steps['total_steps']}"
    text += f", loss {smoothed(run.metrics):.4f}"
    held_out = run.metrics[-1]["validation_loss"]
    return text if held_out == "" else f"{text}, {held_out:.4f} on held-out photos"
