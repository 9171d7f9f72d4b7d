"""Manifests are refused by name when they, or the notes beside them, are not what was written."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from damage import DAMAGES, REPLACED, folder_instead
from likeness.core.errors import LikenessError
from likeness.core.files import remove
from likeness.core.manifests import is_sealed, is_whole, read_json, read_table, write_json, write_table

WORDS = ["photo", "detail"]
ROWS = [{"photo": f"{n:02d}.jpg", "detail": "gr\u00fc\u00df"} for n in range(9)]


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """crops.tsv beside captions.json, as crop_faces and caption_faces write them."""
    for rule, write in (
        ("crop_faces", lambda: write_table(tmp_path / "crops.tsv", ROWS, WORDS)),
        ("caption_faces", lambda: write_json(tmp_path / "captions.json", {"a": 1})),
    ):
        monkeypatch.setattr(sys, "argv", [f"scripts/{rule}.py"])
        write()
    assert read_table(tmp_path / "crops.tsv").to_dict("records") == ROWS
    return tmp_path / "crops.tsv"


def text(change: Callable[[list[str]], str], encoding: str = "utf-8") -> Callable[[Path], object]:
    """A damage: the file's lines joined again in another way."""
    return lambda path: path.write_bytes(change(path.read_text().split("\n")).encode(encoding))


# What editors, spreadsheets and people make of a table.
EDITS = {
    "row removed": text(lambda lines: "\n".join(lines[:3] + lines[4:])),
    "row doubled": text(lambda lines: "\n".join(lines[:4] + lines[3:])),
    "rows in another order": text(lambda lines: "\n".join([lines[0], *reversed(lines[1:-1]), ""])),
    "column renamed": text(lambda lines: "\n".join(lines).replace("detail", "details")),
    "line ends of Windows": text("\r\n".join),
    "byte order mark": text("\n".join, "utf-8-sig"),
    "Unicode text of Excel": text("\n".join, "utf-16"),
    "semicolons": text(lambda lines: "\n".join(lines).replace("\t", ";")),
    "without its last line end": text(lambda lines: "\n".join(lines).rstrip("\n")),
    **{damage.__name__: damage for damage in (*DAMAGES, *REPLACED)},
}


@pytest.mark.parametrize("nothing", [{}, {"tokens": None}], ids=["no cell", "None"])
def test_whole_numbers_stay_whole_where_a_row_has_none(tmp_path, nothing):
    rows = [{"photo": "a.jpg", "tokens": 9}, {"photo": "b.jpg"} | nothing]
    write_table(tmp_path / "captions.tsv", rows, ["photo", "tokens"])
    assert (tmp_path / "captions.tsv").read_text() == "photo\ttokens\na.jpg\t9\nb.jpg\t\n"


@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_was_changed_is_refused_with_the_rule_that_makes_it(table, edit):
    EDITS[edit](table)
    remove = "is a folder, not the file that crop_faces made; remove it, then"
    what = remove if EDITS[edit] is folder_instead else "is missing or was changed since it was made;"
    with pytest.raises(LikenessError, match=f"crops.tsv {what} run: snakemake --cores all --forcerun crop_faces$"):
        read_table(table)
    assert not is_whole(table)


@pytest.mark.parametrize("damage", [*DAMAGES, folder_instead])
def test_a_note_that_was_changed_lets_nothing_pass(table, damage):
    note = table.with_name(".crops.tsv.made")
    damage(note)
    with pytest.raises(LikenessError, match=r"crops.tsv is (damaged .*; delete it, and run snakemake again|missing)"):
        read_table(table)
    assert not is_whole(table) and not is_sealed(table)


def test_notes_that_changed_places_give_no_wrong_advice(table):
    """Made again by the rule of the other note, the file would still not be what its own one says."""
    notes = [table.with_name(f".{name}.made") for name in (table.name, "captions.json")]
    notes[0].rename(table.with_name("aside"))
    notes[1].rename(notes[0])
    table.with_name("aside").rename(notes[1])
    with pytest.raises(LikenessError, match=r"crops.tsv is damaged \(.crops.tsv.made beside it .*; delete it"):
        read_table(table)
    with pytest.raises(LikenessError, match=r"captions.json is damaged"):
        read_json(table.with_name("captions.json"))


def test_a_file_without_a_note_is_whole_and_not_sealed(table):
    table.with_name(".crops.tsv.made").unlink()
    assert is_whole(table) and not is_sealed(table) and len(read_table(table)) == len(ROWS)
    for damage in REPLACED:
        damage(table)
        with pytest.raises(LikenessError, match=r"crops.tsv is damaged \(it is no file\); delete it"):
            read_table(table)
        remove(table)
        table.touch()
