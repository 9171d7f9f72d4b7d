"""Each of kohya's settings becomes what it meant; what has no place has a reason; docs/kohya.md has the same table."""

import re
from pathlib import Path
from typing import Any

import pytest

from likeness.config.sections import Config
from likeness.kohya.concepts import Concept
from likeness.kohya.conversion import Conversion
from likeness.kohya.gui_settings import sd_scripts_settings
from likeness.kohya.mapping import NO_PLACE, PLACES, SD_SCRIPTS_DEFAULTS, is_of_another_family
from likeness.kohya.new_config import converted
from likeness.kohya.project_files import Project
from project import ROOT

SUBJECTS = {"ohwx_woman": {"trigger": "ohwx", "class_noun": "woman"}}


@pytest.fixture
def of_settings(kohya):
    """The conversion of settings of sd-scripts for the project mia."""

    def convert(settings: dict[str, Any], regularisation: bool = False) -> Conversion:
        of_class = [Concept(Path("mia/reg/1_woman"), 1, "woman")] * regularisation
        concepts = [Concept(Path("mia/img/25_ohwx woman"), 25, "ohwx woman")]
        project = Project(concepts, of_class, {**SD_SCRIPTS_DEFAULTS, **settings}, (Path("."),))
        return converted(project, SUBJECTS, Path("."))

    return convert


@pytest.fixture
def of_gui(of_settings):
    return lambda gui: of_settings(sd_scripts_settings(gui))


LYCORIS = {"network_module": "lycoris.kohya", "network_dim": 16, "network_alpha": 8}
# kohya's key -> settings of sd-scripts with it, and the value that its place gets.
SINGLE: dict[str, tuple[dict[str, Any], Any]] = {
    "pretrained_model_name_or_path": ({"pretrained_model_name_or_path": "owner/model"}, "owner/model"),
    "vae": ({"vae": "mia/model"}, "mia/model"),
    "v_parameterization": ({"v_parameterization": True}, "v_prediction"),
    "clip_skip": ({"clip_skip": 2}, 2),
    "resolution": ({"resolution": "768,768"}, 768),
    "enable_bucket": ({"enable_bucket": True}, True),
    "network_module": ({"network_module": "networks.loha"}, "loha"),
    "algo": ({**LYCORIS, "network_args": ["algo=lokr", "preset=attn-mlp"]}, "lokr"),
    "dora_wd": ({**LYCORIS, "network_args": ["algo=locon", "conv_dim=0", "dora_wd=True"]}, "dora"),
    "network_dim": ({"network_dim": 16}, 16),
    "network_alpha": ({"network_dim": 16, "network_alpha": 4}, 4),
    "network_dropout": ({"network_dropout": 0.1}, 0.1),
    "conv_dim": ({"network_args": ["conv_dim=8", "conv_alpha=2"]}, 8),
    "conv_alpha": ({"network_args": ["conv_dim=8", "conv_alpha=2"]}, 2),
    "loraplus_lr_ratio": ({"network_args": ["loraplus_lr_ratio=16"]}, 16),
    "network_weights": ({"network_weights": "mia/a.safetensors"}, "mia/a.safetensors"),
    "optimizer_type": ({"optimizer_type": "lion"}, "Lion"),
    "optimizer_args": ({"optimizer_args": ["betas=.9,.99", "eps=1e-8"]}, {"betas": [0.9, 0.99], "eps": 1e-8}),
    "learning_rate": ({"learning_rate": 3e-4}, 3e-4),
    "unet_lr": ({"learning_rate": 1e-3, "unet_lr": 3e-4}, 3e-4),
    "text_encoder_lr": ({"text_encoder_lr": 2e-5}, 2e-5),
    "network_train_unet_only": ({"network_train_unet_only": True}, False),
    "lr_scheduler": ({"lr_scheduler": "linear"}, "linear"),
    "lr_scheduler_num_cycles": ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 5}, 5),
    "lr_scheduler_power": ({"lr_scheduler": "polynomial", "lr_scheduler_power": 2}, 2),
    "lr_warmup_steps": ({"lr_scheduler": "cosine", "lr_warmup_steps": 100}, 100),
    "max_train_steps": ({"max_train_steps": 900}, 900),
    "max_train_epochs": ({"max_train_epochs": 6}, 6),
    "num_repeats": ({}, 25),
    "save_every_n_epochs": ({"save_every_n_epochs": 3}, 3),
    "save_precision": ({"save_precision": "float"}, "fp32"),
    "train_batch_size": ({"train_batch_size": 3}, 3),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 4}, 4),
    "gradient_checkpointing": ({"gradient_checkpointing": True}, True),
    "mixed_precision": ({"mixed_precision": "no"}, "fp32"),
    "xformers": ({"xformers": True}, "xformers"),
    "sdpa": ({"sdpa": True}, "sdpa"),
    "torch_compile": ({"torch_compile": True}, True),
    "min_snr_gamma": ({"min_snr_gamma": 5}, 5),
    "debiased_estimation_loss": ({"debiased_estimation_loss": True}, True),
    "loss_type": ({"loss_type": "huber"}, "huber"),
    "huber_c": ({"loss_type": "huber", "huber_c": 0.2}, 0.2),
    "huber_schedule": ({"loss_type": "huber", "huber_schedule": "constant"}, "constant"),
    "masked_loss": ({"masked_loss": True}, True),
    "prior_loss_weight": ({"prior_loss_weight": 0.5}, 0.5),
    "noise_offset": ({"noise_offset": 0.05}, 0.05),
    "multires_noise_iterations": ({"multires_noise_iterations": 6}, 6),
    "multires_noise_discount": ({"multires_noise_iterations": 6, "multires_noise_discount": 0.4}, 0.4),
    "caption_dropout_rate": ({"caption_dropout_rate": 0.1}, 0.1),
    "shuffle_caption": ({"shuffle_caption": True}, True),
    "keep_tokens": ({"shuffle_caption": True, "keep_tokens": 2}, 2),
    "max_token_length": ({"max_token_length": 225}, 225),
    "flip_aug": ({"flip_aug": True}, True),
    "seed": ({"seed": 7}, 7),
    "sample_prompts": ({"sample_prompts": "ohwx woman, studio"}, ["{subject}, studio"]),
    "sample_sampler": ({"sample_sampler": "dpmsolver++"}, "DPM++ 2M"),
}
OF_GUI: dict[str, tuple[dict[str, Any], Any]] = {
    "max_resolution": ({"max_resolution": "640,640"}, 640),
    "LoRA_type": ({"LoRA_type": "Kohya LoCon", "conv_dim": 4, "conv_alpha": 1}, "locon"),
    "lora_network_weights": ({"lora_network_weights": "mia/a.safetensors"}, "mia/a.safetensors"),
    "optimizer": ({"optimizer": "Prodigy"}, "Prodigy"),
    "lr_warmup": ({"lr_warmup": 5, "max_train_steps": "1000"}, 50),
    "epoch": ({"epoch": "8"}, 8),
}
# They say where the photos are (test_import_kohya.py), or are sd-scripts' name in a dataset_config.
OF_FOLDERS = {"train_data_dir", "image_dir", "class_tokens", "reg_data_dir", "batch_size"}


