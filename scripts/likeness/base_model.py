"""The base model: found, brought into one form (a diffusers folder), hashed, and loaded part by part."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from likeness.errors import LikenessError
from likeness.families import FAMILIES, SCHEDULER, Family, family_of_file, family_of_folder, schedule_of_file
from likeness.files import write_atomic
from likeness.hub import hub_folder
from likeness.manifests import checked, read_json
from likeness.provenance import canonical, digest, file_sha256

# What diffusers and transformers call the file of a part's weights.
WEIGHTS, TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
# What a hub repository is asked for: never pickles, never half-precision doubles, never the safety checker.
_HUB_PARTS = sorted({part for family in FAMILIES.values() for part in family.parts})
HUB_FILES = ["model_index.json", *(f"{part}/*.{ending}" for part in _HUB_PARTS for ending in ("json", "txt"))]
HUB_FILES += [
    f"{part}/{Path(name).stem}{shard}.safetensors"
    for part in _HUB_PARTS
    for name in (WEIGHTS, TEXT_WEIGHTS)
    for shard in ("", "-*-of-*")
]
# Numbers in which two VAEs of one family agree, and what diffusers takes where a config.json lacks them.
VAE_DEFAULTS = {"latent_channels": 4, "scaling_factor": 0.18215}
PREDICTIONS = ("epsilon", "v_prediction")
# CLIP's vocabulary, what transformers takes where a config.json lacks it, and what of it no merge makes (256 bytes, the
# same at a word's end, 2 marks).
VOCABULARY, UNMERGED = 49408, 514
# Some models have more rows than tokens, up to a round number; a file that was cut short lacks far more than this.
WHOLE_VOCABULARY = 0.9


def diffusers_folder(model: str, revision: str | None, roots: list[Path], merge_list: Path, store: Path) -> Path:
    """The folder of a base model given as a diffusers folder, a single .safetensors file or a hub id.

    A single file is converted once and kept under `store`. Raises LikenessError if it is not there, is incomplete or
    is of no family that can be trained.
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


def vae_folder(vae: str, roots: list[Path], base_folder: Path, store: Path) -> Path:
    """The folder of a VAE of the user's own, given as a diffusers folder (its own, or a whole pipeline's) or a single
    .safetensors file, for the base model in `base_folder`.

    A single file is converted once and kept under `store`. Raises LikenessError if it is not there, is incomplete or
    does not fit the base model.
    """
    local = next((root / vae for root in roots if (root / vae).exists()), None)
    if local is None:
        raise LikenessError(f"vae {vae}: neither a folder nor a file here; check the name")
    if local.is_dir():
        folder = local / "vae" if (local / "vae").is_dir() else local
    elif local.suffix == ".safetensors":
        folder = _converted_vae(local, _family(base_folder, str(base_folder)), store)
    else:
        raise LikenessError(f"vae {vae}: expected a diffusers folder or a .safetensors file")
    if not (folder / "config.json").is_file() or not _has_weights(folder, WEIGHTS):
        raise LikenessError(
            f"vae {vae}: no config.json with a {WEIGHTS} in it; the download is incomplete, "
            "or name the .safetensors file itself"
        )
    _check_json(folder, ("config.json",), f"vae {vae}")
    _check_weights(folder, f"vae {vae}")
    own, base = (
        {**VAE_DEFAULTS, **json.loads((part / "config.json").read_text())} for part in (folder, base_folder / "vae")
    )
    for key in VAE_DEFAULTS:
        if own[key] != base[key]:
            raise LikenessError(
                f"vae {vae}: its {key} is {own[key]}, the base model's {base[key]}; expected a VAE of that model's "
                "family"
            )
    return folder


