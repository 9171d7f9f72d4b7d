"""The frozen networks with what is trained on them: LoRA, LoCon, DoRA, LoHa or LoKr, through peft.

Each adapter's tensors go to the file under the names that kohya's and LyCORIS's readers know.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from likeness.base_model import load_part
from likeness.errors import LikenessError
from likeness.families import FAMILIES
from likeness.lora_file import DTYPES, Module, encoder_path_prefix, text_encoder_modules, unet_modules
from likeness.tensors import FLOATS, Entry, read_header
from likeness.weights import check_finite, one_line

ADAPTER = "default"


class Network:
    """A frozen model with an adapter on the layers of `modules`; the adapter's numbers are fp32 whatever the base's."""

    def __init__(self, model: torch.nn.Module, modules: list[Module], train: Mapping, device: torch.device):
        from peft.tuners.tuners_utils import BaseTunerLayer

        model.add_adapter(_peft_config(train, model, modules), adapter_name=ADAPTER)
        self.model, self.modules = model.to(device), modules
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
        if sorted(layers) != sorted(module.path for module in modules):
            raise LikenessError("the base model's layers are not the ones of its family; no LoRA can be placed")
        self.layers = [layers[module.path].train() for module in modules]  # dropout; what they wrap has none
        for parameter in self.parameters():
            # bf16 would lose updates below 0.4 % of a weight.
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What is trained, in the order of `modules`."""
        for layer in self.layers:
            yield from (parameter for parameter in layer.parameters() if parameter.requires_grad)

    def up_parameters(self) -> Iterator[torch.nn.Parameter]:
        """Those of `parameters` that are the second matrix of a LoRA, which starts at zero."""
        yield from (layer.lora_B[ADAPTER].weight for layer in self.layers)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter under the file's names, alphas included."""
        found = {}
        for module, layer in zip(self.modules, self.layers, strict=True):
            found |= {f"{module.key}.{name}": tensor.detach() for name, tensor in _file_tensors(layer).items()}
        return found

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take the numbers of a file that holds just what `tensors` gives, by name and shape."""
        for module, layer in zip(self.modules, self.layers, strict=True):
            for name, tensor in _file_tensors(layer).items():
                saved = tensors[f"{module.key}.{name}"].to(tensor)
                if name == "lokr_w1":
                    saved = saved / _lokr_scale(layer)
                    tensor = layer.lokr_w1[ADAPTER]
                tensor.data.copy_(saved)


def load_weights(found: Mapping[str, Network], file: Path) -> None:
    """Go on from a LoRA file instead of from nothing. Raises LikenessError, before anything is changed, if it is not of
    the same kind, rank, alpha and layers, or has numbers that are none."""
    what = f"network_weights {file}"
    entries = _file_entries(found, file, what)
    expected = {key: tensor for network in found.values() for key, tensor in network.tensors().items()}
    advice = "network, rank, alpha, layers and train_text_encoder must be those that it was trained with"
    # A file without alphas is read everywhere as one whose alpha is the rank.
    down = {key: key.replace(".alpha", ".lora_down.weight") for key in expected if key.endswith(".alpha")}
    implied = {key for key, rank in down.items() if key not in entries and rank in entries}
    if missing := sorted(expected.keys() - entries.keys() - implied):
        raise LikenessError(f"{what}: {len(missing)} names differ ({missing[0]} is missing); {advice}")
    if more := sorted(entries.keys() - expected.keys()):
        raise LikenessError(
            f"{what}: {len(more)} names differ ({one_line(more[0])} has no place here, as much of LyCORIS' preset full "
            f"has none: its preset attn-mlp trains these layers); {advice}"
        )
    tensors = {}
    for key, tensor in expected.items():
        entry = entries[down[key] if key in implied else key]
        of_alpha = key.endswith(".alpha")
        if entry.dtype not in (*FLOATS, *(("I64", "I32") if of_alpha else ())):
            raise LikenessError(f"{what}: {entry.name} is of {entry.dtype}; expected fp32, fp16 or bf16")
        if key in implied:
            tensors[key] = torch.tensor(float(entry.shape[0]))
        elif entry.shape == tuple(tensor.shape) or (of_alpha and entry.shape == (1,)):
            tensors[key] = entry.read().reshape(tensor.shape)
        else:
            shapes = f"of shape {list(entry.shape)}, expected {list(tensor.shape)}"
            raise LikenessError(f"{what}: {entry.name} differs in rank or kind, {shapes}; {advice}")
        check_finite(tensors[key], entry.name, what)
        # kohya's alphas are in half precision.
        if of_alpha and not math.isclose(float(tensors[key]), float(tensor), rel_tol=0.004):
            numbers = f"{float(tensors[key]):g}, expected {float(tensor):g}"
            raise LikenessError(f"{what}: {key} differs in alpha, {numbers}; {advice}")
    for network in found.values():
        network.load(tensors)


def _file_entries(found: Mapping[str, Network], file: Path, what: str) -> dict[str, Entry]:
    """What a LoRA file holds, under the names of these networks."""
    try:
        entries = read_header(file).entries
    except ValueError as error:
        raise LikenessError(f"{what}: damaged, or no safetensors file ({one_line(error)})") from None
    # What other programs call a layer: SDXL's by diffusers' name, and an only text encoder the first one.
    ours = {}
    for module in (module for network in found.values() for module in network.modules):
        if module.key.startswith("lora_unet_"):
            ours[f"lora_unet_{module.path.replace('.', '_')}"] = module.key
        elif module.key.startswith("lora_te_"):
            ours[module.key.replace("lora_te_", "lora_te1_", 1)] = module.key
    renamed: dict[str, Entry] = {}
    for name, entry in entries.items():
        layer, dot, kind = name.partition(".")
        key = f"{ours.get(layer, layer)}{dot}{kind}"
        if key in renamed:
            raise LikenessError(f"{what}: {name} is there under two names; get the file again")
        renamed[key] = entry
    return renamed


def networks(train: Mapping, base: Mapping, device: torch.device) -> dict[str, Network]:
    """The U-Net and, where they are trained, the text encoders, each with its adapter."""
    dtype = DTYPES[train["precision"]]
    unet = load_part(base, "unet", dtype)
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)  # for tensor cores; on a CPU it gains nothing (docs/training.md)
    if train["attention"] == "xformers":
        unet.enable_xformers_memory_efficient_attention()
    if train["gradient_checkpointing"]:
        unet.enable_gradient_checkpointing()
    modules = unet_modules(unet.config, train["layers"], convolutions=train["network"] == "locon")
    found = {"unet": Network(unet, modules, train, device)}
    parts = FAMILIES[base["family"]].text_encoders if train["train_text_encoder"] else ()
    for number, part in enumerate(parts, start=1):
        encoder = load_part(base, part, dtype)
        prefix, key = encoder_path_prefix(encoder), f"lora_te{number}" if len(parts) > 1 else "lora_te"
        modules = text_encoder_modules(encoder.config.num_hidden_layers, prefix, key, only=train["layers"])
        found[part] = Network(encoder, modules, train, device)
    return found


def _peft_config(train: Mapping, model: torch.nn.Module, modules: list[Module]):
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    # A set would let peft match by ending; the pattern names each layer in full, so that none is missed or added.
    targets = "|".join(re.escape(module.path) for module in modules)
    rank, alpha = train["rank"], train["alpha"]
    match train["network"]:
        case "loha":
            return LoHaConfig(r=rank, alpha=alpha, target_modules=targets, rank_dropout=train["dropout"])
        case "lokr":
            return LoKrConfig(r=rank, alpha=alpha, target_modules=targets, rank_dropout=train["dropout"])
    large = {re.escape(m.path) for m in modules if _is_spatial(model.get_submodule(m.path))}
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=train["dropout"],
        use_dora=train["network"] == "dora",
        target_modules=targets,
        # kohya's conv_dim and conv_alpha are for convolutions that look at more than one pixel.
        rank_pattern=dict.fromkeys(sorted(large), train["conv_rank"]),
        alpha_pattern=dict.fromkeys(sorted(large), train["conv_alpha"]),
    )


def _is_spatial(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Conv2d) and max(layer.kernel_size) > 1


def _file_tensors(layer) -> dict[str, torch.Tensor]:
    """One layer's adapter under the names that follow its key in the file."""
    rank = layer.r[ADAPTER]
    alpha = layer.scaling[ADAPTER] * rank
    kinds: dict[str, Callable] = {"lora_A": _lora, "hada_w1_a": _loha, "lokr_w1": _lokr}
    make = next(make for name, make in kinds.items() if hasattr(layer, name))
    return make(layer, alpha, rank)


