"""Reading what people really have in a photo folder, and writing PNGs that are the same bytes every time."""

import io
import math
import os
import stat
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, UnidentifiedImageError

from likeness import raw
from likeness.colour import HEADER_BYTES, described_colours, to_srgb
from likeness.errors import LikenessError
from likeness.photos import NOT_READ

pillow_heif.register_heif_opener()
# Pillow warns about sizes that are refused below, and about odd metadata that is not read. Said once for all threads:
# warnings.catch_warnings is not made for several.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Pillow's own blocks of 16 MB come from malloc, which keeps them for the thread that freed them: three photos of 108
# megapixels in three threads took 2.4 GB. Larger ones go back to the system.
Image.core.set_block_size(64 << 20)

# Only these: formats that start another program (EPS) or draw (PDF) are not photos.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF", "JPEG2000")
MAX_PIXELS = 250_000_000  # the largest phone sensors have 200 million
# What reading takes at its peak for each px, measured on 36 megapixels: Pillow's 4 bytes, ours 3, and the decoder's own
# (WebP's animations hold two more pictures). What is left of 2 GB is for the detector.
BYTES_PER_PIXEL = {"WEBP": 18, "AVIF": 11, "JPEG2000": 20}
OTHER_BYTES_PER_PIXEL = 9
MAX_MEMORY = 1_300_000_000
MAX_BYTES = 1_000_000_000  # of a file; MAX_PIXELS without any compression are 750 million
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many, before it decodes
MAX_SIDE = 32_766  # cv2.warpAffine holds coordinates in 16 bits
# Transparent parts become a light grey wall: pure white would be taught as glare.
BACKDROP = (236, 236, 236)
# Pictures are converted this many px at a time, so that a photo of 100 megapixels is in memory twice at most: as it
# was decoded (up to 4 bytes per px) and as it is handed out (3).
STRIP_PIXELS = 4_000_000
# What threads hold decoded at once: one photo of 100 megapixels, or eight of a phone's 12.
MAX_HELD_PIXELS = 100_000_000
_turn, _held_pixels = threading.Condition(), 0

COLOURS = "likeness_colours"  # in Image.info

# EXIF tag 0x0112 (Orientation): how the stored pixels follow from the upright ones. Axes are swapped first, then rows
# are turned upside down, then columns left to right.
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


def read_photo(path: Path) -> np.ndarray:
    """A picture file as uint8 (height, width, 3) in sRGB, upright. The first picture of a file that holds several.

    Raises LikenessError with a sentence for a person if the file is no picture, damaged, or too large.
    """
    with _opened(path) as image:
        return _upright_srgb(image)


def thumbnail(path: Path, side: int) -> np.ndarray:
    """`read_photo`, but at most `side` px on the longer side. A JPEG is decoded no larger than needed, which is several
    times faster."""
    with _opened(path) as image:
        image.draft(None, (side, side))
        with _in_turn(math.prod(image.size)):
            small = Image.fromarray(_upright_srgb(image))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.array(small)


@contextmanager
def photo_in_turn(path: Path) -> Iterator[np.ndarray]:
    """`read_photo` for threads: waits while what others hold would leave too little of MAX_HELD_PIXELS. The picture
    counts as held until the `with` block ends."""
    with _opened(path) as image:
        pixels = math.prod(image.size)
    with _in_turn(pixels):
        yield read_photo(path)


@contextmanager
def _in_turn(pixels: int) -> Iterator[None]:
    """Of all threads, for so many px that this one decodes: waits until others hold few enough."""
    global _held_pixels
    pixels = min(pixels, MAX_HELD_PIXELS)
    with _turn:
        _turn.wait_for(lambda: _held_pixels + pixels <= MAX_HELD_PIXELS)
        _held_pixels += pixels
    try:
        yield
    finally:
        with _turn:
            _held_pixels -= pixels
            _turn.notify_all()


