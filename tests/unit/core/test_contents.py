"""Files are known by what they say: not by their dates, and not by the folder they lie in."""

import os

from likeness.core import contents
from likeness.core.contents import Contents
from likeness.core.provenance import canonical


def test_dates_and_folders_do_not_count_and_names_and_bytes_do(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / folder / name).write_text(f"picture {name}")
    here, there = (sorted((tmp_path / folder).iterdir()) for folder in ("here", "there"))
    known = Contents(tmp_path / "store.json")
    first = known.fingerprint(here)
    assert known.fingerprint(reversed(there)) == first
    os.utime(here[0], (0, 0))
    assert known.fingerprint(here) == first
    here[0].write_text("picture c.jpg")  # of the same length
    os.utime(here[0], (0, 0))
    assert known.fingerprint(here) != first
    assert known.fingerprint([there[0].rename(there[0].with_name("c.jpg")), there[1]]) != first


def test_a_file_is_read_once_by_however_many_calls(tmp_path, monkeypatch):
    photo, store = tmp_path / "a.jpg", tmp_path / "store.json"
    photo.write_text("picture")
    first = Contents(store)
    expected = first.fingerprint([photo])
    first.save()
    monkeypatch.setattr(contents, "file_sha256", lambda path: 1 / 0)
    assert Contents(store).fingerprint([photo]) == expected


def test_a_store_that_is_damaged_or_cannot_be_written_is_no_error(tmp_path):
    photo, store = tmp_path / "a.jpg", tmp_path / "store.json"
    photo.write_text("picture")
    expected = Contents(store).fingerprint([photo])
    about = photo.stat()
    state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    cut, other = (canonical({str(photo): [*state, *more]}).encode() for more in ([], [5]))
    for damage in (b"", b"{", b"[1]", b"\xff\x00", b'{"x": 1}', cut, other):
        store.write_bytes(damage)
        assert Contents(store).fingerprint([photo]) == expected
    nowhere = Contents(tmp_path / "gone/store.json")
    nowhere.fingerprint([photo])
    nowhere.save()
    assert not (tmp_path / "gone").exists()


def test_a_file_that_is_gone_and_one_that_is_large_are_told_without_reading(tmp_path, monkeypatch):
    photo = tmp_path / "a.safetensors"
    photo.write_bytes(b"x" * 100)
    known = Contents(tmp_path / "store.json")
    monkeypatch.setattr(contents, "LARGE", 50)
    monkeypatch.setattr(contents, "file_sha256", lambda path: 1 / 0)
    first = known.fingerprint([photo])
    os.utime(photo, (0, 0))
    assert known.fingerprint([photo]) != first
    photo.unlink()
    assert known.fingerprint([photo]) != first
