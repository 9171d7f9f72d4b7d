"""The memory that decoders need for what a file holds beside its pixels: EXIF, profiles, layers, texts."""

import struct
from typing import IO

# How many copies of it are in memory at once, by format. Measured for TIFF. WebP, HEIF and AVIF are read as whole files
# and copied.
COPIES = {"JPEG": 1, "JPEG2000": 1, "GIF": 1, "TIFF": 3, "PNG": 3, "WEBP": 3, "HEIF": 3, "AVIF": 3}
# Bytes of a value of a TIFF by its type; all other types have 1.
TIFF_SIZES = dict.fromkeys((3, 8), 2) | dict.fromkeys((4, 9, 11, 13), 4) | dict.fromkeys((5, 10, 12, 16, 17, 18), 8)


def memory(file: IO[bytes], kind: str) -> int:
    """The most bytes that decoders need for it; `kind` is Pillow's name of the file's format. Seeks to the start of the
    file afterwards."""
    file.seek(0)
    size = {"TIFF": _tags, "PNG": _chunks}.get(kind, _size)(file)
    file.seek(0)
    return size * COPIES.get(kind, 0)


def _size(file: IO[bytes]) -> int:
    return file.seek(0, 2)


def _tags(file: IO[bytes]) -> int:
    """Bytes of the values in the first directory of a TIFF or BigTIFF; 0 if the file is damaged, which Pillow
    reports."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    place, number, entry = ("4xI", "H", "HHI4x") if head[2:4] in (b"*\0", b"\0*") else ("8xQ", "Q", "HHQ8x")
    try:
        file.seek(struct.unpack_from(order + place, head)[0])
        (count,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
        size = struct.calcsize(order + entry)
        directory = file.read(min(count, 65535) * size)
        entries = struct.iter_unpack(order + entry, directory[: len(directory) // size * size])
        whole = _size(file)  # Pillow reads no more than that of a value with a larger count
        return sum(min(TIFF_SIZES.get(kind, 1) * values, whole) for _, kind, values in entries)
    except (struct.error, OverflowError, OSError, ValueError):
        return 0


def _chunks(file: IO[bytes]) -> int:
    """Bytes of a PNG's chunks other than those of pixels."""
    total, place = 0, 8
    while len(head := _at(file, place)) == 8:
        length, name = struct.unpack(">I4s", head)
        total += 0 if name == b"IDAT" else length
        place += 12 + length
    return min(total, _size(file))


def _at(file: IO[bytes], place: int) -> bytes:
    file.seek(place)
    return file.read(8)
