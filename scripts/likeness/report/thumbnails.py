"""Pictures for the pages: as data: URIs within the page or, for the thousands of samples, as files in a folder beside
it."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from likeness.core import cli
from likeness.core.errors import PhotoError
from likeness.core.files import ItemCache
from likeness.core.provenance import code_digest
from likeness.drawing.marking import marked_jpeg
from likeness.photos.decoding import check_unchanged
from likeness.photos.images import lanczos, read_photo, thumbnail

SAMPLE = 384  # px on the long side of a sample within a page
FULL_SCREEN = 512  # px on the long side of a sample in a file, which can fill the screen
PHOTO = 192  # px on the long side of a photo: the usual width of a card
COMPARED = 320  # px of crops and training images, which are compared in large cards
LARGE = 1024  # px of a portrait in the gallery, which fills half of a page; many screens have two pixels for one px
CLOSE_UP = 512  # px of a face in the gallery, which is compared with the one before
QUALITY = 82  # of JPEG: a sample has about 30 kB


def sample_uri(path: Path) -> str:
    """A generated picture as a URI. The JPEG is marked as generated, too."""
    return _uri(_sample_jpeg(path, SAMPLE))


def sample_files(table: pd.DataFrame, cache: ItemCache, threads: int) -> dict[str, Path]:
    """The pictures of a table of scores.measured_pictures as marked JPEG files in the cache: {image: file}.

    Only pictures with new pixels are encoded: another name of the LoRA in the metadata changes nothing.
    """

    def made(sample: tuple[str, str]) -> Path:
        image, pixels = sample
        return cache.get(lambda: _sample_jpeg(Path(image), FULL_SCREEN), "sample", pixels)

    samples = list(zip(table["image"], table["pixels"], strict=True))
    results = cli.map_in_threads(made, samples, threads, desc="samples", unit="picture")
    return {image: file for (image, _), file in results}


class Preview(NamedTuple):
    """A smaller copy of a picture in the gallery, or of a part of it."""

    image: Path
    sha256: str
    side: int
    """px on the long side."""
    part: tuple[int, int, int, int] | None
    """left, top, right, bottom in px; None for the whole picture."""
    generated: bool
    """False for a photo of the user's, which must not be marked as generated."""


def preview_files(previews: Sequence[Preview], cache: ItemCache, threads: int) -> dict[Preview, Path]:
    """The previews as JPEG files in the cache."""

    def made(preview: Preview) -> Path:
        about = (str(preview.side), str(preview.part), str(preview.generated))
        return cache.get(lambda: _preview_jpeg(preview), "preview", preview.sha256, *about)

    return dict(cli.map_in_threads(made, list(dict.fromkeys(previews)), threads, desc="portraits", unit="picture"))


def thumbnail_cache(folder: Path) -> ItemCache:
    """The cache of the pages' pictures: decoding a phone's HEIC of 12 megapixels takes most of a second, and encoding
    3,200 samples takes minutes."""
    return ItemCache(folder, code_digest(Path(__file__)))


def photo_uri(photo: Path, sha256: str, thumbnails: ItemCache) -> str | None:
    """A photo as a URI; None if it cannot be read, or if it has no longer this hash."""

    def made() -> bytes:
        small = thumbnail(photo, PHOTO)
        check_unchanged(photo, sha256)
        return _jpeg(small)

    try:
        return _uri(thumbnails.get(made, sha256).read_bytes())
    except PhotoError:
        return None


def crop_uri(crop: Path) -> str:
    """A crop or a training image as a URI."""
    return _uri(_jpeg(thumbnail(crop, COMPARED)))


def enlarged_uri(crop: Path) -> str:
    """A crop as a URI, enlarged by Lanczos to the size of the training image on the page: the picture before
    Real-ESRGAN."""
    pixels = read_photo(crop)
    height, width = (round(COMPARED * length / max(pixels.shape[:2])) for length in pixels.shape[:2])
    return _uri(_jpeg(lanczos(pixels, width, height)))


def _sample_jpeg(path: Path, side: int) -> bytes:
    return marked_jpeg(_reduced(Image.open(path), side), QUALITY)


def _preview_jpeg(preview: Preview) -> bytes:
    image = Image.open(preview.image)
    pixels = _reduced(image.crop(preview.part) if preview.part else image, preview.side)
    return marked_jpeg(pixels, QUALITY) if preview.generated else _jpeg(pixels)


def _reduced(image: Image.Image, side: int) -> np.ndarray:
    """uint8 RGB (height, width, 3) with at most `side` px on the long side."""
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
