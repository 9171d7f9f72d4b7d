"""Captioners: loaded from a folder without network, asked the same way every time, and their words are cleaned.

The models are of the real classes, small and random: what they say means nothing.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damage import DAMAGES
from likeness.captions.captioners import load_captioner, model_folder
from likeness.core import manifests
from likeness.core.errors import LikenessError
from likeness.core.provenance import file_sha256
from likeness.models.base_model import manifest
from likeness.models.pretrained import folder_digest, verified_folder, write_manifest
from likeness.models.tokenizer import _byte_letters
from small_pretrained import WORDS, small_blip


@pytest.fixture(scope="session")
def blip(tmp_path_factory) -> Path:
    return small_blip(tmp_path_factory.mktemp("captioners") / "blip")


@pytest.fixture(scope="session")
def florence2(tmp_path_factory) -> Path:
    import torch
    from transformers import (
        BartTokenizer,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    folder = tmp_path_factory.mktemp("captioners") / "florence2"
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = list(_byte_letters().values())
    words = [f"Ġ{word}" for word in WORDS]
    tokenizer = BartTokenizer(
        vocab={token: n for n, token in enumerate([*marks, *letters, *words])},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    torch.manual_seed(0)
    config = Florence2Config(
        text_config={
            **{"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "max_position_embeddings": 256},
            **{"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32},
            **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
        },
        vision_config={
            **{"depths": [1], "embed_dim": [16], "num_heads": [2], "num_groups": [2], "window_size": 4},
            **{"patch_size": [7], "patch_stride": [4], "patch_padding": [3], "patch_prenorm": [False]},
            **{"projection_dim": 16, "max_temporal_embeddings": 4, "max_position_embeddings": 16},
        },
        image_token_id=tokenizer.image_token_id,
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.suppress_tokens = [
        n for n in range(len(tokenizer)) if not len(marks + letters) <= n < len(tokenizer) - 1 and n != 2
    ]
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 8 * 8 + 1  # a place per patch of 4 x 4 px, and one for their mean
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(params=["blip", "florence2"])
def captioner(request) -> tuple[str, Path]:
    """A backend and a small model of its class."""
    return request.param, request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)


def test_a_model_describes_a_picture_the_same_way_twice(captioner, picture):
    backend, folder = captioner
    said = [load_captioner(backend, folder, "cpu")(picture) for _ in range(2)]
    assert said[0] == said[1]
    assert set(said[0].split()) <= set(WORDS) and said[0]


def test_a_model_of_another_kind_is_named(captioner):
    backend, folder = captioner
    other = {"blip": "florence2", "florence2": "blip"}[backend]
    with pytest.raises(LikenessError, match=f"a model of type {backend}, not {other}; .* another caption.backend"):
        load_captioner(other, folder, "cpu")


def test_a_folder_is_found_under_a_root(blip):
    assert model_folder("blip", "blip", [Path("nowhere"), blip.parent]) == blip


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/pytorch_model.bin").touch()
    with pytest.raises(LikenessError, match=r"caption.model own: no .safetensors file in it; pickled"):
        model_folder("blip", "own", [tmp_path])


def test_a_model_that_is_nowhere_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        LikenessError, match=r"caption.model florence-community/Florence-2-base: .*caption.backend: templ"
    ):
        model_folder("florence2", None, [tmp_path])


def test_a_damaged_model_is_one_sentence(blip, tmp_path):
    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(LikenessError, match=r"caption.model .*: transformers cannot load it as blip"):
        load_captioner("blip", tmp_path, "cpu")


def test_weights_in_another_layout_are_refused_not_made_up(blip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    renamed = {f"another.{name}": tensor for name, tensor in load_file(blip / "model.safetensors").items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LikenessError, match=r"not in transformers' own layout of blip; expected .* Salesforce/"):
        load_captioner("blip", tmp_path, "cpu")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_that_was_changed_since_it_was_fetched_is_not_loaded(blip, tmp_path, damage):
    shutil.copytree(blip, tmp_path / "blip")
    about = tmp_path / "captioner.json"
    write_manifest(about, tmp_path / "blip")
    assert verified_folder(about) == tmp_path / "blip"
    damage(tmp_path / "blip/model.safetensors")
    with pytest.raises(LikenessError, match=f"the model of {about} at .*blip was changed; run: .* --force {about}$"):
        verified_folder(about)


def test_the_digest_follows_the_files(blip, tmp_path):
    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert folder_digest(tmp_path) == folder_digest(blip)
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert folder_digest(tmp_path) != folder_digest(blip)


def test_captions_of_a_model_begin_with_the_trigger_and_follow_the_words(
    root, captioner, picture, small_base, tmp_path
):
    backend, folder = captioner
    (tmp_path / "upscaled").mkdir()
    Image.fromarray(picture).save(tmp_path / "upscaled/a.png")
    row = {"photo": "photos/a.jpg", "fate": "train", "image": "upscaled/a.png", "face": "[]"}
    row |= {"sha256": file_sha256(tmp_path / row["image"])}
    manifests.write_table(tmp_path / "upscaled.tsv", [row], list(row))
    (tmp_path / "base.json").write_text(json.dumps(manifest("small", small_base, tmp_path)))
    write_manifest(tmp_path / "captioner.json", folder)
    words = tmp_path / "words.txt"

    def captioned(traits: str) -> tuple[str, str]:
        """The caption, and the log's last line."""
        words.write_text(f"[people]\nwoman\nman\n[features]\n{traits}\n[traits]\nyoung\n")
        config = {
            "subject": {"trigger": "ohwx", "class_noun": "woman"},
            "decisions": {"captions": {}},
            "caption": {"backend": backend},
            "token_lengths": [75],
        }
        names = {"upscaled": "upscaled.tsv", "base": "base.json", "words": "words.txt", "cache": "cache"}
        names |= {"captioner": "captioner.json"}
        names |= {"captions": "captions.tsv", "folder": "captions"}
        options = [word for name, path in names.items() for word in (f"--{name}", tmp_path / path)]
        command = [sys.executable, root / "scripts/caption_faces.py", "--config", json.dumps(config), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        table = manifests.read_table(tmp_path / "captions.tsv")
        assert list(table["source"]) == [backend]
        assert (tmp_path / "captions/a.txt").read_text() == table["text"][0]
        return table["text"][0], done.stdout.splitlines()[-1]

    said = load_captioner(backend, folder, "cpu")(picture)
    shown, log = captioned("beard")
    assert shown.startswith("ohwx woman") and log == "items: 1 computed, 0 reused"
    listed = next(word for word in reversed(WORDS) if word in shown.split()[2:])
    assert listed in said
    hidden, log = captioned(listed)
    assert listed not in hidden.split()[2:] and hidden.startswith("ohwx woman")
    assert log == "items: 0 computed, 1 reused", "another list of words does not ask the model again"
