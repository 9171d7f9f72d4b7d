"""The wording of captions: the trigger, the class noun, and what the person could change about the picture.

Everything that a caption names can be changed by prompts later; what it leaves out becomes part of the trigger. So a
caption says nothing about the person's identity (hair, age, build), and nothing that was measured without certainty.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from likeness.captions.caption_length import TokenCount, cut_words
from likeness.captions.identity_words import PREPOSITIONS, IdentityWords, whole_word, without_identity
from likeness.faces.attributes import CLOSE_UP

# Thresholds for the values of likeness.faces.attributes; in a band between two thresholds a caption says nothing. On 27
# portraits of two people who do not exist, broad smiles measured 0.6 to 0.96 and straight faces 0 to 0.04.
SMILE = 0.6
NEUTRAL = 0.1
MOUTH_OPEN = 0.3  # jawOpen; a smile that shows the teeth measured up to 0.17
EYES_CLOSED = 0.8  # eyes narrowed by a broad smile measured up to 0.6
# Degrees. A face turned by 20 shows clearly more of one cheek; what is called frontal measured up to 16.
TURNED = 20.0
# Frontal portraits measured a pitch of 0 to 13 degrees, not 0: these are 17 degrees to either side of the middle.
DOWN, UP = 24.0, -10.0
# With a turned head, the eyes of a person who looks at the camera are turned back: on 749 people who do not exist,
# gaze_x was 0.05 at a yaw of 0 and fell by 0.03 to 0.05 per degree. The difference to that is where the eyes look in
# the picture. Within 0.2, all 54 faces that were checked look at the camera. Beyond 0.9, all 17 look past it whose eyes
# are not turned back by more than 0.4; at 40 degrees and more, gaze_x is at the end of its range. Lowered eyes and
# sunglasses gave a gaze_y of 0.28 and more.
EYES_PER_DEGREE, STRAIGHT_EYES = 0.045, 0.05
AT_CAMERA, ASIDE, TURNED_BACK = 0.2, 0.9, 0.4
EYES_LEVEL = 0.2
# Mean luminance, from 0 (black) to 1 (white). On those 27 portraits, clearly dark walls measured 0.21 to 0.27, bright
# ones 0.81 and more. A luminance of 0.3 reflects 7 % of the light; a mid grey is at 0.5.
DARK, BRIGHT = 0.3, 0.75
# The darkest of 947 faces of every complexion measured 0.3. A dark face in front of a light wall is not in dim light.
DIM = 0.2
SIDE_LIGHT = 0.35  # reached by 19 of the same faces, each with a shadow over half of it

# Words after which the trigger has no article, but the class noun in its place needs one: "a photo of ohwx", "a dog
# with ohwx".
TAKES_ARTICLE = PREPOSITIONS | {"with", "and", "like", "as", "is"}


def template_caption(
    trigger: str, class_noun: str, attributes: Mapping[str, Any], yaw: float, pitch: float, face_fraction: float
) -> str:
    """A caption from the measured attributes (of likeness.faces.attributes; each may be None or missing), the head's
    turn in degrees (positive yaw: to the picture's right; positive pitch: chin down) and the face's height as a share
    of the crop."""
    value = attributes.get
    parts = [
        f"{trigger} {class_noun}",
        _expression(value("smile"), value("mouth_open")),
        "mouth open" if _above(value("mouth_open"), MOUTH_OPEN) else "",
        "eyes closed" if _above(value("eyes_closed"), EYES_CLOSED) else _gaze(value("gaze_x"), value("gaze_y"), yaw),
        _direction(yaw, pitch),
        "wearing glasses" if value("glasses") else "",
        _light(value("light"), value("light_side"), value("background")),
        _background(value("background")),
        "close-up" if face_fraction >= CLOSE_UP else "",
        "black and white photo" if value("monochrome") else "",
    ]
    return ", ".join(part for part in parts if part)


def class_caption(text: str, trigger: str, class_noun: str, words: IdentityWords) -> str:
    """The caption of the same picture of any other person of the class: "ohwx woman, smiling" becomes "a woman,
    smiling". The trigger is removed only as a whole word, together with a noun for people beside it. Words for the
    person's identity are removed as from a captioner's captions; what can change stays. If nothing is left, the result
    is the bare class.
    """
    person = "classnoun"  # one word in the place of the class noun, so that no word of it is removed as a trait
    nouns = "|".join(map(re.escape, sorted({class_noun, *words.people}, key=len, reverse=True)))
    beside = rf"(?:(?<![^\W_])(?:{nouns})[\s_-]+)?{whole_word(trigger)}(?:[\s_-]+(?:{nouns})(?![^\W_]))?"
    caption = re.sub(beside, person, text, flags=re.IGNORECASE)
    caption = without_identity(caption, words._replace(people=words.people | {person}))
    caption = re.sub(rf"{person} (?:{nouns})\b", person, caption, flags=re.IGNORECASE)  # ohwx old woman
    parts = [part.strip() for part in caption.split(",")]
    caption = ", ".join(part for part in parts if part not in ("", "she", "he", "they"))  # from "She has long hair."
    # Add an article where there is none: at the start, after a comma, after a preposition.
    bare = rf"(^|,\s*|\b(?:{'|'.join(sorted(TAKES_ARTICLE))})\s+){person}\b"
    caption = re.sub(bare, lambda match: f"{match[1]}a {person}", caption, flags=re.IGNORECASE)
    caption = re.sub(rf"\ban?\s+{person}", lambda _: with_article(class_noun), caption).replace(person, class_noun)
    return caption or bare_class_caption(class_noun)


def bare_class_caption(class_noun: str) -> str:
    """The caption of the class alone, in the words that prompts usually have."""
    return f"photo of {with_article(class_noun)}"


def with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def warnings(file: str, text: str, trigger: str, count: TokenCount, photos: Sequence[str]) -> list[str]:
    """Sentences about the mistakes in a caption that training suffers from; `photos` are those that share the file."""
    sentences = []
    if cut := cut_words(count):
        sentences.append(f"{file}: {cut}")
    if not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
        sentences.append(f"{file}: the trigger {trigger!r} is not in it; this photo will not teach that word.")
    if len(photos) > 1:
        sentences.append(f"{file}: the caption of {' and '.join(photos)}; rename one of them to give it its own.")
    return sentences


def _expression(smile: float | None, mouth_open: float | None) -> str:
    if _above(smile, SMILE):
        return "smiling"
    # An open mouth is an expression, too.
    if smile is not None and mouth_open is not None and max(smile, mouth_open) <= NEUTRAL:
        return "neutral expression"
    return ""


def _direction(yaw: float, pitch: float) -> str:
    """The head's direction from the viewer's side. A turn takes precedence over a tilt: both together are rare, and the
    pitch of a turned head is less certain."""
    if abs(yaw) >= TURNED:
        return f"head turned to the {'right' if yaw > 0 else 'left'}"
    if pitch >= DOWN:
        return "head tilted down"
    return "head tilted up" if pitch <= UP else ""


def _background(luminance: float | None) -> str:
    if luminance is None or DARK < luminance < BRIGHT:
        return ""
    return "dark background" if luminance <= DARK else "bright background"


def _gaze(gaze_x: float | None, gaze_y: float | None, yaw: float) -> str:
    if gaze_x is None or gaze_y is None or gaze_y > EYES_LEVEL:
        return ""
    direction = gaze_x - STRAIGHT_EYES + EYES_PER_DEGREE * yaw
    if abs(direction) <= AT_CAMERA:
        return "looking at the camera"
    turned_back = -gaze_x if direction > 0 else gaze_x
    if abs(direction) < ASIDE or turned_back > TURNED_BACK:
        return ""
    return f"looking to the {'right' if direction > 0 else 'left'}"


def _light(luminance: float | None, side: float | None, background: float | None) -> str:
    if luminance is not None and luminance <= DIM and (background is None or background <= DARK):
        return "dim light"
    if side is None or abs(side) < SIDE_LIGHT:
        return ""
    return f"side light from the {'right' if side > 0 else 'left'}"


def _above(value: float | None, threshold: float) -> bool:
    return value is not None and value >= threshold
