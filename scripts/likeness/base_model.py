"""The base model: found, brought into one form (a diffusers folder), hashed, and loaded part by part."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from likeness.errors import LikenessError
from likeness.families import FAMILIES, Family, check_schedule, family_of_folder
from likeness.files import write_atomic
from likeness.hub import hub_folder
from likeness.kinds import (
    kind_of_pipeline,
    kind_of_scheduler,
    kind_of_text_encoder,
    kind_of_unet,
    kind_of_vae,
    refuse,
)
from likeness.manifests import checked, read_json, seal
from likeness.provenance import canonical, digest, file_sha256
from likeness.single_file import converted, converted_vae, read_single_file
from likeness.weights import VARIANTS, check_weights, empty_model, one_line, stem, weight_files

# Numbers in which two VAEs of one family agree, and what diffusers takes where a config.json lacks them.
VAE_DEFAULTS = {"latent_channels": 4, "scaling_factor": 0.18215}
PREDICTIONS = ("epsilon", "v_prediction")
# What a tokenizer is read from, as far as it is there.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
TOKENIZER_FILES += ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# CLIP's vocabulary, what transformers takes where a config.json lacks it, and what of it no merge makes (256 bytes, the
# same at a word's end, 2 marks).
VOCABULARY, UNMERGED = 49408, 514
# Some models have more rows than tokens, up to a round number; a file that was cut short lacks far more than this.
WHOLE_VOCABULARY = 0.9


def diffusers_folder(
    model: str, revision: str | None, roots: list[Path], merge_list: Path, store: Path, own_vae: bool = False
) -> Path:
    """The folder of a base model given as a diffusers folder, a single .safetensors file or a hub id.

    A single file is converted once and kept under `store`. With `own_vae` the model's own VAE is not looked at, and
    need not be there. Raises LikenessError if the model is not there, is not whole or is of no family that can be
    trained.
    """
    local = next((root / model for root in roots if (root / model).exists()), None)
    what = f"base_model {model}"
    if local is None:
        folder = _hub_model(model, revision, own_vae)
    elif local.is_dir():
        folder = local
    elif local.suffix.lower() == ".safetensors":
        folder = _converted_single_file(local, merge_list, store, own_vae)
    else:
        raise LikenessError(f"{what}: expected a diffusers folder, a .safetensors file or a hub id")
    _check_folder(folder, what, own_vae)
    return folder


def vae_folder(vae: str, roots: list[Path], base_folder: Path, store: Path) -> Path:
    """The folder of a VAE of the user's own, given as a diffusers folder (its own, or a whole pipeline's) or a single
    .safetensors file, for the base model in `base_folder`.

    A single file is converted once and kept under `store`. Raises LikenessError if it is not there, is not whole or
    does not fit the base model.
    """
    what = f"vae {vae}"
    local = next((root / vae for root in roots if (root / vae).exists()), None)
    family = _family(base_folder)
    if local is None:
        raise LikenessError(f"{what}: neither a folder nor a file here; check the name")
    if local.is_dir():
        folder = local / "vae" if (local / "vae").is_dir() else local
    elif local.suffix.lower() == ".safetensors":
        folder = converted_vae(local, family, store, what)
    else:
        raise LikenessError(f"{what}: expected a diffusers folder or a .safetensors file")
    if not (folder / "config.json").is_file():
        raise LikenessError(
            f"{what}: no config.json in it; the download is incomplete, or name the .safetensors file itself"
        )
    own = _json(folder / "config.json", what)
    refuse(kind_of_vae(own), what, "a VAE of Stable Diffusion")
    theirs = base_folder / "vae/config.json"
    base = _json(theirs, what) if theirs.is_file() else family.config["vae"]
    for key, default in VAE_DEFAULTS.items():
        if own.get(key, default) != base.get(key, default):
            raise LikenessError(
                f"{what}: its {key} is {own.get(key, default)}, the base model's {base.get(key, default)}; expected a "
                "VAE of that model's family"
            )
    check_weights(folder, "vae", empty_model("vae", own, what), what)
    return folder


def manifest(
    model: str, folder: Path, manifest_folder: Path, vae: Path | None = None, prediction_type: str | None = None
) -> dict:
    """base.json: where the model is, what kind it is, and the sha256 of every file that is read from it. The files of
    `vae`, a folder of the user's own, are listed in the place of the model's; `prediction_type` goes before what the
    model says of itself.

    Raises LikenessError if the model predicts something that cannot be trained.
    """
    family = _family(folder)
    places = {part: folder / part for part in family.parts} | ({"vae": vae} if vae else {})
    files = {
        f"{part}/{path.name}": path
        for part, place in places.items()
        for path in _files_read(place, part, f"base_model {model}")
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
    folder = _part_folder(base, part)
    where = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    match part:
        case "tokenizer" | "tokenizer_2":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(**where)
        case "scheduler":
            from diffusers import DDPMScheduler

            return DDPMScheduler.from_pretrained(**where, prediction_type=base["prediction_type"])
    import torch

    where["variant"] = weight_files(folder, part, f"base_model {base['model']}").variant or None
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

            model = AutoencoderKL.from_pretrained(**where)
        case "unet":
            from diffusers import UNet2DConditionModel

            model = UNet2DConditionModel.from_pretrained(**where)
    return model.requires_grad_(False).eval()


def check_part(base: dict, part: str) -> None:
    """Raises LikenessError if a file of a part was changed since fetch_base looked at it."""
    folder = _part_folder(base, part)
    for name, sha256 in base["sha256"].items():
        where, _, file = name.partition("/")
        if where == part:
            checked(folder / file, sha256, "fetch_base")


def _part_folder(base: dict, part: str) -> Path:
    """Where a part is: the user's own VAE is not with the others."""
    return base["vae_path"] if part == "vae" and "vae_path" in base else base["path"] / part


