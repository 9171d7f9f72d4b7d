"""Which files of a folder are photos: by the ends of their names, or by their first bytes where those say nothing. What
they hold is for images.py to find.
"""

import os
from pathlib import Path

from likeness import raw
from likeness.caption_files import SUFFIXES as CAPTION_SUFFIXES
from likeness.errors import LikenessError

# Photos that are not read. They get a row that says what to do, because a photo that is passed over is not missed.
NOT_READ = {".jxl": "JPEG XL", ".psd": "file of Photoshop", ".psb": "file of Photoshop", ".xcf": "file of GIMP"}
PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff"),
    *(".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs", ".bmp", ".dib", ".gif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *raw.SUFFIXES,
}
# How files begin whatever their names are: photo.jpg_large, photo.jpg_original, a download without an ending.
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}


def checked_photos(photos: str, folder: Path) -> list[Path]:
    """Every photo in `folder`, which is `photos` in config.yaml. Raises LikenessError if there is none, or a name that
    cannot be: Snakemake takes {word} in a path for a wildcard, and its records, like the tables, hold paths as text.
    """
    candidates = _photos(folder)
    for path in candidates:
        if set("{}") & set(str(path)):
            raise LikenessError(f"the path {str(path)!r} has a brace, which Snakemake cannot take; rename it")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise LikenessError(f"the path {str(path)!r} is not UTF-8; rename it") from None
    if found := [path for path in candidates if _can_be_read(path)]:
        return found
    if below := [path for path in candidates if path.is_dir()]:
        names = ", ".join(repr(str(Path(photos) / path.name)) for path in below)
        raise LikenessError(f"no photo in {photos!r} itself, but in {names}; write that, or move the photos up")
    raise LikenessError(f"no photo in {photos!r}; expected files ending in {' '.join(sorted(PHOTO_SUFFIXES))}")


def photo_files(folder: Path) -> list[Path]:
    """Every photo directly in a folder, sorted: what detect_faces reads. Captions (.txt) are read by caption_faces."""
    return [path for path in _photos(folder) if _can_be_read(path)]


def not_files(folder: Path) -> list[Path]:
    """What is like a photo and is no file that can be read (a link to nothing, a pipe, a folder with photos), sorted.
    It gets its row, but nobody can wait for it as an input."""
    return [path for path in _photos(folder) if not _can_be_read(path)]


def _photos(folder: Path) -> list[Path]:
    """Hidden files (a Mac's ._x.jpg) are not photos."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and _is_photo(path))


def _is_photo(path: Path) -> bool:
    """A folder is one where photos lie in it, so that they are not passed over."""
    if _is_named_so(path):
        return True
    if path.is_dir():
        return os.access(path, os.R_OK | os.X_OK) and any(
            _is_named_so(inner) and not inner.name.startswith(".") for inner in path.iterdir()
        )
    return path.suffix.lower() not in CAPTION_SUFFIXES and _can_be_read(path) and _begins_so(path)


def _is_named_so(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES or path.suffix.lower() in NOT_READ


def _begins_so(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
    is_webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    return is_webp or head.startswith(BEGINNINGS) or (head[4:8] == b"ftyp" and head[8:] in BRANDS)


def _can_be_read(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)
