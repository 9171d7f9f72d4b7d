"""What a stage has computed once is found again, and never used after a disk has damaged it."""

import shutil
from pathlib import Path

import pytest

from damage import DAMAGES, REPLACED
from likeness.core.errors import LikenessError
from likeness.core.files import ItemCache, write_atomic


def made(folder: Path, *parts: str) -> tuple[bytes, str]:
    """What the cache gives for these parts, and what it says of it."""
    cache = ItemCache(folder, "stage")
    item = cache.get(lambda: " ".join(parts).encode() * 100, *parts).read_bytes()
    return item, cache.summary()


def test_an_item_is_computed_once(tmp_path):
    assert made(tmp_path, "a", "b") == (b"a b" * 100, "items: 1 computed, 0 reused")
    assert made(tmp_path, "a", "b") == (b"a b" * 100, "items: 0 computed, 1 reused")
    assert made(tmp_path, "ab") == (b"ab" * 100, "items: 1 computed, 0 reused")


@pytest.mark.parametrize("damage", [*DAMAGES, *REPLACED])
def test_a_damaged_item_is_made_anew(tmp_path, capsys, damage):
    made(tmp_path, "a")
    (item,) = (path for path in tmp_path.rglob("*") if path.is_file())
    damage(item)
    assert made(tmp_path, "a") == (b"a" * 100, "items: 1 computed, 0 reused")
    assert f"{item} was damaged since it was written; it is made anew" in capsys.readouterr().out
    assert made(tmp_path, "a") == (b"a" * 100, "items: 0 computed, 1 reused")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [item]


@pytest.mark.parametrize(
    "there", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "link to nothing"]
)
def test_what_is_no_folder_of_items_is_taken_away(tmp_path, there):
    made(tmp_path, "a")
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    there(folder)
    assert made(tmp_path, "a") == (b"a" * 100, "items: 1 computed, 0 reused")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "choice.json").mkdir()
    with pytest.raises(LikenessError, match=r"choice.json is a folder, where a file is to be written; remove it, and"):
        write_atomic(tmp_path / "choice.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["choice.json"]


def test_a_file_in_the_place_of_a_cache_is_named(tmp_path):
    (tmp_path / "stage").touch()
    with pytest.raises(LikenessError, match=r"stage is no folder; remove it, and run the same command again"):
        made(tmp_path / "stage", "a")
