"""Which files of a folder are photos: by their first bytes, or by their suffixes if the first bytes are of no known
format. images.py reads them.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from likeness.core.errors import LikenessError
from likeness.photos import raw
from likeness.photos.caption_files import SUFFIXES as CAPTION_SUFFIXES
from likeness.photos.caption_files import compared

# Formats of photos that are not read. Such a photo gets a row with advice, because users would not notice that it is
# missing.
NOT_READ = {
    **{".jxl": "JPEG XL", **dict.fromkeys((".jxr", ".wdp", ".hdp"), "JPEG XR"), ".bpg": "BPG", ".flif": "FLIF"},
    **{".psd": "file of Photoshop", ".psb": "file of Photoshop", ".xcf": "file of GIMP", ".kra": "file of Krita"},
    **{".afphoto": "file of Affinity Photo", ".exr": "OpenEXR", ".hdr": "Radiance HDR", ".livp": "Live Photo"},
    **{".tga": "TGA", ".pcx": "PCX", ".qoi": "QOI", ".pam": "PAM", ".pfm": "PFM", ".pdf": "PDF"},
}
PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff"),
    *(".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs", ".bmp", ".dib", ".gif"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *raw.SUFFIXES,
}
# The first bytes of photos. Names may have other suffixes or none: photo.jpg_large, photo.jpg_original, a download.
TIFF_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"}
NOT_READ_BEGINNINGS = {
    **{b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL", b"II\xbc\x01": "JPEG XR", b"%PDF-": "PDF"},
    **{b"8BPS": "file of Photoshop", b"gimp xcf": "file of GIMP"},
}
# The suffix of a placeholder for a photo in iCloud that was not downloaded: .IMG_0001.HEIC.icloud.
IN_CLOUD = ".icloud"
# Folders in which network drives and operating systems keep thumbnails, deleted files, and snapshots.
SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "__macosx", "lost+found"),
    "system volume information",
}
# Files in which a folder among the photos is searched for photos: enough for real folders, and done in 0.1 s.
MAX_LOOKED_AT = 10_000


def checked_photos(photos: str, folder: Path) -> list[Path]:
    """Every photo in `folder`, which is `photos` in config.yaml. Raises LikenessError if there is none, or if a path is
    not allowed: Snakemake reads {word} in a path as a wildcard, and its records and the tables hold paths as UTF-8.
    """
    if not os.access(folder, os.R_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise LikenessError(f"the folder {photos!r} cannot be read; give yourself the right to")
    candidates = _photos(folder)
    for path in [*candidates, *_captions(folder)]:
        if set("{}") & set(str(path)):
            raise LikenessError(f"the path {str(path)!r} has a brace, which Snakemake cannot take; rename it")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise LikenessError(f"the path {str(path)!r} is not UTF-8; rename it") from None
    if readable := [path for path in candidates if _can_be_read(path)]:
        return readable
    if below := list(filter(None, map(_folder_of_photos, candidates))):
        names = ", ".join(repr(str(Path(photos) / place.relative_to(folder))) for place in below)
        raise LikenessError(f"no photo in {photos!r} itself, but in {names}; write that, or move the photos up")
    raise LikenessError(f"no photo in {photos!r}; expected files ending in {' '.join(sorted(PHOTO_SUFFIXES))}")


def photo_files(folder: Path) -> list[Path]:
    """Every photo directly in a folder, sorted: what detect_faces reads. Captions (.txt) are read by caption_faces."""
    return [path for path in _photos(folder) if _can_be_read(path)]


def unreadable_entries(folder: Path) -> list[Path]:
    """Paths that look like photos but are no readable files (a broken link, a pipe, a folder with photos), sorted. They
    get a row, but no rule can have them as inputs."""
    return [path for path in _photos(folder) if not _can_be_read(path)]


def matching_name(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` means: exactly the same name, else one that differs in case or Unicode form, as
    for captions and photos. None if there is none."""
    names = set(names)
    alike = sorted(other for other in names if compared(other) == compared(name))
    return name if name in names else next(iter(alike), None)


