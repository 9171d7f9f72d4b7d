"""What a right configuration is warned about before the first job."""

import copy
import json
from pathlib import Path

import pytest

from likeness.config.advice import CONDITIONS, advice, hours_on_cpu, known_triggers, without_effect
from likeness.config.checks import checked_config
from project import CONFIG, ROOT


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "small_base").mkdir()
    return [tmp_path, ROOT]


def written(key: str, value) -> dict:
    """What a configuration says with one key, by its path."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def merged(first: dict, second: dict) -> dict:
    both = {
        key: merged(first[key], second[key]) for key in first.keys() & second.keys() if isinstance(first[key], dict)
    }
    return first | second | both


# Every key of docs/config.md that does nothing unless another is set: what makes it so, and what gives it its effect.
PAIRS = [
    ("train.conv_rank", 4, {"train": {"network": "dora"}}, {"train": {"network": "locon"}}),
    ("train.conv_alpha", 2, {}, {"train": {"network": "locon"}}),
    ("train.text_encoder_lr", 1e-5, {}, {"train": {"train_text_encoder": True}}),
    (
        "train.lr_scheduler_num_cycles",
        2,
        {"train": {"lr_scheduler": "cosine"}},
        {"train": {"lr_scheduler": "cosine_with_restarts"}},
    ),
    ("train.lr_scheduler_power", 2, {}, {"train": {"lr_scheduler": "polynomial"}}),
    ("train.huber_c", 0.2, {}, {"train": {"loss": "huber"}}),
    ("train.huber_schedule", "snr", {}, {"train": {"loss": "huber"}}),
    ("train.preserve_class_share", 0.2, {"train": {"preserve_class": 0}}, {"train": {"preserve_class": 1}}),
    ("train.multires_noise_discount", 0.2, {}, {"train": {"multires_noise_iterations": 4}}),
    ("train.multires_noise_iterations", 1, {}, {"train": {"multires_noise_iterations": 2}}),
    ("train.keep_tokens", 2, {}, {"train": {"shuffle_caption": True}}),
    ("train.prior_loss_weight", 2, {}, {"subjects": {"ava": {"regularisation": "generate"}}}),
    ("sample.negative_prompt", "blurry", {"sample": {"guidance_scale": 1}}, {"sample": {"guidance_scale": 2}}),
    ("base_revision", "main", {}, {"base_model": "somebody/sd15"}),
    ("sample.base_revision", "main", {}, {"sample": {"base_model": "somebody/finetune"}}),
    ("caption.model", "small_base", {}, {"caption": {"backend": "blip"}}),
    (
        "caption.identity_words",
        "resources/identity_words.txt",
        {"train": {"preserve_class": 0}},
        {"subjects": {"ava": {"regularisation": "generate"}}},
    ),
    ("train.lr_scheduler", "constant_with_warmup", {}, {"train": {"lr_warmup_steps": 2}}),
    ("train.deterministic", True, {"train": {"device": "cpu"}}, {"train": {"device": "auto"}}),
    *[
        (f"select.{key}", value, {}, {"sample": {"seeds": [1, 2]}})
        for key, value in {"bootstrap": 500, "confidence": 0.9, "seed": 3}.items()
    ],
]
ADAFACTOR = {"optimizer": "Adafactor", "lr_scheduler": "constant"}
FREE = {"optimizer_args": {"relative_step": False}}
PAIRS += [
    ("train.learning_rate", 0.01, {"train": ADAFACTOR}, {"train": FREE}),
    (
        "train.text_encoder_lr",
        0.01,
        {"train": ADAFACTOR | {"train_text_encoder": True}},
        {"train": FREE},
    ),
    (
        "train.optimizer_args.decouple",
        False,
        {"train": {"optimizer": "Prodigy", "learning_rate": 1}},
        {"train": {"optimizer_args": {"weight_decay": 0.1}}},
    ),
    (
        "train.optimizer_args.decoupled_weight_decay",
        True,
        {"train": {"optimizer": "Lion"}},
        {"train": {"optimizer_args": {"weight_decay": 0.1}}},
    ),
]


def said(config: dict, roots: list[Path]) -> list[str]:
    checked = checked_config(copy.deepcopy(config), roots)
    return without_effect(config, checked | {"models_here": ["small_base"]})


@pytest.mark.parametrize(("key", "value", "without", "needed"), PAIRS)
def test_a_setting_without_effect_is_said_and_one_with_it_is_not(roots, key, value, without, needed):
    alone = merged(merged(CONFIG, written(key, value)), without)
    (sentence,) = said(alone, roots)
    assert sentence == f"{key} has no effect without {CONDITIONS[key][0]}"
    assert said(merged(alone, needed), roots) == []


def test_every_pair_is_in_the_table():
    assert {key for key, *_ in PAIRS} == set(CONDITIONS)


def test_an_effect_in_one_run_is_enough(roots):
    runs = {"plain": {}, "huber": {"train": {"loss": "huber"}}, "empty": None}
    assert said(CONFIG | {"runs": runs, "train": {"huber_c": 0.2}}, roots) == []
    assert said(CONFIG | {"runs": runs | {"plain": {"train": {"huber_c": 0.2}}}, "train": None}, roots) == [
        "train.huber_c has no effect without loss: huber"
    ]


def test_pictures_of_others_that_nobody_draws_are_said(roots):
    config = merged(CONFIG, {"subjects": {"ava": {"regularisation_images": 40}}})
    assert said(config, roots) == ["subjects.ava.regularisation_images has no effect without regularisation: generate"]
    assert said(merged(config, {"subjects": {"ava": {"regularisation": "generate"}}}), roots) == []


@pytest.mark.parametrize("trigger", ["emma", "Emma", "beautiful", "my_cat", "taylor-swift", "person1"])
def test_a_trigger_that_the_base_model_knows_is_said(trigger):
    (sentence,) = known_triggers({"ava": CONFIG["subjects"]["ava"] | {"trigger": trigger}}, [ROOT])
    assert sentence.startswith(f"subjects.ava.trigger: the base model knows {trigger!r} as something else")


def test_the_persons_name_as_a_trigger_is_said():
    named = CONFIG["subjects"]["ava"] | {"trigger": "xiuyingli", "photos": "photos/Xiuying Li"}
    for subjects in ({"first": named}, {"xiuying_li": named | {"photos": "photos"}}):
        (sentence,) = known_triggers(subjects, [ROOT])
        assert "'xiuyingli' is the subject's name" in sentence


def test_a_captioner_that_no_photo_needs_is_said(roots):
    config = checked_config(CONFIG | {"caption": {"backend": "blip"}}, roots)
    assert advice({}, config, roots, None) == []
    (roots[0] / "photos/a.txt").touch()
    assert advice({}, config, roots, None) == [
        "caption.backend: every photo has a caption beside it, so blip writes none"
    ]
    assert advice({}, checked_config(CONFIG, roots), roots, None) == []


def test_signs_and_digits_are_nobodys_name():
    subject = CONFIG["subjects"]["ava"] | {"trigger": "777", "photos": "photos/2024"}
    assert known_triggers({"1": subject}, [ROOT]) == []


@pytest.mark.parametrize("trigger", ["ohwx", "sks", "zwx", "p3rs0n", "ohwx_woman", "xyzzy", "жжж"])
def test_a_rare_word_is_not_said(trigger):
    assert known_triggers({"mia": CONFIG["subjects"]["ava"] | {"trigger": trigger}}, [ROOT]) == []


def test_hours_on_a_cpu_follow_from_what_one_picture_takes(roots):
    """By hand: 1000 steps of 2 pictures take 18 core seconds each; 3 prompts at 2 weights and 2 seeds for 5 epochs, and
    once without a LoRA, in 25 steps of 14."""
    config = merged(
        CONFIG,
        {
            **{"base_model": "somebody/sd15", "resolution": 512},
            "train": {"max_train_steps": 1000, "batch_size": 2, "epochs": 5},
            "sample": {
                **{"prompts": ["{subject}", "a {subject}"], "weights": [0.5, 1.0], "seeds": [1, 2], "steps": 25},
            },
        },
    )
    checked = checked_config(config, roots)
    hours = (1000 * 2 * 18 + 3 * 2 * (1 + 2 * 5) * 25 * 14) / 3600
    assert hours_on_cpu(checked, roots, 4) == pytest.approx(hours / 4)
    assert hours_on_cpu(checked | {"resolution": 256}, roots, 4) == pytest.approx(hours / 16)
    assert hours_on_cpu(checked_config(config | {"base_model": "small_base"}, roots), roots, 4) == 0


def test_the_demonstration_is_small_and_a_file_of_stable_diffusion_is_not(roots):
    import yaml

    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    checked = checked_config(config, [ROOT])
    assert (
        hours_on_cpu(checked, [ROOT], 1) == 0
        and without_effect(config, checked | {"models_here": ["resources/base"]}) == []
    )
    with open(roots[0] / "sd15.safetensors", "wb") as file:
        file.truncate(2 * 10**9)  # takes no space
    of_file = checked_config(config | {"base_model": "sd15.safetensors"}, [ROOT, *roots])
    assert hours_on_cpu(of_file, roots, 1) > 0.1
    json.dumps(checked)
