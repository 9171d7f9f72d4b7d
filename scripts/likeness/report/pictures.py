"""Pictures for the pages: as data: URIs inside them, or, for the thousands of samples, as files in a folder beside."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from likeness import cli
from likeness.errors import LikenessError
from likeness.files import ItemCache
from likeness.images import lanczos, read_photo, thumbnail
from likeness.marking import marked_jpeg
from likeness.provenance import code_digest

SAMPLE = 384  # px on the long side: a sample inside a page
FULL_SCREEN = 512  # px on the long side: a sample as a file, which is shown as large as the screen
PHOTO = 192  # px on the long side: what a card of the page is wide, at its usual size
COMPARED = 320  # px: crops and training images, to be compared when the cards are large
QUALITY = 82  # of JPEG: a sample is then about 30 kB


def sample_uri(path: Path) -> str:
    """A generated picture: marked as such here too."""
    return _uri(_sample_jpeg(path, SAMPLE))


def sample_files(table: pd.DataFrame, cache: ItemCache, threads: int) -> dict[str, Path]:
    """The pictures of a table of selection.measured_pictures as JPEG files in the cache, marked: image -> file.

    Only new ones are encoded, by their pixels: one that says another name of its LoRA is not.
    """

    def made(sample: tuple[str, str]) -> Path:
        image, pixels = sample
        return cache.get(lambda: _sample_jpeg(Path(image), FULL_SCREEN), "sample", pixels)

    samples = list(zip(table["image"], table["pixels"], strict=True))
    found = cli.mapped(made, samples, threads, desc="samples", unit="picture")
    return {image: file for (image, _), file in found}


def thumbnail_cache(folder: Path) -> ItemCache:
    """Where the pages' pictures are kept: a phone's HEIC of 12 megapixels takes most of a second to decode, and 3,200
    samples take minutes to encode."""
    return ItemCache(folder, code_digest(Path(__file__)))


def photo_uri(photo: Path, sha256: str, thumbnails: ItemCache) -> str | None:
    """A photo of the folder; None if it cannot be read."""
    try:
        return _uri(thumbnails.get(lambda: _jpeg(thumbnail(photo, PHOTO)), sha256).read_bytes())
    except LikenessError:
        return None


def crop_uri(crop: Path) -> str:
    """A crop or a training image."""
    return _uri(_jpeg(thumbnail(crop, COMPARED)))


def enlarged_uri(crop: Path) -> str:
    """A crop brought to the size of its training image on the page by Lanczos: what it was before Real-ESRGAN."""
    pixels = read_photo(crop)
    height, width = (round(COMPARED * length / max(pixels.shape[:2])) for length in pixels.shape[:2])
    return _uri(_jpeg(lanczos(pixels, width, height)))


def _sample_jpeg(path: Path, side: int) -> bytes:
    image = Image.open(path).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return marked_jpeg(np.asarray(image), QUALITY)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
