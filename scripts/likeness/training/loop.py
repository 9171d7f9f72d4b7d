"""Training a LoRA, to be read from top to bottom.

Step: latents drawn from their spread, noise (noise.py), uniform timesteps on the CPU's generator, epsilon or v target,
fp32 error per picture with its weights (losses.py), mean; gradients clipped to 1.0; a loss scaler for fp16 only; one
step of the optimizer (optimizers.py) on what adapters.py put onto the frozen networks.

Nothing random outlives a step: noise comes from a generator seeded by (seed, step), order from one seeded by
(seed, epoch). So a state is weights, optimizer, schedule and the step's number, and a resumed run ends in the same
bytes as one that was never stopped.
"""

import contextlib
import signal
from collections.abc import Callable

import torch

from likeness import cli
from likeness.base_model import load_part
from likeness.conditioning import Conditioning, conditioning, size_ids
from likeness.errors import LikenessError
from likeness.lora_file import DTYPES, lora_bytes
from likeness.training import adapters, noise, optimizers
from likeness.training.adapters import Network
from likeness.training.losses import losses, target
from likeness.training.plan import epoch_of, plan, step_seed
from likeness.training.store import RunStore, SaveClock

MAX_GRAD_NORM = 1.0
# The loss stays on the device for this many steps: reading it each step would make the GPU wait for Python.
LOSSES_HELD = 20
INTERRUPTED = 75  # EX_TEMPFAIL: the work is saved, run the same command again


class Stop:
    """Set by SIGTERM, SIGINT and SIGURG (what SLURM is asked to send): save at the next step's end and leave."""

    def __init__(self):
        self.name = ""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGURG):
            signal.signal(number, self._set)

    def _set(self, number, _frame):
        self.name = signal.Signals(number).name


def train(
    settings: dict,
    items: list[dict],
    latents: dict[str, torch.Tensor],
    base: dict,
    store: RunStore,
    device: torch.device,
    report: Callable[[list[dict]], None],
) -> bool:
    """Train until every epoch's LoRA is in the store; True if done, False if a signal asked to leave early.

    `settings` is the train section, `items` the dataset's images, `latents` what load_latents gives. `report` gets the
    metrics (epoch, step, loss, lr) whenever some are new. Raises LikenessError, with the last state safe, if a loss is
    not finite.
    """
    stop = Stop()
    steps = plan(settings, len(items))
    per_epoch, total = steps["steps_per_epoch"], steps["total_steps"]
    torch.manual_seed(settings["seed"])
    networks = adapters.networks(settings, base, device)
    schedule = load_part(base, "scheduler")
    parameters = {name: list(network.parameters()) for name, network in networks.items()}
    optimizer = optimizers.optimizer(settings, parameters, fused=device.type == "cuda")
    lr_scheduler = optimizers.lr_scheduler(settings, optimizer, total)
    scaler = torch.amp.GradScaler(device.type, enabled=settings["precision"] == "fp16")
    latents = {name: tensor.to(device) for name, tensor in latents.items()}

    metrics, step = [], 0
    if state := store.load_state():
        step, metrics = _restore(state, networks, optimizer, lr_scheduler, scaler)
        _write_missing_epoch(store, step, per_epoch, settings, networks)
        report(metrics)
        cli.say(f"resuming after step {step} of {total}")

    held: list[tuple[dict, torch.Tensor, list[int]]] = []
    clock = SaveClock()

    def settle() -> None:
        """Read the held losses; refuse to go on from one that is not finite."""
        for row, loss, batch in held:
            row["loss"] = loss.item()
            if not torch.isfinite(loss):
                photos = ", ".join(sorted({items[i]["name"] for i in batch}))
                raise LikenessError(
                    f"the loss is not finite at step {row['step']}; photos of that batch: {photos}. "
                    "Try a lower learning_rate, precision bf16 or fp32; the last saved state is safe"
                )
            metrics.append(row)
        held.clear()
        report(metrics)

    def save() -> None:
        settle()
        store.save_state(_state(step, metrics, networks, optimizer, lr_scheduler, scaler))
        clock.restart()

    with cli.progress(range(total), initial=step, total=total, desc="train_lora", unit="step") as bar:
        while step < total:
            epoch = epoch_of(step, per_epoch)
            order = _epoch_order(settings["seed"], epoch, len(items), steps["repeats"])
            for batch in _batches(order, settings)[step - (epoch - 1) * per_epoch :]:
                lr = optimizers.rates(optimizer)[0]
                loss = _optimisation_step(
                    settings, step, batch, latents, networks, schedule, optimizer, lr_scheduler, scaler, device
                )
                step += 1
                held.append(({"epoch": epoch, "step": step, "lr": lr}, loss, batch))
                if len(held) >= LOSSES_HELD or step == total:
                    settle()
                    bar.set_postfix(epoch=epoch, loss=f"{_smoothed(metrics):.4f}", lr=f"{lr:.2e}", refresh=False)
                bar.update()
                if stop.name or (clock.due() and step < epoch * per_epoch):
                    save()
                if stop.name and step < epoch * per_epoch:
                    cli.say(f"{stop.name}: saved the state after step {step} of {total}; run the same command to go on")
                    return False
            save()
            store.save_epoch(epoch, _lora(settings, networks))
            cli.say(
                f"saved epoch {epoch} of {settings['epochs']}, step {step} of {total}, loss {_smoothed(metrics):.4f}"
            )
            if stop.name and step < total:
                cli.say(f"{stop.name}: leaving between epochs; run the same command to go on")
                return False
    return True


