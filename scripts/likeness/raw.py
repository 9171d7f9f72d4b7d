"""The picture that a camera puts into its raw file: with its own colours and sharpening, as its JPEGs are."""

from pathlib import Path

from likeness.errors import LikenessError

SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos"),
    *(".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
EXPORT = "export it as JPEG or PNG"


def preview(path: Path) -> bytes:
    """The largest picture in a raw file, as the bytes of a JPEG, whose EXIF says how it is turned: LibRaw writes one
    where the camera did not. Raises LikenessError if there is none."""
    import rawpy

    try:
        with rawpy.imread(str(path)) as raw:
            found = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        raise LikenessError(f"raw camera file without a preview that can be read; {EXPORT}") from None
    except rawpy.LibRawError:
        raise LikenessError(
            f"raw camera file that is damaged, or of a camera that LibRaw does not know; {EXPORT}"
        ) from None
    if found.format is not rawpy.ThumbFormat.JPEG:
        raise LikenessError(f"raw camera file whose preview is no JPEG; {EXPORT}")
    return found.data
