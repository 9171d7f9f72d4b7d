"""Photos of wide gamut and HDR, and cameras' AdobeRGB, have the colours that they have on a screen."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from likeness.photos import colour, images, srgb
from raw_file import dng

# Skin, grass, sky, grey, black and white, as sRGB.
CHART = np.uint8([[224, 172, 140], [90, 56, 40], [70, 120, 60], [90, 140, 210], [128, 128, 128], [250, 250, 250]])
CHART = np.repeat(np.repeat(CHART.reshape(2, 3, 3), 40, 0), 40, 1)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Light of sRGB levels; diffuse white is 1."""
    return np.where(srgb <= 10, srgb / 255 / 12.92, ((srgb / 255 + 0.055) / 1.055) ** 2.4)


# Of linear BT.709: published matrices (BT.2087; Apple's Display P3; Adobe RGB 1998, annex C, inverted).
TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
TO_P3 = np.array([[0.8225, 0.1775, 0.0], [0.0332, 0.9668, 0.0], [0.0171, 0.0724, 0.9105]])
TO_ADOBE = np.array([[0.7152, 0.2848, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0412, 0.9588]])


def as_pq(light: np.ndarray) -> np.ndarray:
    power = (203 * np.maximum(light, 0) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def as_hlg(light: np.ndarray) -> np.ndarray:
    screen = 203 * np.maximum(light, 0) / 1000
    luminance = screen @ [0.2627, 0.6780, 0.0593]
    scene = screen * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def as_srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0) ** (1 / 2.4) - 0.055)


KINDS = {
    "P3": (12, 13, TO_P3, as_srgb),
    "BT.2020 PQ": (9, 16, TO_BT2020, as_pq),
    "BT.2020 HLG": (9, 18, TO_BT2020, as_hlg),
    "P3 PQ": (12, 16, TO_P3, as_pq),
    "linear": (1, 8, np.eye(3), lambda light: light),
}


def stored(light: np.ndarray, matrix: np.ndarray, encode) -> Image.Image:
    return Image.fromarray(np.uint8(np.rint(255 * np.clip(encode(light @ matrix.T), 0, 1))))


def heif(image: Image.Image, primaries: int, transfer: int) -> bytes:
    buffer = io.BytesIO()
    about = {"color_primaries": primaries, "transfer_characteristics": transfer, "full_range_flag": 1}
    image.save(buffer, "HEIF", quality=100, chroma=444, matrix_coefficients=6, save_nclx_profile=True, **about)
    return buffer.getvalue()


def avif(image: Image.Image, primaries: int, transfer: int) -> bytes:
    """Pillow writes that of sRGB, and has no option for another."""
    buffer = io.BytesIO()
    image.save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    data = buffer.getvalue()
    assert data.count(b"colrnclx") == 1
    before, mark, after = data.partition(b"colrnclx")
    return before + mark + struct.pack(">HH", primaries, transfer) + after[4:]


