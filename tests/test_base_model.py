"""The base model: found in each of its forms, brought into one, and refused with a sentence when it is not usable."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from likeness.base_model import diffusers_folder, load_manifest, load_part, manifest, part_digest, vae_folder
from likeness.errors import LikenessError
from likeness.families import SD15
from likeness.models import CLIP_VOCABULARY


def found(model: str, tmp_path: Path, model_files: Path) -> Path:
    return diffusers_folder(model, None, [tmp_path], model_files / CLIP_VOCABULARY, tmp_path / "store")


def test_a_diffusers_folder_is_taken_as_it_is(small_base, tmp_path, model_files):
    folder = found(str(small_base), tmp_path, model_files)
    assert folder == small_base
    base = manifest("small", folder, tmp_path)
    (tmp_path / "base.json").write_text(json.dumps(base))
    loaded = load_manifest(tmp_path / "base.json")
    assert loaded["path"] == small_base and base["prediction_type"] == "epsilon"
    assert load_part(loaded, "unet").config.cross_attention_dim == 32


def test_each_part_has_a_digest_of_its_own(small_base, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(small_base, changed)
    weights = changed / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.bias"] += 1
    save_file(tensors, weights, {"format": "pt"})
    before, after = manifest("a", small_base, tmp_path), manifest("a", changed, tmp_path)
    assert part_digest(before, "vae") == part_digest(after, "vae")
    assert part_digest(before, "unet") != part_digest(after, "unet") and before["digest"] != after["digest"]


@pytest.mark.parametrize(
    ("missing", "expected"),
    [("vae", "no folder vae"), ("unet/diffusion_pytorch_model.safetensors", "no .safetensors file in unet")],
)
def test_half_a_model_is_refused(small_base, tmp_path, model_files, missing, expected):
    half = tmp_path / "half"
    shutil.copytree(small_base, half)
    shutil.rmtree(half / missing) if (half / missing).is_dir() else (half / missing).unlink()
    with pytest.raises(LikenessError, match=expected):
        found("half", tmp_path, model_files)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_half_downloaded_file_is_refused(small_base, tmp_path, model_files, file):
    half = tmp_path / "half"
    shutil.copytree(small_base, half)
    (half / file).write_bytes((half / file).read_bytes()[:-1])
    with pytest.raises(LikenessError, match=f"base_model half: {file} is damaged or half downloaded"):
        found("half", tmp_path, model_files)


def test_an_inpainting_model_and_a_refiner_are_refused(small_base, tmp_path, model_files):
    for name, changes in (("inpainting", {"in_channels": 9}), ("unclip", {"addition_embed_type": "image"})):
        shutil.copytree(small_base, tmp_path / name)
        config = tmp_path / name / "unet/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        with pytest.raises(LikenessError, match="an inpainting model, a refiner, or none of Stable Diffusion 1.x"):
            found(name, tmp_path, model_files)


def test_a_name_that_is_nowhere_says_what_to_check(tmp_path, model_files, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LikenessError, match="neither a folder nor a file here"):
        found("nobody/no-such-model", tmp_path, model_files)


def test_a_pickle_is_refused(tmp_path, model_files):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(LikenessError, match="expected a diffusers folder, a .safetensors file or a hub id"):
        found("model.ckpt", tmp_path, model_files)


def test_a_file_that_is_no_stable_diffusion_is_refused(tmp_path, model_files):
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(LikenessError, match="its layers are of none of Stable Diffusion 1.x"):
        found("other.safetensors", tmp_path, model_files)


@pytest.fixture(scope="module")
def other_vae(small_base):
    """A VAE of the small base model's size with weights of its own."""
    from diffusers import AutoencoderKL

    torch.manual_seed(7)
    return AutoencoderKL.from_config(AutoencoderKL.load_config(small_base, subfolder="vae")).eval()


def own_vae(vae: str, tmp_path: Path, base: Path) -> Path:
    return vae_folder(vae, [tmp_path], base, tmp_path / "store")


def with_vae(base: Path, vae: Path | None, folder: Path) -> dict:
    """base.json of a base model with a VAE of the user's own, written, then loaded."""
    (folder / "base.json").write_text(json.dumps(manifest("small", base, folder, vae)))
    return load_manifest(folder / "base.json")


def same_weights(vae, other) -> bool:
    return all(torch.equal(vae.state_dict()[key], value) for key, value in other.state_dict().items())


