"""What a file holds beside its pixels counts as memory too, and is refused where it is too much."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageCms

from likeness.core.errors import LikenessError
from likeness.photos import beside, decoding, images
from made_photos import QUARTERS, encoded, noise, read
from raw_file import BYTE, LONG, SHORT, directory


def tiff(**fields: tuple) -> bytes:
    """A black TIFF of 60 x 40 px, deflated, with more fields (t322 for the tag 322)."""
    pixels = zlib.compress(bytes(60 * 40 * 3))
    tags = {256: (LONG, 60), 257: (LONG, 40), 258: (SHORT, 8, 8, 8), 259: (SHORT, 8), 262: (SHORT, 2), 277: (SHORT, 3)}
    tags |= {int(tag[1:]): values for tag, values in fields.items()}
    place = "324" if "t322" in fields else "273"
    tags |= {int(place): (LONG, 0), 325 if place == "324" else 279: (LONG, len(pixels))}
    tags[int(place)] = (LONG, 8 + len(directory(tags, 8)))
    return b"II*\0" + struct.pack("<I", 8) + directory(tags, 8) + pixels


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        ({"t278": (LONG, 40)}, 60 * 40 * 3),
        ({"t278": (LONG, 10)}, 60 * 10 * 3),
        ({"t322": (LONG, 1 << 14), "t323": (LONG, 1 << 14)}, 3 << 28),
    ],
)
def test_a_strip_or_tile_of_a_tiff_counts_as_a_whole(tmp_path, monkeypatch, fields, piece):
    """libtiff decodes it so."""
    data = tiff(**fields)
    beside_it = beside.memory(io.BytesIO(data), "TIFF")
    assert 0 < beside_it < 500
    monkeypatch.setattr(decoding, "MAX_MEMORY", 60 * 40 * decoding.OTHER_BYTES_PER_PIXEL + beside_it + piece - 1)
    with pytest.raises(LikenessError, match="60 x 40 px of TIFF take .* GB of memory"):
        read(tmp_path, data)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@pytest.mark.parametrize("kind", ["TIFF", "BigTIFF", "PNG", "PNG, behind", "JPEG", "WEBP", "HEIF", "AVIF"])
def test_what_a_file_holds_beside_its_pixels_counts(tmp_path, monkeypatch, kind):
    more = bytes(100_000)
    if kind == "BigTIFF":
        data = encoded(Image.fromarray(QUARTERS), "TIFF", big_tiff=True, tiffinfo={50000: more})
    elif kind == "TIFF":
        data = tiff(t50000=(BYTE, *more))
    elif kind.startswith("PNG"):
        plain, at = encoded(Image.fromarray(QUARTERS), "PNG"), 33 if kind == "PNG" else -12
        data = plain[:at] + chunk(b"eXIf", b"II*\0" + more) + plain[at:]
    else:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = encoded(Image.fromarray(QUARTERS), kind, icc_profile=profile + more)
    assert read(tmp_path, data).shape == (40, 60, 3)
    name = kind.split(",")[0].replace("Big", "")
    beside_it = beside.memory(io.BytesIO(data), name)
    assert 1 <= beside_it / len(more) / beside.COPIES[name] < 1.1
    monkeypatch.setattr(decoding, "MAX_MEMORY", 60 * 40 * 9 + beside_it - 1)
    if kind == "JPEG":
        assert read(tmp_path, data).shape == (20, 30, 3)
    else:
        with pytest.raises(LikenessError, match="take .* GB of memory"):
            read(tmp_path, data)
    monkeypatch.setattr(decoding, "MAX_MEMORY", beside_it - 1)
    with pytest.raises(LikenessError, match="beside its pixels the file holds what takes .* GB of memory to read"):
        read(tmp_path, data)


def test_a_tiff_that_claims_more_values_than_memory_holds_is_refused_before_they_are_read(tmp_path):
    """900 MB of short numbers became 2.7 GB; the file is sparse, as one in an archive may be."""
    data = tiff(t50000=(SHORT, *bytes(10)))
    entry = data.index(struct.pack("<HHI", 50000, SHORT, 10))
    data = data[: entry + 4] + struct.pack("<I", 450_000_000) + data[entry + 8 :]
    with open(tmp_path / "a.tif", "wb") as file:
        file.write(data)
        file.truncate(950_000_000)
    with pytest.raises(LikenessError, match=r"beside its pixels the file holds what takes 2\.7 GB of memory"):
        images.read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize(("mode", "shares"), [("RGB", 3), ("CMYK", 4), ("L", 1)])
def test_the_coefficients_of_a_progressive_jpeg_count(tmp_path, monkeypatch, mode, shares):
    """They are in memory at full size, two bytes each, also where the picture is decoded to half."""
    data = encoded(noise(160).convert(mode), "JPEG", progressive=True, subsampling=0)
    held = 2 * shares * 160**2 + beside.COPIES["JPEG"] * len(data)
    full, half = (pixels * decoding.OTHER_BYTES_PER_PIXEL + held for pixels in (160**2, 80**2))
    for limit, side in ((full, 160), (full - 1, 80), (half, 80)):
        monkeypatch.setattr(decoding, "MAX_MEMORY", limit)
        assert read(tmp_path, data).shape == (side, side, 3)
    monkeypatch.setattr(decoding, "MAX_MEMORY", half - 1)
    with pytest.raises(LikenessError, match="160 x 160 px of JPEG take .* GB of memory"):
        read(tmp_path, data)
