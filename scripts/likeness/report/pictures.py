"""Pictures as data: URIs, so that a page needs no other file."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from likeness.errors import LikenessError
from likeness.files import ItemCache
from likeness.images import lanczos, read_photo, thumbnail
from likeness.marking import marked_jpeg
from likeness.provenance import code_digest

SAMPLE = 384  # px on the long side: a sample when enlarged
PHOTO = 192  # px on the long side: what a card of the page is wide, at its usual size
COMPARED = 320  # px: crops and training images, to be compared when the cards are large
QUALITY = 82  # of JPEG: 240 samples are then about 6 MB


def sample_uri(path: Path) -> str:
    """A generated picture: marked as such here too."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((SAMPLE, SAMPLE), Image.Resampling.LANCZOS)
    return _uri(marked_jpeg(np.asarray(image), QUALITY))


def thumbnail_cache(folder: Path) -> ItemCache:
    """Where thumbnails of photos are kept: a phone's HEIC of 12 megapixels takes most of a second to decode."""
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


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