@pytest.mark.parametrize("inside", ["", "vae"])
def test_a_vae_of_ones_own_takes_the_place_of_the_base_models(small_base, other_vae, tmp_path, inside):
    other_vae.save_pretrained(tmp_path / "mine" / inside)
    plain = with_vae(small_base, None, tmp_path)
    base = with_vae(small_base, own_vae("mine", tmp_path, small_base), tmp_path)
    assert same_weights(load_part(base, "vae"), other_vae) and not same_weights(load_part(plain, "vae"), other_vae)
    assert same_weights(load_part(base, "unet"), load_part(plain, "unet"))
    assert base["digest"] != plain["digest"] and part_digest(base, "vae") != part_digest(plain, "vae")
    assert part_digest(base, "unet", "text_encoder") == part_digest(plain, "unet", "text_encoder")
    assert base["sha256"].keys() == plain["sha256"].keys()


def test_a_vae_that_went_away_says_what_to_run(small_base, other_vae, tmp_path):
    other_vae.save_pretrained(tmp_path / "mine")
    with_vae(small_base, own_vae("mine", tmp_path, small_base), tmp_path)
    shutil.rmtree(tmp_path / "mine")
    with pytest.raises(LikenessError, match="the VAE is no longer at .*mine; run: snakemake --forcerun fetch_base"):
        load_manifest(tmp_path / "base.json")


@pytest.fixture
def single_vae(tmp_path, monkeypatch):
    """Writes mine.safetensors, a narrow VAE of SD 1.5's depth, and gives the VAE."""
    from diffusers import AutoencoderKL

    narrow = {**SD15.config["vae"], "block_out_channels": [32, 32, 32, 32]}
    monkeypatch.setitem(SD15.config, "vae", narrow)
    torch.manual_seed(0)

    def written(layout: str, **changes):
        vae = AutoencoderKL.from_config(narrow | changes)
        state = vae.state_dict() if layout == "diffusers" else original_vae(vae.state_dict())
        prefix = "first_stage_model." if layout == "checkpoint" else ""
        tensors = {f"{prefix}{key}": value.contiguous() for key, value in state.items()}
        save_file(tensors, tmp_path / "mine.safetensors")
        return vae

    return written


@pytest.mark.parametrize("layout", ["original", "checkpoint", "diffusers"])
def test_a_single_file_becomes_the_same_vae(small_base, single_vae, tmp_path, layout):
    """As VAEs are handed round: original names, bare or cut out of a checkpoint, or diffusers' own."""
    vae = single_vae(layout)
    folder = own_vae("mine.safetensors", tmp_path, small_base)
    base = with_vae(small_base, folder, tmp_path)
    assert same_weights(load_part(base, "vae"), vae)
    assert load_part(base, "vae").config.scaling_factor == 0.18215
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert own_vae("mine.safetensors", tmp_path, small_base) == folder
    assert {path: path.stat().st_mtime_ns for path in made} == made, "it is converted once"


def test_a_vae_that_cannot_be_used_is_refused_before_anything_is_read(small_base, other_vae, tmp_path):
    def refused(name: str, expected: str) -> None:
        with pytest.raises(LikenessError, match=f"vae {name}: .*{expected}"):
            own_vae(name, tmp_path, small_base)

    refused("nowhere", "neither a folder nor a file here")
    (tmp_path / "mine.pt").write_bytes(b"x")
    refused("mine.pt", "expected a diffusers folder or a .safetensors file")
    (tmp_path / "text.safetensors").write_bytes(b"no weights")
    refused("text.safetensors", "damaged, or no VAE of Stable Diffusion 1.x")
    save_file({"encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused("other.safetensors", "damaged, or no VAE of Stable Diffusion 1.x")

    other_vae.save_pretrained(tmp_path / "half")
    weights = tmp_path / "half/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused("half", "half/diffusion_pytorch_model.safetensors is damaged or half downloaded")
    weights.unlink()
    refused("half", "the download is incomplete")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Of Flux and SD 3.
        ({"latent_channels": 16}, "its latent_channels is 16, the base model's 4"),
        ({"scaling_factor": 0.13025}, "its scaling_factor is 0.13025, the base model's 0.18215"),
    ],
)
def test_a_vae_of_another_family_is_refused(small_base, tmp_path, changes, expected):
    shutil.copytree(small_base / "vae", tmp_path / "mine")
    config = tmp_path / "mine/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(LikenessError, match=f"vae mine: {expected}; expected a VAE of that model's family"):
        own_vae("mine", tmp_path, small_base)


