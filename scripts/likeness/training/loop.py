"""Training a LoRA, to be read from top to bottom.

Step: latents drawn from their spread, noise (noise.py), uniform timesteps on the CPU's generator, epsilon or v target,
fp32 error per picture with its weights (losses.py), mean; gradients clipped to 1.0; a loss scaler for fp16 only; one
step of the optimizer (optimizers.py) on what adapters.py put onto the frozen networks.

Nothing random outlives a step: noise comes from a generator seeded by (seed, step), order from one seeded by
(seed, epoch). So a state is weights, their average, optimizer, schedule, scaler and the step's number, and a resumed
run ends in the same bytes as one that was never stopped.
"""

import contextlib
import functools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from likeness.conditioning import Conditioning, conditioning, size_ids
from likeness.dataset import saved_epochs, schedule, sizes
from likeness.devices import memory_explained, peak_memory
from likeness.errors import LikenessError
from likeness.lora_file import DTYPES, lora_bytes
from likeness.training import noise, optimizers
from likeness.training.course import Course, smoothed
from likeness.training.losses import losses, target
from likeness.training.pictures import Pictures
from likeness.training.plan import batches, step_seed
from likeness.training.processes import Processes
from likeness.training.run import Run, averaged, measured, prepared, restore, state_of
from likeness.training.store import RunStore, SaveClock

MAX_GRAD_NORM = 1.0
# Losses stay on the device for this long: reading one at each step would make the GPU wait for Python.
SETTLE_SECONDS = 1.0
# A loss scaler passes over a step whose gradient is infinite in fp16 and halves its scale, from 65536: after so many in
# a row the scale is 1/256, and it is not the scale that makes them so.
MAX_SKIPPED = 24
# From little noise to much, so that the mean of a few stands for all. Fixed, so that epochs can be compared.
VALIDATION_TIMESTEPS = (100, 300, 500, 700, 900)


class Stop:
    """Set by SIGTERM, SIGINT and SIGURG (what SLURM is asked to send): save at the next step's end and leave."""

    def __init__(self):
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            signal.signal(number, self._set)

    def _set(self, number, _frame):
        self.name = signal.Signals(number).name


class Taken(NamedTuple):
    """A step whose `numbers` (loss, norm of the gradients) and `rates` may still be on the device."""

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
        for taken, (loss, norm) in zip(held, read, strict=True):
            lr, *others = map(float, taken.rates)
            rates = {"lr": lr, "lr_text_encoder": others[0] if others else ""}
            run.metrics.append(taken.row | rates | {"loss": loss, "gradient_norm": norm})
            photos = {run.pictures.items[number]["name"] for number in taken.batch}
            if not math.isfinite(loss):
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
            found = _validation_losses(run)
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
                    numbers, stopped = _optimisation_step(run, batch, stop)
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


# --- one step ------------------------------------------------------------------------------------------------------


