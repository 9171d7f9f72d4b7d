"""The base model: found in each of its forms, brought into one, and refused with a sentence when it is not usable."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from found_base import SINGLE, found, found_single, with_vae
from hub import Hub
from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS
from likeness.models.base_model import load_manifest, load_part, manifest, part_digest
from likeness.models.conditioning import load_text_encoders, load_tokenizers, token_ids
from likeness.models.families import SD2, SD15, SDXL


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
    "missing",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ],
)
def test_half_a_model_is_refused_by_the_name_of_the_missing_file(half, tmp_path, model_files, missing):
    (half / missing).unlink()
    with pytest.raises(LikenessError, match=f"base_model half: no {missing}; the download is incomplete"):
        found("half", tmp_path, model_files)


@pytest.mark.parametrize("missing", ["vae", "scheduler", "tokenizer"])
def test_a_model_without_one_of_its_folders_is_refused(half, tmp_path, model_files, missing):
    shutil.rmtree(half / missing)
    with pytest.raises(LikenessError, match=f"base_model half: no folder {missing}; it is not a whole model"):
        found("half", tmp_path, model_files)


@pytest.mark.parametrize("file", ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"])
def test_half_a_configuration_is_refused(half, tmp_path, model_files, file):
    text = (half / file).read_text()
    (half / file).write_text(text[: len(text) // 2])
    with pytest.raises(LikenessError, match=f"base_model half: {file} is damaged or half downloaded .*; get it again"):
        found("half", tmp_path, model_files)


def test_a_model_in_several_files_needs_all_of_them(half, tmp_path, model_files):
    whole = load_part(with_vae(half, None, tmp_path), "unet").state_dict()
    (half / "unet/diffusion_pytorch_model.safetensors").unlink()
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(half, subfolder="unet"))
    unet.load_state_dict(whole)
    unet.save_pretrained(half / "unet", max_shard_size="100KB")
    shards = sorted((half / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1 and found("half", tmp_path, model_files) == half
    again = load_part(with_vae(half, None, tmp_path), "unet").state_dict()
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    shards[-1].unlink()
    with pytest.raises(LikenessError, match=f"no unet/{shards[-1].name}, which .*safetensors.index.json names"):
        found("half", tmp_path, model_files)


def in_two_files(tokenizer: Path) -> None:
    """A tokenizer as older models have it: vocab.json and merges.txt."""
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    (tokenizer / "tokenizer.json").unlink()


def test_a_tokenizer_in_two_files_reads_the_same(half, small_base, tmp_path, model_files):
    in_two_files(half / "tokenizer")
    ids = [
        token_ids(load_tokenizers(with_vae(found(str(base), tmp_path, model_files), None, tmp_path)), "a photo of ohwx")
        for base in (small_base, half)
    ]
    assert torch.equal(*ids) and len(set(ids[0][0].tolist())) > 5


@pytest.mark.parametrize(
    ("files", "missing"),
    [([], "vocab.json"), (["vocab.json"], "merges.txt"), (["merges.txt"], "vocab.json")],
    ids=["none", "without merges", "without words"],
)
def test_a_tokenizer_without_its_files_is_refused(half, tmp_path, model_files, files, missing):
    """transformers makes one that reads every caption as the same ids."""
    in_two_files(half / "tokenizer")
    for name in {"vocab.json", "merges.txt"} - set(files):
        (half / "tokenizer" / name).unlink()
    expected = f"base_model half: no tokenizer/{missing}, and no tokenizer/tokenizer.json in its place; .* get it again"
    with pytest.raises(LikenessError, match=expected):
        found("half", tmp_path, model_files)


def test_a_tokenizer_that_was_cut_short_is_refused(half, tmp_path, model_files):
    whole = (half / "tokenizer/tokenizer.json").read_text()
    tokenizer = json.loads(whole)
    tokenizer["model"]["vocab"] = dict(list(tokenizer["model"]["vocab"].items())[:514])
    tokenizer["model"]["merges"] = []
    (half / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        LikenessError, match=r"tokenizer has 51\d tokens, text_encoder was made with 49408; .*get it again"
    ):
        found("half", tmp_path, model_files)
    tokenizer = json.loads(whole)
    tokenizer["model"]["vocab"]["one more</w>"] = 49408
    (half / "tokenizer/tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(LikenessError, match="tokenizer numbers its tokens up to 49408, text_encoder knows 49408: they"):
        found("half", tmp_path, model_files)
    (half / "tokenizer/tokenizer.json").write_text(whole[:-1000])
    with pytest.raises(LikenessError, match="base_model half: tokenizer is damaged or half downloaded"):
        found("half", tmp_path, model_files)
    (half / "tokenizer/tokenizer.json").write_text(whole)
    in_two_files(half / "tokenizer")
    merges = (half / "tokenizer/merges.txt").read_text().splitlines()
    (half / "tokenizer/merges.txt").write_text("\n".join(merges[: len(merges) // 2]))
    with pytest.raises(LikenessError, match="tokenizer has 2444[67] merges, text_encoder was made with 48894"):
        found("half", tmp_path, model_files)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_half_downloaded_file_is_refused(small_base, tmp_path, model_files, file):
    half = tmp_path / "half"
    shutil.copytree(small_base, half)
    (half / file).write_bytes((half / file).read_bytes()[:-1])
    with pytest.raises(LikenessError, match=f"base_model half: {file} is damaged or half downloaded"):
        found("half", tmp_path, model_files)


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
    with pytest.raises(LikenessError, match="this is something else; expected a plain model of Stable Diffusion 1.x"):
        found("other.safetensors", tmp_path, model_files)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(SD15, torch.float32), (SD2, torch.float32), (SDXL, torch.float16)],
    ids=["sd15", "sd2", "sdxl in half precision"],
)
def test_a_single_file_becomes_the_same_model(tmp_path, model_files, single_model, family, dtype):
    """A checkpoint in the original layout, narrow but with its family's blocks, is read offline to the same weights."""
    models = single_model(family, dtype=dtype)
    base = found_single(tmp_path, model_files)
    assert (base["family"], base["prediction_type"]) == (family.name, "epsilon")
    for part, model in models.items():
        again = load_part(base, part).state_dict()
        assert again.keys() == model.state_dict().keys(), part
        for key, value in model.state_dict().items():
            assert again[key].dtype == torch.float32 and torch.equal(again[key], value.float()), f"{part} {key}"
    for tokenizer in load_tokenizers(base):
        assert tokenizer("a photo").input_ids == [49406, 320, 1125, 49407]
    made = {path: path.stat().st_mtime_ns for path in base["path"].rglob("*")}
    assert found(SINGLE, tmp_path, model_files) == base["path"]
    assert {path: path.stat().st_mtime_ns for path in made} == made, "it is converted once"


