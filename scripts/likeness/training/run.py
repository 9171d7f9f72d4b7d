"""The state of a training in memory: how it is made, saved and restored."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from likeness.core.devices import check_attention, check_compile
from likeness.models.base_model import load_part
from likeness.models.conditioning import load_text_encoders, load_tokenizers
from likeness.models.lora_file import DTYPES
from likeness.training import adapters, optimizers
from likeness.training.adapters import Network
from likeness.training.metrics import comparable
from likeness.training.pictures import Pictures
from likeness.training.plan import heldout_digest
from likeness.training.processes import Processes
from likeness.training.settings import Settings


@dataclass
class Run:
    """The state of a training in memory. `average` is the moving average of `parameters`, or None. `encoders` are the
    text encoders that read the captions at every step; empty if the captions' states are cached."""

    settings: Settings
    pictures: Pictures
    heldout: Pictures
    networks: dict[str, Network]
    encoders: Sequence[torch.nn.Module]
    noise_schedule: Any
    optimizer: torch.optim.Optimizer
    lr_scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    average: list[torch.Tensor] | None
    processes: Processes
    step: int = 0
    metrics: list[dict[str, Any]] = field(default_factory=list)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def new_run(
    settings: Settings,
    dataset: Mapping[str, Any],
    latents: Mapping[str, Any],
    base: dict[str, Any],
    total: int,
    processes: Processes,
    weights: Path | None,
) -> Run:
    """A new Run: models, optimizer (for `total` steps) and data on the device. `weights` is a LoRA file to start from,
    or None."""
    device = processes.device
    check_attention(settings.attention, device)
    check_compile(settings.compile)
    _choose_kernels(settings.deterministic, device)
    torch.manual_seed(settings.seed)
    networks = adapters.networks(settings, base, device)
    if settings.compile:
        # A block is compiled with and without the LoRA, with and without gradients, and for one or two captions. These
        # are more graphs than torch's limit of 8, beyond which it would run without compilation.
        torch._dynamo.config.recompile_limit = 64
        # reduce-overhead uses CUDA graphs. Without them, a GPU at batch size 1 mostly waits for Python to launch
        # kernels.
        networks["unet"].model.compile_repeated_blocks(mode="reduce-overhead" if device.type == "cuda" else None)
    if weights:
        adapters.load_weights(networks, weights)
    shuffles = settings.shuffle_caption
    encoders = [network.model for name, network in networks.items() if name.startswith("text_encoder")]
    if settings.gradient_checkpointing:
        for encoder in encoders:
            _checkpoint_gradients(encoder)
    if shuffles and not encoders:
        encoders = [encoder.to(device) for encoder in load_text_encoders(base, DTYPES[settings.precision])]
    groups = _parameter_groups(settings, networks)
    optimizer = optimizers.optimizer(settings, groups)
    average = [p.detach().clone() for group in groups.values() for p in group] if settings.ema_decay else None
    unaugmented = settings.model_copy(update={"flip_aug": False, "shuffle_caption": False, "caption_dropout_rate": 0.0})
    heldout = {"images": dataset["heldout"], "regularisation": []}
    heldout_latents = {"images": latents["heldout"], "regularisation": {}}
    heldout_latents |= {name: latents[name] for name in ("empty", "bare_class")}
    return Run(
        settings=settings,
        pictures=Pictures(settings, dataset, latents, device, load_tokenizers(base) if shuffles else []),
        heldout=Pictures(unaugmented, heldout, heldout_latents, device, []),
        networks=networks,
        encoders=encoders,
        noise_schedule=load_part(base, "scheduler"),
        optimizer=optimizer,
        lr_scheduler=optimizers.lr_scheduler(settings, optimizer, total),
        scaler=torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16"),
        average=average,
        processes=processes,
    )


def _parameter_groups(settings: Settings, networks: Mapping[str, Network]) -> dict[str, list[torch.nn.Parameter]]:
    """The trainable parameters in groups, with the names that optimizers.optimizer expects."""
    encoders = [network for name, network in networks.items() if name != "unet"]
    parts = {"unet": [networks["unet"]], "text_encoder": encoders} if encoders else {"unet": [networks["unet"]]}
    groups = {part: [p for network in members for p in network.parameters()] for part, members in parts.items()}
    if settings.loraplus_lr_ratio == 1:
        return groups
    ups = {f"{part} up": [p for network in members for p in network.up_parameters()] for part, members in parts.items()}
    up_ids = {id(p) for group in ups.values() for p in group}
    return {part: [p for p in group if id(p) not in up_ids] for part, group in groups.items()} | ups


def _checkpoint_gradients(encoder: Any) -> None:
    """Switch gradient checkpointing on for a text encoder. adapters.py does the same for the U-Net."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    encoder.activation_checkpointing_enable({"use_reentrant": False})
    for layer in encoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            # Only a layer in training mode is checkpointed. train() would also switch on the dropout within it.
            layer.training = True


def _choose_kernels(deterministic: bool, device: torch.device) -> None:
    """Use the same kernels in every training, or the fastest ones. Only CUDA has several kernels for one operation."""
    if device.type == "cuda":
        # torch requires this for deterministic algorithms, and it must be set before cuBLAS is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic


def metrics_record(run: Run) -> dict[str, Any]:
    """The metrics so far, and the hash of the held-out photos on which the validation losses were measured."""
    return {"metrics": run.metrics, "heldout": heldout_digest(run.heldout.items)}


def state_of(run: Run) -> dict[str, Any]:
    """All that a later process needs to resume the training exactly, with tensors on the CPU."""
    return {
        "step": run.step,
        **metrics_record(run),
        "parameters": [p.detach().cpu() for p in run.parameters],
        "average": run.average and [mean.cpu() for mean in run.average],
        "optimizer": run.optimizer.state_dict(),
        "lr_scheduler": run.lr_scheduler.state_dict(),
        "scaler": run.scaler.state_dict(),
    }


def restore(run: Run, state: dict[str, Any], say: Callable[[str], None]) -> None:
    """Set `run` to a state that `state_of` made."""
    for parameter, saved in zip(run.parameters, state["parameters"], strict=True):
        parameter.data.copy_(saved)
    for mean, saved in zip(run.average or [], state["average"] or [], strict=True):
        mean.copy_(saved)
    run.optimizer.load_state_dict(state["optimizer"])
    run.lr_scheduler.load_state_dict(state["lr_scheduler"])
    run.scaler.load_state_dict(state["scaler"])
    run.step, run.metrics = state["step"], comparable(state, run.heldout.items, say)


@contextlib.contextmanager
def with_average_weights(run: Run) -> Iterator[None]:
    """Within this context the networks have the moving average of the weights, if there is one."""
    if not run.average:
        yield
        return
    trained = [parameter.data for parameter in run.parameters]
    for parameter, mean in zip(run.parameters, run.average, strict=True):
        parameter.data = mean
    try:
        yield
    finally:
        for parameter, data in zip(run.parameters, trained, strict=True):
            parameter.data = data