def manifest(
    model: str, folder: Path, manifest_folder: Path, vae: Path | None = None, prediction_type: str | None = None
) -> dict:
    """base.json: where the model is, what kind it is, and the sha256 of every file that is read from it. The files of
    `vae`, a folder of the user's own, are listed in the place of the model's; `prediction_type` goes before what the
    model says of itself.

    Raises LikenessError if the model predicts something that cannot be trained.
    """
    family = _family(folder, model)
    places = {part: folder / part for part in family.parts} | ({"vae": vae} if vae else {})
    files = {
        f"{part}/{p.name}": p
        for part, place in places.items()
        for p in place.iterdir()
        if p.suffix in (".json", ".txt", ".safetensors")
    }
    hashes = {name: file_sha256(path) for name, path in sorted(files.items())}
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    own_prediction = scheduler.get("prediction_type", "epsilon")
    prediction = prediction_type or own_prediction
    if prediction not in PREDICTIONS:
        raise LikenessError(
            f"base_model {model}: prediction_type {prediction!r} in its scheduler_config.json; expected "
            f"{' or '.join(PREDICTIONS)}, which prediction_type in config.yaml can say in its place"
        )
    # The files' hashes alone would not tell what is trained on them.
    corrected = {"prediction_type": prediction} if prediction != own_prediction else {}
    own_vae = {"vae_path": os.path.relpath(vae.resolve(), manifest_folder.resolve())} if vae else {}
    return own_vae | {
        "model": model,
        "path": os.path.relpath(folder.resolve(), manifest_folder.resolve()),
        "family": family.name,
        "prediction_type": prediction,
        "sha256": hashes,
        "digest": digest(canonical(hashes | corrected)),
    }


def load_manifest(path: Path) -> dict:
    """base.json with `path` and, where there is one, `vae_path` made absolute. Raises LikenessError if the model or the
    VAE has gone."""
    base = read_json(path)
    for key, what in (("path", f"the base model {base['model']}"), ("vae_path", "the VAE")):
        if key not in base:
            continue
        base[key] = (path.parent / base[key]).resolve()
        if not base[key].is_dir():
            raise LikenessError(f"{what} is no longer at {base[key]}; run: snakemake --cores all --forcerun fetch_base")
    return base


def part_digest(base: dict, *parts: str) -> str:
    """One hash for some parts of a base model ("vae"), so that a new U-Net does not encode the photos again."""
    return digest(canonical({name: h for name, h in base["sha256"].items() if name.split("/")[0] in parts}))


def load_part(base: dict, part: str, dtype=None):
    """One frozen part of the base model on the CPU: "unet", "vae", "text_encoder", "tokenizer", "scheduler", and for
    SDXL "text_encoder_2" and "tokenizer_2".

    Its numbers are of `dtype`; without one fp32, in whatever precision the files are (transformers takes theirs). The
    scheduler predicts what base.json says, which may not be what its file says. Raises LikenessError if a file of it
    was changed since fetch_base looked at it.
    """
    check_part(base, part)
    where = {"pretrained_model_name_or_path": base["path"], "subfolder": part, "local_files_only": True}
    match part:
        case "tokenizer" | "tokenizer_2":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(**where)
        case "scheduler":
            from diffusers import DDPMScheduler

            return DDPMScheduler.from_pretrained(**where, prediction_type=base["prediction_type"])
    import torch

    where["dtype"] = dtype or torch.float32
    match part:
        case "text_encoder":
            from transformers import CLIPTextModel

            model = CLIPTextModel.from_pretrained(**where)
        case "text_encoder_2":
            from transformers import CLIPTextModelWithProjection

            model = CLIPTextModelWithProjection.from_pretrained(**where)
        case "vae":
            from diffusers import AutoencoderKL

            if "vae_path" in base:
                where |= {"pretrained_model_name_or_path": base["vae_path"], "subfolder": None}
            model = AutoencoderKL.from_pretrained(**where)
        case "unet":
            from diffusers import UNet2DConditionModel

            model = UNet2DConditionModel.from_pretrained(**where)
    return model.requires_grad_(False).eval()


