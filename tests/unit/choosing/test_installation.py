"""The chosen LoRA goes where it is used, and no file of somebody else's is lost for it."""

import json
from pathlib import Path

import pytest

from likeness.choosing.installation import install, missing
from likeness.core.errors import LikenessError

NAMES = ("ava_portrait.safetensors", "ava_portrait.json", "ava_portrait.png")
HERE = "/home/me/project"


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    (tmp_path / "best").mkdir()
    for name in NAMES:
        (tmp_path / "best" / name).write_text(f"first {name}")
    return {name: tmp_path / "best" / name for name in NAMES}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "Lora").mkdir()
    return tmp_path / "Lora"


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("[!.]*")}


def test_another_choice_replaces_what_was_installed(files, folder):
    install(files, folder, HERE)
    assert texts(folder) == {name: f"first {name}" for name in NAMES}
    files[NAMES[0]].write_text("second")
    rows = install(files, folder, HERE)
    assert texts(folder)[NAMES[0]] == "second" and [row["detail"] for row in rows] == ["", "", ""]


def test_a_file_of_somebody_elses_stays_and_nothing_else_is_installed(files, folder):
    (folder / NAMES[0]).write_text("another LoRA")
    with pytest.raises(LikenessError, match=r"portrait\.safetensors is there already and is not ours; move it away"):
        install(files, folder, HERE)
    assert texts(folder) == {NAMES[0]: "another LoRA"}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_with_our_name_that_was_there_before_is_not_ours(files, folder, name):
    (folder / name).write_text("theirs")
    with pytest.raises(LikenessError, match="not ours"):
        install(files, folder, HERE)
    assert texts(folder) == {name: "theirs"}


def test_another_projects_lora_of_the_same_name_stays(files, folder):
    install(files, folder, "/home/me/other")
    with pytest.raises(LikenessError, match=r"from the project in /home/me/other; move it away, or give the subject"):
        install(files, folder, HERE)


def test_a_lora_that_was_changed_stays_and_is_named(files, folder):
    install(files, folder, HERE)
    (folder / NAMES[0]).write_text("merged by hand")
    with pytest.raises(LikenessError, match="was changed since it was installed; move it away"):
        install(files, folder, HERE)
    assert texts(folder)[NAMES[0]] == "merged by hand"


def test_notes_that_a1111_wrote_into_the_sidecar_stay_while_the_lora_is_replaced(files, folder):
    install(files, folder, HERE)
    (folder / NAMES[1]).write_text("my notes")
    files[NAMES[0]].write_text("second")
    rows = install(files, folder, HERE)
    assert texts(folder) == {NAMES[0]: "second", NAMES[1]: "my notes", NAMES[2]: f"first {NAMES[2]}"}
    assert [row["detail"] for row in rows] == ["", "was changed since it was installed, so it stays", ""]


def test_a_deleted_file_is_known_to_be_missing_and_comes_back(files, folder):
    rows = install(files, folder, HERE)
    assert missing(rows) == []
    (folder / NAMES[2]).unlink()
    assert missing(rows) == [str(folder / NAMES[2])]
    install(files, folder, HERE)
    assert missing(rows) == []


def test_a_damaged_record_is_an_error_that_says_what_to_do(files, folder):
    install(files, folder, HERE)
    (folder / ".likeness.json").write_text("{")
    with pytest.raises(LikenessError, match=r"\.likeness\.json is damaged; delete it"):
        install(files, folder, HERE)


def test_the_record_lists_what_is_ours(files, folder):
    install(files, folder, HERE)
    record = json.loads((folder / ".likeness.json").read_text())
    assert set(record) == set(NAMES) and {about["project"] for about in record.values()} == {HERE}