@pytest.mark.parametrize("key", SINGLE)
def test_a_setting_gets_its_place(of_settings, key):
    settings, value = SINGLE[key]
    conversion = of_settings(settings)
    assert conversion.config[PLACES[key]] == value
    assert conversion.without_place == {}


@pytest.mark.parametrize("key", OF_GUI)
def test_a_setting_of_the_gui_gets_its_place(of_gui, key):
    settings, value = OF_GUI[key]
    assert of_gui(settings).config[PLACES[key]] == value


def test_every_place_is_tried_and_is_there():
    assert {*SINGLE, *OF_GUI} | OF_FOLDERS == set(PLACES)
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for path in PLACES.values():
        section, _, key = path.replace("subjects.{name}", "subjects").rpartition(".")
        assert section == "subjects" or key in (sections[section].model_fields if section else sections), path


@pytest.mark.parametrize("key", sorted(NO_PLACE))
def test_what_has_no_place_is_reported_with_its_reason_if_it_does_something(of_settings, key):
    assert of_settings({key: "something"}).without_place == {key: NO_PLACE[key].reason}
    for nothing in ("", None, False, 0, "0", *NO_PLACE[key].without_effect):
        assert of_settings({key: nothing}).without_place == {}


def test_no_key_is_lost(of_settings):
    """Every key of kohya's programs is in one table only, and an unknown one is named."""
    assert not set(PLACES) & set(NO_PLACE)
    assert not [key for key in {*PLACES, *NO_PLACE} if is_of_another_family(key)]
    assert of_settings({"brand_new": False}).without_place == {"brand_new": "unknown; found False"}
    assert of_settings({"optimizer": "Lion", "epoch": 3}).without_place == {
        "optimizer": "sd-scripts does not read it here",
        "epoch": "sd-scripts does not read it here",
    }