def check_part(base: dict, part: str) -> None:
    """Raises LikenessError if a file of a part was changed since fetch_base looked at it."""
    folder = base["vae_path"] if part == "vae" and "vae_path" in base else base["path"] / part
    for name, sha256 in base["sha256"].items():
        where, _, file = name.partition("/")
        if where == part:
            checked(folder / file, sha256, "fetch_base")


def _family(folder: Path, model: str) -> Family:
    """Raises LikenessError if the folder's model cannot be trained."""
    unet, text_encoder = (json.loads((folder / part / "config.json").read_text()) for part in ("unet", "text_encoder"))
    family = family_of_folder(unet, text_encoder)
    if not family:
        known = ", ".join(family.title for family in FAMILIES.values())
        raise LikenessError(f"base_model {model}: an inpainting model, a refiner, or none of {known}")
    return family


def _check_folder(folder: Path, model: str) -> None:
    """Raises LikenessError if something is missing or damaged that a later stage reads, or the family is unknown."""
    what = f"base_model {model}"
    _check_parts(folder, ("unet", "text_encoder"), what)
    _check_json(folder, ("model_index.json", "unet/config.json", "text_encoder/config.json"), what)
    family = _family(folder, model)
    _check_parts(folder, family.parts, what)
    with_weights = ("unet", "vae", *family.text_encoders)
    _check_json(folder, ("scheduler/scheduler_config.json", *(f"{part}/config.json" for part in with_weights)), what)
    for part in with_weights:
        name = TEXT_WEIGHTS if part in family.text_encoders else WEIGHTS
        if not _has_weights(folder / part, name):
            raise LikenessError(
                f"{what}: no {part}/{name}; the download is incomplete, or only has pickles or a half precision variant"
            )
        _check_weights(folder / part, what)
    for part in family.text_encoders:
        _check_tokenizer(folder, part, what)


def _check_parts(folder: Path, parts: Iterable[str], what: str) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise LikenessError(f"{what}: no folder {part}; it is not a whole model in diffusers' layout")


def _check_json(folder: Path, names: Iterable[str], what: str) -> None:
    """Raises LikenessError if a file is not there, or not whole."""
    for name in names:
        try:
            json.loads((folder / name).read_text())
        except FileNotFoundError:
            raise LikenessError(f"{what}: no {name}; the download is incomplete, get it again") from None
        except ValueError as error:
            raise LikenessError(f"{what}: {name} is damaged or half downloaded ({error}); get it again") from None


def _check_tokenizer(folder: Path, text_encoder: str, what: str) -> None:
    """Raises LikenessError if the tokenizer of a text encoder is not whole: transformers makes one without words of
    what is missing, and every caption then reads the same."""
    name = text_encoder.replace("text_encoder", "tokenizer")
    if not (folder / name / "tokenizer.json").is_file():
        for file in ("vocab.json", "merges.txt"):
            if not (folder / name / file).is_file():
                raise LikenessError(
                    f"{what}: no {name}/{file}, and no {name}/tokenizer.json in its place; without it no caption can "
                    "be read, get it again"
                )
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
        merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    except Exception as error:
        raise LikenessError(f"{what}: {name} is damaged or half downloaded ({error}); get it again") from None
    expected = json.loads((folder / text_encoder / "config.json").read_text()).get("vocab_size", VOCABULARY)
    for found, whole, of in ((len(tokenizer), expected, "tokens"), (len(merges), expected - UNMERGED, "merges")):
        if found < WHOLE_VOCABULARY * whole:
            raise LikenessError(
                f"{what}: {name} has {found} {of}, {text_encoder} was made with {whole}; a file in it is damaged or "
                "half downloaded, get it again"
            )


def _has_weights(folder: Path, name: str) -> bool:
    """Whether a folder has the file that a part's weights are read from, or the table of the several that they are
    spread over. A half precision variant (model.fp16.safetensors) is not read in their place."""
    return any((folder / f"{name}{table}").is_file() for table in ("", ".index.json"))


