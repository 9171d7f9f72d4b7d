"""A project of kohya's becomes a config.yaml: whole, checked, with nothing overwritten and nothing lost in silence."""

import hashlib
import json
import subprocess
import sys

import pytest
import yaml

from kohya_project import GUI, SD_SCRIPTS, concept
from likeness.config.advice import advice
from likeness.config.checks import checked_config
from likeness.core.provenance import SCRIPTS
from project import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, str(SCRIPTS / "import_kohya.py")]
    return subprocess.run([*program, *arguments], capture_output=True, text=True)


def imported(*arguments: str) -> tuple[dict, str]:
    """The config.yaml that is written, and what is printed."""
    done = run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    with open("config.yaml") as file:
        return yaml.safe_load(file), done.stdout


def checked(raw: dict, folder) -> dict:
    config = checked_config(raw, [folder, ROOT])
    assert [line for line in advice(raw, config, [folder, ROOT], cores=None) if "without effect" in line] == []
    return config


@pytest.mark.parametrize("source", ["mia", "mia/img", "mia/img/25_ohwx woman"])
def test_folders_say_who_it_is(kohya, source):
    raw, said = imported(source, "--consent", "written")
    subject = checked(raw, kohya)["subjects"]["ohwx_woman"]
    assert (subject["trigger"], subject["class_noun"], subject["consent"]) == ("ohwx", "woman", "written")
    assert raw["subjects"]["ohwx_woman"]["photos"] == "mia/img/25_ohwx woman"
    assert raw["train"] == {"repeats": 25}
    assert raw["subjects"]["ohwx_woman"].get("regularisation") == (None if "25" in source else "mia/reg/1_woman")
    assert "base_model: kohya's files do not say it" in said


def test_consent_is_never_guessed(kohya):
    raw, said = imported("mia")
    assert raw["subjects"]["ohwx_woman"]["consent"] is None
    assert "subjects.ohwx_woman.consent: missing; a LoRA is a likeness of a real person" in said
    with pytest.raises(Exception, match=r"ohwx_woman\.consent: missing"):
        checked_config(raw, [kohya, ROOT])


def test_photos_stay_as_they_were_and_paths_outside_are_whole(kohya):
    def content() -> dict:
        return {path: hashlib.sha256(path.read_bytes()).digest() for path in kohya.rglob("*.*") if path.is_file()}

    before = content()
    (kohya / "work").mkdir()
    done = run("mia", "--out", "work/config.yaml", "--consent", "self")
    assert done.returncode == 0
    raw = yaml.safe_load((kohya / "work/config.yaml").read_text())
    assert raw["subjects"]["ohwx_woman"]["photos"] == str(kohya / "mia/img/25_ohwx woman")
    checked(raw, kohya / "work")
    assert {path: data for path, data in content().items() if path in before} == before
    assert set(content()) - set(before) == {kohya / "work/config.yaml"}


def test_no_file_is_overwritten(kohya):
    (kohya / "config.yaml").write_text("mine")
    done = run("mia")
    assert done.returncode == 1 and done.stdout.count("\n") <= 1
    assert (
        "config.yaml exists, and no file is overwritten; rename it, or write another one: --out mine.yaml"
        in done.stdout
    )
    assert (kohya / "config.yaml").read_text() == "mine"
    (kohya / "link.yaml").symlink_to("nowhere")
    assert run("mia", "--out", "link.yaml").returncode == 1 and not (kohya / "nowhere").exists()
    assert "no folder 'there'" in run("mia", "--out", "there/config.yaml").stdout


def test_several_concepts_are_several_subjects(kohya):
    concept(kohya / "mia/img/25_sks man")
    concept(kohya / "mia/reg/2_man")
    concept(kohya / "mia/img/not a concept")
    raw, said = imported("mia", "--consent", "synthetic")
    assert set(checked(raw, kohya)["subjects"]) == {"ohwx_woman", "sks_man"}
    assert raw["subjects"]["sks_man"]["regularisation"] == "mia/reg/2_man"
    assert raw["subjects"]["ohwx_woman"]["regularisation"] == "mia/reg/1_woman"
    assert "each is a subject with a LoRA of its own" in said


