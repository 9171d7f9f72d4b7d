"""The LoRA file that A1111, ComfyUI, kohya and diffusers read, with fixed key names and an alpha for each layer.

The names are computed from the model's config, not taken from the modules of a loaded model: transformers 5 renamed the
text encoder's modules, and A1111 and ComfyUI silently ignore keys with the new names.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from likeness.core.errors import LikenessError
from likeness.core.tensors import safetensors_bytes, tensor_part, with_metadata
from likeness.models.compvis import unet_name

# The linear layers (and 1x1 convolutions) of one Transformer2DModel that kohya's LoRA covers.
_ATTENTION = [f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
_BLOCK = [*_ATTENTION, "ff.net.0.proj", "ff.net.2"]
_TEXT_ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"]
_TEXT_LAYER = [*_TEXT_ATTENTION, "mlp.fc1", "mlp.fc2"]

# The layers of a residual block that LoCon covers in addition.
_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Module(NamedTuple):
    """One layer that carries a LoRA."""

    path: str
    """Its name in the model that is trained, as named_modules() gives it."""
    key: str
    """Its name in the file."""


def unet_modules(config: Mapping[str, Any], layers: str = "all", convolutions: bool = False) -> list[Module]:
    """Every layer of a U-Net that gets a LoRA, by its config: 192 for SD 1.5, 722 for SDXL. `convolutions` adds those
    of the residual blocks and samplers (LoCon): 278 for SD 1.5.

    `layers` is "all", or "attention" for the projections of the attentions alone. The keys of SDXL are CompVis's names,
    as kohya writes them; those of SD 1.x and 2.x are diffusers' names.
    """
    if not any(kind.startswith("CrossAttn") for kind in config["down_block_types"]):
        raise LikenessError(f"this U-Net is not of Stable Diffusion's kind: {config['down_block_types']}")
    names = [f"transformer_blocks.{{}}.{name}" for name in (_ATTENTION if layers == "attention" else _BLOCK)]
    ends = [] if layers == "attention" else ["proj_in", "proj_out"]
    paths = [
        f"{transformer}.{layer}"
        for transformer, depth in _transformers(config)
        for layer in (*ends, *(name.format(i) for i in range(depth) for name in names))
    ]
    if convolutions:
        paths += _convolutions(config)
    named = unet_name if config.get("addition_embed_type") == "text_time" else lambda path, _: path
    return [Module(path, f"lora_unet_{named(path, config).replace('.', '_')}") for path in sorted(paths)]


def text_encoder_modules(layers: int, path_prefix: str, key_prefix: str = "lora_te", only: str = "all") -> list[Module]:
    """Every layer of a CLIP text encoder that gets a LoRA: 72 for SD 1.5 (12 layers of 6).

    `path_prefix` comes from encoder_path_prefix. The keys always have `..._text_model_encoder_layers_...`; `key_prefix`
    is lora_te for a single text encoder, lora_te1 and lora_te2 for SDXL's two. `only` is "all" or "attention".
    """
    projections = _TEXT_ATTENTION if only == "attention" else _TEXT_LAYER
    names = sorted(f"encoder.layers.{i}.{layer}" for i in range(layers) for layer in projections)
    return [Module(path_prefix + name, f"{key_prefix}_text_model_{name.replace('.', '_')}") for name in names]


def encoder_path_prefix(encoder: torch.nn.Module) -> str:
    """The prefix of `encoder.layers` in a loaded text encoder: "text_model." up to transformers 5.5, "" after it."""
    first = next(name for name, _ in encoder.named_modules() if name.endswith("encoder.layers.0"))
    return first.removesuffix("encoder.layers.0")


def _transformers(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The path of every Transformer2DModel of a U-Net, and its number of blocks."""
    down, up = config["down_block_types"], config["up_block_types"]
    depth = config.get("transformer_layers_per_block", 1)
    depths = [depth] * len(down) if isinstance(depth, int) else list(depth)
    count = config["layers_per_block"]
    outer = [
        (f"{side}_blocks.{i}.attentions.{j}", deep)
        for side, kinds, per_block, numbers in (("down", down, count, depths), ("up", up, count + 1, depths[::-1]))
        for i, (kind, deep) in enumerate(zip(kinds, numbers, strict=True))
        if kind.startswith("CrossAttn")
        for j in range(per_block)
    ]
    return [*outer, ("mid_block.attentions.0", depths[-1])]


def _convolutions(config: Mapping[str, Any]) -> list[str]:
    """The layers of the residual blocks and samplers. A block has a shortcut if it changes the number of channels."""
    channels, count = config["block_out_channels"], config["layers_per_block"]
    levels = len(channels)
    before = [channels[0], *channels[:-1]]
    resnets = [
        (f"down_blocks.{i}.resnets.{j}", j == 0 and before[i] != channels[i])
        for i in range(levels)
        for j in range(count)
    ]
    resnets += [(f"mid_block.resnets.{j}", False) for j in (0, 1)]
    # Every block of the up path also reads the output of a block of the down path, so its channels always change.
    resnets += [(f"up_blocks.{i}.resnets.{j}", True) for i in range(levels) for j in range(count + 1)]
    paths = [
        f"{resnet}.{layer}" for resnet, shortcut in resnets for layer in _RESNET if shortcut or layer != "conv_shortcut"
    ]
    paths += [f"down_blocks.{i}.downsamplers.0.conv" for i in range(levels - 1)]
    return paths + [f"up_blocks.{i}.upsamplers.0.conv" for i in range(levels - 1)]


def lora_bytes(tensors: Mapping[str, torch.Tensor], precision: str) -> bytes:
    """The content of a LoRA file. `tensors` are those of all adapters by their keys in the file, with an alpha for each
    layer: without it all readers assume alpha = rank. Alphas are stored in fp32, because half precision would change
    them. A1111 shows `sshs_model_hash` and finds models by it: the sha256 of the file's tensor part.
    """
    dtypes = {key: torch.float32 if key.endswith(".alpha") else DTYPES[precision] for key in sorted(tensors)}
    data = safetensors_bytes({key: tensors[key].to(dtype) for key, dtype in dtypes.items()}, {})
    return with_metadata(data, {"sshs_model_hash": hashlib.sha256(tensor_part(data)).hexdigest()})
