"""Captions: the user's own words win, and what is made says only what was measured with some certainty."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from likeness import files
from likeness.captions import template_caption, user_caption
from likeness.errors import LikenessError

UNSURE = {"smile": 0.4, "eyes_closed": 0.3, "mouth_open": 0.15, "glasses": None, "background": 0.5}


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
        ({}, 30, 8, ["head turned to the right"]),
        ({}, -30, 8, ["head turned to the left"]),
        ({}, 15, 8, []),
        ({}, 0, 30, ["head tilted down"]),
        ({}, 0, -20, ["head tilted up"]),
        ({}, -30, 30, ["head turned to the left"]),
        ({"smile": 0.9, "background": 0.1}, -40, 0, ["smiling", "head turned to the left", "dark background"]),
    ],
)
def test_only_what_is_sure_is_said(attributes, yaw, pitch, said):
    assert template_caption("ohwx", "woman", UNSURE | attributes, yaw, pitch) == ", ".join(["ohwx woman", *said])


def test_attributes_that_nobody_measured_are_left_out():
    assert template_caption("ohwx", "man", {}, 0, 0) == "ohwx man"


def test_lines_of_a_text_are_joined(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeff  ohwx woman,\r\n  im Café \n\n".encode())
    assert user_caption(text) == "ohwx woman, im Café"


@pytest.mark.parametrize(("content", "message"), [(b" \n ", "empty"), (b"caf\xe9", "not UTF-8")])
def test_a_text_that_cannot_be_used_is_named(tmp_path, content, message):
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    with pytest.raises(LikenessError, match=f"a.txt: .*{message}"):
        user_caption(text)


def write_upscaled(folder: Path) -> None:
    rows = [
        {
            "photo": f"photos/{stem}.JPG",
            "image": f"upscaled/{stem}.png",
            "sha256": stem,
            "yaw": "-31.2",
            "pitch": "5.0",
            "attributes": json.dumps(UNSURE | {"smile": 0.9}),
        }
        for stem in ("a", "b", "c")
    ]
    files.write_table(folder / "upscaled.tsv", rows, list(rows[0]))


def caption(root: Path, folder: Path, *texts: Path) -> subprocess.CompletedProcess:
    config = json.dumps(
        {"subject": {"trigger": "ohwx", "class_noun": "woman"}, "caption": {"backend": "template"}},
    )
    paths = {"upscaled": "upscaled.tsv", "cache": "cache", "captions": "captions.tsv", "folder": "captions"}
    options = [word for name, path in paths.items() for word in (f"--{name}", folder / path)]
    command = [sys.executable, root / "scripts/caption_faces.py", "--config", config, *options, "--texts", *texts]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_users_caption_wins_over_the_made_one(root, tmp_path):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.write_text("a woman on a boat\n")
    done = caption(root, tmp_path, own)
    assert done.returncode == 0, done.stderr
    table = files.read_table(tmp_path / "captions.tsv").set_index("photo")
    made = "ohwx woman, smiling, head turned to the left"
    assert list(table["text"]) == [made, "a woman on a boat", made]
    assert list(table["source"]) == ["template", "user", "template"]
    for row in table.itertuples():
        assert (tmp_path / row.caption).read_text() == row.text
    assert "b.txt: the trigger 'ohwx' is not in it" in done.stdout


def test_a_caption_that_was_deleted_is_made_again_and_nothing_else_changes(root, tmp_path):
    write_upscaled(tmp_path)
    caption(root, tmp_path)
    first = (tmp_path / "captions.tsv").read_bytes()
    own = tmp_path / "b.txt"
    own.write_text("ohwx woman on a boat")
    caption(root, tmp_path, own)
    again = caption(root, tmp_path)
    assert (tmp_path / "captions.tsv").read_bytes() == first
    assert again.stdout.splitlines()[-1] == "items: 0 computed, 3 reused"


def test_an_empty_caption_stops_with_one_line(root, tmp_path):
    write_upscaled(tmp_path)
    own = tmp_path / "b.txt"
    own.touch()
    done = caption(root, tmp_path, own)
    assert done.returncode == 1
    assert "b.txt: the caption is empty" in done.stdout and "Traceback" not in done.stderr
