"""The base model: found, brought into one form (a diffusers folder), hashed, and loaded part by part."""

import json
import os
import shutil
from pathlib import Path

from likeness.errors import LikenessError
from likeness.files import write_atomic
from likeness.hub import hub_folder
from likeness.provenance import canonical, digest, file_sha256

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
# What a hub repository is asked for: never pickles, never half-precision doubles, never the safety checker.
HUB_FILES = ["model_index.json", *(f"{part}/*.{ending}" for part in PARTS for ending in ("json", "txt"))]
HUB_FILES += [f"{part}/{name}.safetensors" for part in PARTS for name in ("model", "diffusion_pytorch_model")]

# SD 1.5's numbers, for a single .safetensors file, which carries weights and no configuration.
SD15 = {
    "unet": {
        "_class_name": "UNet2DConditionModel",
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    "vae": {
        "_class_name": "AutoencoderKL",
        "sample_size": 512,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
        "projection_dim": 768,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def diffusers_folder(model: str, revision: str | None, roots: list[Path], merge_list: Path, store: Path) -> Path:
    """The folder of a base model given as a diffusers folder, a single .safetensors file or a hub id.

    A single file is converted once and kept under `store`. Raises LikenessError if it is not there, is incomplete or
    is not of Stable Diffusion 1.x's kind.
    """
    local = next((root / model for root in roots if (root / model).exists()), None)
    if local is None:
        not_here = f"base_model {model}: neither a folder nor a file here"
        advice = "check the name, the network, or a login for a gated model"
        folder = hub_folder(model, HUB_FILES, not_here, advice, revision)
    elif local.is_dir():
        folder = local
    elif local.suffix == ".safetensors":
        folder = _converted_single_file(local, merge_list, store)
    else:
        raise LikenessError(f"base_model {model}: expected a diffusers folder, a .safetensors file or a hub id")
    _check_folder(folder, model)
    return folder


def manifest(model: str, folder: Path, manifest_folder: Path) -> dict:
    """base.json: where the model is, what kind it is, and the sha256 of every file that is read from it."""
    files = sorted(
        p for part in PARTS for p in (folder / part).iterdir() if p.suffix in (".json", ".txt", ".safetensors")
    )
    hashes = {str(p.relative_to(folder)): file_sha256(p) for p in files}
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    return {
        "model": model,
        "path": os.path.relpath(folder.resolve(), manifest_folder.resolve()),
        "family": "sd15",
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "sha256": hashes,
        "digest": digest(canonical(hashes)),
    }


def load_manifest(path: Path) -> dict:
    """base.json with `path` made absolute. Raises LikenessError if the model has gone."""
    base = json.loads(path.read_text())
    base["path"] = (path.parent / base["path"]).resolve()
    if not base["path"].is_dir():
        raise LikenessError(
            f"the base model {base['model']} is no longer at {base['path']}; run: snakemake --forcerun fetch_base"
        )
    return base


def part_digest(base: dict, *parts: str) -> str:
    """One hash for some parts of a base model ("vae"), so that a new U-Net does not encode the photos again."""
    return digest(canonical({name: h for name, h in base["sha256"].items() if name.split("/")[0] in parts}))


def load_part(base: dict, part: str, dtype=None):
    """One frozen part of the base model on the CPU: "unet", "vae", "text_encoder", "tokenizer" or "scheduler"."""
    where = {"pretrained_model_name_or_path": base["path"], "subfolder": part, "local_files_only": True}
    match part:
        case "tokenizer":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(**where)
        case "scheduler":
            from diffusers import DDPMScheduler

            return DDPMScheduler.from_pretrained(**where)
        case "text_encoder":
            from transformers import CLIPTextModel

            model = CLIPTextModel.from_pretrained(**where, dtype=dtype)
        case "vae":
            from diffusers import AutoencoderKL

            model = AutoencoderKL.from_pretrained(**where, dtype=dtype)
        case "unet":
            from diffusers import UNet2DConditionModel

            model = UNet2DConditionModel.from_pretrained(**where, dtype=dtype)
    return model.requires_grad_(False).eval()


def _check_folder(folder: Path, model: str) -> None:
    for part in PARTS:
        if not (folder / part).is_dir():
            raise LikenessError(f"base_model {model}: no folder {part}; it is not a whole model in diffusers' layout")
    for part in ("unet", "vae", "text_encoder"):
        if not list((folder / part).glob("*.safetensors")):
            raise LikenessError(
                f"base_model {model}: no .safetensors file in {part}; the download is incomplete or only has pickles"
            )
    unet = json.loads((folder / "unet/config.json").read_text())
    if unet.get("addition_embed_type") or unet.get("in_channels", 4) != 4 or (folder / "text_encoder_2").is_dir():
        raise LikenessError(
            f"base_model {model}: a Stable Diffusion XL or inpainting model; expected Stable Diffusion 1.x"
        )


def _converted_single_file(path: Path, merge_list: Path, store: Path) -> Path:
    """A single-file checkpoint as a diffusers folder, kept by the file's hash; offline, with SD 1.5's configuration."""
    target = store / file_sha256(path)[:16]
    if not (target / "model_index.json").is_file():
        from diffusers import StableDiffusionPipeline

        config = target.with_name(f"{target.name}.config")
        write_sd15_config(config, merge_list)
        try:
            pipeline = StableDiffusionPipeline.from_single_file(
                path, config=str(config), local_files_only=True, safety_checker=None, feature_extractor=None
            )
        except Exception as error:
            raise LikenessError(
                f"base_model {path.name}: diffusers cannot read it as Stable Diffusion 1.x: {error}"
            ) from None
        partial = target.with_name(f"{target.name}.partial")
        pipeline.save_pretrained(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        shutil.rmtree(config)
    return target


def write_sd15_config(folder: Path, merge_list: Path) -> None:
    """A diffusers folder of SD 1.5 without weights."""
    from likeness.demo_base import SCHEDULER
    from likeness.tokenizer import clip_tokenizer

    write_atomic(folder / "model_index.json", json.dumps(MODEL_INDEX))
    write_atomic(folder / "scheduler/scheduler_config.json", json.dumps({"_class_name": "DDIMScheduler", **SCHEDULER}))
    for part, numbers in SD15.items():
        write_atomic(folder / part / "config.json", json.dumps(numbers))
    clip_tokenizer(merge_list).save_pretrained(folder / "tokenizer")
