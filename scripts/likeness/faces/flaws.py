"""Flaws of a face by its own measurements, whoever it is."""

from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any


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
    if visible < settings.min_visible:
        yield "occluded", f"{1 - visible:.0%} of the face lies beyond the edge of the picture"
    darkest, brightest = settings.brightness
    if not darkest <= brightness <= brightest:
        word = "dark" if brightness < darkest else "bright"
        yield "bad_exposure", f"the face is too {word}: {brightness:.0%} of full brightness"
    elif clipped > settings.max_clipped:
        yield "bad_exposure", f"{clipped:.0%} of the face is burnt out or black"
    if sharpness < settings.min_sharpness:
        yield "blurred", f"the face is blurred: sharpness {sharpness:.2f}, at least {settings.min_sharpness} is needed"