def _lora(layer, alpha: float, rank: int) -> dict[str, torch.Tensor]:
    """kohya's names; DoRA's magnitudes as LyCORIS writes them, one per output channel."""
    tensors = {
        "alpha": torch.tensor(float(alpha)),
        "lora_down.weight": layer.lora_A[ADAPTER].weight,
        "lora_up.weight": layer.lora_B[ADAPTER].weight,
    }
    if ADAPTER in layer.lora_magnitude_vector:
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight
        tensors["dora_scale"] = magnitude.reshape(-1, *[1] * (layer.get_base_layer().weight.dim() - 1))
    return tensors


def _loha(layer, alpha: float, rank: int) -> dict[str, torch.Tensor]:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    return {"alpha": torch.tensor(float(alpha)), **{name: getattr(layer, name)[ADAPTER] for name in names}}


def _lokr(layer, alpha: float, rank: int) -> dict[str, torch.Tensor]:
    """LyCORIS's names. Readers know the rank from a factored matrix; where both are whole they take a scale of 1,
    whatever the alpha, so the scale goes into the first matrix."""
    names = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
    tensors = {name: getattr(layer, name)[ADAPTER] for name in names if ADAPTER in getattr(layer, name)}
    if "lokr_w1" in tensors:
        tensors["lokr_w1"] = tensors["lokr_w1"] * _lokr_scale(layer)
    if "lokr_w1" in tensors and "lokr_w2" in tensors:
        alpha = rank
    return {"alpha": torch.tensor(float(alpha)), **tensors}


def _lokr_scale(layer) -> float:
    """What the file's first matrix is multiplied with."""
    whole = ADAPTER in layer.lokr_w1 and ADAPTER in layer.lokr_w2
    return layer.scaling[ADAPTER] if whole else 1.0