@pytest.mark.parametrize(
    ("settings", "expected", "said"),
    [
        ({"network_dim": 8, "network_alpha": 16}, {"train.alpha": 8}, "network_alpha 16 is above the rank 8"),
        ({"network_dim": 8, "network_alpha": 0}, {"train.alpha": 8}, ""),
        ({"network_module": "networks.dylora"}, {"train.network": "lora"}, "networks.dylora is not a network of this"),
        ({**LYCORIS, "network_args": ["algo=ia3"]}, {"train.network": "lora"}, "lycoris.kohya ia3 is not a network"),
        (
            LYCORIS,
            {"train.network": "locon", "train.conv_rank": 16, "train.conv_alpha": 8},
            "preset 'full' also adapts",
        ),
        ({**LYCORIS, "network_args": ["preset=attn-only"]}, {"train.network": "lora", "train.layers": "attention"}, ""),
        ({"resolution": [512, 768]}, {"resolution": 624}, "resolution [512, 768]: one side here"),
        ({"resolution": 500}, {"resolution": 496}, "496 is written"),
        ({"optimizer_type": "PagedAdamW8bit"}, {"train.optimizer": "AdamW8bit"}, "its states stay in the GPU's memory"),
        ({"optimizer_type": "CAME"}, {"train.optimizer": "AdamW"}, "CAME is not one of this workflow"),
        ({"optimizer_type": "", "use_8bit_adam": True}, {"train.optimizer": "AdamW8bit"}, ""),
        ({"optimizer_type": "DAdaptAdam"}, {"train.optimizer_args": {"decouple": False}}, ""),
        (
            {"optimizer_type": "Adafactor", "lr_scheduler": "cosine", "lr_warmup_steps": 9},
            {"train.lr_scheduler": "constant", "train.lr_warmup_steps": 0},
            "relative_step is a schedule itself, in kohya too",
        ),
        (
            {"optimizer_type": "Prodigy", "unet_lr": 1, "text_encoder_lr": 0.5},
            {"train.learning_rate": 1, "train.text_encoder_lr": 1},
            "one step size for all, in kohya too",
        ),
        ({"text_encoder_lr": [1e-5, 2e-5]}, {"train.text_encoder_lr": 1e-5}, "the text encoders have one rate here"),
        ({"text_encoder_lr": 0}, {"train.train_text_encoder": False}, ""),
        ({"lr_warmup_steps": 9}, {"train.lr_scheduler": "constant_with_warmup"}, "constant has no warm-up"),
        ({"lr_scheduler": "inverse_sqrt"}, {"train.lr_scheduler": "constant"}, "'inverse_sqrt' is not supported"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0.1}, {"train.lr_warmup_steps": 160}, "from kohya's 1600 steps"),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": "5%"}, {"train.lr_warmup_steps": 80}, "from kohya's 1600 steps"),
        ({"max_train_epochs": 3, "max_train_steps": 9}, {"train.epochs": 3}, "3 epochs of 25 repeats have fewer steps"),
        ({"loss_type": "l1"}, {}, "loss_type 'l1' is not supported; train.loss: l2"),
        ({"masked_loss": True}, {"train.masked_loss": True}, "here the head is the mask"),
        ({}, {"train.learning_rate": 2e-6, "train.max_train_steps": 1600, "train.rank": 4, "train.alpha": 1}, ""),
    ],
)
def test_another_meaning_is_converted_and_said(of_settings, settings, expected, said):
    conversion = of_settings(settings)
    assert {path: conversion.config[path] for path in expected} == expected
    assert "train.max_train_steps" not in conversion.config or "train.epochs" not in conversion.config
    assert said in "\n".join(conversion.inexact)


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        ({"optimizer_args": ["amsgrad=True"]}, "optimizer_args amsgrad", "AdamW has no such argument here"),
        ({"optimizer_type": "CAME", "optimizer_args": ["a=1"]}, "optimizer_args", "they are for CAME"),
        (
            {"network_module": "networks.lokr", "network_args": ["conv_dim=4"]},
            "conv_dim",
            "with network: locon, not with",
        ),
        ({**LYCORIS, "network_args": ["algo=loha", "dora_wd=True"]}, "dora_wd", "network: dora, not with loha"),
        ({"network_args": ["rank_dropout=0.1"]}, "rank_dropout", "not supported for the networks"),
        ({"network_dim": 100000}, "network_dim", "train.rank cannot have"),
        ({"unet_lr": 0}, "unet_lr", "here the U-Net is always trained"),
        ({"sdxl": True, "clip_skip": 2}, "clip_skip", "kohya ignores it for SDXL"),
        (
            {"min_snr_gamma": 5, "debiased_estimation_loss": True},
            "debiased_estimation_loss",
            "two weights for one thing",
        ),
        ({"sample_sampler": "heun"}, "sample_sampler", "is not one of this workflow"),
        ({"sample_prompts": "prompts.txt"}, "sample_prompts", "no such file"),
        ({"sample_prompts": "ohwx --s 20\nohwx man --s 30"}, "sample_prompts --s", "is the same for all prompts"),
        ({"seed": -1}, "seed", "train.seed cannot have -1: input should be greater than or equal to 0"),
    ],
)
def test_a_value_without_a_place_has_a_reason(of_settings, settings, key, reason):
    assert reason in of_settings(settings).without_place[key]


