"""Stable Diffusion XL and 2.x are trained and drawn by the same code as 1.x, each reading captions in its own way."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from likeness.core.errors import LikenessError
from likeness.core.pinned_models import CLIP_VOCABULARY
from likeness.drawing.sampling import Cell, draw_pictures, load_pipeline
from likeness.models.base_model import diffusers_folder, load_manifest, manifest
from likeness.models.conditioning import conditioning, load_text_encoders, load_tokenizers, size_ids, token_ids
from likeness.models.families import FAMILIES, SD2, SD15, SDXL, Family, family_at, schedule_of_file
from likeness.models.single_file import write_config
from likeness.training.latents import encoded_caption
from trained_run import made_up_data, trained

NARROW = {
    "unet": {"sample_size": 8, "norm_num_groups": 8},
    "vae": {"block_out_channels": [16, 16, 16, 16], "norm_num_groups": 8, "sample_size": 64, "layers_per_block": 1},
    "text_encoder": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
}
NARROW["text_encoder_2"] = NARROW["text_encoder"] | {"projection_dim": 48}


def small(family: Family, folder: Path, model_files: Path) -> Path:
    """A model of a family's own classes and layout, narrow, with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    schedule = {"prediction_type": "v_prediction" if family is SD2 else "epsilon"}
    write_config(family, folder, model_files / CLIP_VOCABULARY, schedule)
    torch.manual_seed(0)
    encoders = len(family.text_encoders)
    narrow_unet = {
        "block_out_channels": [16 * 2**i for i in range(len(family.config["unet"]["block_out_channels"]))],
        "attention_head_dim": 4,
        "cross_attention_dim": 32 * encoders,
        "layers_per_block": 1,
    }
    if encoders == 2:
        # The pooled text of 48, and six numbers about the size, 8 wide each.
        narrow_unet |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 6 * 8}
        narrow_unet |= {"transformer_layers_per_block": [1, 1, 2]}
    UNet2DConditionModel.from_config(family.config["unet"] | NARROW["unet"] | narrow_unet).save_pretrained(
        folder / "unet"
    )
    AutoencoderKL.from_config(family.config["vae"] | NARROW["vae"]).save_pretrained(folder / "vae")
    for part in family.text_encoders:
        numbers = {k: v for k, v in (family.config[part] | NARROW[part]).items() if k != "model_type"}
        model = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        model(CLIPTextConfig(**numbers)).save_pretrained(folder / part)
    return folder


@pytest.fixture(scope="module", params=[SD2, SDXL], ids=["sd2", "sdxl"])
def base(request, tmp_path_factory, model_files) -> dict:
    """base.json of a small model of each family, found as a user's folder is."""
    root = tmp_path_factory.mktemp(request.param.name)
    folder = small(request.param, root / "model", model_files)
    assert diffusers_folder("model", None, [root], model_files / CLIP_VOCABULARY, root / "store") == folder
    (root / "base.json").write_text(json.dumps(manifest("model", folder, root)))
    return load_manifest(root / "base.json")


def captions(base: dict, words: list[str], clip_skip: int = 1) -> list[dict]:
    """What cache_latents keeps of captions."""
    texts = load_tokenizers(base), load_text_encoders(base)
    return [safetensors.torch.load(encoded_caption(*texts, word, clip_skip)) for word in words]


def data(base: dict) -> tuple[dict, dict]:
    """(dataset, latents) of made-up pictures and real captions."""
    dataset, made = made_up_data(width=1)
    groups = [group for group in ("images", "heldout", "regularisation") if dataset[group]]
    for group in groups:
        texts = captions(base, [item["caption"] for item in dataset[group]])
        made[group] |= {part: [text[part] for text in texts] for part in texts[0]}
    classes = captions(base, [item["class_caption"] for item in dataset["images"]])
    made["images"] |= {f"class_{part}": [text[part] for text in classes] for part in classes[0]}
    for name, words in (("empty", ""), ("bare_class", dataset["bare_class"]["caption"])):
        made[name] = {part: [tensor] for part, tensor in captions(base, [words])[0].items()}
    return dataset, made


def test_the_family_is_known_by_what_the_model_is(base):
    assert base["prediction_type"] == ("v_prediction" if base["family"] == "sd2" else "epsilon")
    parts = {name.split("/")[0] for name in base["sha256"]}
    assert ("text_encoder_2" in parts) == (base["family"] == "sdxl")


