"""Opening picture files within a limit of memory. Whatever is wrong with a file becomes a PhotoError."""

import io
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pillow_heif
from PIL import Image, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from likeness.core.errors import PhotoError, system_reason
from likeness.core.provenance import file_sha256
from likeness.photos import beside, file_kinds, jpeg2000, raw
from likeness.photos.colour import ADOBE_RGB, COLOURS, HEADER_BYTES, described_colours, raw_is_adobe_rgb

pillow_heif.register_heif_opener()
# Pillow warns about sizes that are rejected below, and about metadata that is not read. The filter is global, because
# warnings.catch_warnings is not thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.")

# malloc keeps Pillow's default blocks of 16 MB for the thread that freed them: three photos of 108 megapixels in three
# threads took 2.4 GB. Larger blocks go back to the system.
Image.core.set_block_size(64 << 20)  # type: ignore[attr-defined]  # Pillow's types do not export its documented core

# Only these: formats that start another program (EPS) or draw (PDF) are not photos.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF", "JPEG2000", "PPM")
# Many cameras and phones append smaller pictures, a depth map or a gain map to a JPEG (MPO). The photo is the first
# picture. Pillow treats MPO as another format, and rejects a file in which the index of the pictures is damaged.
Image.register_open("JPEG", JpegImagePlugin.JpegImageFile, lambda prefix: prefix.startswith(b"\xff\xd8\xff"))
MAX_PIXELS = 250_000_000  # the largest phone sensors have 200 million
# Peak memory of reading per px, measured on 36 megapixels: Pillow's 4 bytes, ours 3, and the decoder's own (WebP's
# animations hold two more pictures). The rest of 2 GB is for the detector.
BYTES_PER_PIXEL = {"WEBP": 18, "AVIF": 11, "JPEG2000": 20}
OTHER_BYTES_PER_PIXEL = 9
# The same for HEIF and AVIF with more than 8 bits, with transparency, or without chroma subsampling. Measured: HEIF of
# 10 bits 15, with transparency 20; AVIF of 8 bits without subsampling 17, and 3 more with 10 bits.
RICH_BYTES_PER_PIXEL = 22
RICH, BESIDE = "likeness_rich", "likeness_beside"  # keys in Image.info
MAX_MEMORY = 1_300_000_000
# In a JPEG 2000 file: 64 million of 2 px each took more than 4 GB; with the usual 64 px there are 0.1 million.
MAX_PRECINCTS = 2_000_000
# Size of a file, uncompressed and compressed. MAX_PIXELS without compression have 750 million bytes. Decoders hold two
# or three copies of the files of some formats.
MAX_BYTES, MAX_PACKED_BYTES = 1_000_000_000, 400_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow raises an error at twice as many, before it decodes
MAX_SIDE = 32_766  # cv2.warpAffine stores coordinates in 16 bits
BITS_PER_SAMPLE, STRIP_HEIGHT, TILE_WIDTH, TILE_HEIGHT = 258, 278, 322, 323  # tags of a TIFF

