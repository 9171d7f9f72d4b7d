"""Captions: the user's own words win, and what is made says only what was measured with some certainty."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from likeness import manifests
from likeness.base_model import manifest
from likeness.caption_files import by_photo, caption_files, user_caption, without_photo
from likeness.caption_length import TokenCount, token_count
from likeness.captions import (
    bare_class_caption,
    class_caption,
    template_caption,
    warnings,
)
from likeness.errors import LikenessError
from likeness.identity_words import identity_words, model_caption
from likeness.tokenizer import clip_tokenizer

UNSURE = {"smile": 0.4, "eyes_closed": 0.3, "mouth_open": 0.15, "glasses": None, "gaze_x": None, "gaze_y": 0.0}
UNSURE |= {"background": 0.5, "light": 0.5, "light_side": 0.2, "monochrome": False}


@pytest.mark.parametrize(
    ("attributes", "yaw", "pitch", "said"),
    [
        ({}, 0, 8, []),
        ({"smile": 0.8}, 0, 8, ["smiling"]),
        ({"smile": 0.8, "mouth_open": 0.4}, 0, 8, ["smiling", "mouth open"]),
        ({"smile": 0.02, "mouth_open": 0.01}, 0, 8, ["neutral expression"]),
        ({"smile": 0.02, "mouth_open": 0.5}, 0, 8, ["mouth open"]),
        ({"smile": None, "mouth_open": None, "eyes_closed": None, "background": None}, 0, 8, []),
        ({"eyes_closed": 0.9}, 0, 8, ["eyes closed"]),
        ({"glasses": True}, 0, 8, ["wearing glasses"]),
        ({"glasses": False}, 0, 8, []),
        ({"background": 0.1}, 0, 8, ["dark background"]),
        ({"background": 0.9}, 0, 8, ["bright background"]),
        ({"light": 0.15, "background": 0.1}, 0, 8, ["dim light", "dark background"]),
        ({"light": 0.15, "background": 0.9}, 0, 8, ["bright background"]),
        ({"light_side": 0.4}, 0, 8, ["side light from the right"]),
        ({"light_side": -0.4}, 0, 8, ["side light from the left"]),
        ({"monochrome": True}, 0, 8, ["black and white photo"]),
        ({}, 30, 8, ["head turned to the right"]),
        ({}, -30, 8, ["head turned to the left"]),
        ({"gaze_x": 0.1}, 15, 8, []),
        ({}, 0, 30, ["head tilted down"]),
        ({}, 0, -20, ["head tilted up"]),
        ({}, -30, 30, ["head turned to the left"]),
        ({"gaze_x": 0.1}, 0, 8, ["looking at the camera"]),
        ({"gaze_x": -0.6}, 15, 8, ["looking at the camera"]),
        ({"gaze_x": 0.1}, 25, 8, ["looking to the right", "head turned to the right"]),
        ({"gaze_x": -0.1}, -25, 8, ["looking to the left", "head turned to the left"]),
        ({"gaze_x": 0.8}, -45, 8, ["head turned to the left"]),
        ({"gaze_x": 0.1, "gaze_y": 0.5}, 0, 8, []),
        ({"gaze_x": 0.1, "eyes_closed": 0.9}, 0, 8, ["eyes closed"]),
        ({"smile": 0.9, "background": 0.1}, -40, 0, ["smiling", "head turned to the left", "dark background"]),
    ],
)
def test_only_what_is_sure_is_said(attributes, yaw, pitch, said):
    assert template_caption("ohwx", "woman", UNSURE | attributes, yaw, pitch, 0.45) == ", ".join(["ohwx woman", *said])


def test_only_a_tight_crop_is_called_a_close_up():
    assert template_caption("ohwx", "woman", UNSURE, 0, 8, 0.8) == "ohwx woman, close-up"


def test_attributes_that_nobody_measured_are_left_out():
    assert template_caption("ohwx", "man", {}, 0, 0, 0.45) == "ohwx man"


def test_lines_of_a_text_are_joined(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeff  ohwx woman,\r\n  im Café \n\n".encode())
    assert user_caption(text) == "ohwx woman, im Café"


@pytest.mark.parametrize(
    "content",
    [
        "ohwx woman, im Café".encode("utf-16"),
        "ohwx woman, im Café".encode("utf-16-le"),
        "ohwx woman, im Café".encode("utf-16-be"),
        "ohwx woman, im Café".encode("latin-1"),
        "ohwx woman, im Cafe\u0301".encode(),
        b"ohwx woman,\x1b\x07 im \x00Caf\xc3\xa9".replace(b"\x00", b""),
        "ohwx\u00a0woman,\r\rim Café\r".encode(),
    ],
    ids=["UTF-16", "UTF-16-LE", "UTF-16-BE", "Latin-1", "decomposed", "control signs", "old Mac"],
)
def test_a_text_is_read_however_it_was_saved(tmp_path, content):
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    assert user_caption(text) == "ohwx woman, im Café"


@pytest.mark.parametrize("content", [b"", b" \n ", b"\xef\xbb\xbf", b"\x00\x00"])
def test_an_empty_text_is_named(tmp_path, content):
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    with pytest.raises(LikenessError, match=r"a.txt: the caption is empty; write one, or delete the file"):
        user_caption(text)


def test_a_caption_is_found_by_all_the_names_that_people_give_it(tmp_path):
    decomposed = "Zoe\u0308"  # as a Mac unpacks Zoë
    for name in ("a.TXT", "b.jpg.txt", "c.caption", f"{decomposed}.txt", "D.txt", "d.txt", "e.caption", "e.txt"):
        (tmp_path / name).write_text(name)
    for name in ("notes.txt", ".a.txt", "table.tsv", "{subject}.txt", os.fsdecode(b"\xff.txt")):
        (tmp_path / name).write_text("not a caption")
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png", "Zoë.jpg", "d.JPG", "e.jpg", "f.jpg")]
    texts = caption_files(tmp_path)
    owned = by_photo(photos, texts)
    assert {photo.name: text.name for photo, text in owned.items()} == {
        **{"a.jpg": "a.TXT", "b.jpg": "b.jpg.txt", "c.png": "c.caption", "Zoë.jpg": f"{decomposed}.txt"},
        **{"d.JPG": "d.txt", "e.jpg": "e.txt"},
    }
    assert [text.name for text in without_photo(texts, owned)] == ["D.txt", "e.caption", "notes.txt"]


def test_a_link_out_of_the_folder_is_no_caption(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.txt").write_text("a password")
    (tmp_path / "photos/a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "photos/b.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "photos/real.txt").write_text("ohwx woman")
    (tmp_path / "photos/c.txt").symlink_to("real.txt")
    assert [path.name for path in caption_files(tmp_path / "photos")] == ["c.txt", "real.txt"]


# What BLIP and Florence-2 write, in their manner, and what of it is left: nothing of what the person is.
SENTENCES = [
    ("a young woman with long blonde hair and blue eyes smiling in front of a brick wall",
     "smiling in front of a brick wall"),
    ("a man in a black suit and tie sitting on a bench next to a brown dog",
     "in a black suit and tie sitting on a bench next to a brown dog"),
    # A hairdo is put up in a minute: it stays. The hair itself does not.
    ("a woman with her hair in a ponytail", "in a ponytail"),
    ("a woman with long blonde hair tied back in a ponytail wearing a red dress", "in a ponytail wearing a red dress"),
    ("a woman with long hair blowing in the wind on a beach", "in the wind on a beach"),
    ("a man with a beard", ""),
    ("a man with a beard and glasses", "with glasses"),
    ("a man with a beard, glasses and a hat", "with glasses and a hat"),
    ("a man with glasses and a beard", "with glasses"),
    ("a man in his thirties with short brown hair, a beard and glasses standing in the rain",
     "with glasses standing in the rain"),
    ("an older man wearing a hat", "wearing a hat"),
    ("a bald man with a white beard holding a baby", "holding a baby"),
    ("a smiling young woman in a white shirt", "smiling, in a white shirt"),
    ("a shirtless man with tattoos on his arm", "shirtless"),
    ("a little girl with freckles on her face", ""),
    ("a blonde woman in front of an old building", "in front of an old building"),
    ("a blonde with green eyes wearing a scarf", "wearing a scarf"),
    ("a woman with red lipstick and brown eyes looking at the camera", "with red lipstick looking at the camera"),
    ("a girl with dark skin and curly black hair is laughing", "laughing"),
    ("a woman who looks young and happy in the sun", "happy in the sun"),
    ("A woman has blonde hair and is wearing sunglasses.", "wearing sunglasses"),
    ("a woman with blue and green eyes smiling", "smiling"),
    ("a woman with a tattoo of a dragon on her arm", ""),
    ("a woman with flowers in her hair", "with flowers"),
    ("girl, smiling, long hair, blue dress", "smiling, blue dress"),
    ("a Chinese man eating Chinese food", "eating Chinese food"),
    ("she is wearing a black hat", "wearing a black hat"),
    # The kind of picture may change, and so may eyes that are closed.
    ("black and white photo of a woman", "black and white photo"),
    ("a close up of a person wearing a hat", "wearing a hat, close-up"),
    ("a close up of a woman's face with her eyes closed", "with her eyes closed, close-up"),
    ("portrait of a handsome young man, studio lighting, gray background",
     "studio lighting, gray background, portrait"),
    # BLIP's own word for a person, and its way to go on.
    ("arafed man in a suit and tie smiling for a picture", "in a suit and tie smiling for a picture"),
    ("there is a woman that is smiling and wearing a necklace", "smiling and wearing a necklace"),
    # The first person is the subject; another is named, but not described.
    ("a man and a woman sitting on a bench", "with another person, sitting on a bench"),
    ("two women standing next to each other", "with another person, standing next to each other"),
    ("a group of people standing in front of a building", "with other people, standing in front of a building"),
    ("a woman standing next to a young man with a beard", "standing next to a man"),
    ("an old woman and her dog in a park", "with her dog in a park"),
    # Nobody was seen.
    ("a beautiful garden with flowers", "a beautiful garden with flowers"),
    # Florence-2 writes several sentences.
    ("The image shows a young woman with long blonde hair and blue eyes, wearing a white shirt and smiling at the "
     "camera. She is standing in front of a brick wall. Her hair is long and wavy.",
     "wearing a white shirt and smiling at the camera, standing in front of a brick wall"),
    ("The image is a portrait of a middle-aged man with a beard and mustache. He is wearing a blue shirt and has a "
     "serious expression on his face. The background is blurred.",
     "portrait, wearing a blue shirt and with a serious expression on his face, the background is blurred"),
    ("The image is a close-up portrait of a young woman. She has long, wavy, dark brown hair that is styled in loose "
     "curls and falls over her shoulders. She is wearing gold earrings and has a slight smile on her face.",
     "close-up, wearing gold earrings and with a slight smile on her face"),
    ("In this image I can see a person wearing a white dress and the person is smiling.",
     "wearing a white dress and smiling"),
    ("This is a photo of an elderly Asian lady sitting at a table with a cup of coffee.",
     "sitting at a table with a cup of coffee"),
    ("In this image we can see a woman wearing spectacles and smiling. In the background there are trees.",
     "wearing spectacles and smiling, in the background there are trees"),
]  # fmt: skip


@pytest.mark.parametrize(("sentence", "left"), SENTENCES)
def test_a_models_sentence_loses_what_the_person_is(root, sentence, left):
    words = identity_words(root / "resources/identity_words.txt")
    assert model_caption(sentence, "ohwx", "woman", words) == ", ".join(filter(None, ["ohwx woman", left]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ohwx woman, smiling, dark background", "a woman, smiling, dark background"),
        ("OHWX", "a woman"),
        ("a photo of ohwx", "a photo of a woman"),
        ("an ohwx woman in a park", "a woman in a park"),
        ("woman ohwx in the rain", "a woman in the rain"),
        ("the ohwx woman", "the woman"),
        ("ohwx's face, close-up", "a woman's face, close-up"),
        ("tall woman, standing next to ohwx woman", "tall woman, standing next to a woman"),
        # What she is goes, what may change stays.
        ("photo of ohwx woman with long blonde hair, wearing a red hat", "photo of a woman, wearing a red hat"),
        ("young ohwx woman, green eyes, freckles, laughing", "a woman, laughing"),
        ("Photo of ohwx woman. She is at ohwx's desk.", "photo of a woman, she is at a woman's desk"),
        # Another word that holds the trigger is another word, and who names nobody says nothing of her.
        ("ohwxian woman at sea", "ohwxian woman at sea"),
        ("a woman on a beach", "a woman on a beach"),
        # However it is written, the trigger goes, and the noun beside it once.
        ("ohwx_woman, smile, red_dress", "a woman, smile, red_dress"),
        ("ohwx women at a table", "a woman at a table"),
        ("ohwx old woman", "a woman"),
        ("photograph of woman ohwx woman", "photograph of a woman"),
        ("ohwx woman. She has long blonde hair. She wears a red dress.", "a woman, she wears a red dress"),
        ("ohwx woman , , smiling", "a woman, smiling"),
        # Where nothing is left, it is the bare class: an empty caption would say less than that.
        ("blonde hair", "photo of a woman"),
    ],
)
def test_the_class_caption_is_that_of_anybody_on_the_same_picture(root, text, expected):
    words = identity_words(root / "resources/identity_words.txt")
    assert class_caption(text, "ohwx", "woman", words) == expected


def test_the_class_noun_stays_whatever_is_in_it_and_has_the_right_article(root):
    words = identity_words(root / "resources/identity_words.txt")
    assert class_caption("sks old man, smiling", "sks", "old man", words) == "an old man, smiling"
    assert class_caption("photo of a sks actor", "sks", "actor", words) == "photo of an actor"
    assert class_caption("s+k, smiling", "s+k", "wo\\man", words) == "a wo\\man, smiling"
    assert [bare_class_caption(noun) for noun in ("woman", "old man")] == ["photo of a woman", "photo of an old man"]


def test_the_list_of_identity_words_is_the_users(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("[people]\nwoman # and nobody else\n[features]\nnose ring\n[traits]\n")
    said = model_caption("a woman with a Nose Ring and a beard", "ohwx", "woman", identity_words(own))
    assert said == "ohwx woman, with a beard"


def test_a_word_without_a_heading_is_named(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("beard\n[people]\nwoman\n")
    with pytest.raises(LikenessError, match=r"own.txt: 'beard' stands under no known heading; expected .*features"):
        identity_words(own)


def test_tokens_are_counted_as_the_base_model_counts_them(model_files):
    tokenizer = clip_tokenizer(model_files / "bpe_simple_vocab_16e6.txt.gz")
    assert token_count("a red hat", tokenizer, 75) == (5, 77, 0)
    assert token_count("hat " * 75, tokenizer, 75) == (77, 77, 0)
    assert token_count("hat " * 80, tokenizer, 75) == (82, 77, 5)
    assert token_count("hat " * 80, tokenizer, 150) == (82, 152, 0)
    assert token_count("hat " * 230, tokenizer, 225) == (232, 227, 5)


def test_warnings_name_the_file_and_what_to_do():
    fine, long = (5, 77, 0), (82, 77, 5)
    assert warnings("a.txt", "photo of OHWX woman", "ohwx", TokenCount(*fine), ["a.jpg"]) == []
    assert warnings("a.txt", "ohwx", "ohwx", TokenCount(*long), ["a.jpg"]) == [
        "a.txt: 82 tokens, the base model reads 77: the last 5 words will not be seen; shorten it, or set "
        "train.max_token_length: 150."
    ]
    (longer,) = warnings("a.txt", "ohwx", "ohwx", TokenCount(160, 77, 9), ["a.jpg"])
    assert longer.endswith("the last 9 words will not be seen; shorten it, or set train.max_token_length: 225.")
    (longest,) = warnings("a.txt", "ohwx", "ohwx", TokenCount(300, 227, 9), ["a.jpg"])
    assert longest.endswith("300 tokens, the base model reads 227: the last 9 words will not be seen; shorten it.")
    missing, shared = warnings("a.txt", "an ohwxy", "ohwx", TokenCount(*fine), ["a.jpg", "a.png"])
    assert "a.txt: the trigger 'ohwx' is not in it" in missing
    assert shared == "a.txt: the caption of a.jpg and a.png; rename one of them to give it its own."


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


def caption(root: Path, base: Path, *texts: Path, token_lengths=(75,)) -> subprocess.CompletedProcess:
    config = json.dumps(
        {
            "subject": {"trigger": "ohwx", "class_noun": "woman"},
            "caption": {"backend": "template", "model": None, "identity_words": ""},
            "token_lengths": token_lengths,
        },
    )
    paths = {"upscaled": "upscaled.tsv", "cache": "cache", "captions": "captions.tsv", "folder": "captions"}
    options = [word for name, path in paths.items() for word in (f"--{name}", base.parent / path)]
    command = [sys.executable, root / "scripts/caption_faces.py", "--config", config, "--base", base, *options]
    return subprocess.run([*command, "--texts", *texts], capture_output=True, text=True)


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
    other = tmp_path / "notes.txt"
    other.write_text("from the wedding")
    done = caption(root, base, other)
    assert done.returncode == 0 and done.stdout.count("notes.txt: belongs to no photo that is used") == 1


def test_an_empty_caption_stops_with_one_line(root, tmp_path, base):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.touch()
    done = caption(root, base, own)
    assert done.returncode == 1
    assert "b.txt: the caption is empty" in done.stdout and "Traceback" not in done.stderr