def test_captions_are_read_as_diffusers_own_pipeline_reads_them(base):
    """The pipeline that draws encodes the same words to the same numbers."""
    import diffusers

    family = {"sd2": SD2, "sdxl": SDXL}[base["family"]]
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(base["path"], local_files_only=True)
    # diffusers' clip_skip fails on the text encoders of transformers 5.6 and later, but not on SDXL's.
    for clip_skip in (1, 2) if base["family"] == "sdxl" else (1,):
        (mine,) = captions(base, ["photo of ohwx woman"], clip_skip)
        theirs = pipeline.encode_prompt(
            prompt="photo of ohwx woman",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip - 1 or None,
        )
        assert torch.allclose(mine["hidden"], theirs[0][0], atol=1e-5), clip_skip
        if base["family"] == "sdxl":
            assert torch.allclose(mine["pooled"], theirs[2][0], atol=1e-5)


@pytest.mark.parametrize("text_encoder", [False, True])
def test_a_lora_is_trained_and_diffusers_loads_its_change_of_weights(tmp_path, base, text_encoder):
    import diffusers
    from peft.tuners.tuners_utils import BaseTunerLayer

    settings = {"rank": 4, "alpha": 3, "learning_rate": 0.01, "text_encoder_lr": 0.01, "save_precision": "fp32"}
    run = trained(tmp_path, base, data(base), train_text_encoder=text_encoder, preserve_class=1.0, **settings)
    assert len(run.metrics) == 10 and all(row["loss"] > 0 for row in run.metrics)
    moved = [row["preservation"] for row in run.metrics if row["preservation"] != ""]
    assert moved[0] < 1e-9 < moved[-1], "the class is where the base model has it, until the LoRA learns"
    family = {"sd2": SD2, "sdxl": SDXL}[base["family"]]
    pipeline = getattr(diffusers, family.pipeline).from_pretrained(base["path"], local_files_only=True)
    pipeline.load_lora_weights(run.lora(2), adapter_name="lora")
    for name, layers in run.change_of_weights().items():
        loaded = {
            path: layer for path, layer in getattr(pipeline, name).named_modules() if isinstance(layer, BaseTunerLayer)
        }
        assert sorted(loaded) == sorted(layers), name
        for path, change in layers.items():
            assert torch.allclose(loaded[path].get_delta_weight("lora"), change, atol=1e-6), path
        assert max(change.abs().max() for change in layers.values()) > 1e-3, f"{name} learned nothing"


def test_sdxl_is_told_a_pictures_size_as_diffusers_pipeline_tells_it():
    from diffusers import StableDiffusionXLPipeline

    theirs = StableDiffusionXLPipeline._get_add_time_ids(
        SimpleNamespace(
            unet=SimpleNamespace(
                config=SimpleNamespace(addition_time_embed_dim=256),
                add_embedding=SimpleNamespace(linear_1=SimpleNamespace(in_features=6 * 256 + 1280)),
            )
        ),
        *((1024, 768), (0, 0), (1024, 768)),
        dtype=torch.float32,
        text_encoder_projection_dim=1280,
    )
    assert torch.equal(size_ids(1024, 768, 2, torch.device("cpu")).float(), theirs.repeat(2, 1))


def test_pictures_are_drawn(tmp_path, base):
    run = trained(tmp_path, base, data(base), learning_rate=0.01)
    sample = {"negative_prompt": "", "steps": 2, "guidance_scale": 5.0, "batch_size": 2, "clip_skip": 1}
    cells = [Cell(weight, "photo of ohwx woman", "near", 1) for weight in (0.5, 1.0)]
    pipeline = load_pipeline(base, run.lora(2), torch.device("cpu"))
    pictures = [image for _, image in draw_pictures(pipeline, cells, sample, (64, 64))]
    assert [picture.size for picture in pictures] == [(64, 64)] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_clip_skip_of_15_is_the_layer_before_through_the_last_norm(base_manifest):
    tokenizers, encoders = load_tokenizers(base_manifest), load_text_encoders(base_manifest)
    tokens = token_ids(tokenizers, "photo of ohwx woman")[None]
    with torch.no_grad():
        last, before = (conditioning(encoders, tokens, skip).hidden for skip in (1, 2))
        states = encoders[0](tokens[:, 0], output_hidden_states=True)
    assert torch.equal(last, states.last_hidden_state)
    assert not torch.allclose(last, before) and before.shape == last.shape