# The most memory for reading in all threads together: one JPEG of 100 megapixels, or eight of a phone's 12.
MAX_HELD_MEMORY = 900_000_000
_turn, _held_memory = threading.Condition(), 0


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture of a file, not decoded yet. Every error in the `with` block becomes a PhotoError."""
    check_file(path)
    try:
        with _stored(path) as file, _with_colours(file, path) as image:
            if max(image.size) > MAX_SIDE:
                raise PhotoError(f"larger than {MAX_SIDE} px on a side; save it smaller")
            _fit_into_memory(image)
            yield image
    except PhotoError:
        raise
    except Image.DecompressionBombError:
        raise PhotoError(f"it claims more than {MAX_PIXELS} pixels; save it smaller") from None
    except UnidentifiedImageError:
        raise PhotoError(
            "not a picture that is read here, or damaged from its start; remove it or save it as JPEG or PNG"
        ) from None
    except MemoryError:
        raise PhotoError("there is too little memory to read it; save it smaller") from None
    except Exception as error:  # decoders raise exceptions of every kind for damaged files
        if isinstance(error, OSError) and error.errno:  # an error of the disk; decoders' own OSErrors have no errno
            raise _not_opened(error) from None
        if _is_cut_short(error):
            raise PhotoError("the file is cut short; copy it again from where it came") from None
        why = " ".join(str(error).split()) or type(error).__name__
        raise PhotoError(f"damaged, or of a kind that cannot be read ({why}); save the photo again") from None


def check_file(path: Path) -> None:
    """Raises PhotoError, with a message for users, if a path cannot be opened as a photo. It must be called before the
    file is opened, because opening a pipe waits for ever."""
    try:
        about = path.stat()
    except OSError as error:
        raise _not_opened(error) from None
    if file_kinds.is_in_cloud(path):
        raise PhotoError("the photo is still in iCloud; download it")
    if stat.S_ISDIR(about.st_mode):
        raise PhotoError("a folder; move the photos in it up into the photo folder, or they are not used")
    if not stat.S_ISREG(about.st_mode):
        raise PhotoError("not a file but a pipe or a device; remove it")
    most = MAX_BYTES if file_kinds.may_be_unpacked(path) else MAX_PACKED_BYTES
    if about.st_size > most:
        raise PhotoError(f"a file of more than {most // 1_000_000} MB; save it smaller")
    if not os.access(path, os.R_OK):
        raise PhotoError("the file cannot be opened: no permission to read it; give yourself that")
    if about.st_size == 0:
        raise PhotoError("the file is empty; copy it again from where it came")
    if kind := file_kinds.unsupported_format(path):
        raise PhotoError(f"{kind}; export it as JPEG or PNG")


def photo_sha256(path: Path) -> str:
    """sha256 (hex) of a photo's file. Raises PhotoError as `check_file` does."""
    check_file(path)
    try:
        return file_sha256(path)
    except OSError as error:
        raise _not_opened(error) from None


def check_unchanged(path: Path, sha256: str) -> None:
    """Raises PhotoError if a file no longer has this hash: results that were read from it since must not be stored
    under the hash."""
    if photo_sha256(path) != sha256:
        raise PhotoError("the file was changed while it was read; run the same command again")


def _not_opened(error: OSError) -> PhotoError:
    """The error for a file that no longer exists, or that its disk cannot read."""
    return PhotoError(
        f"the file cannot be opened: {system_reason(error)}; copy it again from where it came, or remove it"
    )


@contextmanager
def in_turn(memory: int) -> Iterator[None]:
    """Reserve so many bytes for this thread in the `with` block; wait until the other threads hold few enough."""
    global _held_memory
    memory = min(memory, MAX_HELD_MEMORY)
    with _turn:
        _turn.wait_for(lambda: _held_memory + memory <= MAX_HELD_MEMORY)
        _held_memory += memory
    try:
        yield
    finally:
        with _turn:
            _held_memory -= memory
            _turn.notify_all()


def _with_colours(file: IO[bytes], path: Path) -> Image.Image:
    """The picture in a file, not decoded yet; `info` has its colour space in COLOURS. `file` is the file at `path`, or
    the preview in it."""
    header = file.read(HEADER_BYTES)
    file.seek(0)
    if header.startswith(file_kinds.TIFF_BEGINNINGS):  # Pillow reads all values when it opens the file
        _check_beside(beside.memory(file, "TIFF"))
    image = Image.open(file, formats=FORMATS)
    place = file.tell()
    if image.format == "JPEG2000":
        _check_pieces(file)
    image.info[BESIDE] = beside.memory(file, image.format or "")
    _check_beside(image.info[BESIDE])
    file.seek(place)
    colours = described_colours(image, header, path.name)
    if not colours and not image.info.get("icc_profile") and file_kinds.is_raw(path) and raw_is_adobe_rgb(path):
        colours = ADOBE_RGB
    image.info[COLOURS], image.info[RICH] = colours, _is_rich(image, header)
    return image


