"""Base models of full size with random weights, for measurements of speed and memory."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from likeness.models.families import Family
from likeness.models.single_file import write_config


def save_random(family: Family, vocabulary: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write a family's model as a diffusers folder. `vocabulary` is CLIP's merge list."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    write_config(family, folder, vocabulary)
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        kind.from_config(dict(family.config[part])).to(dtype).save_pretrained(folder / part)
    for part in family.text_encoders:
        numbers = {
            key: value for key, value in family.config[part].items() if key not in ("architectures", "model_type")
        }
        text_model = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        text_model(CLIPTextConfig(**numbers)).to(dtype).save_pretrained(folder / part)
