"""A VAE of the user's own takes the place of the base model's, or is refused with a sentence."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from found_base import with_vae
from likeness.core.errors import LikenessError
from likeness.models.base_model import load_manifest, load_part, part_digest, vae_folder
from likeness.models.families import SD15
from narrow_base import original_vae


@pytest.fixture(scope="module")
def other_vae(small_base):
    """A VAE of the small base model's size with weights of its own."""
    from diffusers import AutoencoderKL

    torch.manual_seed(7)
    return AutoencoderKL.from_config(AutoencoderKL.load_config(small_base, subfolder="vae")).eval()


def own_vae(vae: str, tmp_path: Path, base: Path) -> Path:
    return vae_folder(vae, [tmp_path], base, tmp_path / "store")


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
    with pytest.raises(
        LikenessError, match="the VAE is no longer at .*mine; run: snakemake --cores all --forcerun fetch_base"
    ):
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
    refused("text.safetensors", "damaged, or no safetensors file")
    save_file({"encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused("other.safetensors", "no tensor first_stage_model.encoder.conv_in.bias and .* more")
    save_file({"text_model.weight": torch.zeros(2)}, tmp_path / "encoder.safetensors")
    refused("encoder.safetensors", "this is a text encoder; expected a VAE of Stable Diffusion 1.x")

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
    with pytest.raises(
        LikenessError, match=r"mine.safetensors: .*conv_out.weight is of shape \[32, .*, expected \[8, "
    ):
        own_vae("mine.safetensors", tmp_path, small_base)
