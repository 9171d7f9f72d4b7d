"""A single file of any layout is read to its numbers.

The models are narrow, with the blocks of their families. What has a tokenizer is tested in test_base_model.py: here one
is made for all.
"""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from base_layouts import FIRST, TEXT, UNET, UNET_FILE, VAE, Tensors, found, renamed, same, written
from damage import DAMAGES, REPLACED
from likeness.core.errors import LikenessError
from likeness.models.base_model import load_part
from likeness.models.families import FAMILIES

pytestmark = pytest.mark.usefixtures("narrow_families")

# Each changes the tensors of a plain fp16 file; the numbers must come out the same.
READ: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "old merge, text encoder without text_model.": ("sd15", partial(renamed, before="text_model.", after="")),
    "sdxl, text encoder without text_model.": ("sdxl", partial(renamed, before="text_model.", after="")),
    "VAE under vae.": ("sd15", partial(renamed, before=VAE, after="vae.")),
    "position ids": ("sd15", lambda t: t | {f"{TEXT}text_model.embeddings.position_ids": torch.arange(77)[None]}),
    "EMA and schedule": (
        "sd15",
        lambda t: t | {"model_ema.decay": torch.ones(1), "betas": torch.full((1000,), torch.nan)},
    ),
    "leftovers of a LoRA": ("sd15", lambda t: t | {"lora_unet_x.lora_up.weight": torch.ones(1)}),
    "embedded ControlNet": ("sd15", lambda t: t | {"control_model.time_embed.0.weight": torch.ones(1)}),
    "U-Net in fp32": ("sd15", lambda t: {k: v.float() if k.startswith(UNET) else v for k, v in t.items()}),
    "in fp64": ("sd15", lambda t: {k: v.double() for k, v in t.items()}),
    "linear layers as 1x1 convolutions": (
        "sd2",
        lambda t: {k: v[:, :, None, None] if k.endswith("proj_in.weight") else v for k, v in t.items()},
    ),
    "VAE attention as linear layers": (
        "sd15",
        lambda t: {k: v[:, :, 0, 0] if "attn_1" in k and v.ndim == 4 else v for k, v in t.items()},
    ),
}


@pytest.mark.parametrize("layout", READ)
def test_a_single_file_is_read_to_its_numbers(tmp_path, made, layout):
    family, change = READ[layout]
    models, tensors, _ = made[family]
    save_file(change(dict(tensors)), tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    assert base["family"] == family and same(written(base), models)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_the_precision_of_a_file_is_kept(tmp_path, made, dtype):
    """float8, which the libraries do not read, becomes fp16, which has every number of it."""
    _, tensors, _ = made["sd15"]
    save_file({k: v.to(dtype) for k, v in tensors.items()}, tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    written = load_file(base["path"] / "unet/diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in written.values()} == {dtype if dtype.itemsize == 2 else torch.float16}
    expected = tensors[FIRST].to(dtype).float()
    assert torch.equal(written["conv_in.weight"].float(), expected)
    assert torch.equal(load_part(base, "unet").conv_in.weight, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_programs_read_what_is_written(tmp_path, made, family):
    """safetensors' and diffusers' own readers; the bytes are those that safetensors would have written."""
    import diffusers

    models, tensors, _ = made[family]
    save_file(tensors, tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    folder = base["path"]
    assert base["family"] == family and same(written(base), models)
    for path in folder.rglob("*.safetensors"):
        save_file(load_file(path), tmp_path / "again.safetensors", {"format": "pt"})
        assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    pipeline = getattr(diffusers, FAMILIES[family].pipeline).from_pretrained(folder, local_files_only=True)
    for part, model in models.items():
        loaded = getattr(pipeline, part).state_dict()
        assert all(torch.equal(loaded[key], value.float()) for key, value in model.items()), part


def test_a_single_file_without_vae_works_with_one_of_ones_own(tmp_path, made):
    models, tensors, folder = made["sd15"]
    shutil.copytree(folder / "vae", tmp_path / "mine")
    save_file(models["vae"], tmp_path / "mine/diffusion_pytorch_model.safetensors")
    save_file({k: v for k, v in tensors.items() if not k.startswith(VAE)}, tmp_path / "bare.safetensors")
    assert same(written(found("bare.safetensors", tmp_path, "mine")), models)
    with pytest.raises(LikenessError, match=r"^base_model bare.safetensors: it has no VAE; name one with vae:$"):
        found("bare.safetensors", tmp_path)
    # A file with a damaged one, too; and later without vae:, the whole file with what it has.
    save_file({k: v * torch.nan if k.startswith(VAE) else v for k, v in tensors.items()}, tmp_path / "nan.safetensors")
    assert same(written(found("nan.safetensors", tmp_path, "mine")), models)
    save_file(tensors, tmp_path / "whole.safetensors")
    first = found("whole.safetensors", tmp_path, "mine")
    assert not (first["path"] / "vae").exists()
    second = found("whole.safetensors", tmp_path)
    assert second["path"] == first["path"] and "vae_path" not in second and same(written(second), models)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", [*DAMAGES, *REPLACED, Path.unlink], ids=lambda damage: damage.__name__)
def test_a_converted_model_that_was_damaged_is_made_anew(tmp_path, made, damage):
    save_file(made["sd15"][1], tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    before = files_of(base["path"])
    kept = base["path"] / "text_encoder/config.json"
    date = kept.stat().st_mtime_ns
    for name in ("model_index.json", UNET_FILE, "tokenizer/tokenizer.json", "vae/.config.json.made"):
        damage(base["path"] / name)
    assert found("model.safetensors", tmp_path) == base
    assert files_of(base["path"]) == before and kept.stat().st_mtime_ns == date
    assert [path.name for path in tmp_path.glob("store/*")] == [base["path"].name]


@pytest.mark.parametrize("parts", [["."], ["unet", "scheduler"]], ids=["whole", "parts"])
def test_what_is_no_converted_model_is_made_anew(tmp_path, made, parts):
    """A file, or an empty folder, in the place of a part."""
    save_file(made["sd15"][1], tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    before = files_of(base["path"])
    for part, there in zip(parts, (Path.touch, Path.mkdir), strict=False):
        place = (base["path"] / part).resolve()
        shutil.rmtree(place)
        there(place)
    assert found("model.safetensors", tmp_path) == base and files_of(base["path"]) == before


def test_a_header_whose_metadata_are_null_is_read(tmp_path, made):
    models, tensors, _ = made["sd15"]
    save_file(tensors, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]) | {"__metadata__": None}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
    assert same(written(found("model.safetensors", tmp_path)), models)


def test_endings_in_capitals_are_read(tmp_path, made):
    models, tensors, _ = made["sd15"]
    save_file(tensors, tmp_path / "MODEL.SAFETENSORS")
    save_file({k: v for k, v in tensors.items() if k.startswith(VAE)}, tmp_path / "VAE.SafeTensors")
    assert same(written(found("MODEL.SAFETENSORS", tmp_path, "VAE.SafeTensors")), models)
