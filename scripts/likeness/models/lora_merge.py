"""Merges an adapter file into the weights of the models: for LoHa, LoKr and DoRA, which diffusers does not read.

The change of a weight is computed from the file. The definitions are those of the training and of other readers:

- LoRA and LoCon: up @ down * alpha / rank (Hu et al., arXiv:2106.09685; kohya's file);
- LoHa: (w1_a @ w1_b) * (w2_a @ w2_b) * alpha / rank (LyCORIS, arXiv:2309.14859);
- LoKr: kron(w1, w2) * alpha / rank. Each factor is one matrix or a product of two; if both are one matrix, the scale
  is 1 (LyCORIS);
- DoRA: with one magnitude per output channel, W' = dora_scale * (W + dW) / |W + dW| (Liu et al., arXiv:2402.09353), as
  peft trains it. At a strength s it is W + s (W' - W), as in ComfyUI and A1111.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from likeness.core.errors import LikenessError
from likeness.models.lora_file import encoder_path_prefix, text_encoder_modules, unet_modules

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import PreTrainedModel

Tensors = dict[str, torch.Tensor]


def layers_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, Tensors]:
    """The tensors of a file, grouped by layer: {"lora_unet_...": {"alpha": ..., "lora_up.weight": ...}}."""
    layers: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        layer, _, name = key.partition(".")
        layers.setdefault(layer, {})[name] = tensor
    return layers


def read_layers(lora: Path) -> dict[str, Tensors]:
    """The layers of a LoRA file, on the CPU, in the file's precision."""
    return layers_of(safetensors.torch.load_file(lora))


def diffusers_reads(layers: Mapping[str, Tensors]) -> bool:
    """Whether diffusers' loader supports this kind of network: LoRA and LoCon. It ignores the magnitudes of a DoRA."""
    return all("lora_up.weight" in layer and "dora_scale" not in layer for layer in layers.values())


def change(layer: Tensors) -> torch.Tensor:
    """dW of one layer in fp32, already multiplied by alpha / rank. It has as many elements as the layer's weight, but
    its shape may differ.

    Raises LikenessError for an unknown kind of network.
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
    """A layer's weight (output channels first) with its adapter at a strength, in fp32, with the weight's shape and
    device."""
    base = weight.float()
    with_adapter = base + change({name: tensor.to(weight.device) for name, tensor in layer.items()}).reshape(base.shape)
    if "dora_scale" in layer:
        per_channel = (-1, *[1] * (base.dim() - 1))
        magnitude = layer["dora_scale"].to(weight.device, torch.float32).reshape(per_channel)
        with_adapter = with_adapter * (magnitude / with_adapter.flatten(1).norm(dim=1).reshape(per_channel))
    return base + strength * (with_adapter - base)


class MergedLora:
    """An adapter file merged into the weights of a U-Net and its text encoders, at a strength that can be changed."""

    def __init__(
        self, layers: Mapping[str, Tensors], unet: "UNet2DConditionModel", encoders: "Sequence[PreTrainedModel]"
    ):
        """`encoders` are the family's text encoders in order: one, or SDXL's two.

        Raises LikenessError if the file has a layer that the models do not have.
        """
        modules = _modules_by_key(unet, encoders)
        if unknown := sorted(set(layers) - set(modules)):
            raise LikenessError(
                f"the LoRA has {len(unknown)} layers that the base model has not, {unknown[0]} for one: "
                "it was trained on a base model of another family"
            )
        # The base weights are kept on the CPU: a second copy of SDXL's weights on the GPU would leave too little memory
        # for the pictures.
        self._layers = [
            (modules[key], modules[key].get_parameter("weight").detach().to("cpu", copy=True), layer)
            for key, layer in layers.items()
        ]
        self._strength = 0.0

    @torch.no_grad()
    def set_weight(self, strength: float) -> None:
        """Merge the adapter at a strength; 0 is the base model. Every weight is computed from its base weight, so that
        no earlier strength has an effect.

        The weight is computed in fp32 and rounded once, to the precision of the model. The strength that is merged
        already takes no time; another one takes seconds with SDXL.
        """
        if strength == self._strength:
            return
        self._strength = strength
        for module, base, layer in self._layers:
            parameter = module.get_parameter("weight")
            weight = base.to(parameter.device)
            parameter.copy_(merged(weight, layer, strength) if strength else weight)


def _modules_by_key(unet: "UNet2DConditionModel", encoders: "Sequence[PreTrainedModel]") -> dict[str, torch.nn.Module]:
    """The modules that a file can have an adapter for, by the keys of the file."""
    modules = {module.key: unet.get_submodule(module.path) for module in unet_modules(unet.config, convolutions=True)}
    for number, encoder in enumerate(encoders, start=1):
        prefix, key = encoder_path_prefix(encoder), f"lora_te{number}" if len(encoders) > 1 else "lora_te"
        layers = text_encoder_modules(encoder.config.num_hidden_layers, prefix, key)
        modules |= {module.key: encoder.get_submodule(module.path) for module in layers}
    return modules
