"""A diffusers folder of any layout, here or on the hub, is read to its numbers."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from base_layouts import beside, changed, found, pipeline, refused, renamed, same, scheduler, written
from likeness.core.errors import LikenessError
from likeness.models import base_model
from likeness.models.base_model import load_part

pytestmark = pytest.mark.usefixtures("narrow_families")


def only_variant(folder: Path, variant: str = "fp16", parts: tuple[str, ...] = ("unet", "vae", "text_encoder")) -> None:
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")))


def in_shards(folder: Path, variant: str | None = None) -> None:
    """The U-Net and the text encoder in several files, as the libraries write them."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    for part, kind in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)):
        model = kind.from_pretrained(folder / part)
        for path in (folder / part).glob("*.safetensors"):
            path.unlink()
        model.save_pretrained(folder / part, max_shard_size="1MB", variant=variant)
        assert len(list((folder / part).glob("*.safetensors"))) > 1


def deprecated_attention(folder: Path) -> None:
    """The names of diffusers before 0.17."""
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for today, before in names.items():
        tensors = renamed(tensors, f"attentions.0.{today}.", f"attentions.0.{before}.")
    save_file(tensors, path, {"format": "pt"})


def text_model_prefix(folder: Path) -> None:
    """The names of transformers before 5.6, with a buffer that was once kept."""
    path = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path, {"format": "pt"})


def of_links(folder: Path) -> None:
    """Each file a link to where the hub's cache has it."""
    (folder.parent / "blobs").mkdir()
    for n, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        path.rename(folder.parent / f"blobs/{n}")
        path.symlink_to(folder.parent / f"blobs/{n}")


READ_FOLDERS: dict[str, Callable[[Path], None]] = {
    "plain": lambda folder: None,
    "only fp16": only_variant,
    "only bf16": partial(only_variant, variant="bf16"),
    "the U-Net alone in fp16": partial(only_variant, parts=("unet",)),
    "in shards": in_shards,
    "fp16 in shards": partial(in_shards, variant="fp16"),
    "a damaged double": lambda folder: beside(folder / "unet", "diffusion_pytorch_model.fp16.safetensors"),
    "weights before EMA": lambda folder: beside(folder / "unet", "diffusion_pytorch_model.non_ema.safetensors"),
    "macOS' notes": lambda folder: [
        beside(folder / part, f"._{name}")
        for part, name in (("unet", "diffusion_pytorch_model.safetensors"), ("unet", "config.json"), ("vae", "x.json"))
    ],
    "pickles and others' files": lambda folder: [
        beside(folder / "text_encoder", name) for name in ("pytorch_model.bin", "flax_model.msgpack", "notes.txt")
    ],
    "a snapshot of the hub": lambda folder: of_links(folder),
    "further parts": lambda folder: changed(
        folder, "model_index.json", image_encoder=["transformers", "CLIPVisionModel"], watermarker=["mine", "Mark"]
    ),
    "a scheduler that is not here": lambda folder: [
        changed(folder, "model_index.json", scheduler=["diffusers", "GoneScheduler"]),
        changed(folder, "scheduler/scheduler_config.json", _class_name="GoneScheduler"),
    ],
    "old names of the VAE": deprecated_attention,
    "old names of the text encoder": text_model_prefix,
}

PARTS = ("unet", "vae", "text_encoder")
DRAWN: list[bytes] = []
UNUSED = (
    "a damaged double",
    "a snapshot of the hub",
    "further parts",
    "weights before EMA",
    "macOS' notes",
    "pickles and others' files",
)


@pytest.mark.parametrize("layout", READ_FOLDERS)
def test_a_folder_is_read_to_its_numbers(tmp_path, small_base, layout):
    shutil.copytree(small_base, tmp_path / "model")
    whole = found("model", tmp_path)
    expected = {part: load_part(whole, part).state_dict() for part in PARTS}
    READ_FOLDERS[layout](tmp_path / "model")
    base = found("model", tmp_path)
    assert same({part: load_part(base, part).state_dict() for part in PARTS}, expected)
    assert (base["sha256"] == whole["sha256"]) == (layout in (*UNUSED, "plain")), "what is read, and no more"


