"""No photo in a folder is passed over without a word."""

import io
import os
import tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import rawpy
from PIL import Image

import raw_file
from likeness.core.errors import LikenessError
from likeness.photos import decoding, file_kinds, images, raw, srgb
from likeness.photos.file_kinds import checked_photos, photo_files, unreadable_entries
from raw_file import dng


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (120, 90, 60)).save(buffer, kind, **options)
    return buffer.getvalue()


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "GIF", "JPEG2000", "BMP"])
@pytest.mark.parametrize("name", ["download", "photo.jpg_large", "photo.jpg_original", "IMG 1.JPG.part", "ü"])
def test_a_photo_is_told_by_how_it_begins_where_its_name_does_not_say_so(tmp_path, kind, name):
    (tmp_path / name).write_bytes(encoded(kind))
    assert names(photo_files(tmp_path)) == [name]
    assert images.read_photo(tmp_path / name).shape == (30, 40, 3)


NAMES = ("notes.txt", "a.json", "clip.mp4", ".hidden.jpg", "._x.jpg", "Thumbs.db", ".DS_Store", "Icon\r", "desktop.ini")
NAMES += (
    ".trashed-1700000000-IMG_1.jpg",
    ".pending-1700000000-IMG_1.jpg",
    "IMG_1.HEIC.supplemental-metadata.json",
    "IMG_1.AAE",
)


@pytest.mark.parametrize("name", [*NAMES, "IMG_1.xmp", ".IMG_1.mov.icloud", "empty"])
def test_what_is_no_photo_is_left_alone(tmp_path, name):
    (tmp_path / name).write_bytes({"clip.mp4": b"\0\0\0\x18ftypisom", "empty": b""}.get(name, b"text"))
    assert not photo_files(tmp_path) + unreadable_entries(tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        *(
            "@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_XL.jpg",
            "#recycle/IMG_1.jpg",
            "@Recycle/IMG_1.jpg",
            "$RECYCLE.BIN/$R1.jpg",
        ),
        *("__MACOSX/._IMG_1.jpg", ".thumbnails/1.jpg", "trip/@eaDir/IMG_1.jpg", "lost+found/1.jpg"),
    ],
)
def test_what_drives_and_systems_keep_in_a_folder_is_not_the_users(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert not photo_files(tmp_path) + unreadable_entries(tmp_path)


def test_a_photo_that_its_cloud_still_has_gets_a_row(tmp_path):
    (tmp_path / ".IMG_1.HEIC.icloud").write_bytes(b"bplist00")
    assert names(unreadable_entries(tmp_path)) == [".IMG_1.HEIC.icloud"] and not photo_files(tmp_path)
    with pytest.raises(LikenessError, match="the photo is still in iCloud; download it"):
        decoding.check_file(tmp_path / ".IMG_1.HEIC.icloud")


@pytest.mark.parametrize("suffix", [*raw.SUFFIXES, *file_kinds.NOT_READ, ".CR3", ".JXL"])
def test_a_kind_that_is_not_read_gets_a_row_that_says_what_to_do(tmp_path, suffix):
    (tmp_path / f"photo{suffix}").write_bytes(b"something")
    assert names(photo_files(tmp_path)) == [f"photo{suffix}"]
    with pytest.raises(LikenessError, match="export it as JPEG or PNG"):
        images.read_photo(tmp_path / f"photo{suffix}")


@pytest.mark.parametrize("beginning, kind", file_kinds.NOT_READ_BEGINNINGS.items())
@pytest.mark.parametrize("name", ["download", "photo.jpg", "photo.psd_original"])
def test_such_a_kind_is_told_by_how_it_begins_too(tmp_path, beginning, kind, name):
    (tmp_path / name).write_bytes(beginning + bytes(50))
    assert names(photo_files(tmp_path)) == [name]
    with pytest.raises(LikenessError, match=f"^{kind}; export it as JPEG or PNG$"):
        images.read_photo(tmp_path / name)


@pytest.mark.parametrize("name", ["photo.nef", "photo.DNG", "photo.jxl", "photo.psd", "photo.pdf", "photo.tga"])
def test_a_jpeg_is_read_whatever_it_is_called(tmp_path, name):
    (tmp_path / name).write_bytes(encoded("JPEG"))
    assert names(photo_files(tmp_path)) == [name]
    assert images.read_photo(tmp_path / name).shape == (30, 40, 3)


@pytest.mark.parametrize("name", ["photo.NEF_original", "photo.cr2.part", "photo"])
def test_a_raw_file_is_not_taken_for_a_tiff_with_a_small_picture(tmp_path, name):
    """exiftool keeps what it changed under the first of these names."""
    (tmp_path / name).write_bytes(dng(Image.new("RGB", (96, 64), (200, 30, 30))))
    assert names(photo_files(tmp_path)) == [name]
    assert np.abs(images.read_photo(tmp_path / name).astype(int) - (200, 30, 30)).max() < 6


def test_a_raw_file_with_a_picture_for_the_cameras_screen_alone_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_file, "SIDE", 800)
    (tmp_path / "photo.nef").write_bytes(dng(Image.new("RGB", (160, 120))))
    with pytest.raises(LikenessError, match="raw camera file whose preview has only 160 x 120 px; export it as JPEG"):
        images.read_photo(tmp_path / "photo.nef")
    (tmp_path / "photo.nef").write_bytes(dng(Image.new("RGB", (640, 480))))
    assert images.read_photo(tmp_path / "photo.nef").shape == (480, 640, 3)


