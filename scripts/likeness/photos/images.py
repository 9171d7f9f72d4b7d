"""Reading the photos of a folder, and writing PNGs whose bytes depend only on their pixels."""

import io
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from likeness.core.errors import PhotoError
from likeness.photos.decoding import in_turn, needed_memory, opened
from likeness.photos.srgb import upright_srgb


def read_photo(path: Path) -> np.ndarray:
    """A picture file as uint8 (height, width, 3) in sRGB, upright. The first picture of a file that holds several.

    Raises PhotoError, with a message for users, if the file is no picture, damaged, or too large.
    """
    with opened(path) as image:
        return upright_srgb(image)


def thumbnail(path: Path, side: int) -> np.ndarray:
    """`read_photo`, reduced to at most `side` px on the longer side. A JPEG is decoded at a smaller size, which is
    several times faster."""
    with opened(path) as image:
        image.draft(None, (side, side))
        with in_turn(needed_memory(image)):
            small = Image.fromarray(upright_srgb(image))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(small)


@contextmanager
def photo_in_turn(path: Path) -> Iterator[np.ndarray]:
    """`read_photo` for threads: waits until the memory that other threads hold leaves enough of MAX_HELD_MEMORY. The
    memory of the picture counts until the `with` block ends."""
    with opened(path) as image:
        memory = needed_memory(image)
    with in_turn(memory):
        yield read_photo(path)


def lanczos(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 (h, w, 3) resampled to (height, width, 3); unchanged if it already has that size."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def class_photo(image: np.ndarray, resolution: int) -> np.ndarray:
    """The largest centred square of uint8 (h, w, 3), reduced to (resolution, resolution, 3). Raises PhotoError if the
    picture is smaller: training on enlarged pictures would teach that the class is blurred."""
    height, width = image.shape[:2]
    side = min(height, width)
    if side < resolution:
        raise PhotoError(f"{width} x {height} px, smaller than the resolution of {resolution} px")
    top, left = (height - side) // 2, (width - side) // 2
    return lanczos(image[top : top + side, left : left + side], resolution, resolution)


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG of uint8 (height, width, 3), without metadata: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def perceptual_hash(image: np.ndarray) -> str:
    """64-bit DCT hash of uint8 (height, width, 3), 16 hex digits. The Hamming distance of two hashes measures how
    different the pictures look.

    Source: imagehash.phash, after Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions".
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(image)))


def unique_stems(names: Iterable[str]) -> dict[str, str]:
    """A file stem for every photo (a name or a path): valid on every file system, and unique even if case is ignored.

    Letters of every script stay. Of a.jpg and a.png, the second becomes a_png. The stems depend only on the set of
    names.
    """
    stems, used = {}, set()
    for name in sorted(names):
        path = PurePath(name)
        stem = _safe(path.stem) or "photo"
        base = f"{stem}_{_safe(path.suffix)}"
        candidates = iter([stem, base])
        number = 1
        while (candidate := next(candidates, f"{base}_{number}")).casefold() in used:
            number += 1
        used.add(candidate.casefold())
        stems[name] = candidate
    return stems


def _safe(text: str) -> str:
    """A text with letters, digits, - and _ only. It is in composed Unicode, because Macs write decomposed names. It has
    at most 50 characters, which are at most 200 bytes: file systems usually allow 255 for a name with its suffixes."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in composed).strip("_-")[:50]
