"""The LoRA file that A1111, ComfyUI, kohya and diffusers read: key names from a fixed table, alpha written out.

Names come from the architecture's numbers, not from the modules of a loaded model: transformers 5 renamed the text
encoder's modules, and files with such names are dropped silently by A1111 and ComfyUI.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch

from likeness.errors import LikenessError
from likeness.tensors import safetensors_bytes, tensor_part, with_metadata

# The linear layers (and 1x1 convolutions) of one Transformer2DModel that kohya's LoRA covers.
_BLOCK = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v"]
_BLOCK += ["attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
_TEXT_LAYER = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Module(NamedTuple):
    """One layer that carries a LoRA."""

    path: str
    """Its place in the model in training, as named_modules() says it."""
    key: str
    """Its name in the file."""


def unet_modules(config: Mapping) -> list[Module]:
    """Every layer of a U-Net that gets a LoRA, from its config: 192 for SD 1.5 (16 transformers of 12 layers)."""
    layers, levels = config["layers_per_block"], len(config["down_block_types"])
    blocks = [
        (f"{side}_blocks.{i}", count)
        for side, count in (("down", layers), ("up", layers + 1))
        for i, kind in enumerate(config[f"{side}_block_types"])
        if kind.startswith("CrossAttn")
    ]
    if not blocks or levels != len(config["up_block_types"]) or config.get("transformer_layers_per_block", 1) != 1:
        raise LikenessError(f"this U-Net is not of Stable Diffusion 1.x's kind: {config['down_block_types']}")
    attentions = [f"{block}.attentions.{j}" for block, count in blocks for j in range(count)]
    attentions.append("mid_block.attentions.0")
    paths = [
        f"{attention}.{layer}"
        for attention in attentions
        for layer in ("proj_in", "proj_out", *(f"transformer_blocks.0.{name}" for name in _BLOCK))
    ]
    return [Module(path, f"lora_unet_{path.replace('.', '_')}") for path in sorted(paths)]


def text_encoder_modules(layers: int, path_prefix: str) -> list[Module]:
    """Every layer of a CLIP text encoder that gets a LoRA: 72 for SD 1.5 (12 layers of 6).

    `path_prefix` is what stands before `encoder.layers` in the loaded model: "text_model." up to transformers 5.5,
    "" after. In the file it is always `lora_te_text_model_encoder_layers_...`.
    """
    names = sorted(f"encoder.layers.{i}.{layer}" for i in range(layers) for layer in _TEXT_LAYER)
    return [Module(path_prefix + name, f"lora_te_text_model_{name.replace('.', '_')}") for name in names]


def lora_bytes(weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]], alpha: float, precision: str) -> bytes:
    """The file. `weights`: key -> (down, up), linear (r, in) and (out, r), or 1x1 convolutions in four dimensions.

    Without the alpha every reader takes alpha = rank, so it is written for each layer. `sshs_model_hash` is what
    A1111 shows and looks models up by: sha256 of the file's tensor part.
    """
    dtype = DTYPES[precision]
    tensors = {}
    for key, (down, up) in sorted(weights.items()):
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha), dtype=dtype)
        tensors[f"{key}.lora_down.weight"] = down.to(dtype)
        tensors[f"{key}.lora_up.weight"] = up.to(dtype)
    data = safetensors_bytes(tensors, {})
    return with_metadata(data, {"sshs_model_hash": hashlib.sha256(tensor_part(data)).hexdigest()})
