"""Base models as people have them: each layout is read to the right numbers, or refused by its name on one line.

The models are narrow, with the blocks of their families. What has a tokenizer is tested in test_base_model.py: here one
is made for all.
"""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from damage import DAMAGES, NO_SAFETENSORS
from likeness import base_model, single_file
from likeness.base_model import diffusers_folder, load_manifest, load_part, manifest, vae_folder
from likeness.errors import LikenessError
from likeness.families import FAMILIES
from likeness.kinds import distilled_word
from likeness.models import CLIP_VOCABULARY
from narrow_base import narrow, narrow_models, original_tensors

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
FIRST = f"{UNET}input_blocks.0.0.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def made(tmp_path_factory, model_files) -> dict[str, tuple[dict, Tensors, Path]]:
    """family -> the numbers of its narrow models, part by part, the tensors of their single file in fp16, and a
    diffusers folder of its configurations."""
    numbers = {}
    with pytest.MonkeyPatch.context() as patch:
        for family in FAMILIES.values():
            narrow(family, patch)
            models = narrow_models(family, torch.float16)
            folder = tmp_path_factory.mktemp("made") / family.name
            single_file.write_config(family, folder, model_files / CLIP_VOCABULARY)
            states = {part: model.state_dict() for part, model in models.items()}
            numbers[family.name] = states, original_tensors(family, models), folder
        yield numbers


@pytest.fixture(autouse=True)
def one_tokenizer(monkeypatch, made):
    """For all tests here: making one takes a second."""

    def copied(family, folder, merge_list, schedule):
        shutil.copytree(made[family.name][2], folder, dirs_exist_ok=True)
        changed(folder, "scheduler/scheduler_config.json", **schedule)

    monkeypatch.setattr(single_file, "write_config", copied)
    monkeypatch.setattr(single_file, "_write_out", lambda family, folder: None)
    monkeypatch.setattr(base_model, "_check_tokenizer", lambda *_: None)


def found(model: str, tmp_path: Path, vae: str | None = None) -> dict:
    """base.json of a base model in `tmp_path`, and of a VAE there, loaded."""
    store = tmp_path / "store"
    folder = diffusers_folder(model, None, [tmp_path], tmp_path / "no merge list", store, vae is not None)
    own = vae_folder(vae, [tmp_path], folder, store) if vae else None
    (tmp_path / "base.json").write_text(json.dumps(manifest(model, folder, tmp_path, own)))
    return load_manifest(tmp_path / "base.json")


def written(base: dict) -> dict[str, Tensors]:
    """The numbers of the files that base.json lists, part by part."""
    numbers: dict[str, Tensors] = {}
    for name in base["sha256"]:
        part, _, file = name.partition("/")
        if file.endswith(".safetensors"):
            folder = base["vae_path"] if part == "vae" and "vae_path" in base else base["path"] / part
            numbers.setdefault(part, {}).update(load_file(folder / file))
    return numbers


def same(numbers: dict[str, Tensors], expected: dict[str, Tensors]) -> bool:
    """Whether parts have just these numbers, in whatever precision."""
    return numbers.keys() == expected.keys() and all(
        numbers[part].keys() == tensors.keys()
        and all(torch.equal(numbers[part][name].float(), tensor.float()) for name, tensor in tensors.items())
        for part, tensors in expected.items()
    )


# --- Single files that are read. Each changes the tensors of a plain fp16 file; the numbers must come out the same.


def renamed(tensors: Tensors, before: str, after: str) -> Tensors:
    return {name.replace(before, after): tensor for name, tensor in tensors.items()}


def with_more(tensors: Tensors, **more: Tensors) -> Tensors:
    return tensors | more


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


@pytest.mark.parametrize("damage", [*DAMAGES, Path.unlink], ids=lambda damage: damage.__name__)
def test_a_converted_model_that_was_damaged_is_made_anew(tmp_path, made, damage):
    models, tensors, _ = made["sd15"]
    save_file(tensors, tmp_path / "model.safetensors")
    base = found("model.safetensors", tmp_path)
    kept = base["path"] / "vae/config.json"
    before = kept.stat().st_mtime_ns
    for name in ("unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"):
        damage(base["path"] / name)
    again = found("model.safetensors", tmp_path)
    assert again == base and same(written(again), models) and kept.stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.glob("store/*")] == [base["path"].name]