def png(image: Image.Image, primaries: int, transfer: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    return data[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def read(folder: Path, data: bytes, name: str = "photo") -> np.ndarray:
    (folder / name).write_bytes(data)
    return images.read_photo(folder / name)


def mean_error(pixels: np.ndarray, expected: np.ndarray = CHART) -> float:
    return float(np.abs(pixels.astype(int) - expected).mean())


@pytest.mark.parametrize("write", [heif, avif, png])
@pytest.mark.parametrize("kind", KINDS)
def test_colours_are_those_of_the_scene_up_to_diffuse_white(tmp_path, kind, write):
    primaries, transfer, matrix, encode = KINDS[kind]
    image = stored(linear(CHART.astype(float)), matrix, encode)
    pixels = read(tmp_path, write(image, primaries, transfer))
    assert mean_error(pixels) < 2.5
    if kind != "P3":
        assert mean_error(np.asarray(image)) > 10, "read as sRGB it looks otherwise"


def test_highlights_are_compressed_and_what_is_darker_stays(tmp_path):
    """A window of 1,000 cd/m2 behind a face."""
    ramp = np.linspace(0, 1000 / 203, 400)[None, :, None].repeat(40, 0).repeat(3, 2)
    pixels = read(tmp_path, png(stored(ramp, np.eye(3), as_pq), 1, 16))[20, :, 0].astype(int)
    dark = as_srgb(ramp[0, :, 0]) < colour.KNEE
    assert np.abs(pixels[dark] - 255 * as_srgb(ramp[0, dark, 0])).max() <= 4
    assert (np.diff(pixels) >= 0).all() and pixels[-1] >= 253
    white = pixels[np.searchsorted(ramp[0, :, 0], 1)]
    assert 200 < white < 245, "there is room above diffuse white"


def jpeg(space: int | None, index: str | None) -> bytes:
    exif = Image.Exif()
    if space is not None:
        exif.get_ifd(colour.EXIF_IFD)[colour.COLOR_SPACE] = space
    if index is not None:
        exif.get_ifd(colour.EXIF_IFD)[colour.INTEROP_IFD] = {colour.INTEROP_INDEX: index}
    buffer = io.BytesIO()
    image = stored(linear(CHART.astype(float)), TO_ADOBE, lambda light: np.maximum(light, 0) ** (256 / 563))
    image.save(buffer, "JPEG", quality=100, subsampling=0, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("space", "index", "name", "adobe"),
    [
        (65535, "R03", "IMG_1.jpg", True),
        (None, "R03", "IMG_1.jpg", True),
        (2, None, "IMG_1.jpg", True),
        (65535, None, "_MG_1.jpg", True),
        (65535, None, "IMG_1.jpg", False),  # not sRGB, and nobody says what
        (1, "R98", "_MG_1.jpg", False),
        (None, None, "_MG_1.jpg", False),
    ],
)
def test_a_cameras_adobe_rgb_is_told_by_its_exif(tmp_path, space, index, name, adobe):
    error = mean_error(read(tmp_path, jpeg(space, index), name))
    assert error < 2 if adobe else error > 4


def test_a_cameras_adobe_rgb_is_told_though_smaller_pictures_lie_behind_it(tmp_path):
    """As those of most cameras do since 2010 (MPO)."""
    with Image.open(io.BytesIO(jpeg(65535, "R03"))) as image:
        image.save(
            *(tmp_path / "a.jpg", "MPO"), save_all=True, append_images=[image.resize((30, 20))], quality=100,
            subsampling=0, exif=image.info["exif"],
        )  # fmt: skip
    assert b"MPF\0" in (tmp_path / "a.jpg").read_bytes()
    assert mean_error(images.read_photo(tmp_path / "a.jpg")) < 2


@pytest.mark.parametrize(
    ("space", "name", "adobe"), [(65535, "_DSC1.nef", True), (2, "DSC1.nef", True), (1, "_DSC1.nef", False)]
)
def test_the_adobe_rgb_of_a_raw_files_preview_is_told_by_the_raw_file(tmp_path, space, name, adobe):
    with Image.open(io.BytesIO(jpeg(None, None))) as preview:
        (tmp_path / name).write_bytes(dng(preview, color_space=space))
    error = mean_error(images.read_photo(tmp_path / name))
    assert error < 3 if adobe else error > 4


def with_points(profile: bytes, primaries: int, transfer: int) -> bytes:
    """An ICC profile whose copyright is replaced by the tag cicp."""
    entry = profile.index(b"cprt", 128)
    place = b"cicp" + struct.pack(">II", len(profile), 12)
    found = profile[:entry] + place + profile[entry + 12 :] + b"cicp" + bytes(4) + bytes([primaries, transfer, 0, 1])
    return struct.pack(">I", len(found)) + found[4:]


@pytest.mark.parametrize("kind", ["BT.2020 PQ", "BT.2020 HLG"])
@pytest.mark.parametrize("write", ["PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_hdr_is_told_by_the_code_points_in_a_profile(tmp_path, kind, write):
    """Macs and Lightroom write such profiles. By its curves the brightest light of all would be white."""
    primaries, transfer, matrix, encode = KINDS[kind]
    profile = with_points(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), primaries, transfer)
    options = (
        {"chroma": 444} if write == "HEIF" else {"subsampling": "4:4:4"} if write == "AVIF" else {"subsampling": 0}
    )
    lossy = options | {"quality": 100} if write in ("JPEG", "HEIF", "AVIF") else {}
    buffer = io.BytesIO()
    stored(linear(CHART.astype(float)), matrix, encode).save(
        buffer, write, icc_profile=profile, **lossy, **({"lossless": True} if write == "WEBP" else {})
    )
    assert mean_error(read(tmp_path, buffer.getvalue())) < 2.5


def test_the_code_points_of_a_png_go_before_its_profile(tmp_path):
    """The order of its specification: the profile is for programs that know no HDR."""
    primaries, transfer, matrix, encode = KINDS["BT.2020 PQ"]
    image = stored(linear(CHART.astype(float)), matrix, encode)
    image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = png(image, primaries, transfer)
    assert b"iCCP" in data
    assert mean_error(read(tmp_path, data)) < 2.5


@pytest.mark.parametrize("power", [1.0, 1.8, 2.2, 2.6])
@pytest.mark.parametrize("kind", [None, "P3", "BT.2020"])
def test_what_a_png_says_of_gamma_and_primaries_counts(tmp_path, power, kind):
    matrix, key = {None: (np.eye(3), 1), "P3": (TO_P3, 12), "BT.2020": (TO_BT2020, 9)}[kind]
    image = stored(linear(CHART.astype(float)), matrix, lambda light: np.maximum(light, 0) ** (1 / power))
    primaries = [xy for point in (colour.WHITE, *colour.PRIMARIES[key]) for xy in point]
    about = with_chunks(image, (b"gAMA", [1 / power]), (b"cHRM", primaries))
    assert mean_error(read(tmp_path, about)) < 2.5
    plain = with_chunks(image, (b"gAMA", [1 / power]), (b"cHRM", primaries), (b"sRGB", []))
    assert (read(tmp_path, plain) == np.asarray(image)).all(), "it says that it is sRGB"


def with_chunks(image: Image.Image, *chunks: tuple[bytes, list[float]]) -> bytes:
    """A PNG with chunks of numbers in units of 1 / 100,000; that of sRGB holds a byte."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data, between = buffer.getvalue(), b""
    for name, numbers in chunks:
        body = b"".join(struct.pack(">I", round(100_000 * number)) for number in numbers) or b"\0"
        between += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data[:33] + between + data[33:]


def test_a_thumbnail_has_the_same_colours(tmp_path):
    (tmp_path / "_MG_1.jpg").write_bytes(jpeg(65535, "R03"))
    small = images.thumbnail(tmp_path / "_MG_1.jpg", 60)
    assert mean_error(small[10, 10], CHART[10, 10]) < 3


def test_a_picture_in_many_strips_and_blocks_is_the_same_as_in_one(tmp_path, monkeypatch):
    data = png(stored(linear(CHART.astype(float)) * 3, TO_BT2020, as_pq), 9, 16)
    whole = read(tmp_path, data)
    monkeypatch.setattr(srgb, "STRIP_PIXELS", 1000)
    monkeypatch.setattr(colour, "BLOCK", 77)
    assert (read(tmp_path, data) == whole).all()
