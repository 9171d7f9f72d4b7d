"""Base models in many layouts. They are made from plain ones and located by the workflow's own code."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from likeness.core.errors import LikenessError
from likeness.models.base_model import diffusers_folder, load_manifest, manifest, vae_folder

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FIRST = f"{UNET}input_blocks.0.0.weight"
UNET_FILE, TEXT_FILE = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
ONE = torch.ones(1)
Tensors = dict[str, torch.Tensor]


def found(model: str, tmp_path: Path, vae: str | None = None) -> dict:
    """The loaded base.json of a base model in `tmp_path`, with a VAE there if one is given."""
    store = tmp_path / "store"
    folder = diffusers_folder(model, None, [tmp_path], tmp_path / "no merge list", store, vae is not None)
    own = vae_folder(vae, [tmp_path], folder, store) if vae else None
    (tmp_path / "base.json").write_text(json.dumps(manifest(model, folder, tmp_path, own)))
    return load_manifest(tmp_path / "base.json")


def written(base: dict) -> dict[str, Tensors]:
    """The tensors of the files that base.json lists, by part."""
    numbers: dict[str, Tensors] = {}
    for name in base["sha256"]:
        part, _, file = name.partition("/")
        if file.endswith(".safetensors"):
            folder = base["vae_path"] if part == "vae" and "vae_path" in base else base["path"] / part
            numbers.setdefault(part, {}).update(load_file(folder / file))
    return numbers


def same(numbers: dict[str, Tensors], expected: dict[str, Tensors]) -> bool:
    """True if parts have exactly these numbers, in any precision."""
    return numbers.keys() == expected.keys() and all(
        numbers[part].keys() == tensors.keys()
        and all(torch.equal(numbers[part][name].float(), tensor.float()) for name, tensor in tensors.items())
        for part, tensors in expected.items()
    )


def refused(model: str, expected: str, tmp_path: Path, vae: str | None = None) -> None:
    with pytest.raises(LikenessError, match=f"^base_model {model}: .*{expected}") as error:
        found(model, tmp_path, vae)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def renamed(tensors: Tensors, before: str, after: str) -> Tensors:
    return {name.replace(before, after): tensor for name, tensor in tensors.items()}


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def with_number(tensors: Tensors, name: str, number: float) -> Tensors:
    tensor = tensors[name].clone()
    tensor.view(-1)[0] = number
    return tensors | {name: tensor}


def beside(folder: Path, name: str, data: bytes = b"\0\5\x16\7 no model") -> None:
    (folder / name).write_bytes(data)


def changed(folder: Path, file: str, **changes) -> None:
    config = folder / file
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def scheduler(**changes) -> Callable[[Path], None]:
    return partial(changed, file="scheduler/scheduler_config.json", **changes)


def pipeline(name: str) -> Callable[[Path], None]:
    return partial(changed, file="model_index.json", _class_name=name)
