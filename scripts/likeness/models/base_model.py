"""The base model: how it is located, converted to a diffusers folder, hashed, and loaded part by part."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.hub import hub_folder
from likeness.core.manifests import again, checked, read_json, seal
from likeness.core.provenance import canonical, digest, file_sha256
from likeness.models.families import FAMILIES, Family, family_of_folder
from likeness.models.folder_checks import check_folder, checked_family, parts_with_weights, read_config
from likeness.models.kinds import (
    kind_of_numbers,
    kind_of_vae,
    refuse,
)
from likeness.models.single_file import converted, converted_vae, read_single_file
from likeness.models.weights import VARIANTS, check_weights, empty_model, stem, weight_files

if TYPE_CHECKING:
    import torch

# Settings that all VAEs of one family share, with the values that diffusers uses when a config.json lacks them.
VAE_DEFAULTS = {"latent_channels": 4, "scaling_factor": 0.18215}
PREDICTIONS = ("epsilon", "v_prediction")
# The files that a tokenizer is read from. A model has some of them.
TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.json", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)


def diffusers_folder(
    model: str,
    revision: str | None,
    roots: list[Path],
    merge_list: Path,
    store: Path,
    own_vae: bool = False,
    same_family: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """The folder of a base model given as a diffusers folder, a single .safetensors file or a hub id.

    A single file is converted once, and the result is kept under `store`. `own_vae` says that the user has another VAE:
    then the model's VAE is ignored and may be missing. `same_family` has the manifests of models that exchange a LoRA
    with this one. Raises LikenessError if the model does not exist, is incomplete, belongs to a family that cannot be
    trained, or to another one than the models of `same_family`.
    """
    local = next((root / model for root in roots if (root / model).exists()), None)
    what = f"base_model {model}"
    if local is None:
        folder = _hub_model(model, revision, own_vae, same_family)
    elif local.is_dir():
        folder = local
    elif local.suffix.lower() == ".safetensors":
        folder = _converted_single_file(local, merge_list, store, own_vae)
    else:
        raise LikenessError(f"{what}: expected a diffusers folder, a .safetensors file or a hub id")
    check_folder(folder, what, own_vae)
    _check_family(_family(folder), what, same_family)
    return folder


def _check_family(family: Family, what: str, same_family: Sequence[Mapping[str, Any]]) -> None:
    """Raises LikenessError if one of the models of `same_family` is of another family."""
    for other in same_family:
        if other["family"] != family.name:
            expected = FAMILIES[other["family"]].title
            raise LikenessError(
                f"{what}: a {family.title}, but a LoRA is to be drawn both with it and with {other['model']}, a "
                f"{expected}, and works with no other family than the one it is trained for; name a model of the same "
                "family in sample.base_model"
            )


def vae_folder(vae: str, roots: list[Path], base_folder: Path, store: Path) -> Path:
    """The folder of the user's own VAE for the base model in `base_folder`. The VAE is given as its diffusers folder,
    as the folder of a whole pipeline, or as a single .safetensors file.

    A single file is converted once, and the result is kept under `store`. Raises LikenessError if the VAE does not
    exist, is incomplete, or does not fit the base model.
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
    own = read_config(folder / "config.json", what)
    refuse(kind_of_vae(own) or kind_of_numbers(own), what, "a VAE of Stable Diffusion")
    theirs = base_folder / "vae/config.json"
    base = read_config(theirs, what) if theirs.is_file() else family.config["vae"]
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
) -> dict[str, Any]:
    """The content of base.json: the place of the model, its kind, and the sha256 of every file that is read from it.

    `vae` is the folder of the user's own VAE; its files replace those of the model's VAE. `prediction_type` overrides
    the model's own setting. Raises LikenessError if the model has a prediction type that cannot be trained.
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
    # The hashes of the files do not cover an overridden prediction type.
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


def load_manifest(path: Path) -> dict[str, Any]:
    """base.json with absolute folders: `path` and, if the user has a VAE, `vae_path`. Raises LikenessError if one of
    them no longer exists."""
    base = read_json(path)
    for key, what in (("path", f"the base model {base['model']}"), ("vae_path", "the VAE")):
        if key not in base:
            continue
        base[key] = (path.parent / base[key]).resolve()
        if not base[key].is_dir():
            raise LikenessError(f"{what} is no longer at {base[key]}; {again('fetch_base')}")
    return base


def part_digest(base: Mapping[str, Any], *parts: str) -> str:
    """One hash for some parts of a base model. The photos are encoded by "vae" alone, so a new U-Net does not encode
    them again."""
    return digest(canonical({name: h for name, h in base["sha256"].items() if name.split("/")[0] in parts}))


def load_part(base: Mapping[str, Any], part: str, dtype: "torch.dtype | None" = None) -> Any:
    """One frozen part of the base model on the CPU: "unet", "vae", "text_encoder", "tokenizer", "scheduler", and for
    SDXL "text_encoder_2" and "tokenizer_2".

    The weights are converted to `dtype`, by default to fp32; transformers would keep the precision of the files. The
    scheduler has the prediction type of base.json, which may differ from that of its file. Raises LikenessError if a
    file of the part was changed since fetch_base hashed it.
    """
    check_part(base, part)
    folder = _part_folder(base, part)
    options: dict[str, Any] = {"pretrained_model_name_or_path": folder, "local_files_only": True}
    match part:
        case "tokenizer" | "tokenizer_2":
            from transformers import CLIPTokenizer

            return CLIPTokenizer.from_pretrained(**options)
        case "scheduler":
            from diffusers import DDPMScheduler

            return DDPMScheduler.from_pretrained(**options, prediction_type=base["prediction_type"])
    import torch

    options["variant"] = weight_files(folder, part, f"base_model {base['model']}").variant or None
    options["dtype"] = dtype or torch.float32
    model: torch.nn.Module
    match part:
        case "text_encoder":
            from transformers import CLIPTextModel

            model = CLIPTextModel.from_pretrained(**options)
        case "text_encoder_2":
            from transformers import CLIPTextModelWithProjection

            model = CLIPTextModelWithProjection.from_pretrained(**options)
        case "vae":
            from diffusers import AutoencoderKL

            model = AutoencoderKL.from_pretrained(**options)
        case "unet":
            from diffusers import UNet2DConditionModel

            model = UNet2DConditionModel.from_pretrained(**options)
    return model.requires_grad_(False).eval()


def check_part(base: Mapping[str, Any], part: str) -> None:
    """Raises LikenessError if a file of a part was changed since fetch_base hashed it."""
    folder = _part_folder(base, part)
    for name, sha256 in base["sha256"].items():
        file_part, _, file = name.partition("/")
        if file_part == part:
            try:
                checked(folder / file, sha256, "fetch_base")
            except LikenessError as error:
                raise LikenessError(f"{error}, or, where nobody meant to change the base model, get it again") from None


def _part_folder(base: Mapping[str, Any], part: str) -> Path:
    """The folder of a part. The user's own VAE lies outside of the model's folder."""
    return base["vae_path"] if part == "vae" and "vae_path" in base else base["path"] / part


def _family(folder: Path) -> Family:
    """The family of a diffusers folder that was checked before."""
    return family_of_folder(
        *(json.loads((folder / part / "config.json").read_text()) for part in ("unet", "text_encoder"))
    )


def _hub_model(model: str, revision: str | None, own_vae: bool, same_family: Sequence[Mapping[str, Any]]) -> Path:
    """The folder of a hub repository. The configurations are downloaded first, the weights only if they can be used."""
    not_here = f"base_model {model}: neither a folder nor a file here"
    advice = "check the name, the network, or a login for a gated model"

    def fetched(files: Iterable[str]) -> Path:
        return hub_folder(model, sorted(files), not_here, advice, revision)

    # Other parts are never downloaded: models of other kinds have some of tens of GB.
    parts = sorted({part for family in FAMILIES.values() for part in family.parts})
    folder = fetched(["model_index.json", *(f"{part}/*.{ending}" for part in parts for ending in ("json", "txt"))])
    if not (folder / "model_index.json").is_file():
        raise LikenessError(
            f"base_model {model}: the hub has no model_index.json of it, so it is no model in diffusers' layout; "
            "download its .safetensors file, if it has one, and name that"
        )
    family = checked_family(folder, f"base_model {model}", own_vae)
    _check_family(family, f"base_model {model}", same_family)
    missing = parts_with_weights(family, own_vae)
    for variant in VARIANTS:
        middle = f".{variant}" if variant else ""
        names = [
            f"{part}/{stem(part)}{middle}{shard}.safetensors" for part in missing for shard in ("", "-?????-of-?????")
        ]
        # These names exclude pickles, the safety checker, and further variants of weights that are already there.
        folder = fetched(names)
        missing = [part for part in missing if not list((folder / part).glob("*.safetensors"))]
        if not missing:
            break
    return folder


def _files_read(folder: Path, part: str, what: str) -> list[Path]:
    """The files that a part is loaded from."""
    if part.startswith("tokenizer"):
        return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if part == "scheduler":
        return [folder / "scheduler_config.json"]
    _, weights, index = weight_files(folder, part, what)
    return [folder / "config.json", *weights, *([index] if index else [])]


def _converted_single_file(path: Path, merge_list: Path, store: Path, own_vae: bool) -> Path:
    """The diffusers folder of a single-file checkpoint, kept by the file's hash. Nothing is downloaded: the
    configurations are those of the checkpoint's family."""
    what = f"base_model {path.name}"
    file = read_single_file(path, what)
    target = converted(path, file, parts_with_weights(file.family, own_vae), merge_list, store, what)
    # A folder that an older version of this code made may have another schedule.
    scheduler = target / "scheduler/scheduler_config.json"
    numbers = json.loads(scheduler.read_text())
    if numbers | file.schedule != numbers:
        write_atomic(scheduler, json.dumps(numbers | file.schedule, indent=2, sort_keys=True) + "\n")
        seal(scheduler)
    return target
