"""What a caption says: the trigger, the class noun, and what the person could change about the picture.

What a caption names stays free at sampling time; what it leaves out becomes part of the trigger. So it says nothing of
what the person is (hair, age, build), and nothing that was not measured with some certainty.
"""

from collections.abc import Mapping
from pathlib import Path

from likeness.errors import LikenessError

# Thresholds on what likeness.faces measures, with a band in between in which nothing is said. Seen on 27 portraits of
# two people who do not exist: broad smiles measured 0.6 to 0.96, straight faces 0 to 0.04.
SMILE = 0.6
NEUTRAL = 0.1
MOUTH_OPEN = 0.3  # jawOpen; a smile that shows the teeth measured up to 0.17
EYES_CLOSED = 0.8  # eyes narrowed by a broad smile measured up to 0.6
# Degrees. A face turned by 20 shows clearly more of one cheek; what is called frontal measured up to 16.
TURNED = 20.0
# Frontal portraits measured a pitch of 0 to 13, not 0: these are 17 to either side of the middle of that.
DOWN, UP = 24.0, -10.0
# Mean luminance, 0 black to 1 white. On the same portraits, walls that everybody would call dark measured 0.21 to 0.27,
# bright ones from 0.81; 0.3 reflects 7 % of the light, a mid grey is at 0.5.
DARK, BRIGHT = 0.3, 0.75


def user_caption(file: Path) -> str:
    """The caption that the user wrote: lines joined by a space. Raises LikenessError if it is empty or not UTF-8."""
    try:
        text = " ".join(file.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError:
        raise LikenessError(f"{file}: not UTF-8 text; save it again as UTF-8") from None
    if not text:
        raise LikenessError(f"{file}: the caption is empty; write one, or delete the file to have one made")
    return text


def template_caption(trigger: str, class_noun: str, attributes: Mapping, yaw: float, pitch: float) -> str:
    """A caption from measured attributes (of likeness.faces, missing ones may be None) and the head's turn in degrees
    (yaw positive to the picture's right, pitch positive chin down)."""
    parts = [
        f"{trigger} {class_noun}",
        _expression(attributes.get("smile"), attributes.get("mouth_open")),
        "mouth open" if _above(attributes.get("mouth_open"), MOUTH_OPEN) else "",
        "eyes closed" if _above(attributes.get("eyes_closed"), EYES_CLOSED) else "",
        _direction(yaw, pitch),
        "wearing glasses" if attributes.get("glasses") else "",
        _background(attributes.get("background")),
    ]
    return ", ".join(part for part in parts if part)


def _expression(smile: float | None, mouth_open: float | None) -> str:
    if _above(smile, SMILE):
        return "smiling"
    # An open mouth is an expression, though not a smile.
    if smile is not None and mouth_open is not None and max(smile, mouth_open) <= NEUTRAL:
        return "neutral expression"
    return ""


def _direction(yaw: float, pitch: float) -> str:
    """As seen by who looks at the picture; of the head, because where the eyes look is not measured. A turn goes before
    a tilt: the two together are seldom meant, and the pitch of a turned head is less sure."""
    if abs(yaw) >= TURNED:
        return f"head turned to the {'right' if yaw > 0 else 'left'}"
    if pitch >= DOWN:
        return "head tilted down"
    return "head tilted up" if pitch <= UP else ""


def _background(luminance: float | None) -> str:
    if luminance is None or DARK < luminance < BRIGHT:
        return ""
    return "dark background" if luminance <= DARK else "bright background"


def _above(value: float | None, threshold: float) -> bool:
    return value is not None and value >= threshold
