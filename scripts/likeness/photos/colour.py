"""Colour spaces of photos without an ICC profile, or with one that Pillow does not understand: wide gamut and HDR by
code points (CICP, ITU-T H.273), AdobeRGB by a camera's EXIF, and a PNG's gAMA and cHRM.

HDR is converted to the range of a screen: diffuse white is 203 cd/m2 (ITU-R BT.2408), darker light stays unchanged, and
only highlights are compressed.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

# x and y of red, green and blue; white is D65 (H.273, table 2; AdobeRGB 1998, 4.3.1).
PRIMARIES: dict[int | str, tuple[tuple[float, float], ...]] = {
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
HIGHLIGHT = 1.05  # times diffuse white; less is a rounding error of PQ's levels
KNEE = 0.75  # of the signal; highlights above it are compressed
BLOCK = 250_000  # px that are converted to floats at once: 10 MB

# EXIF: the sub-directories, and the tags and values of a camera's colour space (DCF 2.0).
EXIF_IFD, INTEROP_IFD, COLOR_SPACE, INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
UNCALIBRATED, ADOBE = 65535, 2
UNSPECIFIED = 2, 2  # code points
# Exponents of gAMA (light is a power of the signal) that mean sRGB, for which 2.2 is written: nobody sees a difference
# between these.
LIKE_SRGB = 2.1, 2.35
POWERS = 0.8, 3.5  # an exponent outside of these is a mistake
# The bytes before the code points in a file, and how many bytes each has. Pillow does not read them.
MARKS = {"AVIF": (b"colrnclx", 2), "PNG": (b"cICP", 1)}
COLOURS = "likeness_colours"  # key in Image.info for the result of `described_colours`
HEADER_BYTES = 1 << 16  # the code points are within these


class Colours(NamedTuple):
    """The colour space of a picture: the primaries, by their key in PRIMARIES, and the transfer function, by its code
    point (int) or as an exponent (float) of the signal."""

    primaries: int | str
    transfer: int | float

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)


ADOBE_RGB = Colours("AdobeRGB", ADOBE_GAMMA)


def described_colours(image: Image.Image, header: bytes, name: str) -> Colours | None:
    """The colour space that a picture's file describes otherwise than by an ICC profile. None if it describes none or
    an unknown one, if it is sRGB, or if the ICC profile takes precedence.

    `header` is the beginning of the file. `name` is its name: a camera's AdobeRGB photos have names that begin with _
    (DCF 2.0), and their EXIF may only say that they are not sRGB.
    """
    profile = image.info.get("icc_profile")
    points = _code_points(image, header)
    # An ICC profile for HDR maps the brightest light to white, so that faces become dark: code points take precedence.
    of_profile = _known(*_points_of_profile(profile)) if profile else None
    for hdr in filter(None, (_known(*points), of_profile)):
        if hdr.is_hdr:
            return hdr
    if image.format == "PNG" and points != UNSPECIFIED:  # cICP takes precedence over iCCP
        return _known(*points)
    if profile:
        return None
    if image.format == "JPEG":
        return ADOBE_RGB if is_adobe_rgb(image.getexif, name) else None
    return _of_png(image) if image.format == "PNG" else _known(*points)


def raw_is_adobe_rgb(path: Path) -> bool:
    """Whether the previews in a raw file are in AdobeRGB, by the EXIF of the raw file: the previews' own EXIF may lack
    the colour space. False for a raw file that is no TIFF."""

    def read_exif() -> Image.Exif:
        exif = Image.Exif()
        exif.load_from_fp(file)
        return exif

    with open(path, "rb") as file:
        return is_adobe_rgb(read_exif, path.name)


def is_adobe_rgb(read_exif: Callable[[], Image.Exif], name: str) -> bool:
    """Whether a camera's EXIF and the name of the photo mean AdobeRGB."""
    try:
        exif = read_exif()
        space = exif.get_ifd(EXIF_IFD).get(COLOR_SPACE)
        index = str(exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX, "")).strip("\0 ")
    except Exception:  # the EXIF is damaged
        return False
    by_name = space == UNCALIBRATED and not index and name.startswith("_")
    return space == ADOBE or (index == "R03" and space != 1) or by_name


def _known(primaries: int, transfer: int) -> Colours | None:
    """Code points as Colours; unknown ones are replaced by those of sRGB. None for sRGB."""
    known = Colours(primaries if primaries in PRIMARIES else 1, transfer if transfer in (PQ, HLG, LINEAR) else SRGB)
    return None if known == (1, SRGB) else known


def _code_points(image: Image.Image, header: bytes) -> tuple[int, int]:
    """The code points (CICP) of primaries and transfer function in a picture's file."""
    if nclx := image.info.get("nclx_profile"):
        return int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    if image.format not in MARKS:
        return UNSPECIFIED
    mark, width = MARKS[image.format]
    points = header.partition(b"IDAT")[0].partition(mark)[2][: 2 * width]
    return (int.from_bytes(points[:width]), int.from_bytes(points[width:])) if points else UNSPECIFIED


