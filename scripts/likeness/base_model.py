"""The base model: found, brought into one form (a diffusers folder), hashed, and loaded part by part."""

import json
import os
import shutil
from pathlib import Path

from likeness.errors import LikenessError
from likeness.families import FAMILIES, Family, family_of_file, family_of_folder
from likeness.files import write_atomic
from likeness.provenance import canonical, digest, file_sha256

# What a hub repository is asked for: never pickles, never half-precision doubles, never the safety checker.
_HUB_PARTS = sorted({part for family in FAMILIES.values() for part in family.parts})
HUB_FILES = ["model_index.json", *(f"{part}/*.{ending}" for part in _HUB_PARTS for ending in ("json", "txt"))]
HUB_FILES += [f"{part}/{name}.safetensors" for part in _HUB_PARTS for name in ("model", "diffusion_pytorch_model")]


def diffusers_folder(model: str, revision: str | None, roots: list[Path], merge_list: Path, store: Path) -> Path:
    """The folder of a base model given as a diffusers folder, a single .safetensors file or a hub id.

    A single file is converted once and kept under `store`. Raises LikenessError if it is not there, is incomplete or
    is of no family that can be trained.
    """
    local = next((root / model for root in roots if (root / model).exists()), None)
    if local is None:
        folder = _hub_folder(model, revision)
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
    family = _family(folder, model)
    files = sorted(
        p for part in family.parts for p in (folder / part).iterdir() if p.suffix in (".json", ".txt", ".safetensors")
    )
    hashes = {str(p.relative_to(folder)): file_sha256(p) for p in files}
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    return {
        "model": model,
        "path": os.path.relpath(folder.resolve(), manifest_folder.resolve()),
        "family": family.name,
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
    """One frozen part of the base model on the CPU: "unet", "vae", "text_encoder", "tokenizer", "scheduler", and for
    SDXL "text_encoder_2" and "tokenizer_2"."""
    where = {"pretrained_model_name_or_path": base["path"], "subfolder": part, "local_files_only": True}
    match part:
        case "tokenizer" | "tokenizer_2":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(**where)
        case "scheduler":
            from diffusers import DDPMScheduler

            return DDPMScheduler.from_pretrained(**where)
        case "text_encoder":
            from transformers import CLIPTextModel

            model = CLIPTextModel.from_pretrained(**where, dtype=dtype)
        case "text_encoder_2":
            from transformers import CLIPTextModelWithProjection

            model = CLIPTextModelWithProjection.from_pretrained(**where, dtype=dtype)
        case "vae":
            from diffusers import AutoencoderKL

            model = AutoencoderKL.from_pretrained(**where, dtype=dtype)
        case "unet":
            from diffusers import UNet2DConditionModel

            model = UNet2DConditionModel.from_pretrained(**where, dtype=dtype)
    return model.requires_grad_(False).eval()


def _hub_folder(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=HUB_FILES))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LikenessError(
            f"base_model {model}: neither a folder nor a file here, and the hub did not give it ({reason}); "
            "check the name, the network, or a login for a gated model"
        ) from None


def _family(folder: Path, model: str) -> Family:
    """Raises LikenessError if the folder's model cannot be trained."""
    unet, text_encoder = (
        json.loads(path.read_text()) if (path := folder / part / "config.json").is_file() else {}
        for part in ("unet", "text_encoder")
    )
    family = family_of_folder(unet, text_encoder)
    if not family:
        known = ", ".join(family.title for family in FAMILIES.values())
        raise LikenessError(f"base_model {model}: an inpainting model, a refiner, or none of {known}")
    return family


def _check_folder(folder: Path, model: str) -> None:
    for part in ("unet", "text_encoder"):
        if not (folder / part).is_dir():
            raise LikenessError(f"base_model {model}: no folder {part}; it is not a whole model in diffusers' layout")
    family = _family(folder, model)
    for part in family.parts:
        if not (folder / part).is_dir():
            raise LikenessError(f"base_model {model}: no folder {part}; it is not a whole model in diffusers' layout")
    for part in ("unet", "vae", *family.text_encoders):
        if not list((folder / part).glob("*.safetensors")):
            raise LikenessError(
                f"base_model {model}: no .safetensors file in {part}; the download is incomplete or only has pickles"
            )


def _converted_single_file(path: Path, merge_list: Path, store: Path) -> Path:
    """A single-file checkpoint as a diffusers folder, kept by the file's hash; offline, with its family's numbers."""
    target = store / file_sha256(path)[:16]
    if not (target / "model_index.json").is_file():
        import diffusers
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                family = family_of_file(file.keys())
        except Exception as error:
            raise LikenessError(f"base_model {path.name}: damaged, or no safetensors file ({error})") from None
        if not family:
            known = ", ".join(family.title for family in FAMILIES.values())
            raise LikenessError(f"base_model {path.name}: its layers are of none of {known}")
        config = target.with_name(f"{target.name}.config")
        write_config(family, config, merge_list)
        extras = {} if family.name == "sdxl" else {"safety_checker": None, "feature_extractor": None}
        try:
            pipeline = getattr(diffusers, family.pipeline).from_single_file(
                path, config=str(config), local_files_only=True, **extras
            )
        except Exception as error:
            raise LikenessError(
                f"base_model {path.name}: diffusers cannot read it as {family.title}: {error}"
            ) from None
        partial = target.with_name(f"{target.name}.partial")
        pipeline.save_pretrained(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        shutil.rmtree(config)
    return target


def write_config(family: Family, folder: Path, merge_list: Path) -> None:
    """A diffusers folder of a family without weights."""
    from likeness.demo_base import SCHEDULER
    from likeness.tokenizer import clip_tokenizer

    scheduler = {"_class_name": "DDIMScheduler", **SCHEDULER, "prediction_type": family.prediction_type}
    classes = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **{part: ["transformers", family.config[part]["architectures"][0]] for part in family.text_encoders},
        **{part: ["transformers", "CLIPTokenizer"] for part in family.parts if part.startswith("tokenizer")},
    }
    absent = {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if family.name != "sdxl":
        absent |= {"safety_checker": [None, None], "requires_safety_checker": False}
    write_atomic(folder / "model_index.json", json.dumps({"_class_name": family.pipeline, **absent, **classes}))
    write_atomic(folder / "scheduler/scheduler_config.json", json.dumps(scheduler))
    for part, numbers in family.config.items():
        write_atomic(folder / part / "config.json", json.dumps(numbers))
    for part in family.parts:
        if part.startswith("tokenizer"):
            tokenizer = clip_tokenizer(merge_list)
            if family.config[part.replace("tokenizer", "text_encoder")]["pad_token_id"] == 0:
                tokenizer.pad_token = "!"  # what OpenCLIP's models were trained to be padded with
            tokenizer.save_pretrained(folder / part)