@pytest.mark.parametrize("family", [SD2, SDXL], ids=["sd2", "sdxl"])
def test_a_clip_skip_past_the_first_layer_says_how_many_there_are(tmp_path, model_files, family):
    """Of SD 2's three layers three can be chosen from, of SDXL's two: it begins one before the last."""
    folder = small(family, tmp_path / "model", model_files)
    (tmp_path / "base.json").write_text(json.dumps(manifest("model", folder, tmp_path)))
    base = load_manifest(tmp_path / "base.json")
    deepest = 3 if family is SD2 else 2
    read = [text["hidden"] for skip in range(1, deepest + 1) for text in captions(base, ["photo"], skip)]
    assert not any(torch.allclose(read[i], read[j]) for i in range(deepest) for j in range(i))
    with pytest.raises(LikenessError, match=f"clip_skip {deepest + 1}: .* has 3 layers; expected at most {deepest}"):
        captions(base, ["photo"], deepest + 1)


def test_every_family_is_told_apart_by_a_single_files_layers():
    from likeness.models.families import family_of_file

    for family in (SD15, SD2, SDXL):
        assert family_of_file(["model.diffusion_model.out.0.bias", family.keys["text_encoder"] + "x"]) is family
    assert family_of_file(["x"]) is None


# What tells SD 2's two kinds apart, with a spread of 0.1 and of 0.08 round a mean that does not count.
SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
WIDE, CLOSE = ({SPREAD: 0.5 + torch.tensor([share, -share] * 16).half()} for share in (0.1, 0.08))
V_PRED, ZTSNR = {"v_pred": torch.tensor([])}, {"ztsnr": torch.tensor([])}
SPEC_V, SPEC_EPSILON = ({"modelspec.prediction_type": value} for value in ("v", "epsilon"))


@pytest.mark.parametrize(
    ("family", "tensors", "metadata", "expected"),
    [
        (SD15, {}, {}, "epsilon"),
        (SD15, WIDE, {}, "epsilon"),  # the spread says something of SD 2 alone
        (SD15, V_PRED, {}, "v_prediction"),
        (SD15, {}, SPEC_V, "v_prediction"),
        (SD2, WIDE, {}, "v_prediction"),
        (SD2, CLOSE, {}, "epsilon"),
        (SD2, CLOSE, SPEC_V, "v_prediction"),
        (SD2, WIDE, SPEC_EPSILON, "epsilon"),
        (SD2, WIDE, {"modelspec.prediction_type": "of another kind"}, "v_prediction"),
        (SDXL, {}, SPEC_EPSILON, "epsilon"),
        (SDXL, V_PRED, {}, "v_prediction"),
        (SDXL, V_PRED, SPEC_EPSILON, "v_prediction"),
    ],
)
def test_a_single_file_says_what_it_predicts(tmp_path, family, tensors, metadata, expected):
    for more, zero_snr in (({}, False), (ZTSNR, expected == "v_prediction")):
        safetensors.torch.save_file({"x": torch.zeros(1)} | tensors | more, tmp_path / "single.safetensors", metadata)
        with safetensors.safe_open(tmp_path / "single.safetensors", "pt") as file:
            schedule = schedule_of_file(family, file.keys(), file.metadata() or {}, file.get_tensor)
        assert schedule["prediction_type"] == expected and schedule["rescale_betas_zero_snr"] == zero_snr
        assert schedule.get("timestep_spacing") == ("trailing" if zero_snr else None)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_header_or_two_configurations_tell_the_family(made, tmp_path, family):
    _, tensors, folder = made[family.name]
    safetensors.torch.save_file(tensors, tmp_path / "single.safetensors")
    assert family_at(folder) is family and family_at(tmp_path / "single.safetensors") is family
    with open(tmp_path / "single.safetensors", "r+b") as file:
        file.truncate(int.from_bytes(file.read(8), "little") + 8)  # the weights are still being downloaded
    assert family_at(tmp_path / "single.safetensors") is family


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"version https://git-lfs", b"\2\0\0\0\0\0\0\0[]", b"\1\0\0\0\0\0\0\x005", b"\xff" * 99]
)
def test_what_is_no_base_model_tells_no_family(tmp_path, content):
    (tmp_path / "single.safetensors").write_bytes(content)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_bytes(content)
    assert family_at(tmp_path / "single.safetensors") is None and family_at(tmp_path) is None