def _optimisation_step(
    settings, step, batch, latents, networks, schedule, optimizer, lr_scheduler, scaler, device
) -> torch.Tensor:
    """One step over `batch` (the images of all accumulated micro-batches); the mean loss, still on the device."""
    drawn = noise.drawn(settings, step, len(batch), latents["mean"].shape[1:], schedule.config.num_train_timesteps)
    torch.manual_seed(step_seed(settings["seed"], step))  # for dropout
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for start in range(0, len(batch), settings["batch_size"]):
        part = slice(start, start + settings["batch_size"])
        mine = {name: tensor[part].to(device) for name, tensor in drawn.items()}
        loss = _losses(settings, batch[part], mine, latents, networks, schedule, device).sum() / len(batch)
        scaler.scale(loss).backward()
        total += loss.detach()
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
    scaler.step(optimizer)
    scaler.update()
    lr_scheduler.step()
    return total


def _losses(settings, batch, drawn, latents, networks, schedule, device) -> torch.Tensor:
    """The loss of each image of a micro-batch, (n,) in fp32."""
    index = torch.tensor(batch, device=device)
    clean = latents["mean"][index] + latents["std"][index] * drawn["posterior"]
    noisy = schedule.add_noise(clean, drawn["noise"], drawn["timesteps"])
    with _autocast(settings["precision"], device):
        dtype = DTYPES[settings["precision"]]
        read = _conditioning(settings, index, drawn["dropped"], latents, networks)
        extra = {}
        if read.pooled is not None:
            sizes = size_ids(8 * clean.shape[-1], len(batch), device)  # a latent stands for 8 x 8 px
            extra["added_cond_kwargs"] = {"text_embeds": read.pooled.to(dtype), "time_ids": sizes.to(dtype)}
        predicted = networks["unet"].model(noisy.to(dtype), drawn["timesteps"], read.hidden.to(dtype), **extra).sample
    wanted = target(schedule, clean, drawn["noise"], drawn["timesteps"])
    return losses(settings, schedule, predicted, wanted, drawn["timesteps"])


def _conditioning(
    settings: dict, index: torch.Tensor, dropped: torch.Tensor, latents: dict, networks: dict[str, Network]
) -> Conditioning:
    """What the U-Net reads of the captions of some images; a dropped caption is the empty one."""

    def chosen(part: str) -> torch.Tensor | None:
        if part not in latents:
            return None
        here = dropped.reshape(-1, *[1] * (latents[part].dim() - 1))
        return torch.where(here, latents[f"empty_{part}"], latents[part][index])

    encoders = [network.model for name, network in networks.items() if name.startswith("text_encoder")]
    if encoders:
        return conditioning(encoders, chosen("tokens"), settings["clip_skip"])
    return Conditioning(chosen("hidden"), chosen("pooled"))


def _epoch_order(seed: int, epoch: int, images: int, repeats: int) -> list[int]:
    """Every image `repeats` times, shuffled."""
    generator = torch.Generator().manual_seed(step_seed(seed, -epoch))
    return [i % images for i in torch.randperm(images * repeats, generator=generator).tolist()]


def _batches(order: list[int], settings: dict) -> list[list[int]]:
    """The images of each optimisation step; the last one of an epoch may be smaller."""
    size = settings["batch_size"] * settings["gradient_accumulation_steps"]
    return [order[i : i + size] for i in range(0, len(order), size)]


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


# --- state and files -----------------------------------------------------------------------------------------------


def _state(step, metrics, networks, optimizer, lr_scheduler, scaler) -> dict:
    return {
        "step": step,
        "metrics": metrics,
        "adapters": {name: [p.detach().cpu() for p in network.parameters()] for name, network in networks.items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": lr_scheduler.state_dict(),
        "scaler": scaler.state_dict(),
    }


def _restore(state: dict, networks, optimizer, lr_scheduler, scaler) -> tuple[int, list[dict]]:
    for name, network in networks.items():
        for parameter, saved in zip(network.parameters(), state["adapters"][name], strict=True):
            parameter.data.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    lr_scheduler.load_state_dict(state["lr_scheduler"])
    scaler.load_state_dict(state["scaler"])
    return state["step"], state["metrics"]


def _write_missing_epoch(store, step: int, per_epoch: int, settings, networks) -> None:
    """The file of an epoch whose state was saved just before a kill."""
    epoch = step // per_epoch
    if step and step % per_epoch == 0 and not store.epoch_file(epoch).is_file():
        store.save_epoch(epoch, _lora(settings, networks))


def _lora(settings, networks) -> bytes:
    tensors = {key: tensor for network in networks.values() for key, tensor in network.tensors().items()}
    return lora_bytes(tensors, settings["save_precision"])


def _smoothed(metrics: list[dict], over: int = 50) -> float:
    last = metrics[-over:]
    return sum(row["loss"] for row in last) / max(len(last), 1)
