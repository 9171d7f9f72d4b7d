"""Flaws of a face by its own measurements, whoever it is."""

from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

# `detection.sharpness` of 96 portraits was 0.37 to 0.65. After a Gaussian blur of 2 px on a face 256 px high it was
# 0.16 to 0.36, after one of 3 px 0.10 to 0.27. Only faces that are clearly useless are dropped.
MIN_SHARPNESS = 0.21
# Mean luminance of the face: 0.4 to 0.65 in ordinary portraits, 0.04 to 0.06 if their values are divided by ten. Dark
# skin in poor light must pass, so these bounds exclude only black and white faces.
BRIGHTNESS = (0.07, 0.94)
MAX_CLIPPED = 0.4  # of the face; hard sunlight burns out a cheek and the forehead, which is about a quarter
MIN_VISIBLE = 0.9  # of the face; a chin or a hairline may lie beyond the edge of the picture, an eye may not


def flaw_of(
    face: Mapping[str, Any], settings: SimpleNamespace, overruled: Collection[str] = ()
) -> tuple[str, str] | None:
    """The first reason why a face cannot be trained on, and its detail; None if there is none that is not
    `overruled`."""
    return next((flaw for flaw in _flaws(face, settings) if flaw[0] not in overruled), None)


def _flaws(face: Mapping[str, Any], settings: SimpleNamespace) -> Iterator[tuple[str, str]]:
    width, sharpness, brightness = (float(face[key]) for key in ("w", "sharpness", "brightness"))
    clipped, visible = float(face["clipped"]), float(face["visible"])
    if width < settings.min_face:
        yield "too_small", f"the face is {width:.0f} px wide, at least {settings.min_face} px are needed"
    if visible < MIN_VISIBLE:
        yield "occluded", f"{1 - visible:.0%} of the face lies beyond the edge of the picture"
    if not BRIGHTNESS[0] <= brightness <= BRIGHTNESS[1]:
        word = "dark" if brightness < BRIGHTNESS[0] else "bright"
        yield "bad_exposure", f"the face is too {word}: {brightness:.0%} of full brightness"
    elif clipped > MAX_CLIPPED:
        yield "bad_exposure", f"{clipped:.0%} of the face is burnt out or black"
    if sharpness < MIN_SHARPNESS:
        yield "blurred", f"the face is blurred: sharpness {sharpness:.2f}, at least {MIN_SHARPNESS} is needed"