@pytest.mark.parametrize("layout", ["original", "diffusers"])
def test_a_single_file_with_other_latent_channels_is_refused(small_base, single_vae, tmp_path, layout):
    single_vae(layout, latent_channels=16)
    with pytest.raises(LikenessError, match=r"mine.safetensors: damaged, or no VAE of Stable Diffusion 1.x \(.*shape"):
        own_vae("mine.safetensors", tmp_path, small_base)


def test_a_single_file_becomes_the_same_model(tmp_path, model_files, monkeypatch):
    """A checkpoint in the original layout, narrow but of SD 1.5's depth, is read offline to the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    narrow = {
        "unet": {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32, "attention_head_dim": 4},
        "vae": {"block_out_channels": [32, 32, 32, 32]},
        "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    for part, numbers in narrow.items():
        monkeypatch.setitem(SD15.config, part, {**SD15.config[part], **numbers})
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(SD15.config["unet"])
    vae = AutoencoderKL.from_config(SD15.config["vae"])
    numbers = {k: v for k, v in SD15.config["text_encoder"].items() if k not in ("architectures", "model_type")}
    text = CLIPTextModel(CLIPTextConfig(**numbers))
    tensors = {f"model.diffusion_model.{original_unet(k)}": v for k, v in unet.state_dict().items()}
    tensors |= {f"first_stage_model.{k}": v for k, v in original_vae(vae.state_dict()).items()}
    tensors |= {f"cond_stage_model.transformer.{original_text(k)}": v for k, v in text.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "single.safetensors")

    folder = found("single.safetensors", tmp_path, model_files)
    base = manifest("single", folder, tmp_path)
    base["path"] = folder
    for part, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        again = load_part(base, part).state_dict()
        assert again.keys() == model.state_dict().keys(), part
        assert all(torch.equal(again[key], value) for key, value in model.state_dict().items()), part
    assert load_part(base, "tokenizer")("a photo").input_ids == [49406, 320, 1125, 49407]
    assert found("single.safetensors", tmp_path, model_files) == folder


# The names of the original Stable Diffusion checkpoints, for four levels of two layers.
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def original_unet(key: str) -> str:
    for ours, theirs in OUTSIDE.items():
        if key.startswith(ours + "."):
            return theirs + key.removeprefix(ours)
    side, *rest = key.split(".")
    if side == "mid_block":
        kind, number, *rest = rest
        return ".".join(["middle_block", "1" if kind == "attentions" else str(2 * int(number)), *resnet(kind, rest)])
    level, kind, number, *rest = rest
    level, number = int(level), int(number)
    if side == "down_blocks":
        if kind == "downsamplers":
            return ".".join(["input_blocks", str(3 * level + 3), "0.op", *rest[1:]])
        block = ["input_blocks", str(3 * level + number + 1)]
    else:
        block = ["output_blocks", str(3 * level + (2 if kind == "upsamplers" else number))]
        if kind == "upsamplers":
            return ".".join([*block, "1" if level == 0 else "2", *rest])
    return ".".join([*block, "0" if kind == "resnets" else "1", *resnet(kind, rest)])


def resnet(kind: str, rest: list[str]) -> list[str]:
    return [RESNET[rest[0]], *rest[1:]] if kind == "resnets" else rest


def original_vae(state: dict) -> dict:
    renamed = {}
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for key, value in state.items():
        key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        key = key.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        if "mid_block.attentions.0" in key:
            for ours, theirs in attention.items():
                key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
            value = value[:, :, None, None] if value.ndim == 2 else value
        if "down_blocks" in key:
            key = key.replace("down_blocks", "down").replace("resnets", "block").replace("downsamplers.0", "downsample")
        if "up_blocks" in key:
            parts = key.split(".")
            parts[2] = str(3 - int(parts[2]))
            key = ".".join(parts).replace("up_blocks", "up").replace("resnets", "block")
            key = key.replace("upsamplers.0", "upsample")
        renamed[key] = value
    return renamed


def original_text(key: str) -> str:
    return key if key.startswith("text_model.") else f"text_model.{key}"
