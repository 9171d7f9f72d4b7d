"""Tensor names of diffusers and transformers, translated to those of the original code of Stable Diffusion.

Single files use the original names: CompVis's for the U-Net and the VAE, transformers' or OpenCLIP's for the text
encoders. They follow from the classes of CompVis/latent-diffusion, Stability-AI/generative-models and
mlfoundations/open_clip.
"""

from collections.abc import Mapping
from typing import Any

_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OPEN_CLIP_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}


def unet_name(name: str, config: Mapping[str, Any]) -> str:
    """CompVis's name of a U-Net's layer or tensor: down_blocks.1.attentions.0.proj_in of SDXL is
    input_blocks.4.1.proj_in.

    CompVis numbers the layers and samplers of all levels consecutively; conv_in is input block 0.
    """
    for ours, theirs in _OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    count = config["layers_per_block"]
    side, *rest = name.split(".")
    if side == "mid_block":
        kind, number, *layer = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        level, kind, number, *layer = rest
        first = (count + 1) * int(level)
        match side, kind:
            case "down_blocks", "downsamplers":
                return ".".join([f"input_blocks.{first + count + 1}.0.op", *layer[1:]])
            case "up_blocks", "upsamplers":
                # The sampler stands after the attention, if the level has one.
                has_attention = config["up_block_types"][int(level)].startswith("CrossAttn")
                return ".".join([f"output_blocks.{first + count}.{1 + has_attention}", *layer])
            case "down_blocks", _:
                place = f"input_blocks.{first + int(number) + 1}.{int(kind == 'attentions')}"
            case _:
                place = f"output_blocks.{first + int(number)}.{int(kind == 'attentions')}"
    if kind == "resnets":
        layer = [_RESNET[layer[0]], *layer[1:]]
    return ".".join([place, *layer])


def vae_name(name: str, levels: int) -> str:
    """CompVis's name of a tensor of a VAE with `levels` levels. CompVis numbers the decoder's levels in reverse."""
    side, *rest = name.split(".")
    match rest:
        case ["down_blocks" | "up_blocks" as way, level, "resnets", number, layer, *end]:
            level = level if way == "down_blocks" else str(levels - 1 - int(level))
            layer = layer.replace("conv_shortcut", "nin_shortcut")
            return ".".join([side, way.removesuffix("_blocks"), level, "block", number, layer, *end])
        case ["down_blocks", level, "downsamplers", _, *layer]:
            return ".".join([side, "down", level, "downsample", *layer])
        case ["up_blocks", level, "upsamplers", _, *layer]:
            return ".".join([side, "up", str(levels - 1 - int(level)), "upsample", *layer])
        case ["mid_block", "resnets", number, layer, *end]:
            layer = layer.replace("conv_shortcut", "nin_shortcut")
            return ".".join([side, "mid", f"block_{int(number) + 1}", layer, *end])
        case ["mid_block", "attentions", _, layer, *end]:
            return ".".join([side, "mid.attn_1", _VAE_ATTENTION[layer], end[-1]])
    return name.replace("conv_norm_out", "norm_out")


def open_clip_name(name: str) -> str:
    """OpenCLIP's name of a text encoder's tensor; `name` is transformers' name without `text_model.`. Query, key and
    value get the same name: OpenCLIP keeps them in one tensor, in this order."""
    if name in _OPEN_CLIP_OUTSIDE:
        return _OPEN_CLIP_OUTSIDE[name]
    number, _, layer = name.removeprefix("encoder.layers.").partition(".")
    path, _, kind = layer.rpartition(".")
    if path.removeprefix("self_attn.") in ("q_proj", "k_proj", "v_proj"):
        return f"transformer.resblocks.{number}.attn.in_proj_{kind}"
    return f"transformer.resblocks.{number}.{_OPEN_CLIP[path]}.{kind}"