def _family(folder: Path) -> Family:
    """Of a folder whose kind was looked at."""
    return family_of_folder(
        *(json.loads((folder / part / "config.json").read_text()) for part in ("unet", "text_encoder"))
    )


def _hub_model(model: str, revision: str | None, own_vae: bool) -> Path:
    """The folder of a hub repository: its configurations first, then the weights of what can be used."""
    not_here = f"base_model {model}: neither a folder nor a file here"
    advice = "check the name, the network, or a login for a gated model"

    def fetched(files: Iterable[str]) -> Path:
        return hub_folder(model, sorted(files), not_here, advice, revision)

    # Of what a model of another kind has besides, nothing is asked for: the weights of some are tens of GB.
    parts = sorted({part for family in FAMILIES.values() for part in family.parts})
    folder = fetched(["model_index.json", *(f"{part}/*.{ending}" for part in parts for ending in ("json", "txt"))])
    family = _checked_kind(folder, f"base_model {model}", own_vae)
    missing = _with_weights(family, own_vae)
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        names = [
            f"{part}/{stem(part)}{middle}{shard}.safetensors" for part in missing for shard in ("", "-?????-of-?????")
        ]
        # Never pickles, never doubles of what is there, never the safety checker.
        folder = fetched(names)
        missing = [part for part in missing if not list((folder / part).glob("*.safetensors"))]
        if not missing:
            break
    return folder


def _with_weights(family: Family, own_vae: bool) -> list[str]:
    """The parts that have weights, without the VAE where the user has one."""
    return [part for part in family.config if not (own_vae and part == "vae")]


def _files_read(folder: Path, part: str, what: str) -> list[Path]:
    """The files that a part is loaded from."""
    if part.startswith("tokenizer"):
        return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if part == "scheduler":
        return [folder / "scheduler_config.json"]
    _, weights, index = weight_files(folder, part, what)
    return [folder / "config.json", *weights, *([index] if index else [])]


