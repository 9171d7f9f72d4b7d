"""Pictures with known colours, encoded and read again like photos."""

import io

import numpy as np
from PIL import Image

from likeness.photos import images, srgb

# Four colours, one per quarter, 60 x 40 px: all rotated and mirrored versions differ.
QUARTERS = np.zeros((40, 60, 3), np.uint8)
QUARTERS[:20, :30] = 200, 40, 40
QUARTERS[:20, 30:] = 90, 200, 90
QUARTERS[20:, :30] = 20, 20, 20
QUARTERS[20:, 30:] = 30, 60, 220


def noise(side: int = 200) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path, data: bytes, name: str = "photo.jpg") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return images.read_photo(tmp_path / name)


def orientation_tag(value: int) -> bytes:
    """EXIF as bytes. From bytes, pillow_heif writes the box that rotates a HEIF; readers ignore an orientation that is
    only in the EXIF."""
    exif = Image.Exif()
    exif[srgb.ORIENTATION] = value
    return exif.tobytes()


def assert_quarters(pixels: np.ndarray, tolerance: int) -> None:
    """The colours in the middle of every quarter, because lossy formats blur the borders."""
    assert pixels.shape == QUARTERS.shape and pixels.dtype == np.uint8
    for y, x in ((10, 15), (10, 45), (30, 15), (30, 45)):
        assert np.abs(pixels[y, x].astype(int) - QUARTERS[y, x]).max() <= tolerance