def _check_weights(folder: Path, what: str) -> None:
    """Raises LikenessError if a .safetensors file of a folder is not whole (its header says how long it must be), or
    one of several that the weights are spread over is missing."""
    from safetensors import safe_open

    for index in sorted(folder.glob("*.safetensors.index.json")):
        _check_json(folder.parent, (f"{folder.name}/{index.name}",), what)
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not (folder / shard).is_file():
                raise LikenessError(
                    f"{what}: no {folder.name}/{shard}, which {index.name} names; the download is incomplete, get it "
                    "again"
                )
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except Exception as error:
            raise LikenessError(
                f"{what}: {folder.name}/{path.name} is damaged or half downloaded ({error}); get it again"
            ) from None


def _converted_vae(path: Path, family: Family, store: Path) -> Path:
    """A single-file VAE as a diffusers folder, kept by the file's hash; offline, with the base model's family's
    numbers."""
    target = store / f"vae-{family.name}-{file_sha256(path)[:16]}"
    if not (target / "config.json").is_file():
        from diffusers import AutoencoderKL

        config = target.with_name(f"{target.name}.config")
        write_atomic(config / "config.json", json.dumps(family.config["vae"]))
        try:
            model = AutoencoderKL.from_single_file(str(path), config=str(config), local_files_only=True)
        except Exception as error:
            # Its first sentence is about the file, the others are for programmers.
            why = " ".join(str(error).split()).partition(". ")[0]
            raise LikenessError(f"vae {path.name}: damaged, or no VAE of {family.title} ({why})") from None
        _save(model, target)
        shutil.rmtree(config)
    return target


def _save(model, target: Path) -> None:
    """In diffusers' layout, whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    model.save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _converted_single_file(path: Path, merge_list: Path, store: Path) -> Path:
    """A single-file checkpoint as a diffusers folder, kept by the file's hash; offline, with its family's numbers."""
    target = store / file_sha256(path)[:16]
    family, schedule = _read_single_file(path)
    if not (target / "model_index.json").is_file():
        import diffusers

        config = target.with_name(f"{target.name}.config")
        write_config(family, config, merge_list, schedule)
        extras = {} if family.name == "sdxl" else {"safety_checker": None, "feature_extractor": None}
        try:
            pipeline = getattr(diffusers, family.pipeline).from_single_file(
                path, config=str(config), local_files_only=True, **extras
            )
        except Exception as error:
            raise LikenessError(
                f"base_model {path.name}: diffusers cannot read it as {family.title}: {error}"
            ) from None
        _save(pipeline, target)
        shutil.rmtree(config)
    # Outside, because an older version of this code may have read the schedule otherwise.
    scheduler = target / "scheduler/scheduler_config.json"
    numbers = json.loads(scheduler.read_text())
    if numbers | schedule != numbers:
        write_atomic(scheduler, json.dumps(numbers | schedule, indent=2, sort_keys=True) + "\n")
    return target


def _read_single_file(path: Path) -> tuple[Family, dict]:
    """The family of a checkpoint, and what it says of its noise schedule."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys())
            family = family_of_file(keys)
            schedule = schedule_of_file(family, keys, file.metadata() or {}, file.get_tensor) if family else {}
    except Exception as error:
        raise LikenessError(f"base_model {path.name}: damaged, or no safetensors file ({error})") from None
    if not family:
        known = ", ".join(family.title for family in FAMILIES.values())
        raise LikenessError(f"base_model {path.name}: its layers are of none of {known}")
    return family, schedule


def write_config(family: Family, folder: Path, merge_list: Path, schedule: Mapping = MappingProxyType({})) -> None:
    """A diffusers folder of a family without weights. `schedule` goes before the scheduler's usual numbers."""
    from likeness.tokenizer import clip_tokenizer

    scheduler = {"_class_name": "DDIMScheduler", **SCHEDULER, **schedule}
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
