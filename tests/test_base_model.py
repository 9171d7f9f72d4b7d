"""The base model: found in each of its forms, brought into one, and refused with a sentence when it is not usable."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub import Hub
from likeness.base_model import diffusers_folder, load_manifest, load_part, manifest, part_digest, vae_folder
from likeness.conditioning import load_text_encoders, load_tokenizers, token_ids
from likeness.errors import LikenessError
from likeness.families import SD2, SD15, SDXL, Family
from likeness.models import CLIP_VOCABULARY
from likeness.training.losses import target
from narrow_base import narrow, narrow_models, original_tensors, original_vae


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


@pytest.fixture
def half(small_base, tmp_path) -> Path:
    """A copy of the small base model, to take something away from."""
    return Path(shutil.copytree(small_base, tmp_path / "half"))


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


@pytest.fixture
def single_model(tmp_path, monkeypatch) -> Callable[..., dict]:
    """Writes single.safetensors, a checkpoint of a family in the original layout, narrow but with the family's blocks,
    and gives its models; `more` tensors and `metadata` go into the file too."""

    def written(family: Family, more: dict | None = None, metadata: dict | None = None, dtype=torch.float32) -> dict:
        narrow(family, monkeypatch)
        models = narrow_models(family, dtype)
        save_file(original_tensors(family, models) | (more or {}), tmp_path / SINGLE, metadata)
        return models

    return written


SINGLE = "single.safetensors"


def found_single(tmp_path: Path, model_files: Path, prediction_type: str | None = None) -> dict:
    """base.json of single.safetensors, loaded."""
    base = manifest(SINGLE, found(SINGLE, tmp_path, model_files), tmp_path, None, prediction_type)
    (tmp_path / "base.json").write_text(json.dumps(base))
    return load_manifest(tmp_path / "base.json")


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


V_PRED = {"v_pred": torch.tensor([])}


def trained_target(base: dict) -> str:
    """What training on a base model asks of its U-Net, by the numbers."""
    schedule = load_part(base, "scheduler")
    clean, noise, step = torch.full((1, 4, 8, 8), 3.0), torch.ones(1, 4, 8, 8), torch.tensor([500])
    asked = target(schedule, clean, noise, step)
    kept = schedule.alphas_cumprod[500]
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * clean
    kinds = {"epsilon": noise, "v_prediction": velocity}
    return next(kind for kind, wanted in kinds.items() if torch.allclose(asked, wanted))


def test_a_zero_terminal_snr_file_is_trained_and_drawn_to_pure_noise(tmp_path, model_files, single_model):
    single_model(SDXL, V_PRED | {"ztsnr": torch.tensor([])})
    base = found_single(tmp_path, model_files)
    assert base["prediction_type"] == trained_target(base) == "v_prediction"
    assert load_part(base, "scheduler").alphas_cumprod[-1] == 0
    from likeness.sampling import load_pipeline

    drawn = load_pipeline(base, None, torch.device("cpu")).diffusers.scheduler
    drawn.set_timesteps(4)
    assert drawn.timesteps[0] == 999 and drawn.sigmas[0] > 1000, "it starts from noise alone"


def test_what_an_older_version_thought_of_a_file_is_corrected(tmp_path, model_files, single_model):
    """Converted models are kept, and SD 2 was once always taken for v-prediction."""
    single_model(SD2)
    base = found_single(tmp_path, model_files)
    assert base["prediction_type"] == trained_target(base) == "epsilon"
    scheduler = base["path"] / "scheduler/scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert trained_target(found_single(tmp_path, model_files)) == "epsilon"


@pytest.mark.parametrize("said", ["epsilon", "v_prediction"])
def test_the_users_prediction_type_goes_before_the_models_own(small_base, tmp_path, said):
    """For training and for drawing alike; and what it made is not taken for what the other would have made."""
    from likeness.sampling import load_pipeline

    for own in ("epsilon", "v_prediction"):
        folder = Path(shutil.copytree(small_base, tmp_path / own))
        scheduler = folder / "scheduler/scheduler_config.json"
        scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": own}))
        plain = manifest(own, folder, tmp_path)
        about = manifest(own, folder, tmp_path, prediction_type=said)
        assert plain["prediction_type"] == own and about["prediction_type"] == said
        assert (plain["digest"] == about["digest"]) == (own == said)
        (tmp_path / "base.json").write_text(json.dumps(about))
        base = load_manifest(tmp_path / "base.json")
        assert trained_target(base) == said
        assert load_pipeline(base, None, torch.device("cpu")).diffusers.scheduler.config.prediction_type == said


def test_a_model_that_predicts_something_else_is_refused(half, tmp_path):
    scheduler = half / "scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(
        LikenessError, match="prediction_type 'sample' in its scheduler_config.json; expected epsilon or"
    ):
        manifest("half", half, tmp_path)
    assert manifest("half", half, tmp_path, prediction_type="epsilon")["prediction_type"] == "epsilon"


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


def fetched(tmp_path: Path, model_files: Path, revision: str, **environment: str) -> subprocess.CompletedProcess:
    """The program fetch_base for a hub id, as the rule calls it."""
    config = {"base_model": NAME, "base_revision": revision, "vae": None, "prediction_type": None}
    script = Path(__file__).resolve().parent.parent / "scripts/fetch_base.py"
    places = {"models": model_files, "roots": tmp_path, "cache": tmp_path / "store", "base": tmp_path / "base.json"}
    options = [str(text) for name, place in places.items() for text in (f"--{name}", place)]
    command = [sys.executable, str(script), "--config", json.dumps(config), *options]
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
