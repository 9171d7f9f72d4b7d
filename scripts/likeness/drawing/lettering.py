"""Text in pictures, in every script: in Pillow's own font if it has the letters, else in those of Noto or OpenCV.

The Noto fonts (SIL Open Font License) for alphabets, symbols and emoji come from manimgx-fonts. OpenCV has its own font
for Chinese, Japanese and Korean. All fonts come with packages, so the text looks the same on every machine.
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
# The joiner of the parts of an emoji, and the two characters after an emoji that select how it is shown.
JOINER, AS_TEXT, AS_EMOJI = "\u200d\ufe0e\ufe0f"
# A code point that no font has. A font draws it like any other letter that it lacks.
NO_LETTER = "\U0010fffe"


def draw_text(
    canvas: Image.Image, position: tuple[int, int], text: str, colour: tuple[int, int, int], size: int
) -> None:
    """Draw a line of text of `size` px; `position` is its left end, at the top of Pillow's own font."""
    draw = ImageDraw.Draw(canvas)
    x: float = position[0]
    baseline = position[1] + own_font(size).getmetrics()[0]
    for name, run in _runs(text):
        if name == OPENCV:
            mask = np.zeros((3 * size, _opencv_width(run, size) + size), np.uint8)
            cv2.putText(mask, run, (0, 2 * size), (255,), cv2.FontFace(OPENCV), size)
            canvas.paste(colour, (round(x), baseline - 2 * size), Image.fromarray(mask))
        else:
            draw.text((x, baseline), run, colour, _font(name, size), anchor="ls")
        x += _width(name, run, size)


def text_width(text: str, size: int) -> float:
    """The width of a line of text in px."""
    return sum(_width(name, run, size) for name, run in _runs(text))


def wrapped(text: str, width: int, size: int) -> list[str]:
    """The text in lines of at most `width` px. A word that is longer than a line is broken between letters."""
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
    """Pillow's own font."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # with a size, Pillow loads no other kind
    return font


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return own_font(size) if name == OWN else ImageFont.truetype(name, size)


@cache
def _font_names() -> list[str]:
    """The fonts in the order in which they are tried: Pillow's own, Noto's for alphabets, for emoji, for symbols."""
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
    """(font, text) for the longest pieces of a text with the same font. If a font has all letters of a word, the whole
    word is in this font."""
    pieces: list[tuple[str, str]] = []
    for word in re.split(r"(\s+)", text):
        name = _font_of(word)
        pieces += [(name, word)] if name else [(_font_of(letter) or OPENCV, letter) for letter in _letters(word)]
    for name, run in groupby(pieces, key=lambda piece: piece[0]):
        letters = "".join(piece for _, piece in run)
        yield name, "".join(sign for sign in letters if not _is_shapeless(sign)) if name == OWN else letters


def _letters(text: str) -> Iterator[str]:
    """The indivisible pieces of a text: a letter with its accents, or an emoji with the parts that are joined to it."""
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
    """Whether a character has no shape of its own and only affects its neighbours."""
    return sign in (AS_TEXT, AS_EMOJI) or unicodedata.category(sign) == "Cf"


@cache
def _font_of(text: str) -> str | None:
    """The first font that has every letter of a text, except OpenCV's; None if there is none. OpenCV's font is the last
    resort, because it cannot be asked: it silently draws a question mark for a letter that it lacks."""
    signs = [sign for sign in text if not _is_shapeless(sign)]
    return next((name for name in _font_names() if all(_has(name, sign) for sign in signs)), None)


@cache
def _has(name: str, sign: str) -> bool:
    mask, lacking = (_unshaped_font(name).getmask(text) for text in (sign, NO_LETTER))
    return (mask.size, bytes(mask)) != (lacking.size, bytes(lacking))


@cache
def _unshaped_font(name: str) -> ImageFont.FreeTypeFont:
    """A font that draws every character separately, even a combining mark."""
    return _font(name, 32).font_variant(layout_engine=ImageFont.Layout.BASIC)
