"""base.json of a base model, as fetch_base writes it and as later jobs load it."""

import json
from pathlib import Path

from likeness.core.pinned_models import CLIP_VOCABULARY
from likeness.models.base_model import diffusers_folder, load_manifest, manifest


def found(model: str, tmp_path: Path, model_files: Path) -> Path:
    return diffusers_folder(model, None, [tmp_path], model_files / CLIP_VOCABULARY, tmp_path / "store")


def with_vae(base: Path, vae: Path | None, folder: Path) -> dict:
    """The loaded base.json of a base model with a VAE of the user."""
    (folder / "base.json").write_text(json.dumps(manifest("small", base, folder, vae)))
    return load_manifest(folder / "base.json")


SINGLE = "single.safetensors"


def found_single(tmp_path: Path, model_files: Path, prediction_type: str | None = None) -> dict:
    """The loaded base.json of single.safetensors."""
    base = manifest(SINGLE, found(SINGLE, tmp_path, model_files), tmp_path, None, prediction_type)
    (tmp_path / "base.json").write_text(json.dumps(base))
    return load_manifest(tmp_path / "base.json")
