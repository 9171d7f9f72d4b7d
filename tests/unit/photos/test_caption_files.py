"""The captions beside photos are found by all their names, and read however they were saved."""

import codecs
import os

import numpy as np
import pytest

from likeness.core.errors import LikenessError
from likeness.photos.caption_files import MAX_BYTES, by_photo, caption_files, no_captions, not_read, user_caption


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
        "ohwx woman, im Café".encode("utf-32"),
        codecs.BOM_UTF32_BE + "ohwx woman, im Café".encode("utf-32-be"),
        "ohwx woman, im Café".encode("utf-32-le"),
        "ohwx woman, im Café".encode("utf-32-be"),
        "ohwx woman, im Café".encode() + bytes(4096),
        "ohwx woman, im Café".encode("utf-16-le") + bytes(4096),
        "ohwx\0\0\0\0\0\0woman, im\0Café".encode(),
        "ohwx woman, im Café".encode("latin-1"),
        "ohwx woman, im Cafe\u0301".encode(),
        b"ohwx woman,\x1b\x07 im \x00Caf\xc3\xa9".replace(b"\x00", b""),
        "ohwx\u00a0woman,\r\rim Café\r".encode(),
    ],
    ids=[
        *("UTF-16", "UTF-16-LE", "UTF-16-BE", "UTF-32", "UTF-32-BE, marked", "UTF-32-LE", "UTF-32-BE"),
        *("zeros behind it", "UTF-16, zeros behind it", "zeros in it"),
        *("Latin-1", "decomposed", "control signs", "old Mac"),
    ],
)
def test_a_text_is_read_however_it_was_saved(tmp_path, content):
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    assert user_caption(text) == "ohwx woman, im Café"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-32-be"])
@pytest.mark.parametrize(
    "words", ["ohwx женщина, на пляже", "ohwx 女性、海辺", "ohwx “woman” 🎉 – 5 €", "γυναίκα ohwx στη θάλασσα"]
)
def test_letters_of_every_script_are_read_in_every_encoding_of_unicode(tmp_path, encoding, words):
    text = tmp_path / "a.txt"
    text.write_bytes(words.encode(encoding))
    assert user_caption(text) == words


NOT_PLAIN = r"a.txt: not plain text, or in letters of an old encoding; save it as"
EMPTY = r"a.txt: the caption is empty; write one, or delete the file"
PIXELS = np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8).tobytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("ohwx 女性".encode("shift_jis"), NOT_PLAIN, id="Shift JIS"),
        pytest.param("ohwx woman".encode("utf-16")[:-1], NOT_PLAIN, id="cut short"),
        pytest.param(b"ohwx woman \xc3\x28 \x81", NOT_PLAIN, id="damaged"),
        pytest.param(b"{\\rtf1\\ansi ohwx woman}", NOT_PLAIN, id="RTF"),
        pytest.param(PIXELS, NOT_PLAIN, id="a picture"),
        pytest.param(b"", EMPTY, id="empty"),
        pytest.param(b" \n ", EMPTY, id="blanks"),
        pytest.param(b"\xef\xbb\xbf", EMPTY, id="a byte order mark"),
        pytest.param(b"\x00\x00", EMPTY, id="zeros"),
    ],
)
def test_what_is_no_caption_is_named_and_not_taught(tmp_path, content, why):
    text = tmp_path / "a.txt"
    text.write_bytes(content)
    with pytest.raises(LikenessError, match=why):
        user_caption(text)


def test_a_text_as_long_as_a_book_is_no_caption(tmp_path):
    text = tmp_path / "a.txt"
    with open(text, "wb") as file:
        file.truncate(100_000_000_000)  # takes no place on the disk, and would take all memory
    with pytest.raises(LikenessError, match=r"a.txt: 100,000,000 kB are no caption; shorten it"):
        user_caption(text)
    text.write_bytes(b"ohwx woman " * (MAX_BYTES // 11))
    assert user_caption(text).endswith("ohwx woman")


def test_a_caption_is_found_by_all_the_names_that_people_give_it(tmp_path):
    decomposed = "Zoe\u0308"  # as a Mac unpacks Zoë
    # As a Mac names screenshots, a family of one sign, and what a file manager lets one write.
    odd = ["10.00\u202fAM", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "a\u00a0b", "two\nlines"]
    for name in ("a.TXT", "b.jpg.txt", "c.caption", f"{decomposed}.txt", "D.txt", "d.txt", "e.caption", "e.txt"):
        (tmp_path / name).write_text(name)
    for name in ("notes.txt", ".a.txt", "table.tsv", *(f"{stem}.txt" for stem in odd)):
        (tmp_path / name).write_text("not a caption")
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png", "Zoë.jpg", "d.JPG", "e.jpg", "f.jpg")]
    photos += [tmp_path / f"{stem}.jpg" for stem in odd]
    texts = caption_files(tmp_path)
    owned = by_photo(photos, texts)
    assert {photo.name: text.name for photo, text in owned.items()} == {
        **{"a.jpg": "a.TXT", "b.jpg": "b.jpg.txt", "c.png": "c.caption", "Zoë.jpg": f"{decomposed}.txt"},
        **{"d.JPG": "d.txt", "e.jpg": "e.txt"},
        **{f"{stem}.jpg": f"{stem}.txt" for stem in odd},
    }
    assert [text.name for text in not_read(texts, [], owned)] == ["D.txt", "e.caption", "notes.txt"]


def test_a_link_out_of_the_folder_is_no_caption_and_is_named(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "secret.txt").write_text("a password")
    (tmp_path / "photos/a.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "photos/b.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "photos/real.txt").write_text("ohwx woman")
    (tmp_path / "photos/c.txt").symlink_to("real.txt")
    (tmp_path / "photos/folder.txt").mkdir()
    (tmp_path / "photos/loop.txt").symlink_to("loop.txt")
    os.mkfifo(tmp_path / "photos/pipe.caption")
    assert [path.name for path in caption_files(tmp_path / "photos")] == ["c.txt", "real.txt"]
    others = no_captions(tmp_path / "photos")
    gone = "a folder, a pipe or a link to nothing, so it is not read; remove it"
    assert {path.name: why for path, why in not_read([], others, {}).items()} == {
        "a.txt": "a link out of the folder, so it is not read; put a copy of the file in its place",
        **dict.fromkeys(("b.txt", "folder.txt", "loop.txt", "pipe.caption"), gone),
    }
