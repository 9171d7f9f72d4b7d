"""An adapter file put into the weights of the models themselves: LoHa, LoKr and DoRA, which diffusers does not read.

The change of a weight is computed from the file, by the definitions that training and its readers share:

- LoRA and LoCon: up @ down * alpha / rank (Hu et al., arXiv:2106.09685; kohya's file);
- LoHa: (w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank (LyCORIS, arXiv:2309.14859);
- LoKr: kron(w1, w2) * alpha / rank, either factor whole or of two; the scale is 1 where both are whole (LyCORIS);
- DoRA: with one magnitude per output channel, W' = dora_scale * (W + dW) / |W + dW| (Liu et al., arXiv:2402.09353), as
  peft trains it. At a strength s it is W + s (W' - W), as in ComfyUI and A1111.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch

from likeness.errors import LikenessError
from likeness.lora_file import encoder_path_prefix, text_encoder_modules, unet_modules

Tensors = dict[str, torch.Tensor]


def layers_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Tensors]:
    """A file's tensors by layer: {"lora_unet_...": {"alpha": ..., "lora_up.weight": ...}}."""
    layers: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        layer, _, name = key.partition(".")
        layers.setdefault(layer, {})[name] = tensor
    return layers


def read_layers(lora: Path) -> dict[str, Tensors]:
    """The layers of a LoRA file, on the CPU, in the file's precision."""
    return layers_of(safetensors.torch.load_file(lora))


def diffusers_reads(layers: Mapping[str, Tensors]) -> bool:
    """Whether diffusers' own loader knows this kind of network: LoRA and LoCon. It drops DoRA's magnitudes."""
    return all("lora_up.weight" in layer and "dora_scale" not in layer for layer in layers.values())


def change(layer: Tensors) -> torch.Tensor:
    """dW of one layer, fp32, alpha / rank included; of as many numbers as the layer's weight, not always of its shape.

    Raises LikenessError for a kind of network that this is not the reader of.
    """
    layer = {name: tensor.float() for name, tensor in layer.items()}
    match layer:
        case {"lora_up.weight": up, "lora_down.weight": down}:
            return up.flatten(1) @ down.flatten(1) * (layer["alpha"] / down.shape[0])
        case {"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b}:
            return (w1_a @ w1_b) * (w2_a @ w2_b) * (layer["alpha"] / w1_b.shape[0])
        case _ if any(name.startswith("lokr_w") for name in layer):
            return _kronecker(layer)
    raise LikenessError(f"a LoRA file with layers of {', '.join(sorted(layer))}: no kind of network that is known here")


def _kronecker(layer: Tensors) -> torch.Tensor:
    factors, rank = [], None
    for name in ("lokr_w1", "lokr_w2"):
        if name in layer:
            factors.append(layer[name])
        else:
            factors.append(layer[f"{name}_a"] @ layer[f"{name}_b"])
            rank = layer[f"{name}_b"].shape[0]
    first, second = factors
    product = torch.kron(first.reshape(*first.shape, *[1] * (second.dim() - first.dim())), second)
    return product if rank is None else product * (layer["alpha"] / rank)


def merged(weight: torch.Tensor, layer: Tensors, strength: float) -> torch.Tensor:
    """A layer's weight (output channels first) with its adapter at a strength: fp32, of its shape, on its device."""
    base = weight.float()
    with_adapter = base + change({name: tensor.to(weight.device) for name, tensor in layer.items()}).reshape(base.shape)
    if "dora_scale" in layer:
        per_channel = (-1, *[1] * (base.dim() - 1))
        magnitude = layer["dora_scale"].to(weight.device, torch.float32).reshape(per_channel)
        with_adapter = with_adapter * (magnitude / with_adapter.flatten(1).norm(dim=1).reshape(per_channel))
    return base + strength * (with_adapter - base)


class MergedLora:
    """The layers of some models whose weights carry an adapter file at a strength that can be changed."""

    def __init__(self, layers: Mapping[str, Tensors], unet: torch.nn.Module, encoders: Sequence[torch.nn.Module]):
        """`encoders` are the family's text encoders in order: one, or SDXL's two.

        Raises LikenessError if the file names a layer that the models do not have.
        """
        found = _layers_by_key(unet, encoders)
        if unknown := sorted(set(layers) - set(found)):
            raise LikenessError(
                f"the LoRA has {len(unknown)} layers that the base model has not, {unknown[0]} for one: "
                "it was trained on a base model of another family"
            )
        # The base weights wait on the CPU: on a GPU a second copy of SDXL's would take what pictures need.
        self._layers = [
            (found[key], found[key].weight.detach().to("cpu", copy=True), layer) for key, layer in layers.items()
        ]

    @torch.no_grad()
    def set_weight(self, strength: float) -> None:
        """Every layer anew from its base weight, so that nothing is left of the strength before; 0 is the base model.

        Computed in fp32 and rounded once, to the model's own precision.
        """
        for module, base, layer in self._layers:
            weight = base.to(module.weight.device)
            module.weight.copy_(merged(weight, layer, strength) if strength else weight)


def _layers_by_key(unet: torch.nn.Module, encoders: Sequence[torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """The layers that a file can name, by its keys."""
    found = {module.key: unet.get_submodule(module.path) for module in unet_modules(unet.config, convolutions=True)}
    for number, encoder in enumerate(encoders, start=1):
        prefix, key = encoder_path_prefix(encoder), f"lora_te{number}" if len(encoders) > 1 else "lora_te"
        modules = text_encoder_modules(encoder.config.num_hidden_layers, prefix, key)
        found |= {module.key: encoder.get_submodule(module.path) for module in modules}
    return found
