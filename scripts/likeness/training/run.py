"""All of one training that is in memory: made, saved and restored."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from likeness.base_model import load_part
from likeness.conditioning import load_text_encoders, load_tokenizers
from likeness.devices import check_attention, check_compile
from likeness.lora_file import DTYPES
from likeness.training import adapters, optimizers
from likeness.training.adapters import Network
from likeness.training.metrics import comparable
from likeness.training.pictures import Pictures
from likeness.training.plan import heldout_digest
from likeness.training.processes import Processes


@dataclass
class Run:
    """All of one training that is in memory. `average` is the moving average of `parameters`, where there is one;
    `encoders` read captions at every step, empty where their states are cached."""

    settings: dict
    pictures: Pictures
    heldout: Pictures
    networks: dict[str, Network]
    encoders: Sequence[torch.nn.Module]
    noise_schedule: object
    optimizer: torch.optim.Optimizer
    lr_scheduler: object
    scaler: torch.amp.GradScaler
    average: list[torch.Tensor] | None
    processes: Processes
    step: int = 0
    metrics: list[dict] = field(default_factory=list)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def prepared(
    settings: dict,
    dataset: Mapping,
    latents: Mapping,
    base: dict,
    total: int,
    processes: Processes,
    weights: Path | None,
) -> Run:
    """Models, optimizer (for `total` steps) and data on the device; nothing is trained yet."""
    device = processes.device
    check_attention(settings["attention"], device)
    check_compile(settings["compile"])
    _choose_kernels(settings["deterministic"], device)
    torch.manual_seed(settings["seed"])
    networks = adapters.networks(settings, base, device)
    if settings["compile"]:
        # With and without the LoRA, with and without gradients, for one caption or two: a block has more graphs than
        # the 8 after which torch goes on uncompiled.
        torch._dynamo.config.recompile_limit = 64
        # reduce-overhead records CUDA graphs: at batch 1 a GPU waits for Python's launches most of the time.
        networks["unet"].model.compile_repeated_blocks(mode="reduce-overhead" if device.type == "cuda" else None)
    if weights:
        adapters.load_weights(networks, weights)
    shuffles = settings["shuffle_caption"]
    encoders = [network.model for name, network in networks.items() if name.startswith("text_encoder")]
    if settings["gradient_checkpointing"]:
        for encoder in encoders:
            _checkpoint_gradients(encoder)
    if shuffles and not encoders:
        encoders = [encoder.to(device) for encoder in load_text_encoders(base, DTYPES[settings["precision"]])]
    groups = _parameter_groups(settings, networks)
    optimizer = optimizers.optimizer(settings, groups)
    average = [p.detach().clone() for group in groups.values() for p in group] if settings["ema_decay"] else None
    unchanged = settings | {"flip_aug": False, "shuffle_caption": False, "caption_dropout_rate": 0.0}
    heldout = {"images": dataset["heldout"], "regularisation": []}
    heldout_latents = {"images": latents["heldout"], "regularisation": {}}
    heldout_latents |= {name: latents[name] for name in ("empty", "bare_class")}
    return Run(
        settings=settings,
        pictures=Pictures(settings, dataset, latents, device, load_tokenizers(base) if shuffles else []),
        heldout=Pictures(unchanged, heldout, heldout_latents, device, []),
        networks=networks,
        encoders=encoders,
        noise_schedule=load_part(base, "scheduler"),
        optimizer=optimizer,
        lr_scheduler=optimizers.lr_scheduler(settings, optimizer, total),
        scaler=torch.amp.GradScaler(device.type, enabled=settings["precision"] == "fp16"),
        average=average,
        processes=processes,
    )


def _parameter_groups(settings: dict, networks: Mapping[str, Network]) -> dict[str, list[torch.nn.Parameter]]:
    """What is trained, by the names of optimizers.optimizer."""
    encoders = [network for name, network in networks.items() if name != "unet"]
    parts = {"unet": [networks["unet"]], "text_encoder": encoders} if encoders else {"unet": [networks["unet"]]}
    groups = {part: [p for network in made for p in network.parameters()] for part, made in parts.items()}
    if settings["loraplus_lr_ratio"] == 1:
        return groups
    ups = {f"{part} up": [p for network in made for p in network.up_parameters()] for part, made in parts.items()}
    apart = {id(p) for group in ups.values() for p in group}
    return {part: [p for p in group if id(p) not in apart] for part, group in groups.items()} | ups


def _checkpoint_gradients(encoder: torch.nn.Module) -> None:
    """Let a text encoder compute its activations twice instead of keeping them, as adapters.py lets the U-Net."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    encoder.activation_checkpointing_enable({"use_reentrant": False})
    for layer in encoder.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            layer.training = True  # else it keeps them; only the layer itself, for the dropout in it stays off


def _choose_kernels(deterministic: bool, device: torch.device) -> None:
    """The same kernels each time, or the fastest. Only CUDA has several for one operation."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for, before cuBLAS is first used
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic


def measured(run: Run) -> dict:
    """The metrics so far, and of which held-out photos the validation losses are."""
    return {"metrics": run.metrics, "heldout": heldout_digest(run.heldout.items)}


def state_of(run: Run) -> dict:
    """What a later process needs to go on exactly, on the CPU."""
    return {
        "step": run.step,
        **measured(run),
        "parameters": [p.detach().cpu() for p in run.parameters],
        "average": run.average and [mean.cpu() for mean in run.average],
        "optimizer": run.optimizer.state_dict(),
        "lr_scheduler": run.lr_scheduler.state_dict(),
        "scaler": run.scaler.state_dict(),
    }


def restore(run: Run, state: dict, say: Callable[[str], None]) -> None:
    """Go on from what `state_of` gave."""
    for parameter, saved in zip(run.parameters, state["parameters"], strict=True):
        parameter.data.copy_(saved)
    for mean, saved in zip(run.average or [], state["average"] or [], strict=True):
        mean.copy_(saved)
    run.optimizer.load_state_dict(state["optimizer"])
    run.lr_scheduler.load_state_dict(state["lr_scheduler"])
    run.scaler.load_state_dict(state["scaler"])
    run.step, run.metrics = state["step"], comparable(state, run.heldout.items, say)


@contextlib.contextmanager
def averaged(run: Run) -> Iterator[None]:
    """With the moving average in the networks' place, where there is one."""
    if not run.average:
        yield
        return
    data = [parameter.data for parameter in run.parameters]
    for parameter, mean in zip(run.parameters, run.average, strict=True):
        parameter.data = mean
    try:
        yield
    finally:
        for parameter, mine in zip(run.parameters, data, strict=True):
            parameter.data = mine