def _check_folder(folder: Path, what: str, own_vae: bool) -> None:
    """Raises LikenessError if something is missing or damaged that a later stage reads, or the model is of a kind that
    cannot be trained."""
    family = _checked_kind(folder, what, own_vae)
    for part in _with_weights(family, own_vae):
        model = empty_model(part, _json(folder / part / "config.json", what), what)
        if part == "unet":
            _check_layers(model, what)
        check_weights(folder / part, part, model, what)
    for part in family.text_encoders:
        _check_tokenizer(folder, part, what)


def _checked_kind(folder: Path, what: str, own_vae: bool) -> Family:
    """The family of a diffusers folder by its configurations. Raises LikenessError if one is not there or not whole, or
    says that the model is of another kind."""
    refuse(kind_of_pipeline(_json(folder / "model_index.json", what)), what)
    _check_parts(folder, ("unet",), what)
    unet = _json(folder / "unet/config.json", what)
    text_encoder = _json(folder / "text_encoder/config.json", what) if (folder / "text_encoder").is_dir() else {}
    refuse(kind_of_unet(unet, text_encoder), what)
    _check_parts(folder, ("text_encoder",), what)
    family = family_of_folder(unet, text_encoder)
    _check_parts(folder, [part for part in family.parts if not (own_vae and part == "vae")], what)
    for part in family.text_encoders:
        refuse(kind_of_text_encoder(_json(folder / part / "config.json", what)), what)
    if not own_vae:
        refuse(kind_of_vae(_json(folder / "vae/config.json", what)), what)
    scheduler = _json(folder / "scheduler/scheduler_config.json", what)
    refuse(kind_of_scheduler(scheduler), what)
    check_schedule(scheduler, what)
    return family


def _check_layers(unet, what: str) -> None:
    """Raises LikenessError if a U-Net lacks a layer that a LoRA is placed on."""
    from likeness.lora_file import unet_modules  # only here: it brings torch

    try:
        wanted = {module.path for module in unet_modules(unet.config, convolutions=True)}
    except (LikenessError, LookupError, TypeError, ValueError) as error:
        wanted, there = {one_line(error)}, set()
    else:
        there = {name for name, _ in unet.named_modules()}
    if absent := sorted(wanted - there):
        raise LikenessError(
            f"{what}: its U-Net has other blocks than Stable Diffusion's ({absent[0]}), as distilled models of another "
            "size have (SSD-1B, Vega, KOALA, BK-SDM); expected the whole model"
        )


def _check_parts(folder: Path, parts: Iterable[str], what: str) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            raise LikenessError(f"{what}: no folder {part}; it is not a whole model in diffusers' layout")


def _json(path: Path, what: str) -> dict:
    """What a configuration of a model says. Raises LikenessError if it is not there, or not whole."""
    name = path.name if path.name == "model_index.json" else f"{path.parent.name}/{path.name}"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise LikenessError(f"{what}: no {name}; the download is incomplete, get it again") from None
    except (ValueError, OSError, RecursionError) as error:
        raise LikenessError(f"{what}: {name} is damaged or half downloaded ({error}); get it again") from None
    if not isinstance(found, dict):
        raise LikenessError(f"{what}: {name} is damaged (no JSON object); get it again")
    return found


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


def _converted_single_file(path: Path, merge_list: Path, store: Path, own_vae: bool) -> Path:
    """A single-file checkpoint as a diffusers folder, kept by the file's hash; offline, with its family's numbers."""
    what = f"base_model {path.name}"
    file = read_single_file(path, what)
    target = converted(path, file, _with_weights(file.family, own_vae), merge_list, store, what)
    # Apart, because an older version of this code may have read the schedule otherwise.
    scheduler = target / "scheduler/scheduler_config.json"
    numbers = json.loads(scheduler.read_text())
    if numbers | file.schedule != numbers:
        write_atomic(scheduler, json.dumps(numbers | file.schedule, indent=2, sort_keys=True) + "\n")
        seal(scheduler)
    return target
