"""What a LoRA file says about itself is what A1111, kohya and Stability's modelspec look for, and no time."""

import hashlib
import json

import pytest

from likeness.core.tensors import read_metadata, with_metadata
from likeness.models.lora_file import lora_bytes
from likeness.training.metadata import lora_metadata
from likeness.training.schedule import schedule, sizes
from trained_run import made_up_data, short_settings

BASE = {"model": "some/model", "family": "sd15", "prediction_type": "epsilon", "digest": "abc"}


def about(base: dict | None = None, dataset: dict | None = None, **changes) -> dict[str, str]:
    settings, dataset = short_settings(**changes), dataset or made_up_data(8)[0]
    steps = schedule(settings, *sizes(dataset))
    return lora_metadata("ava_portrait", settings, steps, dataset, BASE | (base or {}))


def test_kohyas_keys_say_how_it_was_trained():
    found = about(rank=4, alpha=3.5, optimizer="Lion", learning_rate=5e-5, precision="bf16")
    expected = {
        **{"ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "3.5"},
        **{"ss_optimizer": "Lion", "ss_unet_lr": "5e-05", "ss_text_encoder_lr": "None", "ss_mixed_precision": "bf16"},
        **{"ss_num_epochs": "2", "ss_max_train_steps": "10", "ss_resolution": "(64, 64)", "ss_clip_skip": "1"},
        **{"ss_max_token_length": "None"},
    }
    assert {key: found[key] for key in expected} == expected
    assert about(max_token_length=150)["ss_max_token_length"] == "150"
    assert all(isinstance(value, str) for value in found.values()), "safetensors takes nothing else"


@pytest.mark.parametrize(
    ("base", "version", "v2", "architecture", "prediction"),
    [
        ({}, "sd_v1", "False", "stable-diffusion-v1/lora", "epsilon"),
        ({"family": "sd2"}, "sd_v2", "True", "stable-diffusion-v2-512/lora", "epsilon"),
        (
            {"family": "sd2", "prediction_type": "v_prediction"},
            *("sd_v2", "True", "stable-diffusion-v2-768-v/lora", "v"),
        ),
        ({"family": "sdxl"}, "sdxl_base_v1-0", "False", "stable-diffusion-xl-v1-base/lora", "epsilon"),
    ],
)
def test_readers_tell_the_families_apart(base, version, v2, architecture, prediction):
    """A1111: ss_base_model_version beginning with sdxl_ is SDXL, else ss_v2 "True" is SD 2, else SD 1."""
    found = about(base)
    assert (found["ss_base_model_version"], found["ss_v2"]) == (version, v2)
    assert (found["modelspec.architecture"], found["modelspec.prediction_type"]) == (architecture, prediction)
    assert {"modelspec.sai_model_spec", "modelspec.implementation", "modelspec.title"} <= set(found), "must be there"


def test_a1111_counts_the_words_of_the_captions():
    folders = json.loads(about()["ss_tag_frequency"])
    assert folders["1_ohwx woman"]["ohwx woman"] == 5 and folders["1_ohwx woman"]["word 3"] == 1


def test_hashes_follow_what_was_trained_on_and_nothing_tells_the_time():
    dataset, _ = made_up_data(8)
    found = about()
    dataset["images"][2]["caption_sha256"] = "another"
    assert about(dataset=dataset)["likeness.dataset"] != found["likeness.dataset"] == about()["likeness.dataset"]
    assert about({"digest": "other"})["likeness.base_model"] != found["likeness.base_model"]
    assert not [key for key in found if "started" in key or "finished" in key or "date" in key]


def test_the_models_hash_is_that_of_the_tensors_whatever_the_file_says():
    """As A1111 computes it: sha256 of all that follows the header, whose length is the first eight bytes."""
    import torch

    tensors = {"lora_unet_x.lora_down.weight": torch.ones(2, 3), "lora_unet_x.alpha": torch.tensor(2.0)}
    data = lora_bytes(tensors, "fp16")
    named = with_metadata(data, read_metadata(data) | about())
    header = int.from_bytes(named[:8], "little")
    assert read_metadata(named)["sshs_model_hash"] == hashlib.sha256(named[8 + header :]).hexdigest()
