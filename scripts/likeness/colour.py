"""Colours of photos that no ICC profile describes: wide gamut and HDR by code points (CICP, ITU-T H.273), and AdobeRGB
by a camera's EXIF.

HDR is brought to the range of a screen: diffuse white is 203 cd/m2 (ITU-R BT.2408), what is darker stays as it is, and
only highlights are compressed.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

# x and y of red, green and blue; white is D65 (H.273, table 2; AdobeRGB 1998, 4.3.1).
PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709, sRGB
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020, BT.2100
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
    "AdobeRGB": ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)),
}
WHITE = (0.3127, 0.3290)
LINEAR, SRGB, PQ, HLG = 8, 13, 16, 18  # transfer functions
ADOBE_GAMMA = 563 / 256
DIFFUSE_WHITE = 203.0  # cd/m2, BT.2408
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # of a reference screen, BT.2100
HIGHLIGHT = 1.05  # a level of PQ above diffuse white by rounding is none
KNEE = 0.75  # of the signal; from here on highlights are compressed
BLOCK = 250_000  # px in floats at once: 10 MB

# EXIF: the sub-directories, and which colour space a camera means (DCF 2.0).
EXIF_IFD, INTEROP_IFD, COLOR_SPACE, INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
UNCALIBRATED, ADOBE = 65535, 2
# What stands before the code points in a file, and the bytes of each; Pillow does not hand them on.
MARKS = {"AVIF": (b"colrnclx", 2), "PNG": (b"cICP", 1)}
HEADER_BYTES = 1 << 16  # in which they stand


class Colours(NamedTuple):
    """How numbers of a picture mean light: primaries by their key, and the transfer function by its code point."""

    primaries: int | str
    transfer: int | str

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)


def described_colours(image: Image.Image, header: bytes, name: str) -> Colours | None:
    """What a picture without an ICC profile says of its colours; None for sRGB, or where it says nothing that is known.

    `header` is the beginning of its file. `name` counts because the names of a camera's AdobeRGB photos begin with _
    (DCF 2.0), where its EXIF only says that they are not sRGB.
    """
    if image.format == "JPEG":
        return Colours("AdobeRGB", "AdobeRGB") if _is_adobe_rgb(image, name) else None
    primaries, transfer = _code_points(image, header)
    if primaries not in PRIMARIES:
        primaries = 1
    known = Colours(primaries, transfer if transfer in (PQ, HLG, LINEAR) else SRGB)
    return None if known == (1, SRGB) else known


def _is_adobe_rgb(image: Image.Image, name: str) -> bool:
    try:
        exif = image.getexif()
        space = exif.get_ifd(EXIF_IFD).get(COLOR_SPACE)
        index = str(exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX, "")).strip("\0 ")
    except Exception:  # a damaged EXIF says nothing
        return False
    by_name = space == UNCALIBRATED and not index and PurePath(name).name.startswith("_")
    return space == ADOBE or (index == "R03" and space != 1) or by_name


def _code_points(image: Image.Image, header: bytes) -> tuple[int, int]:
    """Primaries and transfer function by CICP; 2 is unspecified."""
    if nclx := image.info.get("nclx_profile"):
        return int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    if image.format not in MARKS:
        return 2, 2
    mark, width = MARKS[image.format]
    points = header.partition(b"IDAT")[0].partition(mark)[2][: 2 * width]
    return int.from_bytes(points[:width]), int.from_bytes(points[width:])


def to_srgb(colours: Colours, strips: Callable[[], Iterable[Image.Image]]) -> Callable[[Image.Image], Image.Image]:
    """The conversion of RGB strips of a picture with these colours; `strips` gives all of them, to look for the
    brightest light of an HDR picture."""
    light = _linear(colours.transfer)
    matrix = (np.linalg.inv(_to_xyz(1)) @ _to_xyz(colours.primaries)).astype(np.float32)
    levels = _srgb_levels()
    peak = max(_brightest(strip, light, colours) for strip in strips()) if colours.is_hdr else 1.0

    def converted(strip: Image.Image) -> Image.Image:
        pixels = np.asarray(strip.convert("RGB"))
        flat, out = pixels.reshape(-1, 3), np.empty((pixels.size // 3, 3), np.uint8)
        for begin in range(0, len(flat), BLOCK):
            seen = _displayed(light[flat[begin : begin + BLOCK]], colours)
            if peak > HIGHLIGHT:
                brightest = seen.max(1, keepdims=True)
                seen *= _compressed(brightest, peak) / np.maximum(brightest, 1e-6)
            srgb = np.clip(seen @ matrix.T, 0, 1)
            out[begin : begin + BLOCK] = levels[np.rint(srgb * (len(levels) - 1)).astype(np.int32)]
        return Image.fromarray(out.reshape(pixels.shape))

    return converted


def _brightest(strip: Image.Image, light: np.ndarray, colours: Colours) -> float:
    flat = np.asarray(strip.convert("RGB")).reshape(-1, 3)
    blocks = (flat[begin : begin + BLOCK] for begin in range(0, len(flat), BLOCK))
    return max(float(_displayed(light[block], colours).max()) for block in blocks)


def _displayed(scene: np.ndarray, colours: Colours) -> np.ndarray:
    """Light as a screen shows it, diffuse white is 1. HLG's numbers are the scene's: BT.2100's OOTF comes on top."""
    if colours.transfer != HLG:
        return scene
    luminance = scene @ np.float32([0.2627, 0.6780, 0.0593])
    return scene * (HLG_PEAK / DIFFUSE_WHITE * np.maximum(luminance, 1e-6) ** np.float32(HLG_GAMMA - 1))[:, None]


def _compressed(values: np.ndarray, peak: float) -> np.ndarray:
    """Light from 0 to `peak` as light from 0 to 1: on sRGB's signal, the same below the knee, and above it eq. 4 of
    Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images", which begins with the slope of 1."""
    signal, white = _signal(values), (float(_signal(np.float32(peak))) - KNEE) / (1 - KNEE)
    above = np.maximum(signal - KNEE, 0) / (1 - KNEE)
    return _light(np.minimum(signal, KNEE) + (1 - KNEE) * above * (1 + above / white**2) / (1 + above))


def _signal(light: np.ndarray) -> np.ndarray:
    """sRGB's encoding of linear light, going on above 1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055)


def _light(signal: np.ndarray) -> np.ndarray:
    return np.where(signal <= 0.04045, signal / 12.92, ((np.maximum(signal, 0) + 0.055) / 1.055) ** 2.4)


def _linear(transfer: int | str) -> np.ndarray:
    """float32 (256,): the light of each level; of the screen with diffuse white as 1, for HLG that of the scene."""
    signal = np.arange(256) / 255
    if transfer == "AdobeRGB":
        light = signal**ADOBE_GAMMA
    elif transfer == LINEAR:
        light = signal
    elif transfer == PQ:  # BT.2100, table 4
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = signal ** (1 / m2)
        light = 10_000 / DIFFUSE_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == HLG:  # BT.2100, table 5
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = _light(signal)
    return light.astype(np.float32)


def _srgb_levels() -> np.ndarray:
    """uint8 (65536,): the sRGB level of linear light from 0 to 1."""
    return np.rint(255 * _signal(np.arange(65536) / 65535)).astype(np.uint8)


def _to_xyz(primaries: int | str) -> np.ndarray:
    """float64 (3, 3): linear RGB to XYZ, white to Y = 1 (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[primaries]]).T
    x, y = WHITE
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))