def test_a_half_precision_model_is_read_in_fp32(half, tmp_path):
    """Unless another precision is asked for: captions and photos are encoded once, for every training."""
    base = with_vae(half, None, tmp_path)
    parts = ("unet", "vae", "text_encoder")
    exact = {part: load_part(base, part) for part in parts}
    for part, model in exact.items():
        model.half().save_pretrained(half / part)
    base = with_vae(half, None, tmp_path)
    for part in parts:
        assert load_file(next((half / part).glob("*.safetensors")))[next(iter(exact[part].state_dict()))].dtype == (
            torch.float16
        )
        assert {p.dtype for p in load_part(base, part).parameters()} == {torch.float32}, part
        assert {p.dtype for p in load_part(base, part, torch.bfloat16).parameters()} == {torch.bfloat16}, part
    assert {p.dtype for encoder in load_text_encoders(base) for p in encoder.parameters()} == {torch.float32}


NAME, REVISION = "somebody/small-model", "v1.0"


@pytest.fixture
def hub(half) -> Iterator[Hub]:
    """A hub that has the small base model, with the doubles that repositories have."""
    for name in ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "README.md"):
        (half / name).write_bytes(b"not to be fetched")
    (half / "safety_checker").mkdir()
    (half / "safety_checker/model.safetensors").write_bytes(b"not to be fetched")
    with Hub({NAME: half}, REVISION) as hub:
        yield hub


def fetched(
    tmp_path: Path, model_files: Path, revision: str, same_family: Sequence[Path] = (), **environment: str
) -> subprocess.CompletedProcess:
    """The program fetch_base for a hub id, as the rule calls it."""
    config = {"base_model": NAME, "base_revision": revision, "vae": None, "prediction_type": None}
    script = SCRIPTS / "fetch_base.py"
    places = {"models": model_files, "roots": tmp_path, "cache": tmp_path / "store", "base": tmp_path / "base.json"}
    options = [str(text) for name, place in places.items() for text in (f"--{name}", place)]
    command = [sys.executable, str(script), "--config", json.dumps(config), *options, "--same-family", *same_family]
    home = {"HF_HOME": str(tmp_path / "hf")}
    return subprocess.run(command, env=os.environ | home | environment, capture_output=True, text=True, check=False)


def test_a_hub_id_is_fetched_at_its_revision_and_then_found_without_the_network(hub, half, tmp_path, model_files):
    first = fetched(tmp_path, model_files, REVISION, **hub.environment)
    assert first.returncode == 0, first.stderr
    base = load_manifest(tmp_path / "base.json")
    assert base["path"].name == hub.sha and base["model"] == NAME
    assert base["sha256"] == {
        name: hashed for name, hashed in manifest("half", half, tmp_path)["sha256"].items() if "fp16" not in name
    }
    assert "unet/diffusion_pytorch_model.safetensors" in hub.asked
    assert not [name for name in hub.asked if "fp16" in name or name.endswith(".bin") or "safety" in name]
    written = (tmp_path / "base.json").read_bytes()
    (tmp_path / "base.json").unlink()
    hub.asked.clear()
    again = fetched(tmp_path, model_files, REVISION, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "base.json").read_bytes() == written and not hub.asked
    other = fetched(tmp_path, model_files, "no-such-branch", **hub.environment)
    assert other.returncode == 1 and "Traceback" not in other.stdout + other.stderr
    assert f"base_model {NAME}: neither a folder nor a file here, and the hub did not give it" in other.stdout
    assert "Revision Not Found" in other.stdout


def test_a_hub_id_of_another_family_than_the_lora_is_refused_before_its_weights_are_fetched(hub, tmp_path, model_files):
    other = tmp_path / "base-xl.json"
    other.write_text(json.dumps({"model": "somebody/xl", "family": "sdxl"}))
    result = fetched(tmp_path, model_files, REVISION, [other], **hub.environment)
    assert result.returncode == 1 and hub.asked and not [name for name in hub.asked if "safetensors" in name]
    assert result.stdout.splitlines()[-1] == (
        f"error: base_model {NAME}: a Stable Diffusion 1.x, but a LoRA is to be drawn both with it and with "
        "somebody/xl, a Stable Diffusion XL, and works with no other family than the one it is trained for; name a "
        "model of the same family in sample.base_model"
    )
    other.write_text(json.dumps({"model": "somebody/finetune", "family": "sd15"}))
    assert fetched(tmp_path, model_files, REVISION, [other], **hub.environment).returncode == 0
