"""Whatever a photo folder holds is read upright, in sRGB, as people see it; or refused in one sentence."""

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from likeness import images, manifests
from likeness.errors import LikenessError

# Four colours, one per quarter, 60 x 40 px: every turn and every mirror image looks different.
QUARTERS = np.zeros((40, 60, 3), np.uint8)
QUARTERS[:20, :30] = 200, 40, 40
QUARTERS[:20, 30:] = 90, 200, 90
QUARTERS[20:, :30] = 20, 20, 20
QUARTERS[20:, 30:] = 30, 60, 220

# How a camera stores an upright picture under each EXIF orientation, in numpy's words (Exif 2.32, tag Orientation:
# where row 0 and column 0 of the stored pixels are in the scene).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def noise(side: int = 200) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path, data: bytes, name: str = "photo.jpg") -> np.ndarray:
    (tmp_path / name).write_bytes(data)
    return images.read_photo(tmp_path / name)


def orientation_tag(value: int) -> bytes:
    """EXIF as bytes: from these, pillow_heif writes the box that turns a HEIF, where EXIF alone is to be ignored."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = value
    return exif.tobytes()


def assert_quarters(pixels: np.ndarray, tolerance: int) -> None:
    """The middle of every quarter, because lossy formats blur the borders between them."""
    assert pixels.shape == QUARTERS.shape and pixels.dtype == np.uint8
    for y, x in ((10, 15), (10, 45), (30, 15), (30, 45)):
        assert np.abs(pixels[y, x].astype(int) - QUARTERS[y, x]).max() <= tolerance


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_every_exif_orientation_is_read_upright(tmp_path, kind, orientation):
    exif = orientation_tag(orientation)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](QUARTERS)))
    assert_quarters(read(tmp_path, encoded(stored, kind, exif=exif, quality=95)), tolerance=12)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF"])
def test_every_format_is_read_by_its_content_and_not_its_name(tmp_path, kind):
    assert_quarters(read(tmp_path, encoded(Image.fromarray(QUARTERS), kind), "photo.png"), tolerance=12)


@pytest.mark.parametrize("mode", ["P", "CMYK", "RGBA"])
def test_colour_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(QUARTERS)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    assert_quarters(read(tmp_path, encoded(image, "TIFF")), tolerance=2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path, kind):
    grey = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    pixels = read(tmp_path, encoded(Image.fromarray(grey), kind))
    assert np.abs(pixels - grey[..., None] / 257).max() <= 0.5


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_colour_are_scaled_too(tmp_path, suffix):
    levels = np.linspace(0, 65535, 2400).reshape(40, 60).astype(np.uint16)
    stored = np.dstack([levels, levels[::-1], levels[:, ::-1]])
    cv2.imwrite(str(tmp_path / f"photo.{suffix}"), stored[..., ::-1])
    assert np.abs(images.read_photo(tmp_path / f"photo.{suffix}") - stored / 257).max() < 1


def test_floats_are_taken_from_black_to_white_and_what_is_no_number_is_black(tmp_path):
    values = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    values[0, :3] = np.nan, np.inf, -np.inf
    cv2.imwrite(str(tmp_path / "photo.tif"), np.where(np.isposinf(values), 1, values))
    pixels = images.read_photo(tmp_path / "photo.tif")
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(pixels[1:, :, 0] - values[1:] * 255).max() <= 0.5


def test_the_inverted_inks_of_adobe_jpegs_are_read_as_another_decoder_reads_them(tmp_path):
    data = encoded(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data[:40]
    assert_quarters(read(tmp_path, data), tolerance=3)
    assert_quarters(cv2.imread(str(tmp_path / "photo.jpg"))[..., ::-1], tolerance=3)


def test_grey_and_bilevel_pictures_become_rgb(tmp_path):
    for mode in ("L", "LA", "1"):
        pixels = read(tmp_path, encoded(Image.fromarray(QUARTERS).convert(mode), "PNG"))
        assert pixels.shape == QUARTERS.shape and (pixels[..., 0] == pixels[..., 2]).all()


def test_transparent_parts_become_a_light_grey_wall(tmp_path):
    alpha = Image.new("L", (60, 40), 255)
    alpha.paste(0, (0, 0, 30, 20))
    image = Image.fromarray(QUARTERS)
    image.putalpha(alpha)
    pixels = read(tmp_path, encoded(image, "PNG"))
    assert (pixels[:20, :30] == images.BACKDROP).all()
    assert (pixels[20:] == QUARTERS[20:]).all()


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    # L*a*b* is a space whose numbers are nothing like sRGB's, so reading them as sRGB would show.
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    stored = ImageCms.profileToProfile(Image.fromarray(QUARTERS), srgb, lab, outputMode="LAB")
    data = encoded(stored, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert_quarters(read(tmp_path, data), tolerance=6)


def test_a_damaged_profile_or_exif_does_not_lose_the_photo(tmp_path):
    image = Image.fromarray(QUARTERS)
    assert_quarters(read(tmp_path, encoded(image, "PNG", icc_profile=b"nonsense" * 20)), tolerance=0)
    assert_quarters(read(tmp_path, encoded(image, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), tolerance=0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_turns_nothing(tmp_path, orientation):
    data = encoded(Image.fromarray(QUARTERS), "PNG", exif=orientation_tag(orientation))
    assert_quarters(read(tmp_path, data), tolerance=0)


def test_a_picture_in_many_strips_is_the_same_as_in_one(tmp_path, monkeypatch):
    data = encoded(noise(), "PNG", exif=orientation_tag(7))
    whole = read(tmp_path, data)
    monkeypatch.setattr(images, "STRIP_PIXELS", 1000)
    assert (read(tmp_path, data) == whole).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "HEIF"])
def test_a_thumbnail_is_the_photo_made_smaller(tmp_path, kind):
    large = Image.fromarray(QUARTERS).resize((1200, 800), Image.Resampling.NEAREST)
    stored = large.transpose(Image.Transpose.ROTATE_90)
    (tmp_path / "photo.jpg").write_bytes(encoded(stored, kind, exif=orientation_tag(6), quality=95))
    small = images.thumbnail(tmp_path / "photo.jpg", 60)
    assert_quarters(small, tolerance=12)
    (tmp_path / "photo.jpg").write_bytes(encoded(Image.fromarray(QUARTERS), kind, quality=95))
    assert images.thumbnail(tmp_path / "photo.jpg", 512).shape == QUARTERS.shape  # never enlarged
    (tmp_path / "photo.jpg").write_bytes(b"text")
    with pytest.raises(LikenessError, match="not a picture"):
        images.thumbnail(tmp_path / "photo.jpg", 60)


def test_threads_wait_while_others_hold_too_many_pixels(tmp_path, monkeypatch):
    """Photos of 40 000 px where 90 000 may be held: never three at once, and one larger than all that alone."""
    monkeypatch.setattr(images, "MAX_HELD_PIXELS", 90_000)
    names = [f"{i}.jpg" for i in range(12)]
    for name in names:
        noise(400 if name == "5.jpg" else 200).save(tmp_path / name)
    held, most = [], []

    def look(name: str) -> int:
        with images.photo_in_turn(tmp_path / name) as image:
            held.append(image.size // 3)
            most.append((len(held), max(held)))
            time.sleep(0.01)
            held.remove(image.size // 3)
        return image.shape[0]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(look, names)) == [400 if name == "5.jpg" else 200 for name in names]
    assert max(count for count, _ in most) == 2
    assert all(count == 1 for count, largest in most if largest == 160_000)


def peak_memory_of(script: Path, arguments: list[str]) -> int:
    """Bytes that a script held at most, counted by itself: what its parent can ask the kernel begins at the parent's
    own size, and pytest's may be larger."""
    program = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
