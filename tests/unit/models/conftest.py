"""Base models that several files of tests here share."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from base_layouts import Tensors, changed
from found_base import SINGLE
from likeness.core.pinned_models import CLIP_VOCABULARY
from likeness.models import folder_checks, single_file
from likeness.models.families import FAMILIES, Family
from likeness.models.tokenizer import clip_tokenizer
from narrow_base import narrow, narrow_models, original_tensors


@pytest.fixture(scope="session")
def made(tmp_path_factory, model_files) -> dict[str, tuple[dict, Tensors, Path]]:
    """{family: (the weights of its narrow models by part, the tensors of their single file in fp16, a diffusers folder
    with its configurations)}."""
    numbers = {}
    with pytest.MonkeyPatch.context() as patch:
        for family in FAMILIES.values():
            narrow(family, patch)
            models = narrow_models(family, torch.float16)
            folder = tmp_path_factory.mktemp("made") / family.name
            single_file.write_config(family, folder, model_files / CLIP_VOCABULARY)
            states = {part: model.state_dict() for part, model in models.items()}
            numbers[family.name] = states, original_tensors(family, models), folder
    return numbers


@pytest.fixture
def narrow_families(monkeypatch, made) -> None:
    """Make base models as narrow as those of `made`, with one tokenizer for all, because making one takes a second."""
    for family in FAMILIES.values():
        narrow(family, monkeypatch)

    def copied(family, folder, merge_list, schedule):
        shutil.copytree(made[family.name][2], folder, dirs_exist_ok=True)
        changed(folder, "scheduler/scheduler_config.json", **schedule)

    monkeypatch.setattr(single_file, "write_config", copied)
    monkeypatch.setattr(single_file, "_write_out", lambda family, folder: None)
    monkeypatch.setattr(folder_checks, "_check_tokenizer", lambda *_: None)


@pytest.fixture
def half(small_base, tmp_path) -> Path:
    """A copy of the small base model, from which a test can remove files."""
    return Path(shutil.copytree(small_base, tmp_path / "half"))


@pytest.fixture
def single_model(tmp_path, monkeypatch) -> Callable[..., dict]:
    """A function that writes single.safetensors, a narrow checkpoint of a family in the original layout, and returns
    its models. `more` tensors and `metadata` are also written into the file."""

    def written(family: Family, more: dict | None = None, metadata: dict | None = None, dtype=torch.float32) -> dict:
        narrow(family, monkeypatch)
        models = narrow_models(family, dtype)
        save_file(original_tensors(family, models) | (more or {}), tmp_path / SINGLE, metadata)
        return models

    return written


@pytest.fixture(scope="session")
def tokenizers(model_files) -> list:
    """CLIP's tokenizer with the padding of SD 1.x, and with that of SD 2.x and of SDXL's second tokenizer."""
    first, second = (clip_tokenizer(model_files / "bpe_simple_vocab_16e6.txt.gz") for _ in range(2))
    second.pad_token = "!"
    return [first, second]