def test_concepts_with_different_repeats_are_refused(kohya):
    concept(kohya / "mia/img/10_sks man")
    assert "different repeats (10_sks man, 25_ohwx woman), and train.repeats is one number" in run("mia").stdout
    assert not (kohya / "config.yaml").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        *[("25_clip logs", "clip_logs"), ("25_models", "models_2"), ("25_Zoë frau", "Zoe_frau"), ("25_花", "subject")],
        *[("25", "25"), ("25_ohwx, woman", "ohwx_woman"), ("025_a/b".replace("/", "."), "a_b")],
    ],
)
def test_names_of_subjects_are_safe(kohya, folder, name):
    (kohya / "mia/img/25_ohwx woman").rename(kohya / "mia/img" / folder)
    raw, said = imported("mia/img", "--consent", "self")
    assert list(raw["subjects"]) == [name]
    if " " not in folder:
        assert f"subjects.{name}.trigger: missing" in said and f"subjects.{name}.class_noun: missing" in said
    else:
        checked(raw, kohya)


def test_a_json_of_the_gui_is_a_whole_configuration(kohya):
    (kohya / "mia.json").write_text(json.dumps(GUI))
    raw, said = imported("mia.json", "--consent", "self")
    config = checked(raw, kohya)
    train = config["runs"]["portrait"]["train"]
    expected = {
        **{"network": "lora", "rank": 32, "alpha": 16, "optimizer": "AdamW8bit", "learning_rate": 1e-4, "epochs": 10},
        **{"optimizer_args": {"weight_decay": 0.05, "betas": [0.9, 0.99]}, "train_text_encoder": True, "repeats": 25},
        **{"text_encoder_lr": 5e-5, "lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3},
        # 4 photos x 25 x 10 epochs x 2 for regularisation / batch of 2 x accumulation of 2 are 500 steps.
        **{"lr_warmup_steps": 50, "batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": None},
        **{"precision": "fp16", "save_precision": "fp16", "attention": "xformers", "gradient_checkpointing": True},
        **{"min_snr_gamma": 5, "noise_offset": 0.05, "shuffle_caption": True, "keep_tokens": 1, "seed": 1234},
        **{"caption_dropout_rate": 0.1, "max_token_length": 150, "save_every_n_epochs": 2, "loss": "l2"},
    }
    assert {key: train[key] for key in expected} == expected
    assert (config["resolution"], config["buckets"], config["clip_skip"]) == (768, True, 2)
    assert config["base_model"] == "runwayml/stable-diffusion-v1-5"
    sample = config["runs"]["portrait"]["sample"]
    assert sample["prompts"] == ["photo of {subject}, smiling", "{subject} in a park"]
    assert (sample["negative_prompt"], sample["steps"], sample["sampler"]) == ("blurry", 28, "Euler a")
    for key in ("scale_weight_norms: not supported", "adaptive_noise_scale: not supported", "my_own_key: unknown"):
        assert key in said
    assert "sample_prompts 'a dog': does not name a subject" in said and "flux1_t5xxl and" in said


def test_what_the_checks_refuse_is_said_and_written_as_it_was(kohya):
    (kohya / "mia.json").write_text(json.dumps(GUI | {"optimizer": "Prodigy", "optimizer_args": "", "vae": "D:/a.pt"}))
    raw, said = imported("mia.json")
    assert raw["train"]["learning_rate"] == 1e-4 and raw["vae"] == "D:/a.pt"
    assert "learning_rate: 0.0001 with Prodigy, which finds the step size itself" in said
    assert "subjects.ohwx_woman.consent: missing" in said


def test_a_toml_of_sd_scripts_is_a_whole_configuration(kohya):
    (kohya / "mia.toml").write_text(SD_SCRIPTS)
    config = checked(imported("mia.toml", "--consent", "self")[0], kohya)
    train = config["runs"]["portrait"]["train"]
    expected = {
        **{"network": "locon", "rank": 16, "alpha": 8, "conv_rank": 8, "conv_alpha": 1, "optimizer": "Prodigy"},
        **{"learning_rate": 1, "text_encoder_lr": 1, "train_text_encoder": True, "loraplus_lr_ratio": 1.0},
        **{"optimizer_args": {"decouple": True, "d_coef": 2}, "lr_scheduler": "constant", "repeats": 25},
        **{"max_train_steps": 1500, "epochs": None, "batch_size": 1, "save_precision": "fp32", "precision": "bf16"},
    }
    assert {key: train[key] for key in expected} == expected
    assert config["prediction_type"] == "v_prediction" and config["resolution"] == 512


DATASET = """
[general]
shuffle_caption = true
keep_tokens = 2
[[datasets]]
resolution = [640, 640]
batch_size = 4
enable_bucket = true
  [[datasets.subsets]]
  image_dir = "mia/img/25_ohwx woman"
  num_repeats = 7
  class_tokens = "ohwx woman"
  [[datasets.subsets]]
  image_dir = "mia/reg/1_woman"
  is_reg = true
  flip_aug = true
"""


def test_a_dataset_config_alone_leaves_the_training_to_us(kohya):
    (kohya / "data.toml").write_text(DATASET)
    raw, said = imported("data.toml", "--consent", "self")
    config = checked(raw, kohya)
    train = config["train"]
    assert (train["repeats"], train["batch_size"], train["keep_tokens"], train["rank"]) == (7, 4, 2, 128)
    assert (config["resolution"], config["buckets"]) == (640, True)
    assert raw["subjects"]["ohwx_woman"]["regularisation"] == "mia/reg/1_woman"
    assert "a dataset_config does not say them" in said and "flip_aug of the regularisation photos: they" in said


def test_a_config_file_takes_the_settings_of_its_dataset_config(kohya):
    (kohya / "lists").mkdir()
    (kohya / "lists/data.toml").write_text(DATASET)
    (kohya / "mia.toml").write_text('dataset_config = "data.toml"\ntrain_batch_size = 1\nlearning_rate = 3e-4\n')
    (kohya / "mia.toml").rename(kohya / "lists/mia.toml")
    train = checked(imported("lists/mia.toml", "--consent", "self")[0], kohya)["runs"]["portrait"]["train"]
    assert (train["batch_size"], train["learning_rate"], train["repeats"], train["rank"]) == (4, 3e-4, 7, 4)


def test_subsets_that_share_no_settings_are_refused(kohya):
    concept(kohya / "otto")
    more = '[[datasets.subsets]]\nimage_dir = "otto"\nclass_tokens = "sks man"\nnum_repeats = 7\nflip_aug = true\n'
    (kohya / "data.toml").write_text(DATASET + more)
    assert "the subsets have different flip_aug (None, True)" in run("data.toml").stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{\n "seed": 1,\n}', "a.json, line 3, column 1: "),
        ("a.json", "[1]", "a.json: has no keys"),
        ("a.json", '{"seed": "\udcff"}', "a.json, line 1: is not UTF-8"),
        ("a.json", "{}", "a.json: has neither train_data_dir nor datasets"),
        (
            "a.json",
            '{"train_data_dir": "D:/img"}',
            "nothing at 'D:/img'; correct it in a copy of the file; this is",
        ),
        ("a.json", '{"train_data_dir": "mia"}', "no concept in 'mia'; expected a folder with folders such as"),
        ("a.json", '{"flux1_checkbox": true}', "flux1_checkbox: the project trains Flux; here only"),
        (
            "a.json",
            '{"train_data_dir": "mia/img", "network_dim": "many"}',
            "network_dim: found 'many'; expected a number",
        ),
        ("a.json", '{"train_data_dir": "mia/img", "optimizer_args": 5}', "optimizer_args: found 5; expected a list of"),
        ("a.json", '{"additional_parameters": "--a \'"}', "additional_parameters: no closing quotation"),
        ("a.toml", 'a = 1\nb = "', "a.toml: unterminated string (at end of document)"),
        ("a.toml", "a = 1\nb = = 2\n", "a.toml: invalid value (at line 2, column 5)"),
        ("a.toml", "datasets = 1", "a.toml: datasets is no list; expected [[datasets]]"),
        ("a.toml", "[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 1", "a subset has no image_dir"),
        ("a.yaml", "", "a.yaml: expected a folder, the GUI's .json, or a .toml of sd-scripts"),
    ],
)
def test_a_broken_file_is_one_line(kohya, name, text, message):
    (kohya / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    done = run(name)
    assert done.returncode == 1 and message in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1 and not done.stderr
    assert not (kohya / "config.yaml").exists()


def test_a_source_that_is_not_there_is_one_line(kohya):
    assert "no file or folder 'nowhere'" in run("nowhere").stdout
    assert "no concept in 'mia/log'" in run("mia/log").stdout