@pytest.mark.parametrize("layout", ["plain", "only fp16", "further parts"])
def test_the_same_pictures_are_drawn_from_each_layout(tmp_path, small_base, layout):
    from likeness.drawing.sampling import Cell, draw_pictures, load_pipeline

    shutil.copytree(small_base, tmp_path / "model")
    READ_FOLDERS[layout](tmp_path / "model")
    pipeline = load_pipeline(found("model", tmp_path), None, torch.device("cpu"))
    sample = {"negative_prompt": "", "steps": 1, "guidance_scale": 5.0, "batch_size": 1, "clip_skip": 1}
    (picture,) = [image for _, image in draw_pictures(pipeline, [Cell(0.0, "a woman", "near", 1)], sample, (64, 64))]
    DRAWN.append(picture.tobytes())
    assert len(DRAWN[0]) == 64 * 64 * 3 and set(DRAWN) == {DRAWN[0]}


def test_a_folder_without_vae_works_with_one_of_ones_own(tmp_path, small_base):
    shutil.copytree(small_base, tmp_path / "model")
    expected = written(found("model", tmp_path))
    (tmp_path / "model/vae").rename(tmp_path / "mine")
    assert same(written(found("model", tmp_path, "mine")), expected)
    with pytest.raises(LikenessError, match="base_model model: no folder vae"):
        found("model", tmp_path)


@pytest.mark.parametrize(
    ("sampler", "flags"),
    [
        ("DDIM", ("clip_sample", "thresholding")),
        ("UniPC", ("thresholding", "use_exponential_sigmas", "use_beta_sigmas")),
    ],
)
def test_a_models_own_sampler_settings_make_no_other_sampler(tmp_path, small_base, sampler, flags):
    """diffusers fails on two of them at once, and clips latents where a file does not say otherwise."""
    from likeness.drawing.sampling import load_pipeline

    shutil.copytree(small_base, tmp_path / "model")
    scheduler(use_exponential_sigmas=True, use_beta_sigmas=True, thresholding=True)(tmp_path / "model")
    config = tmp_path / "model/scheduler/scheduler_config.json"
    numbers = json.loads(config.read_text())
    del numbers["clip_sample"]
    config.write_text(json.dumps(numbers))
    used = load_pipeline(found("model", tmp_path), None, torch.device("cpu"), sampler).diffusers.scheduler.config
    assert [used[flag] for flag in flags] == [False] * len(flags)


@pytest.fixture
def hub(tmp_path, monkeypatch, small_base) -> tuple[Path, list[str]]:
    """A repository, and what was asked of it: hub_folder copies what fits the patterns."""
    repository, asked = tmp_path / "repository", []
    shutil.copytree(small_base, repository)
    # As on the hub: a second model's folder, pickles, and what nothing reads.
    (repository / "safety_checker").mkdir()
    for name in ("unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors", "unet/notes.md"):
        beside(repository, name)

    def copied(model, files, not_here, advice, revision=None):
        for path in sorted(repository.rglob("*")):
            name = path.relative_to(repository).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in files):
                (tmp_path / "snapshot" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "snapshot" / name)
                asked.append(name)
        return tmp_path / "snapshot"

    monkeypatch.setattr(base_model, "hub_folder", copied)
    return repository, asked


@pytest.mark.parametrize("layout", ["plain", "only fp16", "the U-Net alone in fp16", "fp16 in shards", "both"])
def test_of_a_hub_id_what_is_read_is_asked_for(tmp_path, hub, small_base, layout):
    repository, asked = hub
    if layout == "both":
        beside(repository / "unet", "diffusion_pytorch_model.fp16.safetensors")
    else:
        READ_FOLDERS[layout](repository)
    shutil.copytree(small_base, tmp_path / "model")
    whole, base = found("model", tmp_path), found("owner/name", tmp_path)
    expected, numbers = ({part: load_part(b, part).state_dict() for part in PARTS} for b in (whole, base))
    assert same(numbers, expected)
    assert len(asked) == len(set(asked)) and set(base["sha256"]) <= set(asked)
    assert {Path(name).suffix for name in asked} <= {".json", ".txt", ".safetensors"} and "safety" not in str(asked)
    assert {name for name in asked if name.endswith(".safetensors")} <= set(base["sha256"])


def test_of_a_hub_id_of_another_kind_no_weights_are_asked_for(tmp_path, hub):
    repository, asked = hub
    pipeline("FluxPipeline")(repository)
    refused("owner/name", "this is Flux", tmp_path)
    assert asked and not [name for name in asked if name.endswith(".safetensors")]