def test_endings_in_capitals_are_read(tmp_path, made):
    models, tensors, _ = made["sd15"]
    save_file(tensors, tmp_path / "MODEL.SAFETENSORS")
    save_file({k: v for k, v in tensors.items() if k.startswith(VAE)}, tmp_path / "VAE.SafeTensors")
    assert same(written(found("MODEL.SAFETENSORS", tmp_path, "VAE.SafeTensors")), models)


# --- Folders that are read.


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


def beside(folder: Path, name: str, data: bytes = b"\0\5\x16\7 no model") -> None:
    (folder / name).write_bytes(data)


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
    "old names of the VAE": deprecated_attention,
    "old names of the text encoder": text_model_prefix,
}


PARTS = ("unet", "vae", "text_encoder")
DRAWN: list[bytes] = []
UNUSED = ("a damaged double", "weights before EMA", "macOS' notes", "pickles and others' files")


@pytest.mark.parametrize("layout", READ_FOLDERS)
def test_a_folder_is_read_to_its_numbers(tmp_path, small_base, layout):
    shutil.copytree(small_base, tmp_path / "model")
    whole = found("model", tmp_path)
    expected = {part: load_part(whole, part).state_dict() for part in PARTS}
    READ_FOLDERS[layout](tmp_path / "model")
    base = found("model", tmp_path)
    assert same({part: load_part(base, part).state_dict() for part in PARTS}, expected)
    assert (base["sha256"] == whole["sha256"]) == (layout in (*UNUSED, "plain")), "what is read, and no more"


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_pictures_are_drawn_from_a_folder_with_only_a_double(tmp_path, small_base, variant):
    """The same ones, by the same pipeline."""
    from likeness.sampling import Cell, drawn, load_pipeline

    shutil.copytree(small_base, tmp_path / "model")
    if variant:
        only_variant(tmp_path / "model", variant)
    pipeline = load_pipeline(found("model", tmp_path), None, torch.device("cpu"))
    sample = {"negative_prompt": "", "steps": 1, "guidance_scale": 5.0, "batch_size": 1, "clip_skip": 1}
    (picture,) = [image for _, image in drawn(pipeline, [Cell(0.0, "a woman", "near", 1)], sample, 64)]
    DRAWN.append(picture.tobytes())
    assert len(DRAWN[0]) == 64 * 64 * 3 and set(DRAWN) == {DRAWN[0]}


def test_a_folder_without_vae_works_with_one_of_ones_own(tmp_path, small_base):
    shutil.copytree(small_base, tmp_path / "model")
    expected = written(found("model", tmp_path))
    (tmp_path / "model/vae").rename(tmp_path / "mine")
    assert same(written(found("model", tmp_path, "mine")), expected)
    with pytest.raises(LikenessError, match="base_model model: no folder vae"):
        found("model", tmp_path)


# --- Refused, by name.


def of_channels(tensors: Tensors, read: int) -> Tensors:
    return tensors | {FIRST: torch.zeros(32, read, 3, 3)}


def without(tensors: Tensors, part: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if part not in name}


def with_number(tensors: Tensors, name: str, number: float) -> Tensors:
    tensor = tensors[name].clone()
    tensor.view(-1)[0] = number
    return tensors | {name: tensor}


def marked(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(1) for name in names}


