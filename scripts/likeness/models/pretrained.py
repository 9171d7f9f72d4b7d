"""Models of transformers that the user names: located here or on the hub, hashed, and loaded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.hub import hub_folder
from likeness.core.manifests import read_json, write_json
from likeness.core.provenance import canonical, digest, file_sha256

# The share of the weights that may be missing, as tied weights often are. In another layout all names differ.
MISSING = 0.1
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]  # never pickles


def model_folder(setting: str, name: str, roots: Sequence[Path], otherwise: str) -> Path:
    """The folder of a model: `name` under one of the roots, else from the hub. `setting` is the key in config.yaml,
    `otherwise` the setting that the error message suggests.

    Raises LikenessError if there is no such model, or if it has no .safetensors weights.
    """
    folder = next((root / name for root in roots if (root / name).is_dir()), None)
    if not folder:
        advice = f"check the name and the network, put the model's folder here, or set {otherwise}"
        folder = hub_folder(name, HUB_FILES, f"{setting} {name}: not a folder here", advice)
    if not list(folder.glob("*.safetensors")):
        raise LikenessError(f"{setting} {name}: no .safetensors file in it; pickled weights are not loaded")
    return folder


def folder_digest(folder: Path) -> str:
    """One hash for all files of a model that are read."""
    files = sorted({path for pattern in HUB_FILES for path in folder.glob(pattern)})
    return digest(canonical({path.name: file_sha256(path) for path in files}))


def write_manifest(path: Path, folder: Path) -> dict[str, str]:
    """Write the place of a model, relative to the manifest, and its hash. Returns the content of the manifest."""
    place = os.path.relpath(folder.resolve(), path.parent.resolve())
    about = {"path": place, "digest": folder_digest(folder)}
    write_json(path, about)
    return about


def read_manifest(path: Path) -> tuple[Path, str]:
    """The folder and the hash that `write_manifest` wrote. Raises LikenessError if the folder no longer exists."""
    about = read_json(path)
    folder = (path.parent / about["path"]).resolve()
    if not folder.is_dir():
        raise LikenessError(f"the model of {path} is no longer at {folder}; run: snakemake --cores 1 --force {path}")
    return folder, about["digest"]


def verified_folder(path: Path) -> Path:
    """The folder of the model whose manifest is at `path`; call this right before loading it. Raises LikenessError if a
    file in it was changed since `write_manifest`."""
    folder, known = read_manifest(path)
    if folder_digest(folder) != known:
        raise LikenessError(f"the model of {path} at {folder} was changed; run: snakemake --cores 1 --force {path}")
    return folder


def load_pretrained(
    setting: str, folder: Path, model_type: str, expected: str, model_class: type[Any], *others: type[Any]
) -> list[Any]:
    """An instance of `model_class` and of each of `others`, the classes that prepare its inputs, loaded from a folder.
    `model_type` is transformers' name of the kind of model. `expected` ends the error message for another kind.

    Raises LikenessError if the folder does not hold such a model.
    """
    from transformers import PreTrainedConfig

    try:
        found = PreTrainedConfig.get_config_dict(folder)[0].get("model_type")
        if found == model_type:
            prepared = [other.from_pretrained(folder, local_files_only=True) for other in others]
            model, loaded = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # for example a missing file, a damaged one, or settings that contradict one another
        reason = str(error).strip().splitlines()[0]
        raise LikenessError(f"{setting} {folder}: transformers cannot load it as {model_type}: {reason}") from None
    if found != model_type:
        raise LikenessError(f"{setting} {folder}: a model of type {found}, not {model_type}; {expected}")
    if len(loaded["missing_keys"]) > MISSING * len(model.state_dict()):
        raise LikenessError(
            f"{setting} {folder}: its weights are not in transformers' own layout of {model_type}; {expected}"
        )
    return [model, *prepared]
