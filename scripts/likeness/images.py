"""Reading what people really have in a photo folder, and writing PNGs that are the same bytes every time."""

import io
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path, PurePath

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, UnidentifiedImageError

from likeness.errors import LikenessError

pillow_heif.register_heif_opener()

# Only these: formats that start another program (EPS) or draw (PDF) are not photos.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF")
MAX_PIXELS = 250_000_000  # the largest phone sensors have 200 million; this is 750 MB decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many, before it decodes
MAX_SIDE = 32_766  # cv2.warpAffine holds coordinates in 16 bits
# Transparent parts become a light grey wall: pure white would be taught as glare.
BACKDROP = (236, 236, 236)

# EXIF tag 0x0112 (Orientation): what turns the stored pixels upright.
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_photo(path: Path) -> np.ndarray:
    """A picture file as uint8 (height, width, 3) in sRGB, upright. The first picture of a file that holds several.

    Raises LikenessError with a sentence for a person if the file is no picture, damaged, or too large.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LikenessError(f"the file cannot be opened: {error.strerror}") from None
    if not data:
        raise LikenessError("the file is empty; copy it again from where it came")
    with warnings.catch_warnings():
        # Pillow warns about sizes that are refused below, and about odd metadata that is not read.
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if max(image.size) > MAX_SIDE:
                    raise LikenessError(f"larger than {MAX_SIDE} px on a side; save it smaller")
                image.load()
                return np.asarray(_srgb(_upright(image)))
        except LikenessError:
            raise
        except Image.DecompressionBombError:
            raise LikenessError(f"it claims more than {MAX_PIXELS} pixels; save it smaller") from None
        except UnidentifiedImageError:
            raise LikenessError("not a picture, whatever its name says; remove it or save the photo again") from None
        except Exception as error:  # decoders meet damaged files with every kind of exception
            if _is_cut_short(error):
                raise LikenessError("the file is cut short; copy it again from where it came") from None
            raise LikenessError(f"damaged, or of a kind that cannot be read ({error}); save the photo again") from None


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


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF is no reason to lose a photo; curation reports a face that lies on its side
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _srgb(image: Image.Image) -> Image.Image:
    """Any colour mode as RGB in sRGB, transparency flattened onto the backdrop."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode in ("P", "1"):
        image = image.convert("RGB")
    image = _converted(image, profile)
    if alpha is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, BACKDROP), alpha)


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for another kind of picture
            pass
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey levels of 16 bits (or whole numbers, or floats from 0 to 1) as uint8, rounded."""
    full = 1.0 if values.dtype.kind == "f" and values.max() <= 1 else 65535.0 if values.max() > 255 else 255.0
    if values.dtype == np.uint16:
        full = 65535.0
    return np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