ONE = torch.ones(1)
LAST = "text_model.encoder.layers.1."
REFUSED_FILES: dict[str, tuple[str, Callable[[Tensors], Tensors], str]] = {
    "inpainting": ("sd15", partial(of_channels, read=9), "this is an inpainting model"),
    "inpainting sd2": ("sd2", partial(of_channels, read=9), "this is an inpainting model"),
    "inpainting sdxl": ("sdxl", partial(of_channels, read=9), "this is an inpainting model"),
    "pix2pix": ("sd15", partial(of_channels, read=8), "this is an instruct-pix2pix model"),
    "depth": ("sd2", partial(of_channels, read=5), "this is a depth-to-image model"),
    "depth with its estimator": ("sd2", marked("depth_model.model.x"), "this is a depth-to-image model"),
    "upscaler": ("sd2", partial(of_channels, read=7), "this is an upscaler"),
    "more channels": ("sd15", partial(of_channels, read=13), "this is a model that also reads another picture"),
    "unclip": ("sd2", marked(f"{UNET}label_emb.0.0.weight", "noise_augmentor.data_mean"), "this is an unCLIP model"),
    "unclip without its encoder": (
        "sd2",
        marked(f"{UNET}label_emb.0.0.weight"),
        "this is an unCLIP model or an upscaler",
    ),
    "refiner": (
        "sdxl",
        lambda t: renamed(without(t, "embedders.0"), "embedders.1", "embedders.0"),
        "this is the refiner",
    ),
    "CosXL": ("sdxl", marked("edm_vpred.sigma_max", "edm_vpred.sigma_min"), "this is CosXL"),
    "Playground v2.5": ("sdxl", marked("edm_mean", "edm_std"), "this is Playground v2.5"),
    "SSD-1B": (
        "sdxl",
        lambda t: without(without(t, "middle_block.1."), "output_blocks.0.1.transformer_blocks.1."),
        "a distilled model of another size",
    ),
    "BK-SDM": (
        "sd15",
        partial(without, part=f"{UNET}middle_block."),
        r"lacks 4 blocks .* middle_block.0 for one: a distilled",
    ),
    "LCM": ("sd15", marked(f"{UNET}time_embed.cond_proj.weight"), r"this is a latent consistency model \(LCM\)"),
    "AnimateDiff": ("sd15", marked(f"{UNET}input_blocks.1.motion_modules.0.x"), "this is AnimateDiff"),
    "video": ("sd2", marked(f"{UNET}input_blocks.1.1.time_stack.0.x"), "this is a video model"),
    "GLIGEN": ("sd15", marked(f"{UNET}position_net.x"), "this is GLIGEN"),
    "scaled fp8": ("sdxl", marked("scaled_fp8"), "this is a quantised model"),
    "eight bits": (
        "sd15",
        lambda t: t | {FIRST: torch.zeros(32, 4, 3, 3, dtype=torch.int8)},
        "input_blocks.0.0.weight is of I8, so the model is a quantised one",
    ),
    "U-Net alone": ("sd15", partial(without, part="cond_stage_model."), "this is a U-Net without text encoders"),
    "text encoder and VAE alone": ("sd15", partial(without, part=UNET), "it has no U-Net"),
    "one text encoder of two": (
        "sdxl",
        partial(without, part="embedders.1"),
        r"no tensor conditioner.embedders.1.model\S+ and \d+ more",
    ),
    "ten text tensors gone": (
        "sd15",
        partial(without, part=f"{LAST}mlp"),
        rf"no tensor {TEXT}{LAST}mlp.fc1.weight and 3 more; the model is not whole",
    ),
    "one tensor gone": (
        "sd2",
        partial(without, part="ln_final.bias"),
        "no tensor cond_stage_model.model.ln_final.bias; the model is not whole",
    ),
    "half an attention": (
        "sd15",
        partial(without, part="input_blocks.1.1.transformer_blocks.0.attn2.to_k"),
        rf"no tensor {UNET}input_blocks.1.1.\S+attn2.to_k.weight; the model",
    ),
    "another shape": (
        "sd15",
        lambda t: t | {f"{TEXT}text_model.final_layer_norm.bias": torch.zeros(7)},
        r"final_layer_norm.bias is of shape \[7\], expected \[32\]",
    ),
    "NaN": (
        "sd15",
        partial(with_number, name=f"{UNET}out.2.bias", number=torch.nan),
        rf"{UNET}out.2.bias has 1 numbers that are infinite or none",
    ),
    "infinite": (
        "sdxl",
        partial(with_number, name="conditioner.embedders.1.model.text_projection", number=torch.inf),
        "embedders.1.model.text_projection has 1 numbers",
    ),
    "NaN in the VAE": (
        "sd15",
        partial(with_number, name=f"{VAE}decoder.conv_in.bias", number=-torch.inf),
        "first_stage_model.decoder.conv_in.bias has 1 numbers",
    ),
    "LoRA": ("sd15", lambda t: {"lora_unet_x.lora_up.weight": ONE}, "this is a LoRA"),
    "LyCORIS": ("sd15", lambda t: {"lycoris_x.lokr_w1": ONE}, "this is a LoRA"),
    "VAE": (
        "sd15",
        lambda t: {k.removeprefix(VAE): v for k, v in t.items() if k.startswith(VAE)},
        r"this is a VAE \(which vae: takes\)",
    ),
    "ControlNet": ("sd15", lambda t: {"control_model.x": ONE}, "this is a ControlNet"),
    "textual inversion": ("sd15", lambda t: {"emb_params": ONE}, "this is a textual inversion"),
    "SD 3": (
        "sd15",
        lambda t: {f"{UNET}joint_blocks.0.x_block.attn.qkv.weight": ONE, "text_encoders.clip_l.x": ONE + 0},
        "this is Stable Diffusion 3",
    ),
    "Flux": ("sd15", lambda t: {f"{UNET}double_blocks.0.img_attn.qkv.weight": ONE}, "this is Flux"),
    "Flux without prefix": ("sd15", lambda t: {"double_blocks.0.img_attn.qkv.weight": ONE}, "this is Flux"),
    "Stable Cascade": ("sd15", lambda t: {"clip_txt_mapper.weight": ONE}, "this is Stable Cascade"),
    "PixArt": ("sd15", lambda t: {"adaln_single.linear.weight": ONE}, "this is PixArt"),
    "motion module": (
        "sd15",
        lambda t: {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": ONE},
        "this is AnimateDiff",
    ),
    "ESRGAN": ("sd15", lambda t: {"conv_first.weight": ONE}, "this is an upscaler"),
}


@pytest.mark.parametrize("layout", REFUSED_FILES)
def test_a_single_file_of_another_kind_is_refused_by_its_name(tmp_path, made, layout):
    family, change, expected = REFUSED_FILES[layout]
    save_file({k: v.contiguous() for k, v in change(dict(made[family][1])).items()}, tmp_path / "model.safetensors")
    refused("model.safetensors", expected, tmp_path)
    assert not list(tmp_path.glob("store/*")), "nothing is left of it"


def refused(model: str, expected: str, tmp_path: Path, vae: str | None = None) -> None:
    with pytest.raises(LikenessError, match=f"^base_model {model}: .*{expected}") as error:
        found(model, tmp_path, vae)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({"modelspec.title": "Stable Diffusion XL Turbo"}, "turbo"),
        ({"modelspec.architecture": "stable-diffusion-xl-turbo-v1"}, "turbo"),
        ({"modelspec.title": "Mine, LCM"}, "lcm"),
    ],
)
def test_a_distilled_model_that_says_so_is_refused(tmp_path, made, metadata, word):
    save_file(made["sdxl"][1], tmp_path / "model.safetensors", metadata)
    refused("model.safetensors", rf"this is a distilled model \({word}, by its header\)", tmp_path)


