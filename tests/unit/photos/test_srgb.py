"""Every picture is read upright and in sRGB, as people see it."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from likeness.photos import images, srgb
from made_photos import QUARTERS, assert_quarters, encoded, noise, orientation_tag, read

# How a camera stores an upright picture under each EXIF orientation, in numpy's words (Exif 2.32, tag Orientation:
# where row 0 and column 0 of the stored pixels are in the scene).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_every_exif_orientation_is_read_upright(tmp_path, kind, orientation):
    exif = orientation_tag(orientation)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUARTERS)))
    assert_quarters(read(tmp_path, encoded(stored, kind, exif=exif, quality=95)), tolerance=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF"])
def test_every_format_is_read_by_its_content_and_not_its_name(tmp_path, kind):
    assert_quarters(read(tmp_path, encoded(Image.fromarray(QUARTERS), kind), "photo.png"), tolerance=12)


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_colour_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(QUARTERS)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    assert_quarters(read(tmp_path, encoded(image, "TIFF")), tolerance=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, kind):
    grey = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    pixels = read(tmp_path, encoded(Image.fromarray(grey), kind))
    assert np.abs(pixels - grey[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_are_scaled_too(tmp_path, suffix):
    levels = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    stored = np.dstack([levels, levels[::-1], levels[:, ::-1]])
    cv2.imwrite(str(tmp_path / f"photo.{suffix}"), stored[..., ::-1])
    assert np.abs(images.read_photo(tmp_path / f"photo.{suffix}") - stored / 257).max() < 1


def test_floats_are_taken_from_black_to_white_and_what_is_no_number_is_black(tmp_path):
    values = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    values[0, :3] = np.nan, np.inf, -np.inf
    cv2.imwrite(str(tmp_path / "photo.tif"), np.where(np.isposinf(values), 1, values))
    pixels = images.read_photo(tmp_path / "photo.tif")
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(pixels[1:, :, 0] - values[1:] * 255).max() <= 0.5


def test_the_inverted_inks_of_adobe_jpegs_are_read_as_another_decoder_reads_them(tmp_path):
    data = encoded(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data[:40]
    assert_quarters(read(tmp_path, data), tolerance=3)
    assert_quarters(cv2.imread(str(tmp_path / "photo.jpg"))[..., ::-1], tolerance=3)


def test_grey_and_bilevel_pictures_become_rgb(tmp_path):
    for mode in ("L", "LA", "1"):
        pixels = read(tmp_path, encoded(Image.fromarray(QUARTERS).convert(mode), "PNG"))
        assert pixels.shape == QUARTERS.shape and (pixels[..., 0] == pixels[..., 2]).all()


def test_transparent_parts_become_a_light_grey_wall(tmp_path):
    alpha = Image.new("L", (60, 40), 255)
    alpha.paste(0, (0, 0, 30, 20))
    image = Image.fromarray(QUARTERS)
    image.putalpha(alpha)
    pixels = read(tmp_path, encoded(image, "PNG"))
    assert (pixels[:20, :30] == srgb.BACKDROP).all()
    assert (pixels[20:] == QUARTERS[20:]).all()


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    # L*a*b* is a space whose numbers are nothing like sRGB's, so reading them as sRGB would show.
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(Image.fromarray(QUARTERS), srgb, lab, outputMode="LAB")
    data = encoded(stored, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert_quarters(read(tmp_path, data), tolerance=6)


def test_lab_needs_no_profile(tmp_path):
    """Photoshop writes none: L*a*b* is the same on every machine."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(Image.fromarray(QUARTERS), srgb, lab, outputMode="LAB")
    del stored.info["icc_profile"]
    assert_quarters(read(tmp_path, encoded(stored, "TIFF")), tolerance=6)


def grey_profile(power: float) -> bytes:
    """An ICC profile (version 2.1) of grey whose light is a power of the signal."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(256 * power))
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    tags = [(b"kTRC", curv := curve.ljust(16, b"\0")), (b"wtpt", white)]
    places = [128 + 4 + 12 * len(tags), 128 + 4 + 12 * len(tags) + len(curv)]
    table = b"".join(name + struct.pack(">II", at, len(data)) for (name, data), at in zip(tags, places, strict=True))
    body = struct.pack(">I", len(tags)) + table + curv + white
    head = struct.pack(">I", 128 + len(body)) + bytes(4) + b"\x02\x10\0\0mntrGRAYXYZ " + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + body


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_profile_of_grey_counts_with_and_without_transparency(tmp_path, mode):
    light = np.linspace(0, 1, 240).reshape(1, -1).repeat(10, 0)
    grey = Image.fromarray(np.rint(255 * light).astype(np.uint8))
    if mode == "I;16":
        grey = Image.fromarray(np.rint(65535 * light).astype(np.uint16))
    data = encoded(grey.convert("LA") if mode == "LA" else grey, "PNG", icc_profile=grey_profile(1.0))
    seen = read(tmp_path, data)[..., 1].astype(int)
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055)
    assert np.abs(seen - expected)[:, 20:].max() <= 2


def test_a_damaged_profile_or_exif_does_not_lose_the_photo(tmp_path):
    image = Image.fromarray(QUARTERS)
    assert_quarters(read(tmp_path, encoded(image, "PNG", icc_profile=b"nonsense" * 20)), tolerance=0)
    assert_quarters(read(tmp_path, encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), tolerance=0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path, orientation):
    data = encoded(Image.fromarray(QUARTERS), "PNG", exif=orientation_tag(orientation))
    assert_quarters(read(tmp_path, data), tolerance=0)


def test_a_picture_in_many_strips_is_the_same_as_in_one(tmp_path, monkeypatch):
    data = encoded(noise(), "PNG", exif=orientation_tag(7))
    whole = read(tmp_path, data)
    monkeypatch.setattr(srgb, "STRIP_PIXELS", 1000)
    assert (read(tmp_path, data) == whole).all()
