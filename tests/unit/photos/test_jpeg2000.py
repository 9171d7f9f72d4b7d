"""A JPEG 2000 is read if its pieces are not too many."""

import struct

import pytest
from PIL import Image

from likeness.core.errors import LikenessError
from likeness.photos import jpeg2000
from made_photos import encoded, noise, read


def cut_up(data: bytes, exponents: int, marker: int = 0x52) -> bytes:
    """JPEG 2000 with COD, or with COC for its first component behind it, that says the size of every precinct."""
    at = data.index(b"\xff\x52")
    length = int.from_bytes(data[at + 2 : at + 4])
    cod = data[at + 4 : at + 2 + length]
    sizes = bytes([exponents]) * (cod[5] + 1)
    body = bytes([1]) + cod[1:10] + sizes if marker == 0x52 else bytes([0, 1]) + cod[5:10] + sizes
    said = bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
    return data[:at] + (said if marker == 0x52 else data[at : at + 2 + length] + said) + data[at + 2 + length :]


@pytest.mark.parametrize("marker", [0x52, 0x53], ids=["COD", "COC"])
@pytest.mark.parametrize("exponents", [0x11, 0x22])
def test_jpeg_2000_in_too_many_pieces_is_refused(tmp_path, marker, exponents):
    """At 2 x 2 px 64 megapixels took 4 GB, in a file of 2 kB."""
    data = encoded(Image.new("RGB", (5000, 5000)), "JPEG2000", no_jp2=True)
    with pytest.raises(LikenessError, match="JPEG 2000 in pieces too small to be read; export it"):
        read(tmp_path, cut_up(data, exponents, marker))


@pytest.mark.parametrize(
    "options", [{}, {"precinct_size": (64, 64), "codeblock_size": (16, 16), "tile_size": (96, 96)}]
)
def test_the_pieces_of_a_jpeg_2000_are_counted(options):
    data = encoded(noise(), "JPEG2000", **options)
    assert 6 * 3 <= jpeg2000.precincts(data) < 6 * 3 * 100
    assert jpeg2000.precincts(cut_up(encoded(noise(), "JPEG2000", no_jp2=True), 0x11)) > 3 * 100**2
