"""The number of precincts in a JPEG 2000 file, which determines the memory for a decoder's list of them.

Source: ITU-T T.800, annex A.
"""

import struct
from collections.abc import Iterator

START = b"\xff\x4f\xff\x51"  # of the codestream: SOC, then SIZ
SIZ, COD, COC, SOT, SOD, EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
WHOLE = bytes([0xFF])  # the default exponents of a precinct's width and height


def precincts(data: bytes) -> int:
    """The largest number of precincts that a decoder of a JPEG 2000 file may have to list. Tiles and components can
    have their own sizes of precincts; the result is an upper bound for all of them."""
    width = height = tiles = components = most = 0
    for marker, segment in _segments(data):
        if marker == SIZ:
            right, bottom, left, top, tile_width, tile_height = struct.unpack(">6I", segment[2:26])
            width, height, components = right - left, bottom - top, int.from_bytes(segment[34:36])
            tiles = -(-width // max(1, tile_width)) * -(-height // max(1, tile_height))
        elif marker in (COD, COC):
            # COC begins with the number of its component, and has no progression order, layers and transform.
            style = 0 if marker == COD else 1 if components < 257 else 2
            levels = segment[style + (5 if marker == COD else 1) :]
            sizes = levels[5:] if segment[style] & 1 else WHOLE * (levels[0] + 1)
            per_tile = len(sizes) * tiles
            of_sizes = sum(_count(width, height, len(sizes) - 1 - n, size) for n, size in enumerate(sizes))
            most = max(most, components * (per_tile + of_sizes))
    return most


def _count(width: int, height: int, halvings: int, exponents: int) -> int:
    """Precincts of one resolution."""
    across, down = width >> halvings + (exponents & 15), height >> halvings + (exponents >> 4)
    return (across + 1) * (down + 1)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The marker and the content of every segment of the main header and those of the tiles."""
    place, tile_end = data.find(START) + 2, 0
    while 2 <= place < len(data) - 4:
        marker, length = int.from_bytes(data[place : place + 2]), int.from_bytes(data[place + 2 : place + 4])
        if marker == SOD:  # the data of the tile follow, without headers
            if tile_end <= place:
                return
            place = tile_end
            continue
        if marker == EOC or length < 2:
            return
        segment = data[place + 4 : place + 2 + length]
        if marker == SOT:
            tile_end = place + int.from_bytes(segment[2:6])
        yield marker, segment
        place += 2 + length
