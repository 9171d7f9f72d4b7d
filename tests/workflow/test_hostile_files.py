"""Sixty files and more that no photo folder should hold: each gets its row and its reason, and none stops the work."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from likeness.config.sections import Curate
from likeness.core import manifests
from likeness.core.errors import LikenessError
from likeness.photos import decoding  # noqa: F401 - lets Pillow write HEIF
from likeness.photos.file_kinds import checked_photos, photo_files, unreadable_entries
from likeness.photos.srgb import ORIENTATION
from project import Project

GOOD = 8  # of ava's photos beside them in the whole project
READABLE = ""  # no error is expected: a picture like any other, without a face


def picture(width: int = 96, height: int = 64) -> Image.Image:
    """Soft noise: no face, and nothing that compresses to almost nothing."""
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(60, 200, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says so, with next to no data behind."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF directory of (tag, type, count, value) and 100 bytes behind it."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(104)


def tiff_claiming(width: int, height: int) -> bytes:
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return tiff([*sizes, (273, 4, 1, 100), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 100)])


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header says another size."""
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("photo.jpg", encoded(picture(), "JPEG"))
    return buffer.getvalue()


def cv2_encoded(suffix: str, array: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, array, list(options))[1].tobytes()


def files_with_expected_words() -> dict[str, tuple[bytes, str]]:
    """name -> (content, words of the expected error; READABLE where there is none)."""
    plain = picture()
    jpeg, png, webp, gif = (encoded(plain, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF"))
    lzw, heic, avif = encoded(plain, "TIFF", compression="tiff_lzw"), encoded(plain, "HEIF"), encoded(plain, "AVIF")
    progressive = encoded(picture(400, 300), "JPEG", progressive=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    palette = plain.quantize(16)
    grey16 = np.linspace(0, 65535, 6144).reshape(64, 96).astype(np.uint16)
    alpha = plain.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(plain.size))
    cut = "cut short|damaged|not a picture"
    frames = [plain.rotate(20 * n).quantize(16) for n in range(9)]
    return {
        # Cut short, at many places; a decoder may forgive what is marked ".*".
        **{f"cut_{at}.jpg": (jpeg[: len(jpeg) * at // 100], cut) for at in (1, 5, 30, 95)},
        **{f"cut_{at}.png": (png[: len(png) * at // 100], cut) for at in (1, 30, 95)},
        "cut.webp": (webp[: len(webp) // 2], cut),
        "cut.gif": (gif[: len(gif) // 2], "cut short|damaged"),
        "cut.tif": (lzw[: len(lzw) // 2], cut),
        "cut.heic": (heic[: len(heic) // 2], cut),
        "cut.avif": (avif[: len(avif) // 2], cut),
        "cut.bmp": (encoded(plain, "BMP")[:5000], "cut short|damaged"),
        "cut_progressive.jpg": (progressive[: len(progressive) // 3], "cut short|damaged"),
        "cut_arithmetic.jpg": (jpeg.replace(b"\xff\xc0", b"\xff\xc9", 1)[: len(jpeg) // 2], ".*"),
        "without_end.jpg": (jpeg[:-2], ".*"),
        # Empty, or not what the name says.
        "empty.jpg": (b"", "empty"),
        "zeros.jpg": (bytes(5000), "not a picture"),
        "one_byte.png": (b"\x89", "not a picture"),
        "text.jpg": (b"a text, not a picture\n" * 100, "not a picture"),
        "page.jpg": (b"<!doctype html><html><body><img src='x.jpg'></body></html>", "not a picture"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not a picture"),
        "archive.jpg": (zipped(), "not a picture"),
        "film.jpg": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "not a picture"),
        "film.heic": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500), "not a picture"),
        "jpeg2000.jpg": (encoded(plain, "JPEG2000"), READABLE),
        "photoshop.jpg": (b"8BPS\0\x01" + bytes(1500), "file of Photoshop; export it"),
        "paper.jpg": (encoded(plain, "PDF"), "PDF; export it"),
        "scan.pdf": (encoded(plain, "PDF"), "PDF; export it"),
        "scan.pnm": (encoded(plain, "PPM"), READABLE),
        "script.jpg": (encoded(plain, "EPS"), "not a picture"),
        "raw.cr2": (
            b"II*\0\x10\0\0\0CR\x02\0" + bytes(500),
            "raw camera file that is damaged, or of a camera that LibRaw does not know; export it as JPEG or PNG",
        ),
        "raw.DNG": (encoded(plain, "TIFF"), "raw camera file"),
        "png_named.jpg": (png, READABLE),
        "jpeg_named.heic": (jpeg, READABLE),
        "webp_named.gif": (webp, READABLE),
        # Sizes: lying, enormous, odd.
        "bomb.png": (png_claiming(60_000, 60_000), "pixels|on a side"),
        "bomb.tif": (tiff_claiming(60_000, 60_000), "pixels|on a side"),
        "bomb_wide.png": (png_claiming(2_000_000_000, 1), "pixels|on a side"),
        "claims_much.png": (png_claiming(15_000, 15_000), "of memory to read"),
        "claims_much.jpg": (jpeg_claiming(3_000, 2_000), READABLE),
        "claims_nothing.png": (png_claiming(0, 0), "damaged|not a picture"),
        "one_pixel.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), READABLE),
        "thread.png": (encoded(picture(1, 20_000), "PNG"), READABLE),
        "thread_lying.jpg": (encoded(picture(20_000, 1), "JPEG"), READABLE),
        "side_too_long.png": (encoded(picture(40_000, 2), "PNG"), "on a side"),
        # Colours and depths.
        "grey16.png": (encoded(Image.fromarray(grey16), "PNG"), READABLE),
        "colour16.tif": (cv2_encoded(".tif", np.dstack([grey16] * 3)), READABLE),
        "float_nan.tif": (cv2_encoded(".tif", np.full((64, 96), np.nan, np.float32)), READABLE),
        "float_colour.tif": (cv2_encoded(".tif", np.zeros((64, 96, 3), np.float32)), "not a picture"),
        "inks.jpg": (encoded(plain.convert("CMYK"), "JPEG"), READABLE),
        "palette.gif": (encoded(palette, "GIF", transparency=3), READABLE),
        "palette.png": (encoded(palette, "PNG", transparency=bytes(range(0, 256, 16))), READABLE),
        "transparent.webp": (encoded(alpha, "WEBP"), READABLE),
        "fax.tif": (encoded(plain.convert("1"), "TIFF", compression="group4"), READABLE),
        # What is written beside the pixels.
        "broken_profile.jpg": (encoded(plain, "JPEG", icc_profile=b"no profile" * 50), READABLE),
        "cut_profile.png": (encoded(plain, "PNG", icc_profile=profile[:200]), READABLE),
        "profile_of_inks.png": (encoded(plain.convert("L"), "PNG", icc_profile=profile), READABLE),
        "broken_exif.jpg": (encoded(plain, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), READABLE),
        **{f"turned_{n}.jpg": (encoded(plain, "JPEG", exif=orientation(n)), READABLE) for n in (0, 9, 65535)},
        "garbage_behind.jpg": (jpeg + bytes(range(256)) * 40, READABLE),
        "two_in_one.jpg": (jpeg + jpeg, READABLE),
        "absurd_tags.tif": (tiff([(256, 4, 0xFFFFFFFF, 9), (257, 9, 7, 9), (273, 77, 9, 0xFFFFFFF0)]), "damaged|not a"),
        "endless_directory.tif": (b"II*\0\x08\0\0\0\xff\xff" + bytes(50), "damaged|not a picture|cut short"),
        # Several pictures in a file.
        "many.gif": (
            encoded(
                palette,
                "GIF",
                save_all=True,
                append_images=frames,
                duration=40,
            ),
            READABLE,
        ),
        "many.png": (encoded(plain, "PNG", save_all=True, append_images=[plain.rotate(9)] * 5), READABLE),
        "many.webp": (encoded(plain, "WEBP", save_all=True, append_images=[plain.rotate(9)] * 5), READABLE),
        "pages.tif": (encoded(plain, "TIFF", save_all=True, append_images=[picture(30, 30)] * 3), READABLE),
        "pair.jpg": (encoded(plain, "MPO", save_all=True, append_images=[plain]), READABLE),
        # Names.
        "with some spaces.jpg": (jpeg, READABLE),
        "party 🎉.jpg": (jpeg, READABLE),
        "new\nline.jpg": (jpeg, READABLE),
        "tab\tand\rreturn.jpg": (jpeg, READABLE),
        "quo\"te's $HOME `id` ; &.jpg": (jpeg, READABLE),
        "back\\slash [x] *.jpg": (jpeg, READABLE),
        "-dash.jpg": (jpeg, READABLE),
        "#hash.jpg": (jpeg, READABLE),
        "n" * 200 + ".jpg": (jpeg, READABLE),
        "u\u0308ber.jpg": (jpeg, READABLE),
        "\u00fcber.jpg": (jpeg, READABLE),
        "twice.jpg": (jpeg, READABLE),
        "twice.png": (png, READABLE),
        "TWICE.JPG": (jpeg, READABLE),
        "many.dots.jpg.jpg": (jpeg, READABLE),
    }


def links_and_other_oddities(folder: Path) -> dict[str, str]:
    """Make what is no file of bytes; name -> words of the expected error."""
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg/inside.jpg").write_bytes(encoded(picture(), "JPEG"))
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.png").symlink_to("/dev/zero")
    with open(folder / "sparse.jpg", "wb") as sparse:
        sparse.truncate(3_000_000_000)
    (folder / "link.jpg").symlink_to(folder / "one_pixel.png")
    words = {
        "loop.jpg": "cannot be opened",
        "dangling.jpg": "cannot be opened",
        "folder.jpg": "a folder",
        "pipe.jpg": "a pipe",
        "device.png": "a device",
        "sparse.jpg": "more than 400 MB",
        "link.jpg": READABLE,
    }
    if os.geteuid():  # root may read everything
        (folder / "secret.jpg").write_bytes(encoded(picture(), "JPEG"))
        (folder / "secret.jpg").chmod(0)
        words["secret.jpg"] = "permission"
    return words


def hostile_folder(folder: Path) -> dict[str, str]:
    """Fill a folder; name -> words of the expected error."""
    folder.mkdir(exist_ok=True)
    expected = {}
    for name, (data, words) in files_with_expected_words().items():
        (folder / name).write_bytes(data)
        expected[name] = words
    return expected | links_and_other_oddities(folder)


def state(folder: Path) -> dict[str, tuple]:
    """What is in a folder: name -> kind, size, time of change, and the bytes of what is small."""
    found = {}
    for path in sorted(folder.iterdir()):
        about = path.lstat()
        small = path.is_file() and not path.is_symlink() and about.st_size < 10_000_000 and os.access(path, os.R_OK)
        found[path.name] = (about.st_mode, about.st_size, about.st_mtime_ns, path.read_bytes() if small else None)
    return found


def run_script(root: Path, name: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, root / f"scripts/{name}.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def detect(root: Path, models: Path, photos: Path, work: Path) -> subprocess.CompletedProcess:
    """detect_faces on a folder, called as its rule calls it."""
    paths = ["--photos", *photo_files(photos), "--no-photos", *unreadable_entries(photos)]
    out = ["--models", models, "--cache", work / "cache", "--faces", work / "faces.tsv"]
    return run_script(root, "detect_faces", *paths, *out)


def curate(root: Path, work: Path) -> subprocess.CompletedProcess:
    config = json.dumps(
        {
            "curate": Curate(min_face=40).model_dump(),
            "subject": {"reference": []},
            "decisions": {"photos": {}},
        }
    )
    tables = ["--faces", work / "faces.tsv", "--photos", work / "photos.tsv"]
    return run_script(root, "curate_photos", "--config", config, *tables)


def add_good_photos(folder: Path, ava: Path) -> None:
    for n in range(GOOD):
        shutil.copy(ava / f"{n:02d}.jpg", folder / f"good_{n}.jpg")


def assert_every_reason(table: Path, photos: Path, expected: dict[str, str]) -> None:
    """One row per entry of the folder; the reason of each is the expected one, in a sentence of one line."""
    rows = manifests.read_table(table).to_dict("records")
    by_name = {os.path.basename(row["photo"]): row for row in rows}
    assert len(by_name) == len(rows) and set(by_name) == set(os.listdir(photos))
    for name, words in expected.items():
        row = by_name[name]
        assert row["fate"] == "dropped", name
        assert row["reason"] == ("no_face" if words == READABLE else "unreadable") or words == ".*", (name, row)
        assert row["detail"] and "\n" not in row["detail"] and "Traceback" not in row["detail"], name
        if words not in (READABLE, ".*"):
            assert any(word in row["detail"] for word in words.split("|")), (name, row["detail"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("hostile") / "photos"
    return folder, hostile_folder(folder)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


def test_there_are_sixty_of_them_and_more(hostile):
    folder, expected = hostile
    assert len(os.listdir(folder)) == len(expected) > 60


def test_every_hostile_file_gets_its_reason_and_good_photos_are_kept(root, model_files, hostile, ava, work, tmp_path):
    folder, expected = hostile
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos, symlinks=True, ignore=shutil.ignore_patterns("pipe.jpg", "sparse.jpg"))
    os.mkfifo(photos / "pipe.jpg")
    with open(photos / "sparse.jpg", "wb") as sparse:
        sparse.truncate(3_000_000_000)
    add_good_photos(photos, ava)
    before = state(photos)
    found = detect(root, model_files, photos, work)
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    kept = [json.loads(item.read_bytes()) for item in (work / "cache").rglob("*") if item.is_file()]
    assert kept and not any("error" in row for rows in kept for row in rows), "next time they may be readable"
    done = curate(root, work)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert_every_reason(work / "photos.tsv", photos, expected)
    kept = manifests.read_table(work / "photos.tsv").query("fate != 'dropped'")
    assert len(kept) == GOOD and kept["photo"].str.contains("good_").all()
    assert state(photos) == before


def test_without_good_photos_the_error_says_that_too_few_are_left(root, model_files, hostile, work):
    folder, expected = hostile
    before = state(folder)
    found = detect(root, model_files, folder, work)
    assert found.returncode == 0, found.stderr
    done = curate(root, work)
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout
    [error] = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert "unreadable" in error and "no_face" in error
    assert state(folder) == before


def test_a_name_that_snakemake_cannot_take_is_a_mistake_in_the_configuration(tmp_path):
    (tmp_path / "photos").mkdir()
    for name, words in ((b"\xff.jpg", "is not UTF-8; rename it"), (b"{x}.jpg", "has a brace, .*; rename it")):
        path = Path(os.fsdecode(os.fsencode(tmp_path / "photos") + b"/" + name))
        path.write_bytes(encoded(picture(), "JPEG"))
        with pytest.raises(LikenessError, match=words):
            checked_photos("photos", tmp_path / "photos")
        path.unlink()


def test_the_workflow_goes_through_a_hostile_folder(model_files, small_base, tmp_path):
    project = Project(tmp_path / "project", model_files, small_base, photos=GOOD)
    photos = project.folder / "photos"
    expected = hostile_folder(photos)
    before = state(photos)
    outcome = project.run("--until", "curate_photos")
    assert outcome.jobs.keys() >= {"detect_faces", "curate_photos"} and "Traceback" not in outcome.text
    assert_every_reason(project.folder / "results/ava/photos.tsv", photos, expected)
    assert state(photos) == before
    (photos / "dangling.jpg").unlink()
    again = project.run("--until", "curate_photos")
    assert again.computed.get("detect_faces") == 0, "one row less, and nothing new to look at"
    assert len(manifests.read_table(project.folder / "results/ava/photos.tsv")) == len(os.listdir(photos))
