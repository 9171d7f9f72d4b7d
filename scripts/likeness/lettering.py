"""Words in pictures, in every script: in Pillow's own font what it has, the rest in Noto's and OpenCV's.

Noto (SIL Open Font License) comes from manimgx-fonts, for alphabets, symbols and emoji; Chinese, Japanese and Korean
are drawn by OpenCV, which has a font of its own for them. So the same letters come out on every machine.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

OWN, OPENCV = "own", "uni"  # Pillow's font, and OpenCV's name of its font for all scripts
JOINER, AS_TEXT, AS_EMOJI = "\u200d\ufe0e\ufe0f"  # between the parts of an emoji, and behind one: how it is shown
# A code point that is no letter: what a font draws for it, it draws for all that it lacks.
NO_LETTER = "\U0010fffe"


def draw_text(canvas: Image.Image, position: tuple[int, int], text: str, colour: tuple, size: int) -> None:
    """Write a line of text of `size` px; `position` is its left end, at the top of Pillow's own font."""
    draw, (x, y) = ImageDraw.Draw(canvas), position
    baseline = y + own_font(size).getmetrics()[0]
    for name, run in _runs(text):
        if name == OPENCV:
            mask = np.zeros((3 * size, _opencv_width(run, size) + size), np.uint8)
            cv2.putText(mask, run, (0, 2 * size), (255,), cv2.FontFace(OPENCV), size)
            canvas.paste(colour, (round(x), baseline - 2 * size), Image.fromarray(mask))
        else:
            draw.text((x, baseline), run, colour, _font(name, size), anchor="ls")
        x += _width(name, run, size)


def text_width(text: str, size: int) -> float:
    """In px."""
    return sum(_width(name, run, size) for name, run in _runs(text))


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Lines of at most `width` px: broken between words, a longer word between letters."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in _letters(word):
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


@cache
def own_font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own."""
    return ImageFont.load_default(size)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return own_font(size) if name == OWN else ImageFont.truetype(name, size)


@cache
def _font_names() -> list[str]:
    """Pillow's own, then Noto's: the alphabets', emoji before other symbols."""
    import manimgx_fonts

    files = sorted(Path(manimgx_fonts.__file__).parent.glob("Noto*[[]wght].ttf"))
    files.sort(key=lambda file: ["NotoSans[" not in file.name, "Symbols" in file.name, "Emoji" in file.name])
    return [OWN, *(str(file) for file in files if "Italic" not in file.name)]


def _width(name: str, run: str, size: int) -> float:
    return _opencv_width(run, size) if name == OPENCV else _font(name, size).getlength(run)


def _opencv_width(run: str, size: int) -> int:
    beside, _ = cv2.putText(np.zeros((1, 1), np.uint8), run, (0, 0), (0,), cv2.FontFace(OPENCV), size)
    return beside[0]


def _runs(text: str) -> Iterator[tuple[str, str]]:
    """(font, text): neighbours of one font together. A word is of one font, if one has all of it."""
    pieces = []
    for word in re.split(r"(\s+)", text):
        name = _font_of(word)
        pieces += [(name, word)] if name else [(_font_of(letter) or OPENCV, letter) for letter in _letters(word)]
    for name, run in groupby(pieces, key=lambda piece: piece[0]):
        letters = "".join(piece for _, piece in run)
        yield name, "".join(sign for sign in letters if not _is_shapeless(sign)) if name == OWN else letters


def _letters(text: str) -> Iterator[str]:
    """What may not be divided: a letter with its accents, an emoji with what is joined to it."""
    letter = ""
    for sign in text:
        joined = _is_shapeless(sign) or unicodedata.category(sign).startswith("M") or letter.endswith(JOINER)
        if letter and not joined:
            yield letter
            letter = ""
        letter += sign
    if letter:
        yield letter


def _is_shapeless(sign: str) -> bool:
    """Whether a sign only says how its neighbours are shown."""
    return sign in (AS_TEXT, AS_EMOJI) or unicodedata.category(sign) == "Cf"


@cache
def _font_of(text: str) -> str | None:
    """The first font that has every letter of a text; None where none has. OpenCV's is for what Noto's have not: it
    draws a question mark for a letter that it lacks, and does not say so."""
    signs = [sign for sign in text if not _is_shapeless(sign)]
    return next((name for name in _font_names() if all(_has(name, sign) for sign in signs)), None)


@cache
def _has(name: str, sign: str) -> bool:
    mask, lacking = (_unshaped_font(name).getmask(text) for text in (sign, NO_LETTER))
    return (mask.size, bytes(mask)) != (lacking.size, bytes(lacking))


@cache
def _unshaped_font(name: str) -> ImageFont.FreeTypeFont:
    """One that draws each letter by itself, a mark too."""
    return _font(name, 32).font_variant(layout_engine=ImageFont.Layout.BASIC)