def changed(folder: Path, file: str, **changes) -> None:
    config = folder / file
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def in_file(folder: Path, file: str, change: Callable[[Tensors], Tensors]) -> None:
    save_file(change(load_file(folder / file)), folder / file, {"format": "pt"})


def unet(**changes) -> Callable[[Path], None]:
    return partial(changed, file="unet/config.json", **changes)


def scheduler(**changes) -> Callable[[Path], None]:
    return partial(changed, file="scheduler/scheduler_config.json", **changes)


def pipeline(name: str) -> Callable[[Path], None]:
    return partial(changed, file="model_index.json", _class_name=name)


UNET_FILE, TEXT_FILE = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
REFUSED_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "inpainting": (unet(in_channels=9), "this is an inpainting model"),
    "pix2pix": (unet(in_channels=8), "this is an instruct-pix2pix model"),
    "depth": (unet(in_channels=5), "this is a depth-to-image model"),
    "upscaler": (unet(in_channels=7, num_class_embeds=1000), "this is an upscaler"),
    "unclip": (unet(class_embed_type="projection"), "this is an unCLIP model"),
    "image": (unet(addition_embed_type="image"), r"reads more than words and size \(image\)"),
    "LCM": (unet(time_cond_proj_dim=256), "this is a latent consistency model"),
    "LCM by its pipeline": (pipeline("LatentConsistencyModelPipeline"), "this is a latent consistency model"),
    "Kolors": (unet(encoder_hid_dim=4096, encoder_hid_dim_type="text_proj"), "this is a model with a language model"),
    "motion": (unet(_class_name="UNetMotionModel"), "this is a model with a UNetMotionModel"),
    "SSD-1B": (
        unet(transformer_layers_per_block=[[1, 1], [2, 2], [4, 4], 1]),
        "describes no model|a distilled|other blocks",
    ),
    "without a middle": (
        unet(mid_block_type=None),
        r"other blocks than Stable Diffusion's \(mid_block.attentions.0.proj_in\)",
    ),
    "SD 3": (pipeline("StableDiffusion3Pipeline"), "this is Stable Diffusion 3"),
    "Flux": (pipeline("FluxPipeline"), "this is Flux"),
    "PixArt": (pipeline("PixArtAlphaPipeline"), "this is a PixArtAlphaPipeline"),
    "DeepFloyd": (pipeline("IFPipeline"), "this is a IFPipeline"),
    "refiner": (
        lambda f: [unet(addition_embed_type="text_time")(f), shutil.rmtree(f / "text_encoder")],
        "this is the refiner",
    ),
    "T5": (partial(changed, file="text_encoder/config.json", model_type="t5"), "reads captions with t5, not with CLIP"),
    "Playground's VAE": (
        partial(changed, file="vae/config.json", latents_mean=[0.1] * 4),
        "a VAE whose latents are moved",
    ),
    "tiny VAE": (partial(changed, file="vae/config.json", _class_name="AutoencoderTiny"), "a VAE of another kind"),
    "CosXL's scheduler": (scheduler(_class_name="EDMEulerScheduler"), r"a noise schedule of its own \(EDM"),
    "continuous": (
        scheduler(_class_name="EulerDiscreteScheduler", timestep_type="continuous"),
        r"schedule of its own \(EDM",
    ),
    "flow matching": (scheduler(_class_name="FlowMatchEulerDiscreteScheduler"), "this is a flow-matching model"),
    "LCM's scheduler": (scheduler(_class_name="LCMScheduler"), r"a distilled model \(LCM\)"),
    "no steps": (
        scheduler(num_train_timesteps=0),
        "num_train_timesteps in scheduler_config.json is 0, expected from 2",
    ),
    "steps in words": (scheduler(num_train_timesteps="1000"), "num_train_timesteps in scheduler_config.json is '1000'"),
    "noise that falls": (
        scheduler(beta_start=0.02, beta_end=0.01),
        "beta_end in scheduler_config.json is 0.01, expected above",
    ),
    "noise below none": (scheduler(beta_start=-0.1), "beta_start in scheduler_config.json is -0.1"),
    "noise of no number": (scheduler(beta_end=float("nan")), "beta_end in scheduler_config.json is nan"),
    "no such schedule": (scheduler(beta_schedule="cosine"), "beta_schedule in scheduler_config.json is 'cosine'"),
    "betas of another number": (
        scheduler(trained_betas=[0.1, 0.2]),
        r"trained_betas in scheduler_config.json is \[0.1, 0.2\]",
    ),
    "spacing": (scheduler(timestep_spacing="wide"), "timestep_spacing in scheduler_config.json is 'wide'"),
    "a list for a configuration": (
        lambda f: (f / "unet/config.json").write_text("[]"),
        r"unet/config.json is damaged \(no JSON object",
    ),
    "widths in words": (unet(block_out_channels="wide"), "unet/config.json describes no model"),
    "negative layers": (unet(block_out_channels=[-1, 32, 64, 64]), "unet/config.json describes no model"),
    "text tensors gone": (
        partial(in_file, file=TEXT_FILE, change=partial(without, part="layers.1.mlp")),
        r"text_encoder: no tensor encoder.layers.1.mlp.fc1.weight and 3 more",
    ),
    "one U-Net tensor gone": (
        partial(in_file, file=UNET_FILE, change=partial(without, part="conv_in.bias")),
        "unet: no tensor conv_in.bias; the model is not whole",
    ),
    "NaN": (
        partial(in_file, file=UNET_FILE, change=partial(with_number, name="conv_out.bias", number=torch.nan)),
        "unet: conv_out.bias has 1 numbers that are infinite or none",
    ),
    "infinite": (
        partial(
            in_file,
            file="vae/diffusion_pytorch_model.safetensors",
            change=partial(with_number, name="quant_conv.bias", number=torch.inf),
        ),
        "vae: quant_conv.bias has 1 numbers",
    ),
    "another shape": (
        unet(cross_attention_dim=48),
        r"unet: .*attn2.to_k.weight is of shape \[16, 32\], expected \[16, 48\]",
    ),
    "whole numbers": (
        partial(in_file, file=UNET_FILE, change=lambda t: t | {"conv_in.bias": torch.zeros(32, dtype=torch.int8)}),
        "conv_in.bias is of I8, so the model is a quantised one",
    ),
    "only a pickle": (
        lambda f: (f / UNET_FILE).rename(f / "unet/diffusion_pytorch_model.bin"),
        "no unet/diffusion_pytorch_model.safetensors; there is only diffusion_pytorch_model.bin, which is not read",
    ),
    "an index to elsewhere": (
        lambda f: beside(
            f / "unet", "diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {"x": "../../x"}}'
        ),
        "names no files of this folder",
    ),
}


