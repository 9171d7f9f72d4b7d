"""No photo in a folder is passed over without a word."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness import images, raw
from likeness.errors import LikenessError
from likeness.photos import checked_photos, not_files, photo_files
from raw_file import dng


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (120, 90, 60)).save(buffer, kind, **options)
    return buffer.getvalue()


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "GIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["download", "photo.jpg_large", "photo.jpg_original", "IMG 1.JPG.part", "ü"])
def test_a_photo_is_told_by_how_it_begins_where_its_name_does_not_say_so(tmp_path, kind, name):
    (tmp_path / name).write_bytes(encoded(kind))
    assert names(photo_files(tmp_path)) == [name]
    assert images.read_photo(tmp_path / name).shape == (30, 40, 3)


@pytest.mark.parametrize("name", ["notes.txt", "a.json", "clip.mp4", ".hidden.jpg", "._x.jpg", "Thumbs.db", "empty"])
def test_what_is_no_photo_is_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes({"clip.mp4": b"\0\0\0\x18ftypisom", "empty": b""}.get(name, b"text"))
    assert not photo_files(tmp_path) + not_files(tmp_path)


@pytest.mark.parametrize("suffix", [*raw.SUFFIXES, ".jxl", ".psd", ".CR3"])
def test_a_kind_that_is_not_read_gets_a_row_that_says_what_to_do(tmp_path, suffix):
    (tmp_path / f"photo{suffix}").write_bytes(b"something")
    assert names(photo_files(tmp_path)) == [f"photo{suffix}"]
    with pytest.raises(LikenessError, match="export it as JPEG or PNG"):
        images.read_photo(tmp_path / f"photo{suffix}")


@pytest.mark.parametrize(
    "suffix, orientation", [*((s, 6) for s in (*raw.SUFFIXES, ".DNG")), *((".nef", o) for o in images.STORED)]
)
def test_the_preview_of_a_raw_file_is_read_upright(tmp_path, suffix, orientation):
    """Whatever the ending: cameras agree on none, and LibRaw looks at what is in the file."""
    upright = Image.new("RGB", (64, 96), (200, 30, 30))
    upright.paste((30, 30, 200), (0, 0, 64, 48))  # blue above
    upright.paste((30, 200, 30), (0, 0, 32, 48))  # green above on the left
    (tmp_path / f"photo{suffix}").write_bytes(dng(stored(upright, orientation), orientation))
    assert names(photo_files(tmp_path)) == [f"photo{suffix}"]
    pixels = images.read_photo(tmp_path / f"photo{suffix}")
    assert np.abs(pixels.astype(int) - np.asarray(upright)).mean() < 4, "but for JPEG's losses"
    assert images.thumbnail(tmp_path / f"photo{suffix}", 48).shape == (48, 32, 3)


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    """As a camera that was held so stores it, by EXIF's definition of the orientation."""
    turned = {
        **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"},
        **{7: "TRANSVERSE", 8: "ROTATE_270"},
    }
    return upright.transpose(Image.Transpose[turned[orientation]]) if orientation in turned else upright


@pytest.mark.parametrize(
    "content, why",
    [
        (dng(None), "without a preview"),
        (dng(Image.new("RGB", (64, 64)))[:200], "damaged, or of a camera"),
        (np.random.default_rng(0).bytes(5000), "damaged, or of a camera"),
        (encoded("TIFF"), "raw camera file"),
    ],
)
def test_a_raw_file_that_shows_nothing_says_what_to_do(tmp_path, content, why):
    (tmp_path / "photo.nef").write_bytes(content)
    with pytest.raises(LikenessError, match=f"{why}.*; export it as JPEG or PNG"):
        images.read_photo(tmp_path / "photo.nef")


@pytest.mark.parametrize("suffix", [".jp2", ".J2K", ".jpx"])
def test_jpeg_2000_is_read(tmp_path, suffix):
    (tmp_path / f"photo{suffix}").write_bytes(encoded("JPEG2000"))
    assert names(photo_files(tmp_path)) == [f"photo{suffix}"]
    assert images.read_photo(tmp_path / f"photo{suffix}").shape == (30, 40, 3)


def test_a_folder_of_photos_among_photos_gets_a_row(tmp_path):
    (tmp_path / "a.jpg").touch()
    for folder, file in (("2024", "b.jpg"), ("captions", "a.txt"), (".thumbnails", "a.jpg")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    assert names(not_files(tmp_path)) == ["2024"]
    with pytest.raises(LikenessError, match="a folder; move the photos in it up"):
        images.check_file(tmp_path / "2024")


def test_photos_one_level_down_are_an_error_that_says_where(tmp_path):
    for name in ("indoors", "outdoors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    with pytest.raises(LikenessError) as caught:
        checked_photos("photos/ava", tmp_path)
    assert str(caught.value) == (
        "no photo in 'photos/ava' itself, but in 'photos/ava/indoors', 'photos/ava/outdoors'; write that, or move the "
        "photos up"
    )


def test_a_folder_without_photos_says_what_is_read(tmp_path):
    with pytest.raises(LikenessError, match=r"no photo in 'photos'; expected files ending in .*\.heic.*\.jpg"):
        checked_photos("photos", tmp_path)
