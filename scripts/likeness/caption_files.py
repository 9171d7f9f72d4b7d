"""Captions that users wrote beside photos: which file belongs to which photo, and what it says."""

import codecs
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path

from likeness.errors import LikenessError

# As trainers look for them: photo.txt (kohya), photo.caption (kohya's caption_extension). Also photo.jpg.txt.
SUFFIXES = (".txt", ".caption")
MARKED = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def caption_files(folder: Path) -> list[Path]:
    """Every file of a folder that could be a caption, sorted. A link that leads out of the folder is none: whoever
    sends photos could have any text of this machine shown on a page."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    within = folder.resolve()
    return sorted(path for path in found if _can_be_listed(path) and _is_within(path, within))


def by_photo(photos: Iterable[Path], texts: Iterable[Path]) -> dict[Path, Path]:
    """{photo: its caption's file}, without the photos that have none.

    Names are compared in letters of one case and one Unicode form: a Mac unpacks "ü" as two signs. Of several files,
    the one whose name is the photo's sign by sign is taken, and .txt before .caption.
    """
    known: dict[str, list[Path]] = {}
    for text in texts:
        known.setdefault(_compared(text.stem), []).append(text)
    found = {}
    for photo in photos:
        names = (photo.stem, photo.name)
        if candidates := [text for name in names for text in known.get(_compared(name), [])]:
            found[photo] = min(candidates, key=lambda text: (text.stem not in names, _rank(text), text.name))
    return found


def without_photo(texts: Iterable[Path], owned: Mapping[Path, Path]) -> list[Path]:
    """The files that are no photo's caption, sorted."""
    return sorted(set(texts) - set(owned.values()))


def user_caption(file: Path) -> str:
    """The caption that the user wrote: lines joined by a space, in Unicode's composed form. Raises LikenessError if it
    is empty."""
    words = unicodedata.normalize("NFC", _decoded(file.read_bytes())).split()
    text = " ".join(filter(None, ("".join(filter(str.isprintable, word)) for word in words)))
    if not text:
        raise LikenessError(f"{file}: the caption is empty; write one, or delete the file to have one made")
    return text


def _decoded(data: bytes) -> str:
    """UTF-8, UTF-16 (with a mark, or with the zeros of Latin letters), else what Windows' editors wrote."""
    for mark, encoding in MARKED.items():
        if data.startswith(mark):
            return data.decode(encoding, errors="replace")
    if b"\0" in data:
        big_endian = data[::2].count(0) > data[1::2].count(0)
        return data.decode("utf-16-be" if big_endian else "utf-16-le", errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _compared(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _rank(text: Path) -> int:
    return SUFFIXES.index(text.suffix.lower())


def _can_be_listed(path: Path) -> bool:
    """Snakemake takes no {word} in a path, and tables hold UTF-8. No photo may have such a name either."""
    return not set("{}") & set(path.name) and path.name.isprintable()


def _is_within(path: Path, folder: Path) -> bool:
    return os.access(path, os.R_OK) and path.is_file() and path.resolve().is_relative_to(folder)
