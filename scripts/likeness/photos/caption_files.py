"""Captions that users wrote beside photos: which file belongs to which photo, and its text."""

import codecs
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from likeness.core.errors import LikenessError, system_reason

# The suffixes that trainers use: photo.txt (kohya), photo.caption (kohya's caption_extension). Also photo.jpg.txt.
SUFFIXES = (".txt", ".caption")
MARKED = {
    # UTF-32 comes before UTF-16, because the byte order mark of UTF-32-LE begins with that of UTF-16-LE.
    **{codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"},
    **{codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"},
}
# The encoding by which bytes of each group of four are mostly zero (0).
WIDE = {"x0x0": "utf-16-le", "0x0x": "utf-16-be", "x000": "utf-32-le", "000x": "utf-32-be"}
WIDE |= {"xx00": "utf-32-le", "00xx": "utf-32-be"}  # letters of other scripts than Latin
MAX_BYTES = 20_000  # training reads at most 225 tokens of a caption, about 1,500 letters
WITHOUT_PHOTO = "belongs to no photo that is used, so it is not read; a caption is named as its photo is"
REPLACED = "\ufffd"  # decoders write it for bytes that the encoding does not allow


def caption_files(folder: Path) -> list[Path]:
    """Every file of a folder that could be a caption, sorted."""
    return [path for path in _named_so(folder) if not why_not_read(path)]


def no_captions(folder: Path) -> list[Path]:
    """Paths that are named like captions and are not read, sorted; `why_not_read` gives the reason."""
    return [path for path in _named_so(folder) if why_not_read(path)]


def why_not_read(path: Path) -> str:
    """The reason why a path that is named like a caption is not read; empty if it is read. A link that leads out of the
    folder is not read: with one, the sender of a folder of photos could put any text file of this machine on a page."""
    if not os.path.isfile(path):
        return "a folder, a pipe or a link to nothing, so it is not read; remove it"
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        return "a link out of the folder, so it is not read; put a copy of the file in its place"
    return "" if os.access(path, os.R_OK) else "not read; give yourself the right to read it"


def by_photo(photos: Iterable[Path], texts: Iterable[Path]) -> dict[Path, Path]:
    """{photo: the file of its caption}, without the photos that have none.

    Names are compared without case and in one Unicode form, because a Mac unpacks "ü" as two characters. If several
    files match a photo, one with exactly the photo's name goes first, and .txt goes before .caption.
    """
    known: dict[str, list[Path]] = {}
    for text in texts:
        known.setdefault(compared(text.stem), []).append(text)
    captions = {}
    for photo in photos:
        names = (photo.stem, photo.name)
        if candidates := [text for name in names for text in known.get(compared(name), [])]:
            captions[photo] = min(candidates, key=lambda text: (text.stem not in names, _rank(text), text.name))
    return captions


def not_read(texts: Iterable[Path], no_texts: Iterable[Path], owned: Mapping[Path, Path]) -> dict[Path, str]:
    """{file: why it is not read}, sorted. `texts` are those of `caption_files`, of which `owned`, the result of
    `by_photo`, belong to photos; `no_texts` are those of `no_captions`."""
    without_photo = dict.fromkeys(set(texts) - set(owned.values()), WITHOUT_PHOTO)
    return dict(sorted((without_photo | {path: why_not_read(path) for path in no_texts}).items()))


def user_caption(file: Path) -> str:
    """The caption in a file: lines joined by a space, in Unicode's composed form. Raises LikenessError if it is empty,
    too long, or no text."""
    try:
        size = file.stat().st_size
        data = b"" if size > MAX_BYTES else file.read_bytes()
    except OSError as error:
        raise LikenessError(f"{file}: {system_reason(error)}; run the same command again") from None
    if size > MAX_BYTES:
        raise LikenessError(
            f"{file}: {size / 1000:,.0f} kB are no caption; shorten it to a few sentences, or remove the file"
        )
    text = _decoded(data)
    if REPLACED in text or text.startswith("{\\rtf"):
        raise LikenessError(f"{file}: not plain text, or in letters of an old encoding; save it as plain text in UTF-8")
    words = unicodedata.normalize("NFC", text.replace("\0", " ")).split()
    text = " ".join(filter(None, ("".join(filter(str.isprintable, word)) for word in words)))
    if not text:
        raise LikenessError(f"{file}: the caption is empty; write one, or delete the file to have one made")
    return text


def _decoded(data: bytes) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, which is recognised by a byte order mark or by zero bytes; in any
    other case in cp1252, as old editors of Windows wrote it. Bytes that are not allowed become REPLACED."""
    for mark, encoding in MARKED.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if encoding := _wide_encoding(data):
        return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _wide_encoding(data: bytes) -> str:
    """The encoding of a text without a byte order mark whose letters have two or four bytes; empty for any other text.
    Zeros at the end do not count: a file that was not written completely ends with them."""
    text = data.rstrip(b"\0")
    if 0 not in text:
        return ""
    padded = text.ljust(len(text) + -len(text) % 4, b"\0")
    places = "".join("0" if padded[n::4].count(0) > len(padded) / 8 else "x" for n in range(4))
    if places in WIDE:
        return WIDE[places]
    if _is_plain(text.replace(b"\0", b"")):
        return ""
    return "utf-16-be" if data[::2].count(0) > data[1::2].count(0) else "utf-16-le"


def _is_plain(data: bytes) -> bool:
    """Whether the bytes are UTF-8 without control characters. Bytes of Cyrillic letters in UTF-16 would be read as
    such."""
    try:
        return all(sign.isprintable() or sign.isspace() for sign in data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


def compared(name: str) -> str:
    """A file's name without case and in one Unicode form, for comparisons."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _rank(text: Path) -> int:
    return SUFFIXES.index(text.suffix.lower())


def _named_so(folder: Path) -> list[Path]:
    """Files with a caption's suffix, without hidden ones such as a Mac's ._photo.txt."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
