"""A single file of another kind is refused on one line, by the name of its kind."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from base_layouts import FIRST, ONE, TEXT, UNET, VAE, Tensors, beside, refused, renamed, with_number, without
from damage import NO_SAFETENSORS
from likeness.models.kinds import distilled_word

pytestmark = pytest.mark.usefixtures("narrow_families")


def of_channels(tensors: Tensors, read: int) -> Tensors:
    return tensors | {FIRST: torch.zeros(32, read, 3, 3)}


def marked(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(1) for name in names}


SPREAD = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
IN_PROJ = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias"
LAST = "text_model.encoder.layers.1."
REFUSED_FILES: dict[str, tuple[str, Callable[[Tensors], Tensors], str]] = {
    "inpainting": ("sd15", partial(of_channels, read=9), "this is an inpainting model"),
    "inpainting sd2": ("sd2", partial(of_channels, read=9), "this is an inpainting model"),
    "inpainting sdxl": ("sdxl", partial(of_channels, read=9), "this is an inpainting model"),
    "pix2pix": ("sd15", partial(of_channels, read=8), "this is an instruct-pix2pix model"),
    "depth": ("sd2", partial(of_channels, read=5), "this is a depth-to-image model"),
    "depth with its estimator": ("sd2", marked("depth_model.model.x"), "this is a depth-to-image model"),
    "upscaler": ("sd2", partial(of_channels, read=7), "this is an upscaler"),
    "more channels": ("sd15", partial(of_channels, read=13), "this is a model that also reads another picture"),
    "unclip": ("sd2", marked(f"{UNET}label_emb.0.0.weight", "noise_augmentor.data_mean"), "this is an unCLIP model"),
    "unclip without its encoder": (
        "sd2",
        marked(f"{UNET}label_emb.0.0.weight"),
        "this is an unCLIP model or an upscaler",
    ),
    "refiner": (
        "sdxl",
        lambda t: renamed(without(t, "embedders.0"), "embedders.1", "embedders.0"),
        "this is the refiner",
    ),
    "CosXL": ("sdxl", marked("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "this is CosXL"),
    "Playground v2.5": ("sdxl", marked("edm_mean", "edm_std"), "this is Playground v2.5"),
    "SSD-1B": (
        "sdxl",
        lambda t: without(without(t, "middle_block.1."), "output_blocks.0.1.transformer_blocks.1."),
        "a distilled model of another size",
    ),
    "BK-SDM": (
        "sd15",
        partial(without, part=f"{UNET}middle_block."),
        r"lacks 4 blocks .* middle_block.0 for one: a distilled",
    ),
    "LCM": ("sd15", marked(f"{UNET}time_embed.cond_proj.weight"), r"this is a latent consistency model \(LCM\)"),
    "AnimateDiff": ("sd15", marked(f"{UNET}input_blocks.1.motion_modules.0.x"), "this is AnimateDiff"),
    "video": ("sd2", marked(f"{UNET}input_blocks.1.1.time_stack.0.x"), "this is a video model"),
    "GLIGEN": ("sd15", marked(f"{UNET}position_net.x"), "this is GLIGEN"),
    "scaled fp8": ("sdxl", marked("scaled_fp8"), "this is a quantised model"),
    "eight bits": (
        "sd15",
        lambda t: t | {FIRST: torch.zeros(32, 4, 3, 3, dtype=torch.int8)},
        "input_blocks.0.0.weight is of I8, so the model is a quantised one",
    ),
    "U-Net alone": ("sd15", partial(without, part="cond_stage_model."), "this is a U-Net without text encoders"),
    "text encoder and VAE alone": ("sd15", partial(without, part=UNET), "it has no U-Net"),
    "one text encoder of two": (
        "sdxl",
        partial(without, part="embedders.1"),
        r"no tensor conditioner.embedders.1.model\S+ and \d+ more",
    ),
    "ten text tensors gone": (
        "sd15",
        partial(without, part=f"{LAST}mlp"),
        rf"no tensor {TEXT}{LAST}mlp.fc1.weight and 3 more; the model is not whole",
    ),
    "one tensor gone": (
        "sd2",
        partial(without, part="ln_final.bias"),
        "no tensor cond_stage_model.model.ln_final.bias; the model is not whole",
    ),
    "half an attention": (
        "sd15",
        partial(without, part="input_blocks.1.1.transformer_blocks.0.attn2.to_k"),
        rf"no tensor {UNET}input_blocks.1.1.\S+attn2.to_k.weight; the model",
    ),
    "another shape": (
        "sd15",
        lambda t: t | {f"{TEXT}text_model.final_layer_norm.bias": torch.zeros(7)},
        r"final_layer_norm.bias is of shape \[7\], expected \[32\]",
    ),
    "NaN": (
        "sd15",
        partial(with_number, name=f"{UNET}out.2.bias", number=torch.nan),
        rf"{UNET}out.2.bias has 1 numbers that are infinite or none",
    ),
    "infinite": (
        "sdxl",
        partial(with_number, name="conditioner.embedders.1.model.text_projection", number=torch.inf),
        "embedders.1.model.text_projection has 1 numbers",
    ),
    "NaN in the VAE": (
        "sd15",
        partial(with_number, name=f"{VAE}decoder.conv_in.bias", number=-torch.inf),
        "first_stage_model.decoder.conv_in.bias has 1 numbers",
    ),
    **{
        f"LoRA, {name}": ("sd15", lambda t, name=name: {name: ONE}, "this is a LoRA")
        for name in (
            *("lora_unet_x.lora_up.weight", "lora_transformer_x.alpha", "lycoris_x.lokr_w1", "unet.x.lora_A.weight"),
            *("down_blocks.0.attn1.processor.to_q_lora.up.weight", "unet.x.lora_linear_layer.down.weight"),
        )
    },
    "U-Net alone, without prefix": (
        "sd15",
        lambda t: {k.removeprefix(UNET): v for k, v in t.items() if k.startswith(UNET)},
        "this is a U-Net without text encoders",
    ),
    "eight bits where SD 2 is told apart": (
        "sd2",
        lambda t: t | {SPREAD: t[SPREAD].to(torch.int8)},
        "norm1.bias is of I8, so the model is a quantised one",
    ),
    **{
        f"three in one, {rows} rows": (
            "sd2",
            lambda t, rows=rows: t | {IN_PROJ: torch.ones(rows)},
            rf"in_proj_bias is of shape \[{rows}\], expected \[32\]",
        )
        for rows in (95, 97)
    },
    "three in one, a number": (
        "sd2",
        lambda t: t | {IN_PROJ: torch.tensor(1.0)},
        r"in_proj_bias is of shape \[\], expected \[32\]",
    ),
    "a download with a gap": (
        "sd15",
        lambda t: t | {f"{UNET}out.0.weight": t[f"{UNET}out.0.weight"] * 0},
        "out.0.weight has zeros alone, as a download has that was not finished",
    ),
    "infinite in fp32": (
        "sd15",
        lambda t: t | {f"{UNET}out.2.bias": torch.full((4,), 1e300, dtype=torch.float64)},
        r"out.2.bias has 4 numbers that are infinite or none",
    ),
    "VAE": (
        "sd15",
        lambda t: {k.removeprefix(VAE): v for k, v in t.items() if k.startswith(VAE)},
        r"this is a VAE \(which vae: takes\)",
    ),
    "ControlNet": ("sd15", lambda t: {"control_model.x": ONE}, "this is a ControlNet"),
    "textual inversion": ("sd15", lambda t: {"emb_params": ONE}, "this is a textual inversion"),
    "SD 3": (
        "sd15",
        lambda t: {f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": ONE, "text_encoders.clip_l.x": ONE + 0},
        "this is Stable Diffusion 3",
    ),
    "Flux": ("sd15", lambda t: {f"{UNET}double_blocks.0.img_attn.qkv.weight": ONE}, "this is Flux"),
    "Flux without prefix": ("sd15", lambda t: {"double_blocks.0.img_attn.qkv.weight": ONE}, "this is Flux"),
    "Stable Cascade": ("sd15", lambda t: {"clip_txt_mapper.weight": ONE}, "this is Stable Cascade"),
    "PixArt": ("sd15", lambda t: {"adaln_single.linear.weight": ONE}, "this is PixArt"),
    "motion module": (
        "sd15",
        lambda t: {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": ONE},
        "this is AnimateDiff",
    ),
    "ESRGAN": ("sd15", lambda t: {"conv_first.weight": ONE}, "this is an upscaler"),
}


@pytest.mark.parametrize("layout", REFUSED_FILES)
def test_a_single_file_of_another_kind_is_refused_by_its_name(tmp_path, made, layout):
    family, change, expected = REFUSED_FILES[layout]
    save_file({k: v.contiguous() for k, v in change(dict(made[family][1])).items()}, tmp_path / "model.safetensors")
    refused("model.safetensors", expected, tmp_path)
    assert not list(tmp_path.glob("store/*")), "nothing is left of it"


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"modelspec.title": "Stable Diffusion XL Turbo"}, "turbo"),
        ({"modelspec.architecture": "stable-diffusion-xl-turbo-v1"}, "turbo"),
        ({"modelspec.title": "Mine, LCM"}, "lcm"),
    ],
)
def test_a_distilled_model_that_says_so_is_refused(tmp_path, made, metadata, word):
    save_file(made["sdxl"][1], tmp_path / "model.safetensors", metadata)
    refused("model.safetensors", rf"this is a distilled model \({word}, by its header\)", tmp_path)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("stabilityai/sdxl-turbo", "turbo"),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", "turbo"),
        ("SimianLuo/LCM_Dreamshaper_v7", "lcm"),
        ("sdxl_lightning_4step.safetensors", "lightning"),
        ("Hyper-SD15-8steps", "hyper-sd"),
        ("sdxl-dmd2", "dmd2"),
        ("hyperrealistic_v3.safetensors", None),
        ("calcmix.safetensors", None),
        ("stable-diffusion-v1-5", None),
    ],
)
def test_a_distilled_model_is_known_by_its_name(name, word):
    assert distilled_word(name) == word


def test_macos_note_about_a_file_is_refused(tmp_path):
    beside(tmp_path, "._model.safetensors")
    refused("._model.safetensors", "macOS' note about a file, not the file; name the one without ._", tmp_path)


@pytest.mark.parametrize("data", NO_SAFETENSORS.values(), ids=NO_SAFETENSORS)
def test_what_is_no_safetensors_file_is_refused_on_one_line(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    refused("model.safetensors", "damaged, or no safetensors file", tmp_path)
