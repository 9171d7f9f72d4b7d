"""Checkpoints in the original layout of single files: narrow models with the blocks of their families.

The names are made by rules of this module, independent of likeness.models.compvis.
"""

import torch

from likeness.models.families import Family

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
UNET = {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4}
VAE = {"block_out_channels": [32, 32, 32, 32]}
NARROW = {
    "sd15": {"unet": UNET, "vae": VAE, "text_encoder": TEXT | {"num_hidden_layers": 2}},
    # All of its layers, because a file has one layer more than is read.
    "sd2": {"unet": UNET, "vae": VAE, "text_encoder": TEXT},
    "sdxl": {
        "unet": {
            **UNET,
            "block_out_channels": [32, 32, 64],
            "transformer_layers_per_block": [1, 1, 2],
            "cross_attention_dim": 32 + 48,
            # The pooled text has width 40, and the six numbers about the size have width 8 each.
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 40 + 6 * 8,
        },
        "vae": VAE,
        "text_encoder": TEXT | {"num_hidden_layers": 2},
        "text_encoder_2": TEXT | {"num_hidden_layers": 3, "hidden_size": 48, "projection_dim": 40},
    },
}


def narrow(family: Family, monkeypatch) -> None:
    """Make a family as narrow as NARROW for one test."""
    for part, numbers in NARROW[family.name].items():
        monkeypatch.setitem(family.config, part, {**family.config[part], **numbers})


def narrow_models(family: Family, dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Module]:
    """The models of a family's parts, with the widths of its `config` and random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    models = {
        "unet": UNet2DConditionModel.from_config(family.config["unet"]),
        "vae": AutoencoderKL.from_config(family.config["vae"]),
    }
    for part in family.text_encoders:
        numbers = {k: v for k, v in family.config[part].items() if k not in ("architectures", "model_type")}
        model = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        models[part] = model(CLIPTextConfig(**numbers))
    return {part: model.to(dtype) for part, model in models.items()}


def original_tensors(family: Family, models: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The tensors of a single file of these models."""
    unet, vae, *texts = (model.state_dict() for model in models.values())
    tensors = {f"model.diffusion_model.{original_unet(k, family)}": v for k, v in unet.items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in original_vae(vae).items()}
    match family.name:
        case "sd15":
            tensors |= {f"cond_stage_model.transformer.{k}": v for k, v in original_text(texts[0]).items()}
        case "sd2":
            tensors |= {f"cond_stage_model.model.{k}": v for k, v in open_clip(texts[0], read=False).items()}
        case "sdxl":
            prefix = "conditioner.embedders"
            tensors |= {f"{prefix}.0.transformer.{k}": v for k, v in original_text(texts[0]).items()}
            tensors |= {f"{prefix}.1.model.{k}": v for k, v in open_clip(texts[1]).items()}
    return {k: v.clone().contiguous() for k, v in tensors.items()}


# The names of the original Stable Diffusion checkpoints, for levels of two layers.
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def original_unet(key: str, family: Family) -> str:
    for ours, theirs in OUTSIDE.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    side, *rest = key.split(".")
    if side == "mid_block":
        kind, number, *rest = rest
        return ".".join(["middle_block", "1" if kind == "attentions" else str(2 * int(number)), *resnet(kind, rest)])
    level, kind, number, *rest = rest
    level, number = int(level), int(number)
    if side == "down_blocks":
        if kind == "downsamplers":
            return ".".join(["input_blocks", str(3 * level + 3), "0.op", *rest[1:]])
        block = ["input_blocks", str(3 * level + number + 1)]
    else:
        block = ["output_blocks", str(3 * level + (2 if kind == "upsamplers" else number))]
        if kind == "upsamplers":
            # After the attention, if the level has attention.
            attention = family.config["unet"]["up_block_types"][level].startswith("CrossAttn")
            return ".".join([*block, "2" if attention else "1", *rest])
    return ".".join([*block, "0" if kind == "resnets" else "1", *resnet(kind, rest)])


def resnet(kind: str, rest: list[str]) -> list[str]:
    return [RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest


def original_vae(state: dict) -> dict:
    renamed = {}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for key, value in state.items():
        key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        if "mid_block.attentions.0" in key:
            for ours, theirs in attention.items():
                key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        if "down_blocks" in key:
            key = key.replace("down_blocks", "down").replace("resnets", "block").replace("downsamplers.0", "downsample")
        if "up_blocks" in key:
            parts = key.split(".")
            parts[2] = str(3 - int(parts[2]))
            key = ".".join(parts).replace("up_blocks", "up").replace("resnets", "block")
            key = key.replace("upsamplers.0", "upsample")
        renamed[key] = value
    return renamed


def original_text(state: dict) -> dict:
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}


# OpenCLIP's names of a text encoder's layers.
OPEN_CLIP = {
    "encoder.layers.": "transformer.resblocks.", "layer_norm": "ln_", "self_attn.": "attn.", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj", "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding", "final_ln_": "ln_final",
}  # fmt: skip


def open_clip(state: dict, read: bool = True) -> dict:
    """A text encoder under OpenCLIP's names: query, key and value in one tensor, and a projection. With `read` False it
    has a projection and a last layer that are not used, as in SD 2."""
    renamed = {}
    for key, value in state.items():
        key = key.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            key = key.replace(ours, theirs)
        renamed[key] = value
    for query in [key for key in renamed if ".q_proj." in key]:
        three = [renamed.pop(query.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        renamed[query.replace("q_proj.", "in_proj_")] = torch.cat(three)
    if read:
        renamed["text_projection"] = renamed.pop("text_projection.weight").T
        return renamed
    last = {key.replace(".22.", ".23."): torch.ones_like(value) for key, value in renamed.items() if ".22." in key}
    width = renamed["positional_embedding"].shape[1]
    return renamed | last | {"text_projection": torch.ones(width, width), "logit_scale": torch.tensor(4.6)}
