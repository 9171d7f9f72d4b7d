"""Make resources/people: photos of two people who do not exist. Ava's folder has the traps of real photo folders.

    python tools/make_demo_people.py PHOTOS_OF_AVA PHOTOS_OF_OTTO resources/people

The face generator of the package random-face drew the photos (see resources/people/README.md). The same input gives
the same files.
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

CLEAN = 24  # photos; enough to train on twenty and hold a few out
SIDE = 512  # px; four times the demonstration's resolution, and small enough for the repository
QUALITY = 90
SMALL = 122  # px; below the demonstration's 128 px, with the face (0.56 of it) above curate.min_face
BLUR = 5  # px; puts a face 290 px wide out of focus
DARK = 0.08  # share of the light that is left
FAR = 70  # px; the face (0.56 of it) is below curate.min_face
ORIENTATION = 0x0112  # EXIF tag


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("subject", "stranger", "output"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    subject = [photo(path) for path in sorted(args.subject.glob("*.jpg"))]
    stranger = [photo(path) for path in sorted(args.stranger.glob("*.jpg"))]
    for name, photos in (("ava", subject), ("otto", stranger)):
        (args.output / name).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(photos[:CLEAN]):
            save(image, args.output / name / f"{i:02d}.jpg")
    add_traps(subject, stranger, args.output / "ava")


def add_traps(subject: list[Image.Image], stranger: list[Image.Image], output: Path) -> None:
    # The traps use photos of the subject that were not used above, so that each photo has one trap only.
    rest = iter(subject[CLEAN:])
    sideways(next(rest), output / "sideways_exif.jpg")
    save(next(rest).resize((SMALL, SMALL), Image.Resampling.LANCZOS), output / "needs_upscaling.jpg")
    transparent(next(rest), output / "transparent_corners.png")
    unreadable = next(rest)
    cut_short(unreadable, output / "cut_short.jpg")
    save(ImageEnhance.Brightness(subject[7]).enhance(1.05), output / "07_brighter_copy.jpg", quality=80)
    save(stranger[1], output / "somebody_else.jpg")
    save(side_by_side(unreadable, stranger[7]), output / "two_people.jpg")  # the unreadable photo is in no other file
    last = next(rest)
    save(side_by_side(last, ImageOps.mirror(last)), output / "mirror.jpg")
    save(next(rest).filter(ImageFilter.GaussianBlur(BLUR)), output / "blurred.jpg")
    save(ImageEnhance.Brightness(subject[3]).enhance(DARK), output / "too_dark.jpg")
    save(subject[9].crop((SIDE * 7 // 20, 0, SIDE, SIDE)), output / "half_a_face.jpg")
    save(far_away(subject[5]), output / "far_away.jpg")
    save(landscape(), output / "no_face.jpg")
    (output / "not_a_picture.jpg").write_text("This is a text whose name says that it is a photo.\n")


def photo(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def save(image: Image.Image, path: Path, quality: int = QUALITY, **options) -> None:
    image.save(path, quality=quality, optimize=True, **options)


def sideways(image: Image.Image, path: Path) -> None:
    """Save a photo as an upright phone does: the pixels are rotated, and the EXIF has the orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be rotated clockwise for display
    save(image.transpose(Image.Transpose.ROTATE_90), path, exif=exif)


def transparent(image: Image.Image, path: Path) -> None:
    """Save a cut-out with transparent corners, smaller than the others because PNG files are large."""
    image = image.resize((SIDE * 5 // 8, SIDE * 5 // 8), Image.Resampling.LANCZOS)
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, image.width - 1, image.height - 1), radius=image.width // 4, fill=255)
    image.putalpha(mask)
    image.save(path, optimize=True)


def cut_short(image: Image.Image, path: Path) -> None:
    """Save a file whose copying was interrupted half-way."""
    save(image, path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(left, (0, 0))
    both.paste(right, (SIDE, 0))
    return both.resize((SIDE * 3 // 2, SIDE * 3 // 4), Image.Resampling.LANCZOS)


def far_away(image: Image.Image) -> Image.Image:
    """A landscape with a poster as small as a person at the other end of a field."""
    picture = landscape()
    picture.paste(image.resize((FAR, FAR), Image.Resampling.LANCZOS), (120, 190))
    return picture


def landscape() -> Image.Image:
    """A landscape with a sky, a sun and two rows of hills."""
    image = Image.new("RGB", (SIDE, SIDE * 2 // 3))
    draw = ImageDraw.Draw(image)
    for y in range(image.height):
        t = y / image.height
        draw.line((0, y, image.width, y), fill=(round(90 + 130 * t), round(150 + 70 * t), round(220 - 20 * t)))
    draw.ellipse((380, 40, 430, 90), fill=(255, 244, 200))
    draw.polygon([(0, 250), (130, 150), (260, 240), (390, 170), (512, 230), (512, 341), (0, 341)], fill=(96, 124, 110))
    draw.polygon([(0, 300), (180, 230), (340, 310), (512, 260), (512, 341), (0, 341)], fill=(62, 92, 62))
    return image


if __name__ == "__main__":
    main()
