"""Metadata that marks pictures as generated: IPTC's DigitalSourceType in XMP; and A1111's infotext."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from likeness.core.provenance import canonical, digest

# https://cv.iptc.org/newscodes/digitalsourcetype/ ; the value is a URI. It begins with http, but nobody fetches it.
TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# The packet id is the fixed one of the XMP specification, part 1, 7.3.2.
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{TRAINED_ALGORITHMIC_MEDIA}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


def picture_hashes(png: bytes, pixels: np.ndarray) -> dict[str, str]:
    """`sha256` of a picture's file, and `pixels`, a hash of its pixels alone: other metadata leave it."""
    shape_and_pixels = digest(canonical(pixels.shape), pixels.tobytes())
    return {"sha256": hashlib.sha256(png).hexdigest(), "pixels": shape_and_pixels}


def marked_png(pixels: np.ndarray, infotext: str = "") -> bytes:
    """A PNG of uint8 pixels (height, width, 3) with the mark, and with the infotext where A1111 reads it. The bytes
    depend only on the pixels and the infotext."""
    info = PngInfo()
    if infotext:
        info.add_text("parameters", infotext)
    info.add_itxt("XML:com.adobe.xmp", XMP)  # the keyword that the XMP specification, part 3, sets for PNG
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_infotext(png: Path) -> str:
    """The infotext of a PNG; "" if it has none."""
    with Image.open(png) as image:
        return image.info.get("parameters", "")


def marked_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """A JPEG of uint8 pixels (height, width, 3) with the mark."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, xmp=XMP.encode())
    return buffer.getvalue()
