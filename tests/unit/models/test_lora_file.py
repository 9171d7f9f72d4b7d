"""The LoRA file is the one that kohya's readers know: the names, the alpha, and the change of weights in training."""

import numpy as np
import pytest
import safetensors.torch
import torch

from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS
from likeness.core.tensors import read_metadata, with_metadata
from likeness.models.families import SD15, SDXL
from likeness.models.lora_file import lora_bytes, text_encoder_modules, unet_modules
from trained_run import trained

DATA = SCRIPTS.parent / "tests/data"


def layers_of(config: dict) -> dict[str, torch.nn.Module]:
    """Those of a U-Net in full size, without its numbers."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return dict(UNet2DConditionModel.from_config(config).named_modules())


def test_sd15_has_kohyas_192_and_72_modules():
    modules, layers = unet_modules(SD15.config["unet"]), layers_of(SD15.config["unet"])
    assert len(modules) == 192
    assert all(isinstance(layers[m.path], torch.nn.Linear | torch.nn.Conv2d) for m in modules)
    text = text_encoder_modules(12, "")
    assert len(text) == 72
    assert sorted(m.key for m in modules + text) == (DATA / "kohya_sd15_modules.txt").read_text().split()


def test_sdxl_has_kohyas_722_modules_under_their_compvis_names_and_two_text_encoders():
    modules, layers = unet_modules(SDXL.config["unet"]), layers_of(SDXL.config["unet"])
    assert len(modules) == 722
    assert all(isinstance(layers[m.path], torch.nn.Linear | torch.nn.Conv2d) for m in modules)
    text = [*text_encoder_modules(12, "", "lora_te1"), *text_encoder_modules(32, "", "lora_te2")]
    assert sorted(m.key for m in modules + text) == (DATA / "kohya_sdxl_modules.txt").read_text().split()


def test_text_encoder_keys_are_the_same_before_and_after_transformers_flattened_the_model():
    old, new = text_encoder_modules(12, "text_model."), text_encoder_modules(12, "")
    assert [m.key for m in old] == [m.key for m in new]
    assert old[0].path == "text_model." + new[0].path


def test_another_architecture_is_refused():
    with pytest.raises(LikenessError, match="not of Stable Diffusion's kind"):
        unet_modules({"layers_per_block": 2, "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]})


def test_bytes_depend_on_content_alone():
    tensors = {"lora_unet_x.lora_down.weight": torch.ones(2, 3), "lora_unet_x.lora_up.weight": torch.ones(3, 2)}
    about = {f"ss_{n}": str(n) for n in range(20)}
    files = {with_metadata(lora_bytes(tensors, "fp16"), about) for _ in range(20)}
    assert len(files) == 1
    assert read_metadata(files.pop()) == about


def test_alpha_is_written_for_every_layer(tmp_path, base_manifest):
    tensors = safetensors.torch.load_file(trained(tmp_path, base_manifest, rank=4, alpha=3).lora(2))
    modules = {key.partition(".")[0] for key in tensors}
    assert sorted(tensors) == sorted(
        f"{module}.{name}" for module in modules for name in ("alpha", "lora_down.weight", "lora_up.weight")
    )
    assert {tensors[f"{module}.alpha"].item() for module in modules} == {3.0}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_alpha_is_exact_in_every_precision_and_a_training_goes_on_from_its_file(tmp_path, base_manifest, precision):
    settings = {"rank": 5, "alpha": 4.05, "save_precision": precision}
    first = trained(tmp_path / "first", base_manifest, **settings).lora(2)
    alphas = {float(tensor) for key, tensor in safetensors.torch.load_file(first).items() if key.endswith(".alpha")}
    assert list(alphas) == [pytest.approx(4.05, rel=1e-7)]
    assert trained(tmp_path / "second", base_manifest, weights=first, **settings).done


@pytest.mark.parametrize("network", ["lora", "locon"])
def test_diffusers_draws_with_the_file_what_the_model_in_training_draws(tmp_path, base_manifest, network):
    from diffusers import StableDiffusionPipeline

    settings = {"rank": 4, "alpha": 3, "learning_rate": 0.02, "text_encoder_lr": 0.02, "save_precision": "fp32"}
    run = trained(tmp_path, base_manifest, network=network, train_text_encoder=True, **settings)

    def picture(changed) -> np.ndarray:
        pipeline = StableDiffusionPipeline.from_pretrained(
            base_manifest["path"], safety_checker=None, local_files_only=True
        )
        changed(pipeline)
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(1)
        return pipeline(
            "photo of ohwx woman", height=64, width=64, num_inference_steps=3, generator=noise, output_type="np"
        ).images[0]

    def in_training(pipeline) -> None:
        pipeline.unet = run.networks["unet"].model.eval()
        pipeline.text_encoder = run.networks["text_encoder"].model.eval()

    by_training, by_file = picture(in_training), picture(lambda pipeline: pipeline.load_lora_weights(run.lora(2)))
    assert np.abs(by_training - by_file).max() < 1e-4
    assert np.abs(by_training - picture(lambda pipeline: None)).max() > 0.01, "the LoRA changes nothing"


@pytest.mark.parametrize("text_encoder", [False, True])
def test_diffusers_loads_the_change_of_weights_that_training_had(tmp_path, base_manifest, text_encoder):
    """Through `load_lora_weights`, as any user does: no key missing, none unexpected, the same weights."""
    from diffusers import StableDiffusionPipeline
    from peft.tuners.tuners_utils import BaseTunerLayer

    run = trained(
        tmp_path,
        base_manifest,
        rank=4,
        alpha=3,
        learning_rate=0.01,
        text_encoder_lr=0.01,
        train_text_encoder=text_encoder,
        save_precision="fp32",
    )
    pipeline = StableDiffusionPipeline.from_pretrained(
        base_manifest["path"], safety_checker=None, local_files_only=True
    )
    pipeline.load_lora_weights(run.lora(2), adapter_name="lora")
    loaded = {
        name: {path: layer for path, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
        for name, model in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder))
    }
    assert bool(loaded["text_encoder"]) == text_encoder
    trained_layers = run.change_of_weights()
    assert {name: sorted(layers) for name, layers in loaded.items() if layers} == {
        name: sorted(layers) for name, layers in trained_layers.items()
    }
    for name, layers in trained_layers.items():
        for path, change in layers.items():
            again = loaded[name][path].get_delta_weight("lora")
            assert torch.allclose(again, change, atol=1e-6), path
        assert max(change.abs().max() for change in layers.values()) > 1e-3, "nothing was learned"