@pytest.mark.parametrize(
    "suffix, orientation", [*((s, 6) for s in (*raw.SUFFIXES, ".DNG")), *((".nef", o) for o in srgb.STORED)]
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


def test_a_preview_of_a_kind_that_rawpy_does_not_know_says_what_to_do(tmp_path, monkeypatch):
    """rawpy then raises NotImplementedError, which is no error of LibRaw. No file of this kind is at hand."""
    (tmp_path / "photo.nef").write_bytes(dng(Image.new("RGB", (64, 64))))
    imread = MagicMock()
    imread.return_value.__enter__.return_value.extract_thumb.side_effect = NotImplementedError("thumb type: 4")
    monkeypatch.setattr(rawpy, "imread", imread)
    with pytest.raises(LikenessError, match="without a preview that can be read; export it as JPEG or PNG"):
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
    assert names(unreadable_entries(tmp_path)) == ["2024"]
    with pytest.raises(LikenessError, match="a folder; move the photos in it up"):
        decoding.check_file(tmp_path / "2024")


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


def test_photos_any_number_of_levels_down_are_found(tmp_path):
    """A camera's card, and what Google's Takeout unpacks to."""
    for place in ("DCIM/100APPLE", "Takeout/Google Photos/Photos from 2023", "empty/folders", "loop"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "loop/loop").symlink_to(tmp_path)
    (tmp_path / "DCIM/100APPLE/IMG_1.HEIC").touch()
    (tmp_path / "Takeout/Google Photos/Photos from 2023/a.jpg").touch()
    assert names(unreadable_entries(tmp_path)) == ["DCIM", "Takeout"]
    with pytest.raises(
        LikenessError, match="but in 'card/DCIM/100APPLE', 'card/Takeout/Google Photos/Photos from 2023'"
    ):
        checked_photos("card", tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user for a while")
@pytest.mark.parametrize("rights", [0o000, 0o444, 0o111], ids=oct)
def test_a_folder_that_cannot_be_read_is_one_line(rights):
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which lies in a private folder
        (Path(folder) / "a.jpg").touch()
        Path(folder).chmod(rights)
        os.seteuid(65534)
        try:
            with pytest.raises(LikenessError, match="the folder 'photos' cannot be read; give yourself the right to"):
                checked_photos("photos", Path(folder))
        finally:
            os.seteuid(0)


def test_a_name_is_meant_in_whatever_unicode_form_and_case_it_is_written():
    composed, decomposed = "Zo\u00eb.jpg", "Zoe\u0308.jpg"
    assert file_kinds.matching_name(composed, [decomposed, "b.jpg"]) == decomposed
    assert file_kinds.matching_name(composed, [decomposed, composed]) == composed, "sign by sign goes first"
    assert file_kinds.matching_name("img_1.jpg", ["IMG_1.JPG"]) == "IMG_1.JPG"
    assert file_kinds.matching_name("b.jpg", ["a.jpg"]) is None


def test_a_folder_without_photos_says_what_is_read(tmp_path):
    with pytest.raises(LikenessError, match=r"no photo in 'photos'; expected files ending in .*\.heic.*\.jpg"):
        checked_photos("photos", tmp_path)
