"""A diffusers folder of another kind is refused on one line, by the name of its kind."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from base_layouts import (
    ONE,
    TEXT_FILE,
    UNET_FILE,
    Tensors,
    beside,
    changed,
    pipeline,
    refused,
    scheduler,
    with_number,
    without,
)

pytestmark = pytest.mark.usefixtures("narrow_families")


def in_file(folder: Path, file: str, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(folder / file)), folder / file, {"format": "pt"})


def unet(**changes) -> Callable[[Path], None]:
    return partial(changed, file="unet/config.json", **changes)


def another(folder: Path, kind: str, **numbers) -> None:
    """A part of the same kind with some numbers of its own, in the place of the one that is there."""
    import diffusers
    import transformers

    config = json.loads((folder / "config.json").read_text()) | numbers
    shutil.rmtree(folder)
    if kind == "CLIPTextModel":
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig.from_dict(config))
    else:
        model = getattr(diffusers, kind).from_config(config)
    model.save_pretrained(folder)


REFUSED_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "inpainting": (unet(in_channels=9), "this is an inpainting model"),
    "pix2pix": (unet(in_channels=8), "this is an instruct-pix2pix model"),
    "depth": (unet(in_channels=5), "this is a depth-to-image model"),
    "upscaler": (unet(in_channels=7, num_class_embeds=1000), "this is an upscaler"),
    "unclip": (unet(class_embed_type="projection"), "this is an unCLIP model"),
    "image": (unet(addition_embed_type="image"), r"reads more than words and size \(image\)"),
    "LCM": (unet(time_cond_proj_dim=256), "this is a latent consistency model"),
    "LCM by its pipeline": (pipeline("LatentConsistencyModelPipeline"), "this is a latent consistency model"),
    "Kolors": (unet(encoder_hid_dim=4096, encoder_hid_dim_type="text_proj"), "this is a model with a language model"),
    "motion": (unet(_class_name="UNetMotionModel"), "this is a model with a UNetMotionModel"),
    "SSD-1B": (
        unet(transformer_layers_per_block=[[1, 1], [2, 2], [4, 4], 1]),
        "describes no model|a distilled|other blocks",
    ),
    "without a middle": (
        unet(mid_block_type=None),
        r"other blocks than Stable Diffusion's \(mid_block.attentions.0.proj_in\)",
    ),
    "SD 3": (pipeline("StableDiffusion3Pipeline"), "this is Stable Diffusion 3"),
    "Flux": (pipeline("FluxPipeline"), "this is Flux"),
    "PixArt": (pipeline("PixArtAlphaPipeline"), "this is a PixArtAlphaPipeline"),
    "DeepFloyd": (pipeline("IFPipeline"), "this is a IFPipeline"),
    "refiner": (
        lambda f: [unet(addition_embed_type="text_time")(f), shutil.rmtree(f / "text_encoder")],
        "this is the refiner",
    ),
    "T5": (partial(changed, file="text_encoder/config.json", model_type="t5"), "reads captions with t5, not with CLIP"),
    "Playground's VAE": (
        partial(changed, file="vae/config.json", latents_mean=[0.1] * 4),
        "a VAE whose latents are moved",
    ),
    "tiny VAE": (partial(changed, file="vae/config.json", _class_name="AutoencoderTiny"), "a VAE of another kind"),
    "CosXL's scheduler": (scheduler(_class_name="EDMEulerScheduler"), r"a noise schedule of its own \(EDM"),
    "continuous": (
        scheduler(_class_name="EulerDiscreteScheduler", timestep_type="continuous"),
        r"schedule of its own \(EDM",
    ),
    "flow matching": (scheduler(_class_name="FlowMatchEulerDiscreteScheduler"), "this is a flow-matching model"),
    "LCM's scheduler": (scheduler(_class_name="LCMScheduler"), r"a distilled model \(LCM\)"),
    "no class": (scheduler(_class_name=7), "_class_name in scheduler_config.json is 7"),
    "no steps": (
        scheduler(num_train_timesteps=0),
        "num_train_timesteps in scheduler_config.json is 0, expected from 2",
    ),
    "steps in words": (scheduler(num_train_timesteps="1000"), "num_train_timesteps in scheduler_config.json is '1000'"),
    "noise that falls": (
        scheduler(beta_start=0.02, beta_end=0.01),
        "beta_end in scheduler_config.json is 0.01, expected above",
    ),
    "noise below none": (scheduler(beta_start=-0.1), "beta_start in scheduler_config.json is -0.1"),
    "noise of no number": (scheduler(beta_end=float("nan")), "beta_end in scheduler_config.json is nan"),
    "no such schedule": (scheduler(beta_schedule="cosine"), "beta_schedule in scheduler_config.json is 'cosine'"),
    "betas of another number": (
        scheduler(trained_betas=[0.1, 0.2]),
        r"trained_betas in scheduler_config.json is \[0.1, 0.2\]",
    ),
    "spacing": (scheduler(timestep_spacing="wide"), "timestep_spacing in scheduler_config.json is 'wide'"),
    "a list for a configuration": (
        lambda f: (f / "unet/config.json").write_text("[]"),
        r"unet/config.json is damaged \(no JSON object",
    ),
    "widths in words": (unet(block_out_channels="wide"), "unet/config.json describes no model"),
    "negative layers": (unet(block_out_channels=[-1, 32, 64, 64]), "unet/config.json describes no model"),
    "text tensors gone": (
        partial(in_file, file=TEXT_FILE, change=partial(without, part="layers.1.mlp")),
        r"text_encoder: no tensor encoder.layers.1.mlp.fc1.weight and 3 more",
    ),
    "one U-Net tensor gone": (
        partial(in_file, file=UNET_FILE, change=partial(without, part="conv_in.bias")),
        "unet: no tensor conv_in.bias; the model is not whole",
    ),
    "NaN": (
        partial(in_file, file=UNET_FILE, change=partial(with_number, name="conv_out.bias", number=torch.nan)),
        "unet: conv_out.bias has 1 numbers that are infinite or none",
    ),
    "infinite": (
        partial(
            in_file,
            file="vae/diffusion_pytorch_model.safetensors",
            change=partial(with_number, name="quant_conv.bias", number=torch.inf),
        ),
        "vae: quant_conv.bias has 1 numbers",
    ),
    "another shape": (
        unet(cross_attention_dim=48),
        r"unet: .*attn2.to_k.weight is of shape \[16, 32\], expected \[16, 48\]",
    ),
    "whole numbers": (
        partial(in_file, file=UNET_FILE, change=lambda t: t | {"conv_in.bias": torch.zeros(32, dtype=torch.int8)}),
        "conv_in.bias is of I8, so the model is a quantised one",
    ),
    "GLIGEN": (unet(attention_type="gated"), "this is GLIGEN"),
    **{
        f"quantised {part}": (
            partial(changed, file=f"{part}/config.json", quantization_config={"load_in_4bit": True}),
            "this is a quantised model",
        )
        for part in ("unet", "vae", "text_encoder")
    },
    "VAE with depth": (partial(changed, file="vae/config.json", in_channels=6), "a VAE of pictures with 6 channels"),
    "VAE of three levels": (
        partial(changed, file="vae/config.json", block_out_channels=[8, 16, 16]),
        "a VAE of 3 levels, which makes pictures 4 times smaller, not 8",
    ),
    "VAE without a scale": (
        partial(changed, file="vae/config.json", scaling_factor=0),
        "scaling_factor in vae/c.* is 0",
    ),
    "VAE of another model": (
        lambda f: another(f / "vae", "AutoencoderKL", latent_channels=16),
        "its VAE gives 16 channels of a latent, its U-Net reads 4: they are of two models",
    ),
    "text encoder of another model": (
        lambda f: another(f / "text_encoder", "CLIPTextModel", hidden_size=48),
        "its text encoder gives 48 numbers for a token, its U-Net reads 32: they are of two models",
    ),
    "short text encoder": (
        lambda f: another(f / "text_encoder", "CLIPTextModel", max_position_embeddings=32),
        "text_encoder reads 32 tokens, expected 77",
    ),
    "the folder around it": (
        lambda f: (
            [f.rename(f.with_name("abc")), f.joinpath("snapshots").mkdir(parents=True)]
            and f.with_name("abc").rename(f / "snapshots/abc")
        ),
        "no model_index.json in it; name what is in it: .*model/snapshots/abc$",
    ),
    "a single file in a folder": (
        lambda f: [shutil.rmtree(f), f.mkdir(), save_file({"x": ONE}, f / "v1.safetensors")],
        "no model_index.json in it; name what is in it: .*model/v1.safetensors$",
    ),
    "only a pickle": (
        lambda f: (f / UNET_FILE).rename(f / "unet/diffusion_pytorch_model.bin"),
        "no unet/diffusion_pytorch_model.safetensors; there is only diffusion_pytorch_model.bin, which is not read",
    ),
    "an index to elsewhere": (
        lambda f: beside(
            f / "unet", "diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {"x": "../../x"}}'
        ),
        "names no files of this folder",
    ),
}


@pytest.mark.parametrize("layout", REFUSED_FOLDERS)
def test_a_folder_of_another_kind_is_refused_by_its_name(tmp_path, small_base, layout):
    change, expected = REFUSED_FOLDERS[layout]
    shutil.copytree(small_base, tmp_path / "model")
    change(tmp_path / "model")
    refused("model", expected, tmp_path)
