"""Conversion of any picture that Pillow opens to upright pixels in sRGB, strip by strip."""

import io
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms

from likeness.photos.colour import COLOURS, to_srgb

# Transparent parts become a light grey wall: training would learn pure white as glare.
BACKDROP = (236, 236, 236)
# Pictures are converted this many px at a time, so that a photo of 100 megapixels is in memory at most twice: decoded
# (up to 4 bytes per px) and converted (3).
STRIP_PIXELS = 4_000_000
# EXIF tag 0x0112 (Orientation): how the stored pixels result from the upright ones. Axes are swapped first, then the
# order of the rows is reversed, then that of the columns.
ORIENTATION = 0x0112
STORED = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def upright_srgb(image: Image.Image) -> np.ndarray:
    """Any picture as upright uint8 (height, width, 3)."""
    image.load()
    swapped, upside_down, mirrored = STORED[_orientation(image)]
    width, height = image.size
    upright = np.empty((width, height, 3) if swapped else (height, width, 3), np.uint8)
    stored = upright.swapaxes(0, 1) if swapped else upright
    stored = stored[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    converted = _conversion(image)
    for top, strip in _strips(image):
        stored[top : top + strip.height] = np.asarray(converted(strip))
    return upright


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # a photo with damaged EXIF is still used; curation reports a face that lies on its side
        return 1
    return orientation if orientation in STORED else 1


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in strips of its full width, from the top: the first row of each strip, and its pixels."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """The conversion of strips of a picture in any colour mode to RGB in sRGB, with transparent parts on the
    backdrop."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        full, of_grey = _full_scale(image), _to_srgb("L", profile)
        return lambda strip: of_grey(Image.fromarray(_eight_bits(np.asarray(strip), full)))
    plain = "L" if image.mode in ("LA", "La") else "RGB"
    if colours := image.info.get(COLOURS):
        converted = to_srgb(colours, lambda: (strip for _, strip in _strips(image)))
    else:
        converted = _to_srgb(plain, profile)
    if image.has_transparency_data:
        return lambda strip: _on_backdrop(strip.convert("RGBA"), lambda strip: converted(strip.convert(plain)))
    if colours or image.mode in ("P", "1"):
        return lambda strip: converted(strip.convert("RGB"))
    return _to_srgb(image.mode, profile)


def _on_backdrop(strip: Image.Image, to_srgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    backdrop = Image.new("RGB", strip.size, BACKDROP)
    return Image.composite(to_srgb(strip), backdrop, strip.getchannel("A"))


def _to_srgb(mode: str, profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """The conversion of pictures of this mode by a colour profile; without a usable profile, Pillow's own to RGB."""
    srgb = ImageCms.createProfile("sRGB")
    with suppress(ImageCms.PyCMSError, OSError):  # a damaged profile, or one for another kind of picture
        if profile:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.buildTransform(source, srgb, mode, "RGB").apply
    if mode == "LAB":  # it does not depend on a device, and pictures rarely have a profile for it
        return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb, mode, "RGB").apply
    return lambda image: image.convert("RGB")


def _full_scale(image: Image.Image) -> float:
    """The value of white in a picture of 16 bits, of integers, or of floats (from 0 to 1, or on an integer scale)."""
    if image.mode.startswith("I;16"):
        return 65535.0
    highest = max(float(np.fmax.reduce(np.asarray(strip), axis=None, initial=0)) for _, strip in _strips(image))
    if image.mode == "F" and highest <= 1:
        return 1.0
    return 65535.0 if highest > 255 else 255.0


def _eight_bits(values: np.ndarray, full: float) -> np.ndarray:
    """Grey levels from 0 to `full` as uint8, rounded; NaN becomes black."""
    scaled = np.nan_to_num(values.astype(np.float32) * np.float32(255 / full))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
