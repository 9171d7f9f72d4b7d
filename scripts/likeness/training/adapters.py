"""The frozen networks with their trainable adapters: LoRA, LoCon, DoRA, LoHa or LoKr, made by peft.

The tensors of each adapter are saved under the names that kohya's and LyCORIS's readers know.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from likeness.core.errors import LikenessError
from likeness.core.tensors import FLOATS, Entry, read_header
from likeness.models.base_model import load_part
from likeness.models.families import FAMILIES
from likeness.models.lora_file import DTYPES, Module, encoder_path_prefix, text_encoder_modules, unet_modules
from likeness.models.weights import check_numbers, one_line, without_ones
from likeness.training.settings import Settings

ADAPTER = "default"
# A BaseTunerLayer of peft, which is also a torch module. It is Any because each kind of layer has other attributes.
Layer = Any
# The names of a LoRA's matrices in files of diffusers (new and old versions) and peft.
_OTHER_NAMES = re.compile(r"\.lora_[AB]\.|[._]lora(_linear_layer)?\.(up|down)\.")


class Network:
    """A frozen model with an adapter on the layers of `modules`. The adapter is fp32 for every precision of the
    model."""

    def __init__(self, model: Any, modules: list[Module], settings: Settings, device: torch.device):
        from peft.tuners.tuners_utils import BaseTunerLayer

        model.add_adapter(_peft_config(settings, model, modules), adapter_name=ADAPTER)
        self.model, self.modules = model.to(device), modules
        layers: dict[str, Layer] = {
            name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)
        }
        if sorted(layers) != sorted(module.path for module in modules):
            raise LikenessError("the base model's layers are not those of its family, so no LoRA can be added")
        # train() switches the adapter's dropout on; the wrapped layers have no dropout.
        self.layers = [layers[module.path].train() for module in modules]
        for parameter in self.parameters():
            # In bf16, updates of less than 0.4 % of a weight would be lost.
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The trainable parameters, in the order of `modules`."""
        for layer in self.layers:
            yield from (parameter for parameter in layer.parameters() if parameter.requires_grad)

    def up_parameters(self) -> Iterator[torch.nn.Parameter]:
        """The second matrix (lora_up) of each LoRA, which starts at zero."""
        yield from (layer.lora_B[ADAPTER].weight for layer in self.layers)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter's tensors and alphas under their names in the LoRA file."""
        tensors: dict[str, torch.Tensor] = {}
        for module, layer in zip(self.modules, self.layers, strict=True):
            tensors |= {f"{module.key}.{name}": tensor.detach() for name, tensor in _file_tensors(layer).items()}
        return tensors

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy the tensors of a LoRA file into the adapter. They must have the names and shapes of `self.tensors()`."""
        for module, layer in zip(self.modules, self.layers, strict=True):
            for name, tensor in _file_tensors(layer).items():
                saved = tensors[f"{module.key}.{name}"].to(tensor)
                if name == "lokr_w1":
                    saved = saved / _lokr_scale(layer)
                    tensor = layer.lokr_w1[ADAPTER]
                tensor.data.copy_(saved)


def load_weights(adapted: Mapping[str, Network], file: Path) -> None:
    """Load a LoRA file into the adapters, as the start of the training. Raises LikenessError, before anything is
    changed, if the file has another kind, rank, alpha or layers, or a number that is not finite."""
    what = f"network_weights {file}"
    entries = _file_entries(adapted, file, what)
    expected = {key: tensor for network in adapted.values() for key, tensor in network.tensors().items()}
    advice = "network, rank, alpha, layers and train_text_encoder must be those that it was trained with"
    # All readers take the rank as alpha if a file has no alphas.
    down = {key: key.replace(".alpha", ".lora_down.weight") for key in expected if key.endswith(".alpha")}
    implied = {key for key, rank in down.items() if key not in entries and rank in entries}
    if other_name := next((name for name in entries if _OTHER_NAMES.search(name)), None):
        raise LikenessError(
            f"{what}: it has the names of diffusers or peft ({one_line(other_name)}); expected kohya's (lora_unet_..., "
            "lora_te_...), which diffusers' convert_state_dict_to_kohya makes of them"
        )
    if missing := sorted(expected.keys() - entries.keys() - implied):
        raise LikenessError(f"{what}: {len(missing)} names differ ({missing[0]} is missing); {advice}")
    if extra := sorted(entries.keys() - expected.keys()):
        raise LikenessError(
            f"{what}: {len(extra)} names differ (there is no layer for {one_line(extra[0])}; LyCORIS' preset full has "
            f"more layers, its preset attn-mlp has the ones that are trained here); {advice}"
        )
    tensors = {}
    for key, tensor in expected.items():
        entry = entries[down[key] if key in implied else key]
        is_alpha = key.endswith(".alpha")
        if entry.dtype not in (*FLOATS, *(("I64", "I32") if is_alpha else ())):
            raise LikenessError(f"{what}: {entry.name} is of {entry.dtype}; expected fp32, fp16 or bf16")
        if key in implied:
            tensors[key] = torch.tensor(float(entry.shape[0]))
        elif without_ones(entry.shape) == without_ones(tuple(tensor.shape)) or (is_alpha and entry.shape == (1,)):
            tensors[key] = entry.read().reshape(tensor.shape)
        else:
            shapes = f"of shape {list(entry.shape)}, expected {list(tensor.shape)}"
            raise LikenessError(f"{what}: {entry.name} differs in rank or kind, {shapes}; {advice}")
        check_numbers(tensors[key], entry.name, what)
        # kohya saves alphas in half precision, hence the tolerance.
        if is_alpha and not math.isclose(float(tensors[key]), float(tensor), rel_tol=0.004):
            numbers = f"{float(tensors[key]):g}, expected {float(tensor):g}"
            raise LikenessError(f"{what}: {key} differs in alpha, {numbers}; {advice}")
    for network in adapted.values():
        network.load(tensors)


def _file_entries(adapted: Mapping[str, Network], file: Path, what: str) -> dict[str, Entry]:
    """The entries of a LoRA file by the names that `adapted` uses. Raises LikenessError if the file is damaged."""
    try:
        entries = read_header(file).entries
    except ValueError as error:
        raise LikenessError(f"{what}: damaged, or no safetensors file ({one_line(error)})") from None
    # Other programs use two further names: diffusers' names for SDXL's layers, and te1 for the only text encoder.
    own_keys = {}
    for module in (module for network in adapted.values() for module in network.modules):
        if module.key.startswith("lora_unet_"):
            own_keys[f"lora_unet_{module.path.replace('.', '_')}"] = module.key
        elif module.key.startswith("lora_te_"):
            own_keys[module.key.replace("lora_te_", "lora_te1_", 1)] = module.key
    renamed: dict[str, Entry] = {}
    for name, entry in entries.items():
        layer, dot, kind = name.partition(".")
        key = f"{own_keys.get(layer, layer)}{dot}{kind}"
        if key in renamed:
            raise LikenessError(f"{what}: it contains {name} under two names; get the file again")
        renamed[key] = entry
    return renamed


def networks(settings: Settings, base: Mapping[str, Any], device: torch.device) -> dict[str, Network]:
    """The U-Net and, if they are trained, the text encoders by part, each with an adapter."""
    dtype = DTYPES[settings.precision]
    unet = load_part(base, "unet", dtype)
    if device.type == "cuda":
        # Tensor cores are faster with it; a CPU is not (docs/training.md).
        unet.to(memory_format=torch.channels_last)
    if settings.attention == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    modules = unet_modules(unet.config, settings.layers, convolutions=settings.network == "locon")
    adapted = {"unet": Network(unet, modules, settings, device)}
    parts = FAMILIES[base["family"]].text_encoders if settings.train_text_encoder else ()
    for number, part in enumerate(parts, start=1):
        encoder = load_part(base, part, dtype)
        prefix, key = encoder_path_prefix(encoder), f"lora_te{number}" if len(parts) > 1 else "lora_te"
        modules = text_encoder_modules(encoder.config.num_hidden_layers, prefix, key, only=settings.layers)
        adapted[part] = Network(encoder, modules, settings, device)
    return adapted


def _peft_config(settings: Settings, model: torch.nn.Module, modules: list[Module]) -> Any:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    # peft would match a set of names by their endings. A pattern with the full names matches exactly these layers.
    targets = "|".join(re.escape(module.path) for module in modules)
    rank = settings.rank
    alpha: Any = settings.alpha  # peft declares int, but accepts any number
    match settings.network:
        case "loha":
            return LoHaConfig(r=rank, alpha=alpha, target_modules=targets, rank_dropout=settings.dropout)
        case "lokr":
            return LoKrConfig(r=rank, alpha=alpha, target_modules=targets, rank_dropout=settings.dropout)
    large = {re.escape(m.path) for m in modules if _is_spatial(model.get_submodule(m.path))}
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.network == "dora",
        target_modules=targets,
        # Convolutions larger than 1x1 have a rank and alpha of their own, as kohya's conv_dim and conv_alpha.
        rank_pattern=dict.fromkeys(sorted(large), settings.conv_rank),
        alpha_pattern=dict.fromkeys(sorted(large), settings.conv_alpha),
    )


def _is_spatial(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Conv2d) and max(layer.kernel_size) > 1


def _file_tensors(layer: Layer) -> dict[str, torch.Tensor]:
    """The adapter of one layer. In the file, each name follows the key of the layer."""
    rank = layer.r[ADAPTER]
    alpha = layer.scaling[ADAPTER] * rank
    if hasattr(layer, "lora_A"):
        return _lora(layer, alpha)
    return _loha(layer, alpha) if hasattr(layer, "hada_w1_a") else _lokr(layer, alpha, rank)


def _lora(layer: Layer, alpha: float) -> dict[str, torch.Tensor]:
    """A LoRA under kohya's names; DoRA's magnitudes in LyCORIS' layout, one per output channel."""
    tensors = {
        "alpha": torch.tensor(float(alpha)),
        "lora_down.weight": layer.lora_A[ADAPTER].weight,
        "lora_up.weight": layer.lora_B[ADAPTER].weight,
    }
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight
        tensors["dora_scale"] = magnitude.reshape(-1, *[1] * (layer.get_base_layer().weight.dim() - 1))
    return tensors


def _loha(layer: Layer, alpha: float) -> dict[str, torch.Tensor]:
    """A LoHa under LyCORIS' names."""
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    return {"alpha": torch.tensor(float(alpha)), **{name: getattr(layer, name)[ADAPTER] for name in names}}


def _lokr(layer: Layer, alpha: float, rank: int) -> dict[str, torch.Tensor]:
    """A LoKr under LyCORIS' names. Readers get the rank from a factored matrix. If both matrices are whole, they use a
    scale of 1 and ignore alpha, so the first matrix is multiplied by the scale."""
    names = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
    tensors = {name: getattr(layer, name)[ADAPTER] for name in names if ADAPTER in getattr(layer, name)}
    if "lokr_w1" in tensors:
        tensors["lokr_w1"] = tensors["lokr_w1"] * _lokr_scale(layer)
    if "lokr_w1" in tensors and "lokr_w2" in tensors:
        alpha = rank
    return {"alpha": torch.tensor(float(alpha)), **tensors}


def _lokr_scale(layer: Layer) -> float:
    """The factor by which the first matrix is multiplied in the file."""
    both_whole = ADAPTER in layer.lokr_w1 and ADAPTER in layer.lokr_w2
    return layer.scaling[ADAPTER] if both_whole else 1.0
