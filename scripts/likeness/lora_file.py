"""The LoRA file that A1111, ComfyUI, kohya and diffusers read: key names from a fixed table, alpha written out.

Names come from the architecture's numbers, not from the modules of a loaded model: transformers 5 renamed the text
encoder's modules, and files with such names are dropped silently by A1111 and ComfyUI.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch

from likeness.compvis import unet_name
from likeness.errors import LikenessError
from likeness.tensors import safetensors_bytes, tensor_part, with_metadata

# The linear layers (and 1x1 convolutions) of one Transformer2DModel that kohya's LoRA covers.
_ATTENTION = [f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
_BLOCK = [*_ATTENTION, "ff.net.0.proj", "ff.net.2"]
_TEXT_ATTENTION = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"]
_TEXT_LAYER = [*_TEXT_ATTENTION, "mlp.fc1", "mlp.fc2"]

# Of a residual block, what LoCon adds.
_RESNET = ("conv1", "time_emb_proj", "conv2", "conv_shortcut")

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Module(NamedTuple):
    """One layer that carries a LoRA."""

    path: str
    """Its place in the model in training, as named_modules() says it."""
    key: str
    """Its name in the file."""


def unet_modules(config: Mapping, layers: str = "all", convolutions: bool = False) -> list[Module]:
    """Every layer of a U-Net that gets a LoRA, from its config: 192 for SD 1.5, 722 for SDXL; with the residual blocks'
    and samplers' convolutions (LoCon) 278 for SD 1.5.

    `layers` is "all", or "attention" for the attentions' projections alone. SDXL's keys are CompVis names, as kohya
    writes them; SD 1.x's and 2.x's are diffusers'.
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

    `path_prefix` is encoder_path_prefix's. The file always says `..._text_model_encoder_layers_...`; `key_prefix` is
    lora_te for one text encoder, lora_te1 and lora_te2 for SDXL's two. `only` is "all" or "attention".
    """
    wanted = _TEXT_ATTENTION if only == "attention" else _TEXT_LAYER
    names = sorted(f"encoder.layers.{i}.{layer}" for i in range(layers) for layer in wanted)
    return [Module(path_prefix + name, f"{key_prefix}_text_model_{name.replace('.', '_')}") for name in names]


def encoder_path_prefix(encoder: torch.nn.Module) -> str:
    """What stands before `encoder.layers` in a loaded text encoder: "text_model." up to transformers 5.5, "" after."""
    first = next(name for name, _ in encoder.named_modules() if name.endswith("encoder.layers.0"))
    return first.removesuffix("encoder.layers.0")


def _transformers(config: Mapping) -> list[tuple[str, int]]:
    """Every Transformer2DModel of a U-Net, and how many blocks it has."""
    down, up = config["down_block_types"], config["up_block_types"]
    depth = config.get("transformer_layers_per_block", 1)
    depths = [depth] * len(down) if isinstance(depth, int) else list(depth)
    count = config["layers_per_block"]
    found = [
        (f"{side}_blocks.{i}.attentions.{j}", deep)
        for side, kinds, per_block, numbers in (("down", down, count, depths), ("up", up, count + 1, depths[::-1]))
        for i, (kind, deep) in enumerate(zip(kinds, numbers, strict=True))
        if kind.startswith("CrossAttn")
        for j in range(per_block)
    ]
    return [*found, ("mid_block.attentions.0", depths[-1])]


def _convolutions(config: Mapping) -> list[str]:
    """The layers of the residual blocks and samplers. A block has a shortcut where its channels change."""
    channels, count = config["block_out_channels"], config["layers_per_block"]
    levels = len(channels)
    before = [channels[0], *channels[:-1]]
    resnets = [
        (f"down_blocks.{i}.resnets.{j}", j == 0 and before[i] != channels[i])
        for i in range(levels)
        for j in range(count)
    ]
    resnets += [(f"mid_block.resnets.{j}", False) for j in (0, 1)]
    # On the way up every block also takes what the way down kept, so its channels always change.
    resnets += [(f"up_blocks.{i}.resnets.{j}", True) for i in range(levels) for j in range(count + 1)]
    paths = [
        f"{resnet}.{layer}" for resnet, shortcut in resnets for layer in _RESNET if shortcut or layer != "conv_shortcut"
    ]
    paths += [f"down_blocks.{i}.downsamplers.0.conv" for i in range(levels - 1)]
    return paths + [f"up_blocks.{i}.upsamplers.0.conv" for i in range(levels - 1)]


def lora_bytes(tensors: Mapping[str, torch.Tensor], precision: str) -> bytes:
    """The file. `tensors` holds what each layer's adapter has under the file's names, alphas too: without its alpha
    every reader takes alpha = rank. Alphas stay fp32, because half precision would change them. `sshs_model_hash` is
    what A1111 shows and looks models up by: sha256 of the file's tensor part.
    """
    dtypes = {key: torch.float32 if key.endswith(".alpha") else DTYPES[precision] for key in sorted(tensors)}
    data = safetensors_bytes({key: tensors[key].to(dtype) for key, dtype in dtypes.items()}, {})
    return with_metadata(data, {"sshs_model_hash": hashlib.sha256(tensor_part(data)).hexdigest()})