@pytest.mark.parametrize("layout", REFUSED_FOLDERS)
def test_a_folder_of_another_kind_is_refused_by_its_name(tmp_path, small_base, layout):
    change, expected = REFUSED_FOLDERS[layout]
    shutil.copytree(small_base, tmp_path / "model")
    change(tmp_path / "model")
    refused("model", expected, tmp_path)


@pytest.mark.parametrize(
    ("sampler", "flags"),
    [
        ("DDIM", ("clip_sample", "thresholding")),
        ("UniPC", ("thresholding", "use_exponential_sigmas", "use_beta_sigmas")),
    ],
)
def test_a_models_own_sampler_settings_make_no_other_sampler(tmp_path, small_base, sampler, flags):
    """diffusers fails on two of them at once, and clips latents where a file does not say otherwise."""
    from likeness.sampling import load_pipeline

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


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("stabilityai/sdxl-turbo", "turbo"),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", "turbo"),
        ("SimianLuo/LCM_Dreamshaper_v7", "lcm"),
        ("sdxl_lightning_4step.safetensors", "lightning"),
        ("Hyper-SD15-8steps", "hyper-sd"),
        ("sdxl-dmd2", "dmd2"),
        ("hyperrealistic_v3.safetensors", None),
        ("calcmix.safetensors", None),
        ("stable-diffusion-v1-5", None),
    ],
)
def test_a_distilled_model_is_known_by_its_name(name, word):
    assert distilled_word(name) == word


def test_macos_note_about_a_file_is_refused(tmp_path):
    beside(tmp_path, "._model.safetensors")
    refused("._model.safetensors", "macOS' note about a file, not the file; name the one without ._", tmp_path)


@pytest.mark.parametrize("data", NO_SAFETENSORS.values(), ids=NO_SAFETENSORS)
def test_what_is_no_safetensors_file_is_refused_on_one_line(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    refused("model.safetensors", "damaged, or no safetensors file", tmp_path)