def _check_pieces(file: IO[bytes]) -> None:
    """Raises PhotoError if a JPEG 2000 file has so many precincts that the list of them fills the memory."""
    file.seek(0)
    if jpeg2000.precincts(file.read()) > MAX_PRECINCTS:
        raise PhotoError("JPEG 2000 in pieces too small to be read; export it as JPEG or PNG")
    file.seek(0)


def _check_beside(memory: int) -> None:
    """Raises PhotoError if the data beside the pixels of a file need too much memory."""
    if memory > MAX_MEMORY:
        raise PhotoError(
            f"beside its pixels the file holds what takes {memory / 1e9:.1f} GB of memory to read (layers, EXIF, a "
            "profile); save it without, or as JPEG"
        )


def _is_rich(image: Image.Image, header: bytes) -> bool:
    """Whether a HEIF or AVIF needs RICH_BYTES_PER_PIXEL: unless it has 8 bits, no transparency, and chroma subsampling
    of 4:2:0."""
    if image.format == "HEIF":
        return image.mode != "RGB" or image.info.get("bit_depth") != 8 or image.info.get("chroma") != 420
    # AV1 in ISO BMFF 1.2, 2.3: high_bitdepth, chroma_subsampling_x and _y.
    flags = header.partition(b"av1C")[2][2:3]
    return image.format == "AVIF" and (image.mode != "RGB" or not flags or flags[0] & 0b01001100 != 0b00001100)


def _fit_into_memory(image: Image.Image) -> None:
    """Have a JPEG that is too large decoded at half of its size: its faces are still many times larger than those of
    the training. Raises PhotoError if that is not enough, and for other formats, whose decoders cannot do that."""
    size = f"{image.width} x {image.height} px"
    if needed_memory(image) > MAX_MEMORY:
        image.draft(None, (image.width // 2, image.height // 2))
    if (needed := needed_memory(image)) > MAX_MEMORY:
        raise PhotoError(
            f"{size} of {image.format} take {needed / 1e9:.1f} GB of memory to read, and {MAX_MEMORY / 1e9:.1f} GB is "
            "the limit; save it smaller, or as JPEG"
        )


def needed_memory(image: Image.Image) -> int:
    """Peak memory in bytes of reading a picture, at the size that was set by `draft`."""
    usual = BYTES_PER_PIXEL.get(image.format or "", OTHER_BYTES_PER_PIXEL)
    needed = math.prod(image.size) * (RICH_BYTES_PER_PIXEL if image.info.get(RICH) else usual) + image.info[BESIDE]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return needed + _piece_bytes(image)
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.info.get("progressive"):
        return needed
    # All coefficients of a progressive JPEG are in memory, whatever size it is decoded to.
    (scale, _), coefficients = image.decoderconfig or (1, 0), 2  # bytes
    most = max(layer[1] * layer[2] for layer in image.layer)
    shares = sum(layer[1] * layer[2] / most for layer in image.layer)
    return needed + round(math.prod(image.size) * scale**2 * shares * coefficients)


def _stored(path: Path) -> IO[bytes]:
    """The file with the picture: for a raw file its preview."""
    if file_kinds.is_raw(path):
        return io.BytesIO(raw.preview(path))
    if file_kinds.could_be_raw(path):
        with suppress(PhotoError):
            return io.BytesIO(raw.preview(path))
    return open(path, "rb")


def _piece_bytes(image: TiffImagePlugin.TiffImageFile) -> int:
    """Bytes of one strip or tile of a compressed TIFF. libtiff decodes it as a whole, even if it is larger than the
    picture."""
    if not image.tile or image.tile[0].codec_name != "libtiff":
        return 0
    tags = image.tag_v2
    rows = min(tags.get(STRIP_HEIGHT, image.height), image.height)
    width, height = tags.get(TILE_WIDTH, image.width), tags.get(TILE_HEIGHT, rows)
    return math.ceil(width * height * sum(tags[BITS_PER_SAMPLE]) / 8)


def _is_cut_short(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or any(word in text for word in ("truncated", "end of file", "unexpected eof"))
