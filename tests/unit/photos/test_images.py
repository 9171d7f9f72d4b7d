"""A photo becomes pixels, a thumbnail, a hash and a name that every file system takes."""

import errno
import io

import numpy as np
import pytest
from PIL import Image

from likeness.core.errors import LikenessError
from likeness.photos import images
from made_photos import QUARTERS, assert_quarters, encoded, noise, orientation_tag


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF"])
def test_a_thumbnail_is_the_photo_made_smaller(tmp_path, kind):
    large = Image.fromarray(QUARTERS).resize((1200, 800), Image.Resampling.NEAREST)
    stored = large.transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "photo.jpg").write_bytes(encoded(stored, kind, exif=orientation_tag(6), quality=95))
    small = images.thumbnail(tmp_path / "photo.jpg", 60)
    assert_quarters(small, tolerance=12)
    (tmp_path / "photo.jpg").write_bytes(encoded(Image.fromarray(QUARTERS), kind, quality=95))
    assert images.thumbnail(tmp_path / "photo.jpg", 512).shape == QUARTERS.shape  # never enlarged
    (tmp_path / "photo.jpg").write_bytes(b"text")
    with pytest.raises(LikenessError, match="not a picture"):
        images.thumbnail(tmp_path / "photo.jpg", 60)


def test_a_disk_that_does_not_answer_is_no_damaged_photo(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))

    def failing(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(images, "upright_srgb", failing)
    with pytest.raises(LikenessError, match="the file cannot be opened: input/output error; copy it again"):
        images.read_photo(tmp_path / "a.jpg")


def test_png_bytes_hold_the_pixels_and_nothing_else(tmp_path):
    pixels = np.asarray(noise(64))
    assert images.png_bytes(pixels) == images.png_bytes(pixels.copy())
    with Image.open(io.BytesIO(images.png_bytes(pixels))) as image:
        assert (np.asarray(image) == pixels).all() and image.info == {}


def test_the_perceptual_hash_survives_encoding_again_and_tells_pictures_apart(ava):
    first, second = (images.read_photo(ava / name) for name in ("03.jpg", "13.jpg"))
    again = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(first), "JPEG", quality=40))))

    def bits(a, b):
        return (int(images.perceptual_hash(a), 16) ^ int(images.perceptual_hash(b), 16)).bit_count()

    assert bits(first, again) <= 2
    assert bits(first, second) > 6


def test_stems_are_safe_and_different_on_every_file_system():
    names = [
        "a.jpg",
        "a.png",
        "A.gif",
        "a_png.jpg",
        "x y ü.jpg",
        "日本.heic",
        "....jpg",
        "sub/a.webp",
        "n" * 240 + ".jpg",
    ]
    stems = images.unique_stems(names)
    assert stems == images.unique_stems(reversed(names))
    assert set(stems) == set(names)
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    assert stems["x y ü.jpg"] == "x_y_ü" and stems["日本.heic"] == "日本" and stems["....jpg"] == "photo"
    assert all(len(f"{stem}.png".encode()) < 230 and not set(stem) & set(' /\\:*?"<>|.\t') for stem in stems.values())


def test_letters_composed_or_not_give_one_stem():
    assert images.unique_stems(["u\u0308.jpg"])["u\u0308.jpg"] == images.unique_stems(["\u00fc.jpg"])["\u00fc.jpg"]
