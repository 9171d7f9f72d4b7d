"""A raw camera file (DNG 1.4, Adobe's specification) as small as LibRaw reads it."""

import io
import struct

from PIL import Image

CODES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "I", 10: "i"}  # the types of TIFF fields
BYTE, TEXT, SHORT, LONG, RATIO, SIGNED_RATIO = CODES
SIDE = 64  # px; side of the sensor
IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)  # 3 x 3 ratios


def dng(preview: Image.Image | None, orientation: int = 1, color_space: int = 1) -> bytes:
    """A DNG with the values of a grey sensor, and with a JPEG of `preview`, which is stored in the sensor's
    orientation."""
    sensor = struct.pack("<H", 3000) * SIDE**2
    jpeg = io.BytesIO()
    if preview:
        preview.save(jpeg, "JPEG", quality=95)
    shown = preview or Image.new("RGB", (1, 1))

    def directories(of_sensor: int, values: int, picture: int, exif: int) -> tuple[bytes, bytes]:
        main = {
            254: (LONG, 1), 256: (LONG, shown.width), 257: (LONG, shown.height), 258: (SHORT, 8, 8, 8), 259: (SHORT, 7),
            262: (SHORT, 6), 271: (TEXT, *b"Likeness\0"), 272: (TEXT, *b"Test\0"), 273: (LONG, picture),
            274: (SHORT, orientation), 277: (SHORT, 3), 278: (LONG, shown.height), 279: (LONG, len(jpeg.getvalue())),
            330: (LONG, of_sensor), 34665: (LONG, exif),
            50706: (BYTE, 1, 4, 0, 0), 50707: (BYTE, 1, 1, 0, 0), 50708: (TEXT, *b"Test\0"),
            50721: (SIGNED_RATIO, *IDENTITY), 50728: (RATIO, 1, 1, 1, 1, 1, 1), 50778: (SHORT, 21),
        }  # fmt: skip
        raw = {
            254: (LONG, 0), 256: (LONG, SIDE), 257: (LONG, SIDE), 258: (SHORT, 16), 259: (SHORT, 1),
            262: (SHORT, 32803), 273: (LONG, values), 277: (SHORT, 1), 278: (LONG, SIDE), 279: (LONG, len(sensor)),
            33421: (SHORT, 2, 2), 33422: (BYTE, 0, 1, 1, 2), 50714: (SHORT, 0), 50717: (SHORT, 65535),
        }  # fmt: skip
        if not preview:
            main = {tag: field for tag, field in main.items() if tag > 280 or tag == 271}
        return directory(main, 8), directory(raw, of_sensor)

    main, raw = directories(0, 0, 0, 0)
    of_sensor = 8 + len(main)
    values = of_sensor + len(raw)
    picture = values + len(sensor)
    exif = picture + len(jpeg.getvalue())
    main, raw = directories(of_sensor, values, picture, exif)
    about = directory({40961: (SHORT, color_space)}, exif)
    return b"II*\0" + struct.pack("<I", 8) + main + raw + sensor + jpeg.getvalue() + about


def directory(fields: dict[int, tuple], place: int) -> bytes:
    """A TIFF table of fields, {tag: (type, values)}, for this offset in a file, followed by the data that it refers
    to."""
    entries, behind = b"", b""
    for tag, (kind, *values) in sorted(fields.items()):
        data = struct.pack(f"<{len(values)}{CODES[kind]}", *values)
        number = len(values) // (2 if kind in (RATIO, SIGNED_RATIO) else 1)
        if len(data) > 4:
            at = place + 2 + 12 * len(fields) + 4 + len(behind)
            behind += data + bytes(len(data) % 2)
            data = struct.pack("<I", at)
        entries += struct.pack("<HHI", tag, kind, number) + data.ljust(4, b"\0")
    return struct.pack("<H", len(fields)) + entries + bytes(4) + behind