def _points_of_profile(profile: bytes) -> tuple[int, int]:
    """The code points in an ICC profile's tag cicp (ICC.1:2022, 9.2.17 and 10.3)."""
    tags = min(int.from_bytes(profile[128:132]), len(profile) // 12)
    entries = (profile[132 + 12 * n : 144 + 12 * n] for n in range(tags))
    place = next((int.from_bytes(entry[4:8]) for entry in entries if entry.startswith(b"cicp")), len(profile))
    points = profile[place + 8 : place + 10]
    return (points[0], points[1]) if len(points) == 2 else UNSPECIFIED


def _of_png(image: Image.Image) -> Colours | None:
    """The colour space by a PNG's gAMA and cHRM. None if it is sRGB, or if the PNG has the chunk sRGB."""
    if "srgb" in image.info:
        return None
    power = 1 / image.info["gamma"] if image.info.get("gamma") else 0
    plain = not POWERS[0] <= power <= POWERS[1] or LIKE_SRGB[0] <= power <= LIKE_SRGB[1]
    chrm = np.array(image.info.get("chromaticity", ())[2:])  # after the two of white
    alike = (key for key, xy in PRIMARIES.items() if chrm.size == 6 and np.abs(chrm - np.ravel(xy)).max() < 0.005)
    colours = Colours(next(alike, 1), SRGB if plain else power)
    return None if colours == (1, SRGB) else colours


def to_srgb(colours: Colours, strips: Callable[[], Iterable[Image.Image]]) -> Callable[[Image.Image], Image.Image]:
    """The conversion of RGB strips of a picture with these colours to sRGB. `strips` gives all strips of the picture,
    in which the brightest light of an HDR picture is looked up."""
    light = _linear(colours.transfer)
    matrix = (np.linalg.inv(_to_xyz(1)) @ _to_xyz(colours.primaries)).astype(np.float32)
    levels = _srgb_levels()
    peak = max(_brightest(strip, light, colours) for strip in strips()) if colours.is_hdr else 1.0

    def converted(strip: Image.Image) -> Image.Image:
        pixels = np.asarray(strip.convert("RGB"))
        flat, out = pixels.reshape(-1, 3), np.empty((pixels.size // 3, 3), np.uint8)
        for begin in range(0, len(flat), BLOCK):
            linear = _displayed(light[flat[begin : begin + BLOCK]], colours)
            if peak > HIGHLIGHT:
                brightest = linear.max(1, keepdims=True)
                linear *= _compressed(brightest, peak) / np.maximum(brightest, 1e-6)
            srgb = np.clip(linear @ matrix.T, 0, 1)
            out[begin : begin + BLOCK] = levels[np.rint(srgb * (len(levels) - 1)).astype(np.int32)]
        return Image.fromarray(out.reshape(pixels.shape))

    return converted


def _brightest(strip: Image.Image, light: np.ndarray, colours: Colours) -> float:
    flat = np.asarray(strip.convert("RGB")).reshape(-1, 3)
    blocks = (flat[begin : begin + BLOCK] for begin in range(0, len(flat), BLOCK))
    return max(float(_displayed(light[block], colours).max()) for block in blocks)


def _displayed(scene: np.ndarray, colours: Colours) -> np.ndarray:
    """Light as a screen shows it, with diffuse white as 1. HLG encodes the light of the scene, which BT.2100's OOTF
    turns into that of a screen; all others encode the light of the screen."""
    if colours.transfer != HLG:
        return scene
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return scene * (HLG_PEAK / DIFFUSE_WHITE * np.maximum(luminance, 1e-6) ** np.float32(HLG_GAMMA - 1))[:, None]


def _compressed(values: np.ndarray, peak: float) -> np.ndarray:
    """Light from 0 to `peak` compressed to light from 0 to 1. The curve applies to sRGB's signal: it is the identity
    below the knee and eq. 4 of Reinhard et al. 2002, "Photographic Tone Reproduction for Digital Images", above it,
    which begins with a slope of 1."""
    signal, white = _signal(values), (float(_signal(np.float32(peak))) - KNEE) / (1 - KNEE)
    above = np.maximum(signal - KNEE, 0) / (1 - KNEE)
    return _light(np.minimum(signal, KNEE) + (1 - KNEE) * above * (1 + above / white**2) / (1 + above))


def _signal(light: np.ndarray | np.float32) -> np.ndarray:
    """sRGB's encoding of linear light, continued above 1."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055)


def _light(signal: np.ndarray) -> np.ndarray:
    """Linear light of sRGB's signal."""
    return np.where(signal <= 0.04045, signal / 12.92, ((np.maximum(signal, 0) + 0.055) / 1.055) ** 2.4)


def _linear(transfer: int | float) -> np.ndarray:
    """float32 (256,): the light of each level, with diffuse white as 1; for HLG it is the light of the scene, from 0 to
    1."""
    signal = np.arange(256) / 255
    if isinstance(transfer, float):
        light = signal**transfer
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
    """float64 (3, 3): the matrix from linear RGB to XYZ; white has Y = 1 (SMPTE RP 177)."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[primaries]]).T
    x, y = WHITE
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))