def _optimisation_step(run: Run, batch: list[int], stop: Stop) -> tuple[torch.Tensor, bool]:
    """One step over `batch` (the pictures of all accumulated micro-batches): the mean loss and the gradients' norm,
    still on the device, (2,); and whether a process was asked to stop.

    Several processes take the step that one would, but for dropout: each draws its own.
    """
    settings, processes, device = run.settings, run.processes, run.processes.device
    drawn = noise.drawn(settings, run.step, run.pictures.shape(batch), run.noise_schedule.config.num_train_timesteps)
    seed = step_seed(settings["seed"], run.step)
    torch.manual_seed(seed + processes.number)  # for dropout
    run.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    run.scaler.scale(total)  # makes its scale, also where no picture is left for this process
    mine = processes.share(len(batch))
    for start in range(0, len(mine), settings["batch_size"]):
        places = list(mine[start : start + settings["batch_size"]])
        chance = {name: _moved(tensor[places], device) for name, tensor in drawn.items()}
        orders = [f"{seed}/{place}" for place in places]
        loss = _losses(run, [batch[place] for place in places], chance, orders).sum() / len(batch)
        run.scaler.scale(loss).backward()
        total = total + loss.detach()
    parameters = run.parameters
    total, stops = processes.add_up(parameters, total, torch.tensor(float(bool(stop.name))))
    run.scaler.unscale_(run.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.lr_scheduler.step()
    if run.average:
        # As diffusers' EMAModel: the average follows quickly at first, or it would be mostly the start.
        decay = min(settings["ema_decay"], (1 + run.step) / (10 + run.step)) if run.step else 0.0
        torch._foreach_lerp_(run.average, [p.detach() for p in parameters], 1 - decay)
    # Several processes leave together, after the step in which all have heard of it.
    return torch.stack([total, norm.to(total.dtype)]), bool(stop.name if processes.count == 1 else stops)


def _losses(run: Run, batch: list[int], drawn: dict[str, torch.Tensor], orders: Sequence[str]) -> torch.Tensor:
    """The loss of each picture of a micro-batch, (n,). `orders` are the seeds by which captions are shuffled."""
    pictures, schedule = run.pictures, run.noise_schedule
    clean = pictures.clean(batch, drawn["posterior"], drawn["flipped"])
    with _autocast(run.settings["precision"], run.processes.device):
        read = _read(run, pictures, batch, drawn["dropped"], orders)
        predicted = _predicted(run, schedule.add_noise(clean, drawn["noise"], drawn["timesteps"]), drawn, read)
    wanted = target(schedule, clean, drawn["noise"], drawn["timesteps"])
    mask = pictures.masks(batch, drawn["flipped"])
    return losses(run.settings, schedule, predicted, wanted, drawn["timesteps"], mask) * pictures.weights(batch)


def _read(
    run: Run, pictures: Pictures, batch: list[int], dropped: torch.Tensor, orders: Sequence[str] = ()
) -> Conditioning:
    """What the U-Net reads of the captions of some pictures."""
    if run.encoders:
        return conditioning(run.encoders, pictures.tokens(batch, dropped, orders), run.settings["clip_skip"])
    return Conditioning(pictures.text("hidden", batch, dropped), pictures.text("pooled", batch, dropped))


def _predicted(run: Run, noisy: torch.Tensor, drawn: dict[str, torch.Tensor], read: Conditioning) -> torch.Tensor:
    """The U-Net's answer to noisy latents (n, 4, h, w)."""
    dtype = DTYPES[run.settings["precision"]]
    extra = {}
    if read.pooled is not None:
        # A latent stands for 8 x 8 px.
        ids = size_ids(8 * noisy.shape[-2], 8 * noisy.shape[-1], len(noisy), noisy.device)
        extra["added_cond_kwargs"] = {"text_embeds": read.pooled.to(dtype), "time_ids": ids.to(dtype)}
    unet = run.networks["unet"].model
    return unet(noisy.to(dtype), drawn["timesteps"], read.hidden.to(dtype), **extra).sample


def _validation_losses(run: Run) -> list[float]:
    """The mean squared error on each photo that is never trained on, at fixed noise and timesteps."""
    pictures, device, found = run.heldout, run.processes.device, []
    with torch.no_grad(), _without_dropout(run), averaged(run):
        for number, item in enumerate(pictures.items):
            generator = torch.Generator().manual_seed(step_seed(run.settings["seed"], item["name"]))
            for start in range(0, len(VALIDATION_TIMESTEPS), run.settings["batch_size"]):
                times = torch.tensor(VALIDATION_TIMESTEPS[start : start + run.settings["batch_size"]])
                batch = [number] * len(times)
                fixed = torch.randn(pictures.shape(batch), generator=generator)
                none = torch.zeros(len(times), dtype=torch.bool)
                drawn = {"noise": fixed, "posterior": torch.zeros_like(fixed), "timesteps": times}
                drawn = {name: tensor.to(device) for name, tensor in (drawn | {"dropped": none}).items()}
                clean = pictures.clean(batch, drawn["posterior"], drawn["dropped"])
                with _autocast(run.settings["precision"], device):
                    read = _read(run, pictures, batch, drawn["dropped"])
                    noisy = run.noise_schedule.add_noise(clean, drawn["noise"], drawn["timesteps"])
                    predicted = _predicted(run, noisy, drawn, read)
                wanted = target(run.noise_schedule, clean, drawn["noise"], drawn["timesteps"])
                found.append((predicted.float() - wanted.float()).square().mean((1, 2, 3)))
    return torch.cat(found).reshape(len(pictures.items), -1).mean(1).tolist() if found else []


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device, without making Python wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    half = precision in ("fp16", "bf16")
    return torch.autocast(device.type, DTYPES[precision]) if half else contextlib.nullcontext()


@contextlib.contextmanager
def _without_dropout(run: Run) -> Iterator[None]:
    layers = [layer for network in run.networks.values() for layer in network.layers]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


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