def is_raw(path: Path) -> bool:
    """Whether a file is a camera's raw file, of which LibRaw extracts the preview."""
    head = _head(path)
    return head.startswith(raw.BEGINNINGS) or (path.suffix.lower() in raw.SUFFIXES and not _has_picture_signature(head))


def could_be_raw(path: Path) -> bool:
    """Whether a file begins as a TIFF and has no suffix of a photo: it may be a raw file (photo.NEF_original)."""
    return _head(path).startswith(TIFF_BEGINNINGS) and path.suffix.lower() not in PHOTO_SUFFIXES


def may_be_unpacked(path: Path) -> bool:
    """Whether a picture's format can store pixels without compression."""
    return _head(path).startswith((*TIFF_BEGINNINGS, b"BM", b"P5", b"P6"))


def unsupported_format(path: Path) -> str:
    """The format of a photo that is not read; empty for all other files."""
    head = _head(path)
    if _has_picture_signature(head):
        return ""
    by_beginning = (kind for beginning, kind in NOT_READ_BEGINNINGS.items() if head.startswith(beginning))
    return next(by_beginning, NOT_READ.get(path.suffix.lower(), ""))


def is_in_cloud(path: Path) -> bool:
    """Whether a file is a placeholder for a photo that was not downloaded yet."""
    return path.suffix.lower() == IN_CLOUD and Path(path.stem).suffix.lower() in PHOTO_SUFFIXES


def _photos(folder: Path) -> list[Path]:
    """The photos of a folder, sorted, without hidden files (a Mac's ._x.jpg)."""
    return sorted(path for path in folder.iterdir() if _is_photo(path))


def _captions(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if path.suffix.lower() in CAPTION_SUFFIXES)


def _is_photo(path: Path) -> bool:
    """Whether a path looks like a photo. A folder with photos counts as one, so that users learn that it is not
    read."""
    if is_in_cloud(path):
        return True
    if not _is_shown(path):
        return False
    if _has_photo_suffix(path):
        return True
    if os.path.isdir(path):
        return _folder_of_photos(path) is not None
    if path.suffix.lower() in CAPTION_SUFFIXES or not _can_be_read(path):
        return False
    head = _head(path)
    return _has_picture_signature(head) or head.startswith((*raw.BEGINNINGS, *TIFF_BEGINNINGS, *NOT_READ_BEGINNINGS))


def _folder_of_photos(folder: Path) -> Path | None:
    """The first folder, of this one and those below it, that has photos by their names."""
    looked_at = ((place, name) for place, below, names in _walked(folder) for name in names)
    for place, name in islice(looked_at, MAX_LOOKED_AT):
        if not name.startswith(".") and _has_photo_suffix(Path(name)):
            return Path(place)
    return None


def _walked(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in sorted order, without hidden folders and SYSTEM_FOLDERS; links to folders are not followed."""
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if _is_shown(Path(name)))
        yield place, below, sorted(names)


def _is_shown(path: Path) -> bool:
    return not path.name.startswith(".") and path.name.casefold() not in SYSTEM_FOLDERS


def _has_photo_suffix(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES or path.suffix.lower() in NOT_READ


def _has_picture_signature(head: bytes) -> bool:
    """Whether these first bytes alone show that a file is a picture."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_bmp = head[:2] == b"BM" and head[6:10] == bytes(4)  # reserved
    return is_webp or is_bmp or head.startswith(BEGINNINGS) or (head[4:8] == b"ftyp" and head[8:12] in BRANDS)


def _head(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    if not os.path.isfile(path):  # opening a pipe waits for ever
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _can_be_read(path: Path) -> bool:
    return not is_in_cloud(path) and os.path.isfile(path) and os.access(path, os.R_OK)
