"""The preview in a raw file. The camera made it as it makes its JPEGs, with its own colours and sharpening."""

import io
from pathlib import Path

from PIL import Image

from likeness.core.errors import PhotoError

SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos"),
    *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
# The first bytes of raw files by Fujifilm, Minolta, Sigma, Panasonic, Olympus and Canon. Other makers' files begin as
# TIFFs do.
BEGINNINGS = (
    *(b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"II\x1a\0\0\0HEAPCCDR"),
    *(b"\0\0\0\x18ftypcrx ", b"IIII"),
)
EXPORT = "export it as JPEG or PNG"
# px on the longer side. A smaller preview was made for the camera's screen and shows a face in a few px.
SMALLEST_PREVIEW = 640


def preview(path: Path) -> bytes:
    """The largest picture in a raw file, as the bytes of a JPEG. Its EXIF contains the orientation: LibRaw adds it if
    the camera did not write it. Raises PhotoError if there is none."""
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            data, sensor = raw.extract_thumb().data, max(raw.sizes.raw_width, raw.sizes.raw_height)
    # rawpy raises NotImplementedError for a preview in a format that it does not know.
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError, NotImplementedError):
        raise PhotoError(f"raw camera file without a preview that can be read; {EXPORT}") from None
    except rawpy.LibRawError:
        raise PhotoError(
            f"raw camera file that is damaged, or of a camera that LibRaw does not know; {EXPORT}"
        ) from None
    if not isinstance(data, bytes):  # a bitmap is an array
        raise PhotoError(f"raw camera file whose preview is no JPEG; {EXPORT}")
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        if max(picture.size) < min(SMALLEST_PREVIEW, sensor / 2):
            width, height = picture.size
            raise PhotoError(f"raw camera file whose preview has only {width} x {height} px; {EXPORT}")
    return data
