"""Photos are decoded within limits of memory, and damaged files are refused in one sentence."""

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from likeness.core import manifests
from likeness.core.errors import LikenessError
from likeness.photos import beside, decoding, images
from made_photos import QUARTERS, assert_quarters, encoded, noise, orientation_tag, read


def test_threads_wait_while_others_hold_too_many_pixels(tmp_path, monkeypatch):
    """Photos of 40 000 px where 90 000 may be held: never three at once, and one larger than all that alone."""
    monkeypatch.setattr(decoding, "MAX_HELD_MEMORY", 90_000 * decoding.OTHER_BYTES_PER_PIXEL)
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
from likeness.core.devices import peak_memory
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


@pytest.mark.parametrize("damage", [b"", b"\x09\xb0"], ids=["whole", "its index damaged"])
def test_a_jpeg_with_smaller_pictures_behind_it_is_read_as_any_jpeg(tmp_path, monkeypatch, damage):
    """Pillow calls it MPO, and reads nothing of one whose index is damaged."""
    large = Image.fromarray(QUARTERS).resize((600, 400), Image.Resampling.NEAREST)
    data = encoded(large, "MPO", save_all=True, append_images=[large.resize((60, 40))], quality=95)
    data = data.replace(b"\x01\xb0", damage or b"\x01\xb0")
    assert read(tmp_path, data).shape == (400, 600, 3)
    monkeypatch.setattr(decoding, "MAX_MEMORY", 600 * 400 * decoding.OTHER_BYTES_PER_PIXEL - 1)
    half = read(tmp_path, data)
    assert half.shape == (200, 300, 3)
    assert_quarters(images.lanczos(half, 60, 40), tolerance=12)


def test_a_jpeg_that_is_too_large_for_memory_is_read_at_half_of_its_size(tmp_path, monkeypatch):
    data = encoded(Image.fromarray(QUARTERS).resize((600, 400), Image.Resampling.NEAREST), "JPEG", quality=95)
    monkeypatch.setattr(decoding, "MAX_MEMORY", 600 * 400 * decoding.OTHER_BYTES_PER_PIXEL - 1)
    half = read(tmp_path, data)
    assert half.shape == (200, 300, 3)
    assert_quarters(images.lanczos(half, 60, 40), tolerance=12)
    assert images.thumbnail(tmp_path / "photo.jpg", 60).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("kind", "mode", "options", "rich"),
    [
        ("HEIF", "RGB", {"chroma": 420}, False),
        ("HEIF", "RGB", {"chroma": 444}, True),
        ("HEIF", "RGBA", {"chroma": 420}, True),
        ("AVIF", "RGB", {"subsampling": "4:2:0"}, False),
        ("AVIF", "RGB", {"subsampling": "4:4:4"}, True),
        ("AVIF", "RGBA", {"subsampling": "4:2:0"}, True),
    ],
)
def test_a_heif_or_avif_with_more_in_each_pixel_counts_for_more(tmp_path, monkeypatch, kind, mode, options, rich):
    image = noise(64)
    if mode == "RGBA":
        image.putalpha(100)
    data = encoded(image, kind, **options)
    usual = decoding.BYTES_PER_PIXEL.get(kind, decoding.OTHER_BYTES_PER_PIXEL)
    needed = 64**2 * (decoding.RICH_BYTES_PER_PIXEL if rich else usual) + beside.COPIES[kind] * len(data)
    monkeypatch.setattr(decoding, "MAX_MEMORY", needed)
    assert read(tmp_path, data).shape == (64, 64, 3)
    monkeypatch.setattr(decoding, "MAX_MEMORY", needed - 1)
    with pytest.raises(LikenessError, match=f"64 x 64 px of {kind} take .* GB of memory"):
        read(tmp_path, data)


def test_ten_bits_count_for_more(tmp_path, monkeypatch):
    data = io.BytesIO()
    pillow_heif.encode("RGB;16", (64, 64), bytes(64 * 64 * 6), data, chroma=420)
    monkeypatch.setattr(decoding, "MAX_MEMORY", 64**2 * decoding.RICH_BYTES_PER_PIXEL - 1)
    with pytest.raises(LikenessError, match="64 x 64 px of HEIF take"):
        read(tmp_path, data.getvalue())


def test_a_photo_that_is_replaced_while_it_is_read_is_named(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"one photo")
    before = decoding.photo_sha256(tmp_path / "a.jpg")
    decoding.check_unchanged(tmp_path / "a.jpg", before)
    (tmp_path / "a.jpg").write_bytes(b"another")
    with pytest.raises(LikenessError, match="the file was changed while it was read; run the same command again"):
        decoding.check_unchanged(tmp_path / "a.jpg", before)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(LikenessError, match="the file cannot be opened: no such file or directory; copy it again"):
        decoding.check_unchanged(tmp_path / "a.jpg", before)


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
