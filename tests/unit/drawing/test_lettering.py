"""Prompts in any script can be read on a sheet: no boxes, and what Pillow's own font has is drawn as ever."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from likeness.drawing.lettering import draw_text, text_width, wrapped

PAPER, INK = (250, 250, 248), (28, 30, 33)


def picture(text: str, size: int = 19) -> np.ndarray:
    canvas = Image.new("RGB", (900, 60), PAPER)
    draw_text(canvas, (10, 10), text, INK, size)
    return np.asarray(canvas)


@pytest.mark.parametrize("text", ["photo of ohwx woman, (smiling:1.2)", "Use epoch 2 at weight 1; 'mean' [x] <y>", ""])
@pytest.mark.parametrize("size", [15, 19, 26])
def test_what_pillows_font_has_is_drawn_to_the_pixel_as_pillow_draws_it(text, size):
    canvas = Image.new("RGB", (900, 60), PAPER)
    ImageDraw.Draw(canvas).text((10, 10), text, INK, ImageFont.load_default(size))
    assert (picture(text, size) == np.asarray(canvas)).all()
    assert text_width(text, size) == pytest.approx(ImageFont.load_default(size).getlength(text))


SCRIPTS = {
    "Latin": "éüßłőñệ–€",
    "Cyrillic": "жщыёѣ",
    "Greek": "λψάω",
    "Chinese": "写真女微笑",
    "Japanese": "あんスマ",
    "Korean": "사진여자",
    "emoji": ["😀", "🎂", "🫠", "❤\ufe0f", "👩\u200d🚀", "🇩🇪", "🇫🇷", "1\ufe0f\u20e3", "👍🏽"],
    "Arabic": "عرب",
    "Hebrew": "עבר",
    "Devanagari": ["हि", "न्", "दी"],
    "Thai": "กขค",
    "others": "ქհ→♥",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_letter_has_a_shape_of_its_own(script):
    """A font draws the same box, and OpenCV the same question mark, for all that it lacks."""
    letters = list(SCRIPTS[script])
    drawn = {picture(letter).tobytes() for letter in letters}
    assert len(drawn) == len(letters)
    assert not drawn & {picture(text).tobytes() for text in ("", "?", "\ue000", "\U000e1000")}


@pytest.mark.parametrize("text", ["ohwx жена, 写真 😀 모자", "写真", "👩\u200d🚀", "Zoë"])
def test_letters_stand_where_their_width_says_and_on_the_line(text):
    columns = np.flatnonzero((picture(text) != PAPER).any(axis=(0, 2)))
    rows = np.flatnonzero((picture(text) != PAPER).any(axis=(1, 2)))
    assert columns[0] >= 10 and abs(columns[-1] - 10 - text_width(text, 19)) <= 4
    assert rows[0] >= 8 and rows[-1] <= 10 + 24


def test_signs_without_a_shape_are_not_drawn():
    for plain, signs in (("a b", "a \ufe0e\u200bb\u200d\ufeff"), ("жб", "ж\u00adб")):
        assert np.abs(picture(plain).astype(int) - picture(signs)).sum() == 0


@pytest.mark.parametrize(
    "text", ["in a long coat " * 20, "写真" * 100, "w" * 300, f"ohwx {'🎂' * 120} end", "👩\u200d🚀" * 90]
)
def test_lines_are_no_wider_than_they_may_be_and_lose_nothing(text):
    lines = wrapped(text, 600, 19)
    assert all(0 < text_width(line, 19) <= 600 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert not any(line.startswith("\u200d") or line.endswith("\u200d") for line in lines)