@pytest.mark.parametrize(
    ("gui", "expected"),
    [
        ({"text_encoder_lr": 0, "unet_lr": "1e-4"}, {"train.train_text_encoder": False, "train.learning_rate": 1e-4}),
        ({"text_encoder_lr": 0, "unet_lr": 0, "learning_rate": 3e-4}, {"train.text_encoder_lr": 3e-4}),
        ({"max_train_steps": 500, "epoch": 4}, {"train.max_train_steps": 500, "train.lr_warmup_steps": 50}),
        ({"lr_warmup": 10, "lr_warmup_steps": 7}, {"train.lr_warmup_steps": 7}),
        ({"xformers": True}, {"train.attention": "xformers"}),
        ({"xformers": "sdpa"}, {"train.attention": "sdpa"}),
        ({"dynamo_backend": "inductor"}, {"train.compile": True}),
        (
            {"noise_offset_type": "Multires", "noise_offset": 0.1, "multires_noise_iterations": 6},
            {"train.multires_noise_iterations": 6},
        ),
        ({"additional_parameters": "--min_snr_gamma=5 --optimizer_args weight_decay=0.2"}, {"train.min_snr_gamma": 5}),
        ({"LoRA_type": "LyCORIS/LoCon", "conv_dim": 0, "dora_wd": True}, {"train.network": "dora"}),
        ({"LoRA_type": "Standard", "conv_dim": 8}, {"train.network": "lora"}),
        ({"LoRA_type": "LyCORIS/LoKr", "network_dim": 8}, {"train.network": "lokr", "train.rank": 8}),
        ({"lr_scheduler": "cosine_with_restarts", "epoch": 4}, {"train.lr_scheduler_num_cycles": 4}),
    ],
)
def test_the_guis_values_are_what_it_hands_to_sd_scripts(of_gui, gui, expected):
    config = of_gui(gui).config
    assert {path: config[path] for path in expected} == expected
    assert "train.noise_offset" not in config


def test_prompts_of_a_file_are_read(of_settings, kohya):
    (kohya / "prompts.txt").write_text("# a comment\nphoto of Ohwx Woman --n blurry, dark --l 6.5\n\n")
    config = of_settings({"sample_prompts": "prompts.txt"}).config
    assert config["sample.prompts"] == ["photo of {subject}"]
    assert (config["sample.negative_prompt"], config["sample.guidance_scale"]) == ("blurry, dark", 6.5)


def documented() -> dict[str, str]:
    """Kohya's names in the first table of docs/kohya.md, with the second cells of their rows."""
    table = (ROOT / "docs/kohya.md").read_text().split("\n## ")[0]
    cells: dict[str, str] = {}
    for row in (line.split(" | ") for line in table.splitlines() if line.startswith("| `")):
        for name in re.findall(r"`(\w+)`", row[0]):
            cells[name] = cells.get(name, "") + row[1]
    return cells


def test_the_documents_table_is_the_programs():
    table = documented()
    assert set(PLACES) - set(table) == set(), "in the program alone"
    assert set(table) - {*PLACES, *NO_PLACE} == set(), "in docs/kohya.md alone"
    for key, path in PLACES.items():
        name = path.rpartition(".")[2]
        assert re.search(rf"\b{name}\b", table[key]) or (name == key and "the same" in table[key]), key
