"""Reads the mark of a picture's origin with Pillow."""

from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

IPTC_EXTENSION = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def source_type(path: Path) -> str:
    """IPTC's DigitalSourceType in the XMP that Pillow reads."""
    with Image.open(path) as image:
        xmp = image.info["xmp"]
    text = (xmp if isinstance(xmp, bytes) else xmp.encode()).decode()
    return ElementTree.fromstring(text).find(f".//{IPTC_EXTENSION}DigitalSourceType").text
