"""Training a LoRA, to be read from top to bottom.

Step: latents drawn from their spread, noise (with an optional offset per channel), uniform timesteps on the CPU's
generator, epsilon or v target, fp32 squared error per sample, optional min-SNR weight (Hang et al. 2023,
arXiv:2303.09556), mean; gradients clipped to 1.0; a loss scaler for fp16 only.

Nothing random outlives a step: noise comes from a generator seeded by (seed, step), order from one seeded by
(seed, epoch). So a state is weights, optimizer, schedule and the step's number, and a resumed run ends in the same
bytes as one that was never stopped.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator

import torch

from likeness import cli
from likeness.base_model import load_part
from likeness.errors import LikenessError
from likeness.lora_file import DTYPES, Module, lora_bytes, text_encoder_modules, unet_modules
from likeness.training.plan import epoch_of, plan, step_seed
from likeness.training.store import RunStore, SaveClock

MAX_GRAD_NORM = 1.0
# The loss stays on the device for this many steps: reading it each step would make the GPU wait for Python.
LOSSES_HELD = 20
INTERRUPTED = 75  # EX_TEMPFAIL: the work is saved, run the same command again
ADAPTER = "default"


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
    networks = _networks(settings, base, device)
    schedule = load_part(base, "scheduler")
    optimizer = torch.optim.AdamW(_parameter_groups(settings, networks), foreach=True)
    lr_scheduler = _lr_scheduler(settings, optimizer, total)
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
                lr = optimizer.param_groups[0]["lr"]
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
    noise = _drawn(settings, step, len(batch), latents["mean"].shape[1:], schedule.config.num_train_timesteps)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=device)
    for start in range(0, len(batch), settings["batch_size"]):
        part = slice(start, start + settings["batch_size"])
        drawn = {name: tensor[part].to(device) for name, tensor in noise.items()}
        loss = _losses(settings, batch[part], drawn, latents, networks, schedule, device).sum() / len(batch)
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
        hidden = latents["hidden"][index]
        if "text_encoder" in networks:
            hidden = networks["text_encoder"].model(latents["tokens"][index])[0]
        dtype = DTYPES[settings["precision"]]
        predicted = networks["unet"].model(noisy.to(dtype), drawn["timesteps"], hidden.to(dtype)).sample
    target = drawn["noise"]
    if schedule.config.prediction_type == "v_prediction":
        target = schedule.get_velocity(clean, drawn["noise"], drawn["timesteps"])
    losses = torch.nn.functional.mse_loss(predicted.float(), target.float(), reduction="none").mean((1, 2, 3))
    return losses * _snr_weights(settings["min_snr_gamma"], schedule, drawn["timesteps"])


def _snr_weights(gamma: float | None, schedule, timesteps: torch.Tensor) -> torch.Tensor | float:
    """min-SNR weights (n,): min(SNR, gamma) / SNR for epsilon, / (SNR + 1) for v (arXiv:2303.09556, section 3.4)."""
    if gamma is None:
        return 1.0
    kept = schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    snr = kept / (1 - kept)
    return snr.clamp(max=gamma) / (snr + (schedule.config.prediction_type == "v_prediction"))


def _drawn(settings, step: int, n: int, shape: torch.Size, timesteps: int) -> dict[str, torch.Tensor]:
    """Everything random of one step, drawn on the CPU for every device alike: (n, *shape) noises and (n,) timesteps."""
    generator = torch.Generator().manual_seed(step_seed(settings["seed"], step))
    posterior = torch.randn(n, *shape, generator=generator)
    noise = torch.randn(n, *shape, generator=generator)
    if settings["noise_offset"]:
        noise += settings["noise_offset"] * torch.randn(n, shape[0], 1, 1, generator=generator)
    return {
        "posterior": posterior,
        "noise": noise,
        "timesteps": torch.randint(0, timesteps, (n,), generator=generator),
    }


def _epoch_order(seed: int, epoch: int, images: int, repeats: int) -> list[int]:
    """Every image `repeats` times, shuffled."""
    generator = torch.Generator().manual_seed(step_seed(seed, -epoch))
    return [i % images for i in torch.randperm(images * repeats, generator=generator).tolist()]


def _batches(order: list[int], settings: dict) -> list[list[int]]:
    """The images of each optimisation step; the last one of an epoch may be smaller."""
    size = settings["batch_size"] * settings["gradient_accumulation_steps"]
    return [order[i : i + size] for i in range(0, len(order), size)]


# --- the networks that carry a LoRA --------------------------------------------------------------------------------


class _Network:
    """A frozen model with a LoRA on the layers of `modules`."""

    def __init__(self, model: torch.nn.Module, modules: list[Module], settings: dict, device: torch.device):
        from peft import LoraConfig
        from peft.tuners.tuners_utils import BaseTunerLayer

        # A set would let peft match by ending; the pattern names each layer in full, so that none is missed or added.
        pattern = "|".join(module.path.replace(".", r"\.") for module in modules)
        config = LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=pattern)
        model.add_adapter(config, adapter_name=ADAPTER)
        self.model, self.modules = model.to(device), modules
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
        if sorted(layers) != sorted(module.path for module in modules):
            raise LikenessError(
                "the base model's layers are not the ones of Stable Diffusion 1.x; no LoRA can be placed"
            )
        self.layers = [layers[module.path] for module in modules]
        for parameter in self.parameters():
            parameter.data = parameter.data.float()  # bf16 would lose updates below 0.4 % of a weight

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        for layer in self.layers:
            yield layer.lora_A[ADAPTER].weight
            yield layer.lora_B[ADAPTER].weight

    def weights(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """file key -> (down, up)."""
        return {
            module.key: (layer.lora_A[ADAPTER].weight.detach(), layer.lora_B[ADAPTER].weight.detach())
            for module, layer in zip(self.modules, self.layers, strict=True)
        }


def _networks(settings: dict, base: dict, device: torch.device) -> dict[str, _Network]:
    dtype = DTYPES[settings["precision"]]
    unet = load_part(base, "unet", dtype)
    networks = {"unet": _Network(unet, unet_modules(unet.config), settings, device)}
    if settings["train_text_encoder"]:
        encoder = load_part(base, "text_encoder", dtype)
        first = next(name for name, _ in encoder.named_modules() if name.endswith("encoder.layers.0"))
        modules = text_encoder_modules(encoder.config.num_hidden_layers, first.removesuffix("encoder.layers.0"))
        networks["text_encoder"] = _Network(encoder, modules, settings, device)
    return networks


def _parameter_groups(settings: dict, networks: dict[str, _Network]) -> list[dict]:
    rates = {"unet": settings["learning_rate"], "text_encoder": settings["text_encoder_lr"]}
    return [{"params": list(network.parameters()), "lr": rates[name]} for name, network in networks.items()]


def _lr_scheduler(settings: dict, optimizer, total: int):
    from diffusers.optimization import get_scheduler

    return get_scheduler(
        settings["lr_scheduler"],
        optimizer,
        num_warmup_steps=0,
        num_training_steps=total,
        num_cycles=settings["lr_scheduler_num_cycles"],
    )


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


# --- state and files -----------------------------------------------------------------------------------------------


def _state(step, metrics, networks, optimizer, lr_scheduler, scaler) -> dict:
    return {
        "step": step,
        "metrics": metrics,
        "lora": {name: [p.detach().cpu() for p in network.parameters()] for name, network in networks.items()},
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": lr_scheduler.state_dict(),
        "scaler": scaler.state_dict(),
    }


def _restore(state: dict, networks, optimizer, lr_scheduler, scaler) -> tuple[int, list[dict]]:
    for name, network in networks.items():
        for parameter, saved in zip(network.parameters(), state["lora"][name], strict=True):
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
    weights = {key: pair for network in networks.values() for key, pair in network.weights().items()}
    return lora_bytes(weights, settings["alpha"], settings["save_precision"])


def _smoothed(metrics: list[dict], over: int = 50) -> float:
    last = metrics[-over:]
    return sum(row["loss"] for row in last) / max(len(last), 1)