import torch
from likeness.devices import peak_memory
print(peak_memory(torch.device("cpu")))
"""
    found = subprocess.run([sys.executable, "-c", program, script, *arguments], check=True, stdout=subprocess.PIPE)
    return int(found.stdout.split()[-1])


@pytest.mark.parametrize("kind", ["rgb.jpg", "grey16.tif"])
def test_a_hundred_megapixels_are_searched_for_faces_in_less_than_two_gigabytes(
    kind, root, ava, model_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    wall = Image.new("RGB", (12_000, 8_400), (120, 130, 140))
    with Image.open(ava / "00.jpg") as portrait:
        wall.paste(portrait.resize((4_000, 4_000)), (4_000, 2_000))
    photo = tmp_path / kind
    if kind == "rgb.jpg":
        wall.transpose(Image.Transpose.ROTATE_90).save(photo, exif=orientation_tag(6))
    else:
        Image.fromarray(np.asarray(wall.convert("L")).astype(np.uint16) * 257).save(photo)
    del wall
    options = {"photos": photo, "models": model_files, "cache": tmp_path / "cache", "faces": tmp_path / "faces.tsv"}
    arguments = [str(word) for name, path in options.items() for word in (f"--{name}", path)]
    assert peak_memory_of(root / "scripts/detect_faces.py", arguments) < 2e9
    [face] = manifests.read_table(tmp_path / "faces.tsv").to_dict("records")
    assert (face["width"], face["height"], face["error"]) == ("12000", "8400", "")
    assert float(face["center_x"]) == pytest.approx(6_000, abs=300) and float(face["face_height"]) > 2_000


def webp_bomb(side: int) -> bytes:
    """A picture of one colour in 40 bytes: every prefix code of it has a single symbol, and takes no bits."""
    bits = f"{side - 1:014b}"[::-1] * 2 + "0000" + "000" + "10" + "0" + "0"
    bits += ("10" + "0" + "0") * 4
    body = b"\x2f" + int(bits[::-1], 2).to_bytes(-(-len(bits) // 8), "little") + b"\0"
    body += b"\0" * (len(body) % 2)
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body
    return b"RIFF" + (4 + len(chunk)).to_bytes(4, "little") + b"WEBP" + chunk


def test_a_small_file_of_a_huge_picture_is_refused_by_the_memory_that_it_would_take(tmp_path):
    assert read(tmp_path, webp_bomb(64)).shape == (64, 64, 3)
    bomb = webp_bomb(15_000)
    assert len(bomb) < 50
    with pytest.raises(LikenessError, match=r"15000 x 15000 px of WEBP take 4\.\d GB of memory"):
        read(tmp_path, bomb)


def test_a_jpeg_that_is_too_large_for_memory_is_read_at_half_of_its_size(tmp_path, monkeypatch):
    data = encoded(Image.fromarray(QUARTERS).resize((600, 400), Image.Resampling.NEAREST), "JPEG", quality=95)
    monkeypatch.setattr(images, "MAX_MEMORY", 600 * 400 * images.OTHER_BYTES_PER_PIXEL - 1)
    half = read(tmp_path, data)
    assert half.shape == (200, 300, 3)
    assert_quarters(images.lanczos(half, 60, 40), tolerance=12)
    assert images.thumbnail(tmp_path / "photo.jpg", 60).shape == (40, 60, 3)


def test_damaged_files_are_refused_in_a_sentence(tmp_path):
    jpeg = encoded(noise(), "JPEG")
    for data, words in (
        (b"", "empty"),
        (b"a text, not a picture" * 50, "not a picture"),
        (jpeg[:20], "not a picture"),
        (jpeg[: len(jpeg) // 2], "cut short"),
        (encoded(Image.new("1", (16_000, 16_000)), "PNG"), "pixels"),
        (encoded(Image.new("1", (40_000, 10)), "PNG"), "on a side"),
    ):
        with pytest.raises(LikenessError, match=words) as caught:
            read(tmp_path, data)
        assert "\n" not in str(caught.value)
    with pytest.raises(LikenessError, match="cannot be opened"):
        images.read_photo(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "BMP", "GIF"])
def test_half_a_file_of_any_format_is_refused(tmp_path, kind):
    data = encoded(noise(), kind)
    with pytest.raises(LikenessError):
        read(tmp_path, data[: len(data) // 2])


def test_png_bytes_hold_the_pixels_and_nothing_else(tmp_path):
    pixels = np.asarray(noise(64))
    assert images.png_bytes(pixels) == images.png_bytes(pixels.copy())
    with Image.open(io.BytesIO(images.png_bytes(pixels))) as image:
        assert (np.asarray(image) == pixels).all() and image.info == {}


def test_the_perceptual_hash_survives_encoding_again_and_tells_pictures_apart(ava):
    first, second = (images.read_photo(ava / name) for name in ("03.jpg", "13.jpg"))
    again = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(first), "JPEG", quality=40))))

    def bits(a, b):
        return (int(images.perceptual_hash(a), 16) ^ int(images.perceptual_hash(b), 16)).bit_count()

    assert bits(first, again) <= 2
    assert bits(first, second) > 6


def test_stems_are_safe_and_different_on_every_file_system():
    names = [
        "a.jpg",
        "a.png",
        "A.gif",
        "a_png.jpg",
        "x y ü.jpg",
        "日本.heic",
        "....jpg",
        "sub/a.webp",
        "n" * 240 + ".jpg",
    ]
    stems = images.unique_stems(names)
    assert stems == images.unique_stems(reversed(names))
    assert set(stems) == set(names)
    assert len({stem.casefold() for stem in stems.values()}) == len(names)
    assert stems["x y ü.jpg"] == "x_y_ü" and stems["日本.heic"] == "日本" and stems["....jpg"] == "photo"
    assert all(len(f"{stem}.png".encode()) < 230 and not set(stem) & set(' /\\:*?"<>|.\t') for stem in stems.values())


def test_letters_composed_or_not_give_one_stem():
    assert images.unique_stems(["u\u0308.jpg"])["u\u0308.jpg"] == images.unique_stems(["\u00fc.jpg"])["\u00fc.jpg"]
