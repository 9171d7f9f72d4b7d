"""What a stage has computed once is found again, and never used after a disk has damaged it."""

from pathlib import Path

import pytest

from damage import DAMAGES
from likeness.files import ItemCache


def made(folder: Path, *parts: str) -> tuple[bytes, str]:
    """What the cache gives for these parts, and what it says of it."""
    cache = ItemCache(folder, "stage")
    item = cache.get(lambda: " ".join(parts).encode() * 100, *parts).read_bytes()
    return item, cache.summary()


def test_an_item_is_computed_once(tmp_path):
    assert made(tmp_path, "a", "b") == (b"a b" * 100, "items: 1 computed, 0 reused")
    assert made(tmp_path, "a", "b") == (b"a b" * 100, "items: 0 computed, 1 reused")
    assert made(tmp_path, "ab") == (b"ab" * 100, "items: 1 computed, 0 reused")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_item_is_made_anew(tmp_path, capsys, damage):
    made(tmp_path, "a")
    (item,) = (path for path in tmp_path.rglob("*") if path.is_file())
    damage(item)
    assert made(tmp_path, "a") == (b"a" * 100, "items: 1 computed, 0 reused")
    assert f"{item} was damaged since it was written; it is made anew" in capsys.readouterr().out
    assert made(tmp_path, "a") == (b"a" * 100, "items: 0 computed, 1 reused")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [item]
