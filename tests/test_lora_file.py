"""The LoRA file is the one that kohya's readers know: the names, the alpha, and the change of weights in training."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from likeness.errors import LikenessError
from likeness.families import SD15
from likeness.lora_file import lora_bytes, text_encoder_modules, unet_modules
from likeness.tensors import read_metadata, with_metadata
from trained_run import trained

TABLE = (Path(__file__).parent / "data/kohya_sd15_modules.txt").read_text().split()


def test_sd15_has_kohyas_192_and_72_modules():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(SD15.config["unet"])
    modules = unet_modules(unet.config)
    assert len(modules) == 192
    layers = dict(unet.named_modules())
    assert all(isinstance(layers[m.path], torch.nn.Linear | torch.nn.Conv2d) for m in modules)
    text = text_encoder_modules(12, "")
    assert len(text) == 72
    assert sorted(m.key for m in modules + text) == TABLE


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
