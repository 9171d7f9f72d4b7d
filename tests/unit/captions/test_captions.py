"""Every photo gets a caption: the user's own words win, and warnings say what will not be read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from likeness.captions.caption_length import token_count
from likeness.core import manifests
from likeness.models.base_model import manifest
from likeness.models.tokenizer import clip_tokenizer
from measured_face import UNSURE


def test_tokens_are_counted_as_the_base_model_counts_them(model_files):
    tokenizer = clip_tokenizer(model_files / "bpe_simple_vocab_16e6.txt.gz")
    assert token_count("a red hat", tokenizer, 75) == (5, 77, 0)
    assert token_count("hat " * 75, tokenizer, 75) == (77, 77, 0)
    assert token_count("hat " * 80, tokenizer, 75) == (82, 77, 5)
    assert token_count("hat " * 80, tokenizer, 150) == (82, 152, 0)
    assert token_count("hat " * 230, tokenizer, 225) == (232, 227, 5)


def rewrite(table: Path, old: str, new: str) -> None:
    """Another table, as the stage before would have written it."""
    table.write_text(table.read_text().replace(old, new))
    manifests.seal(table)


def write_upscaled(folder: Path) -> None:
    rows = [
        {
            "photo": f"photos/{stem}.JPG",
            "fate": "train",
            "image": f"upscaled/{stem}.png",
            "sha256": stem,
            "yaw": "-31.2",
            "pitch": "5.0",
            "face_fraction": "0.452",
            "face": "[0.5,0.48,0.33,0.45]",
            "attributes": json.dumps(UNSURE | {"smile": 0.9}),
        }
        for stem in ("a", "b", "c")
    ]
    manifests.write_table(folder / "upscaled.tsv", rows, list(rows[0]))


@pytest.fixture
def base(small_base, tmp_path) -> Path:
    """base.json of a small base model with CLIP's own tokenizer."""
    path = tmp_path / "base.json"
    path.write_text(json.dumps(manifest("small", small_base, tmp_path)))
    return path


def caption(
    root: Path, base: Path, *texts: Path, no_texts=(), token_lengths=(75,), by_hand: dict | None = None
) -> subprocess.CompletedProcess:
    config = json.dumps(
        {
            "subject": {"trigger": "ohwx", "class_noun": "woman"},
            "decisions": {"captions": by_hand or {}},
            "caption": {"backend": "template", "model": None, "identity_words": ""},
            "token_lengths": token_lengths,
        },
    )
    paths = {"upscaled": "upscaled.tsv", "cache": "cache", "captions": "captions.tsv", "folder": "captions"}
    options = [word for name, path in paths.items() for word in (f"--{name}", base.parent / path)]
    command = [sys.executable, root / "scripts/caption_faces.py", "--config", config, "--base", base, *options]
    return subprocess.run([*command, "--texts", *texts, "--no-texts", *no_texts], capture_output=True, text=True)


def test_the_users_caption_wins_over_the_made_one(root, tmp_path, base):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.write_text("a woman on a boat\n")
    done = caption(root, base, own)
    assert done.returncode == 0, done.stderr
    table = manifests.read_table(tmp_path / "captions.tsv").set_index("photo")
    made = "ohwx woman, smiling, head turned to the left"
    assert list(table["text"]) == [made, "a woman on a boat", made]
    assert list(table["source"]) == ["template", "user", "template"]
    assert list(table["tokens"]) == ["12", "7", "12"]
    for row in table.itertuples():
        assert (tmp_path / row.caption).read_text() == row.text
    assert own.read_text() == "a woman on a boat\n"
    warning = "b.txt: the trigger 'ohwx' is not in it; this photo will not teach that word."
    assert list(table["detail"]) == ["", warning, ""] and warning in done.stdout


def test_a_caption_of_decisions_yaml_comes_before_the_one_beside_the_photo(root, tmp_path, base):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.write_text("ohwx woman on a boat\n")
    photo = Path(manifests.read_table(tmp_path / "upscaled.tsv")["photo"].iloc[1])
    done = caption(root, base, own, by_hand={photo.name: "ohwx woman, asleep"})
    assert done.returncode == 0, done.stdout
    table = manifests.read_table(tmp_path / "captions.tsv")
    assert table["text"].iloc[1] == "ohwx woman, asleep" and list(table["source"]) == ["template", "user", "template"]


def test_a_held_out_photo_is_captioned_too_and_teaches_nothing(root, tmp_path, base):
    write_upscaled(tmp_path)
    rewrite(tmp_path / "upscaled.tsv", "photos/b.JPG\ttrain", "photos/b.JPG\theldout")
    own = tmp_path / "b.txt"
    own.write_text("a woman on a boat")
    done = caption(root, base, own)
    assert done.returncode == 0, done.stderr
    table = manifests.read_table(tmp_path / "captions.tsv").set_index("photo")
    assert list(table["fate"]) == ["train", "heldout", "train"]
    assert table.loc["photos/b.JPG", "text"] == "a woman on a boat" and "not teach" not in done.stdout
    assert (table["face"] == "[0.5,0.48,0.33,0.45]").all()


def test_a_caption_of_two_photos_and_one_that_is_too_long_are_warned_about(root, tmp_path, base):
    write_upscaled(tmp_path)
    rewrite(tmp_path / "upscaled.tsv", "photos/c.JPG", "photos/b.png")
    own = tmp_path / "b.txt"
    own.write_text("ohwx woman" + " on a boat" * 30)
    assert caption(root, base, own).returncode == 0
    table = manifests.read_table(tmp_path / "captions.tsv")
    assert list(table["source"]) == ["template", "user", "user"]
    for detail in table["detail"][1:]:
        assert "b.txt: 94 tokens, the base model reads 77: the last 17 words will not be seen" in detail
        assert "b.txt: the caption of b.JPG and b.png" in detail
    caption(root, base, own, token_lengths=(150, 225))
    assert not manifests.read_table(tmp_path / "captions.tsv")["detail"].str.contains("tokens").any()


def test_a_caption_that_was_deleted_is_made_again_and_nothing_else_changes(root, tmp_path, base):
    write_upscaled(tmp_path)
    caption(root, base)
    first = (tmp_path / "captions.tsv").read_bytes()
    own = tmp_path / "b.txt"
    own.write_text("ohwx woman on a boat")
    caption(root, base, own)
    again = caption(root, base)
    assert (tmp_path / "captions.tsv").read_bytes() == first
    assert again.stdout.splitlines()[-1] == "items: 0 computed, 3 reused"


def test_a_text_of_no_photo_is_named_once(root, tmp_path, base):
    write_upscaled(tmp_path)
    other, link = tmp_path / "notes.txt", tmp_path / "a.txt"
    other.write_text("from the wedding")
    link.symlink_to("/etc/hostname")
    done = caption(root, base, other, no_texts=[link])
    assert done.returncode == 0 and done.stdout.count("notes.txt: belongs to no photo that is used") == 1
    assert done.stdout.count("a.txt: a link out of the folder, so it is not read") == 1
    table = manifests.read_table(tmp_path / "captions.tsv")
    assert list(table["fate"]) == [*["train"] * 3, "not read", "not read"]
    assert list(table["caption"][3:]) == ["a.txt", "notes.txt"] and (table["text"][3:] == "").all()
    assert list(table["tokens"]) == [*["12"] * 3, "", ""]


def test_an_empty_caption_stops_with_one_line(root, tmp_path, base):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.touch()
    done = caption(root, base, own)
    assert done.returncode == 1
    assert "b.txt: the caption is empty" in done.stdout and "Traceback" not in done.stderr
