"""Pictures say how they were drawn, as A1111 and the many programs after it read it."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from infotext_reader import loras, parameters, text_chunks
from likeness.drawing.infotext import UsedLora, called_lora, infotext, lora_hash, with_pairs
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA, marked_png, read_infotext
from likeness.models.lora_file import lora_bytes
from likeness.models.prompts import sections

BASE = {"model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "digest": "0123456789abcdef" * 4}
SETTINGS = {
    **{"negative_prompt": "blurred, text", "steps": 25, "sampler": "DPM++ 2M Karras"},
    **{"guidance_scale": 7.0, "clip_skip": 1},
}
LORA = UsedLora("ava_portrait-000002", 0.8, "a1b2c3d4e5f6")


def test_every_setting_is_read_back(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    text = infotext("photo of ohwx woman, (smiling:1.2)", 3, (512, 512), SETTINGS, BASE, LORA)
    (tmp_path / "a.png").write_bytes(marked_png(pixels, text))
    chunks = text_chunks(tmp_path / "a.png")
    assert TRAINED_ALGORITHMIC_MEDIA in chunks["XML:com.adobe.xmp"]
    assert (np.asarray(Image.open(tmp_path / "a.png")) == pixels).all()
    found = parameters(chunks["parameters"])
    assert loras(found["Prompt"]) == {"ava_portrait-000002": 0.8}
    assert found == {
        "Prompt": "photo of ohwx woman, (smiling:1.2) <lora:ava_portrait-000002:0.8>",
        "Negative prompt": "blurred, text",
        "Steps": "25",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7",
        "Seed": "3",
        "Size": "512x512",
        "Model hash": "0123456789",
        "Model": "stable-diffusion-v1-5",
        "Lora hashes": "ava_portrait-000002: a1b2c3d4e5f6",
    }
    assert read_infotext(tmp_path / "a.png") == text and called_lora(text) == "ava_portrait-000002"


def test_the_base_model_calls_no_lora_and_what_is_not_set_is_not_said():
    text = infotext("photo of a woman", 1, (64, 64), SETTINGS | {"negative_prompt": ""}, BASE, None)
    assert "\nNegative prompt: \n" in text, "ComfyUI reads no picture without"
    found = parameters(text)
    assert found["Prompt"] == "photo of a woman" and found["Negative prompt"] == ""
    assert not {"Lora hashes", "Clip skip"} & set(found)
    assert parameters(infotext("a", 1, (64, 64), SETTINGS | {"clip_skip": 2}, BASE, None))["Clip skip"] == "2"


@pytest.mark.parametrize("value", ["0.6, 0.8", 'a "quoted" word, and one', "a: b", "two\nlines", "plain", "é, ü"])
def test_values_with_commas_colons_quotes_and_lines_come_back_as_they_were(value):
    text = with_pairs(infotext("photo", 1, (64, 64), SETTINGS, BASE, LORA), {"X Values": value, "Last": "end"})
    found = parameters(text)
    assert (found["X Values"], found["Last"], found["Seed"]) == (value, "end", "1")


@pytest.mark.parametrize("prompt", ["photo of Zoë", "写真 of ohwx woman"])
def test_prompts_in_every_script_are_kept(tmp_path, prompt):
    text = infotext(prompt, 1, (64, 64), SETTINGS, BASE, None)
    (tmp_path / "a.png").write_bytes(marked_png(np.zeros((8, 8, 3), np.uint8), text))
    assert parameters(text_chunks(tmp_path / "a.png")["parameters"])["Prompt"] == prompt


def test_the_hash_of_a_lora_is_that_of_its_tensors():
    """A1111 hashes what lies behind the header, so that editing the metadata keeps the hash."""
    data = lora_bytes({"lora_unet_x.alpha": torch.tensor(1.0), "lora_unet_x.lora_up.weight": torch.ones(2, 2)}, "fp32")
    header = int.from_bytes(data[:8], "little")
    assert lora_hash(data) == hashlib.sha256(data[8 + header :]).hexdigest()[:12]


def test_a_single_file_is_named_without_its_ending():
    found = parameters(infotext("a", 1, (64, 64), SETTINGS, BASE | {"model": "models/my model v1.5.safetensors"}, None))
    assert found["Model"] == "my model v1.5"


def test_an_infotext_has_the_prompt_as_it_was_drawn(tmp_path):
    base = {"model": "sd15", "digest": "0" * 64}
    prompt, negative = r"photo of (ohwx woman:1.3), [x], \(y\) BREAK hat", "(bad: 1.4), [worse]"
    settings = {"steps": 25, "sampler": "Euler", "guidance_scale": 7.0, "clip_skip": 1, "negative_prompt": negative}
    text = infotext(prompt, 1, (64, 64), settings, base, UsedLora("ava-000001", 0.8, "abc"))
    (tmp_path / "a.png").write_bytes(marked_png(np.zeros((8, 8, 3), np.uint8), text))
    found = parameters(text_chunks(tmp_path / "a.png")["parameters"])
    assert found["Prompt"] == f"{prompt} <lora:ava-000001:0.8>" and found["Negative prompt"] == negative
    called = found["Prompt"].removesuffix("<lora:ava-000001:0.8>")  # A1111 takes it out
    assert [[p.text.strip() for p in s] for s in sections(called)] == [
        [p.text.strip() for p in s] for s in sections(prompt)
    ]