def check_file(path: Path) -> None:
    """Raises LikenessError, with a sentence for a person, if a path is nothing that `read_photo` would open: opening a
    pipe would wait for ever."""
    try:
        about = path.stat()
    except OSError as error:
        raise LikenessError(f"the file cannot be opened: {error.strerror}") from None
    if stat.S_ISDIR(about.st_mode):
        raise LikenessError("a folder; move the photos in it up into the photo folder, or they are not used")
    if not stat.S_ISREG(about.st_mode):
        raise LikenessError("not a file but a pipe or a device; remove it")
    if kind := NOT_READ.get(path.suffix.lower()):
        raise LikenessError(f"{kind}; export it as JPEG or PNG")
    if about.st_size > MAX_BYTES:
        raise LikenessError(f"a file of more than {MAX_BYTES // 1_000_000} MB; save it smaller")
    if not os.access(path, os.R_OK):
        raise LikenessError("the file cannot be opened: no permission to read it")
    if about.st_size == 0:
        raise LikenessError("the file is empty; copy it again from where it came")


def lanczos(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 (h, w, 3) resampled to (height, width, 3); the same pixels if that is its size already."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def class_photo(image: np.ndarray, resolution: int) -> np.ndarray:
    """The largest centred square of uint8 (h, w, 3) brought to (resolution, resolution, 3). Raises LikenessError if the
    picture is smaller: enlarged ones would teach that the class is blurred."""
    height, width = image.shape[:2]
    side = min(height, width)
    if side < resolution:
        raise LikenessError(f"{width} x {height} px, smaller than the resolution of {resolution} px")
    top, left = (height - side) // 2, (width - side) // 2
    return lanczos(image[top : top + side, left : left + side], resolution, resolution)


def png_bytes(image: np.ndarray) -> bytes:
    """A PNG of uint8 (height, width, 3), without metadata: equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def perceptual_hash(image: np.ndarray) -> str:
    """64-bit DCT hash of uint8 (height, width, 3), 16 hex digits; the Hamming distance tells how different two look.

    Source: imagehash.phash, after Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions".
    """
    import imagehash

    return str(imagehash.phash(Image.fromarray(image)))


def unique_stems(names: Iterable[str]) -> dict[str, str]:
    """A file stem for every photo (a name or a path): safe on every file system, different even where case is ignored.

    Letters of every script stay. Of a.jpg and a.png, the second becomes a_png. Depends on the set of names only.
    """
    stems, taken = {}, set()
    for name in sorted(names):
        path = PurePath(name)
        stem = _safe(path.stem) or "photo"
        base = f"{stem}_{_safe(path.suffix)}"
        candidates = iter([stem, base])
        number = 1
        while (candidate := next(candidates, f"{base}_{number}")).casefold() in taken:
            number += 1
        taken.add(candidate.casefold())
        stems[name] = candidate
    return stems


def _safe(text: str) -> str:
    """Letters, digits, - and _ only; composed Unicode, because Macs write decomposed names. 50 characters are at most
    200 bytes, which leaves room for suffixes below the usual limit of 255."""
    composed = unicodedata.normalize("NFC", text)
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in composed).strip("_-")[:50]


def _is_cut_short(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or any(word in text for word in ("truncated", "end of file", "unexpected eof"))


def _with_colours(file: IO[bytes], name: str) -> Image.Image:
    """A picture that is not decoded yet, with what it says of its colours in COLOURS of its `info`."""
    header = file.read(HEADER_BYTES)
    file.seek(0)
    image = Image.open(file, formats=FORMATS)
    if not image.info.get("icc_profile"):
        image.info[COLOURS] = described_colours(image, header, name)
    return image


def _fit_into_memory(image: Image.Image) -> None:
    """A JPEG that is too large is decoded at half of its size: every face is still many times that of the training.
    Raises LikenessError for other formats, whose decoders cannot."""
    needed = math.prod(image.size) * BYTES_PER_PIXEL.get(image.format, OTHER_BYTES_PER_PIXEL)
    if needed > MAX_MEMORY and image.format == "JPEG":
        image.draft(None, (image.width // 2, image.height // 2))
    elif needed > MAX_MEMORY:
        raise LikenessError(
            f"{image.width} x {image.height} px of {image.format} take {needed / 1e9:.1f} GB of memory to read, and "
            f"{MAX_MEMORY / 1e9:.1f} GB is the limit; save it smaller, or as JPEG"
        )


def _stored(path: Path) -> IO[bytes]:
    """The file that holds the picture: of a raw one, that of its preview."""
    return io.BytesIO(raw.preview(path)) if path.suffix.lower() in raw.SUFFIXES else open(path, "rb")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture of a file, not decoded yet; what goes wrong while it is used becomes a LikenessError."""
    check_file(path)
    try:
        with _stored(path) as file, _with_colours(file, path.name) as image:
            if max(image.size) > MAX_SIDE:
                raise LikenessError(f"larger than {MAX_SIDE} px on a side; save it smaller")
            _fit_into_memory(image)
            yield image
    except LikenessError:
        raise
    except Image.DecompressionBombError:
        raise LikenessError(f"it claims more than {MAX_PIXELS} pixels; save it smaller") from None
    except UnidentifiedImageError:
        raise LikenessError(
            "not a picture that is read here, or damaged from its start; remove it or save it as JPEG or PNG"
        ) from None
    except MemoryError:
        raise LikenessError("there is too little memory to read it; save it smaller") from None
    except Exception as error:  # decoders meet damaged files with every kind of exception
        if _is_cut_short(error):
            raise LikenessError("the file is cut short; copy it again from where it came") from None
        why = " ".join(str(error).split()) or type(error).__name__
        raise LikenessError(f"damaged, or of a kind that cannot be read ({why}); save the photo again") from None


def _upright_srgb(image: Image.Image) -> np.ndarray:
    """Any picture as uint8 (height, width, 3), written strip by strip into a view of the upright one."""
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
    except Exception:  # damaged EXIF is no reason to lose a photo; curation reports a face that lies on its side
        return 1
    return orientation if orientation in STORED else 1


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in pieces of its full width, from the top: the first row of each, and its pixels."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _conversion(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What turns strips of a picture of any colour mode into RGB in sRGB, transparent parts into the backdrop."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        full, of_grey = _full_scale(image), _to_srgb("L", profile)
        return lambda strip: of_grey(Image.fromarray(_eight_bits(np.asarray(strip), full)))
    if colours := image.info.get(COLOURS):
        converted = to_srgb(colours, lambda: (strip for _, strip in _strips(image)))
    else:
        converted = _to_srgb("RGB", profile)
    if image.has_transparency_data:
        return lambda strip: _on_backdrop(strip.convert("RGBA"), converted)
    if colours or image.mode in ("P", "1"):
        return lambda strip: converted(strip.convert("RGB"))
    return _to_srgb(image.mode, profile)


def _on_backdrop(strip: Image.Image, to_srgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    backdrop = Image.new("RGB", strip.size, BACKDROP)
    return Image.composite(to_srgb(strip.convert("RGB")), backdrop, strip.getchannel("A"))


def _to_srgb(mode: str, profile: bytes | None) -> Callable[[Image.Image], Image.Image]:
    """The conversion of pictures of this mode by a colour profile; without a usable one, the plain one to RGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB").apply
        except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for another kind of picture
            pass
    return lambda image: image.convert("RGB")


def _full_scale(image: Image.Image) -> float:
    """What white is in a picture of 16 bits, of whole numbers, or of floats (from 0 to 1, or on an integer scale)."""
    if image.mode.startswith("I;16"):
        return 65535.0
    highest = max(float(np.fmax.reduce(np.asarray(strip), axis=None, initial=0)) for _, strip in _strips(image))
    if image.mode == "F" and highest <= 1:
        return 1.0
    return 65535.0 if highest > 255 else 255.0


def _eight_bits(values: np.ndarray, full: float) -> np.ndarray:
    """Grey levels from 0 to `full` as uint8, rounded; what is not a number is black."""
    scaled = np.nan_to_num(values.astype(np.float32) * np.float32(255 / full))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
