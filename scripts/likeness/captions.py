"""What a caption says: the trigger, the class noun, and what the person could change about the picture.

What a caption names stays free at sampling time; what it leaves out becomes part of the trigger. So it says nothing of
what the person is (hair, age, build), and nothing that was not measured with some certainty.
"""

import re
from collections.abc import Mapping, Sequence

from likeness.attributes import CLOSE_UP
from likeness.caption_length import TokenCount, cut_words
from likeness.identity_words import PREPOSITIONS, IdentityWords, whole_word, without_identity

# Thresholds on what likeness.attributes measures, with a band in between in which nothing is said. Seen on 27 portraits
# of two people who do not exist: broad smiles measured 0.6 to 0.96, straight faces 0 to 0.04.
SMILE = 0.6
NEUTRAL = 0.1
MOUTH_OPEN = 0.3  # jawOpen; a smile that shows the teeth measured up to 0.17
EYES_CLOSED = 0.8  # eyes narrowed by a broad smile measured up to 0.6
# Degrees. A face turned by 20 shows clearly more of one cheek; what is called frontal measured up to 16.
TURNED = 20.0
# Frontal portraits measured a pitch of 0 to 13, not 0: these are 17 to either side of the middle of that.
DOWN, UP = 24.0, -10.0
# Who looks at the camera with a turned head turns the eyes back: on 749 people who do not exist, gaze_x fell by 0.03 to
# 0.05 per degree of yaw, from 0.05 at 0. What is left of gaze_x is where the eyes look in the picture: within 0.2, all
# 54 that were checked look at the camera; beyond 0.9, all 17 whose eyes are not turned back by more than 0.4 look past
# it (at 40 degrees and more gaze_x has reached its end). Lowered eyes and sunglasses gave a gaze_y from 0.28.
EYES_PER_DEGREE, STRAIGHT_EYES = 0.045, 0.05
AT_CAMERA, ASIDE, TURNED_BACK = 0.2, 0.9, 0.4
EYES_LEVEL = 0.2
# Mean luminance, 0 black to 1 white. On those 27 portraits, walls that everybody would call dark measured 0.21 to 0.27,
# bright ones from 0.81; 0.3 reflects 7 % of the light, a mid grey is at 0.5.
DARK, BRIGHT = 0.3, 0.75
# The darkest of 947 faces of every complexion measured 0.3; a dark face before a light wall is no dim light.
DIM = 0.2
SIDE_LIGHT = 0.35  # reached by 19 of the same faces, each with a shadow over half of it

# After these words a name needs no article, but the noun in its place does: "a photo of ohwx", "a dog with ohwx".
TAKES_ARTICLE = PREPOSITIONS | {"with", "and", "like", "as", "is"}


def template_caption(
    trigger: str, class_noun: str, attributes: Mapping, yaw: float, pitch: float, face_fraction: float
) -> str:
    """A caption from measured attributes (of likeness.attributes, missing ones may be None), the head's turn in degrees
    (yaw positive to the picture's right, pitch positive chin down) and the face's height as a share of the crop."""
    said = attributes.get
    parts = [
        f"{trigger} {class_noun}",
        _expression(said("smile"), said("mouth_open")),
        "mouth open" if _above(said("mouth_open"), MOUTH_OPEN) else "",
        "eyes closed" if _above(said("eyes_closed"), EYES_CLOSED) else _gaze(said("gaze_x"), said("gaze_y"), yaw),
        _direction(yaw, pitch),
        "wearing glasses" if said("glasses") else "",
        _light(said("light"), said("light_side"), said("background")),
        _background(said("background")),
        "close-up" if face_fraction >= CLOSE_UP else "",
        "black and white photo" if said("monochrome") else "",
    ]
    return ", ".join(part for part in parts if part)


def class_caption(text: str, trigger: str, class_noun: str, words: IdentityWords) -> str:
    """The caption of the same picture if anybody of the class were on it: "ohwx woman, smiling" becomes "a woman,
    smiling". The trigger goes as a whole word only, with the noun beside it; words for what the person is go as they do
    from a captioner's captions; what may change stays. Where nothing is left, it is the bare class.
    """
    person = "classnoun"  # one word in the place of the class noun, so that none of its words is taken for a trait
    nouns = "|".join(map(re.escape, sorted({class_noun, *words.people}, key=len, reverse=True)))
    beside = rf"(?:(?<![^\W_])(?:{nouns})[\s_-]+)?{whole_word(trigger)}(?:[\s_-]+(?:{nouns})(?![^\W_]))?"
    found = re.sub(beside, person, text, flags=re.IGNORECASE)
    found = without_identity(found, words._replace(people=words.people | {person}))
    found = re.sub(rf"{person} (?:{nouns})\b", person, found, flags=re.IGNORECASE)  # ohwx old woman
    parts = [part.strip() for part in found.split(",")]
    found = ", ".join(part for part in parts if part not in ("", "she", "he", "they"))  # left of "She has long hair."
    # An article where the words in front have none: at the start, after a comma, after a preposition.
    bare = rf"(^|,\s*|\b(?:{'|'.join(sorted(TAKES_ARTICLE))})\s+){person}\b"
    found = re.sub(bare, lambda match: f"{match[1]}a {person}", found, flags=re.IGNORECASE)
    found = re.sub(rf"\ban?\s+{person}", lambda _: with_article(class_noun), found).replace(person, class_noun)
    return found or bare_class_caption(class_noun)


def bare_class_caption(class_noun: str) -> str:
    """The class alone, in the words that people draw it by."""
    return f"photo of {with_article(class_noun)}"


def with_article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def warnings(file: str, text: str, trigger: str, count: TokenCount, photos: Sequence[str]) -> list[str]:
    """Sentences about a caption that will not teach what it says; `photos` are those that the file belongs to."""
    found = []
    if cut := cut_words(count):
        found.append(f"{file}: {cut}")
    if not re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
        found.append(f"{file}: the trigger {trigger!r} is not in it; this photo will not teach that word.")
    if len(photos) > 1:
        found.append(f"{file}: the caption of {' and '.join(photos)}; rename one of them to give it its own.")
    return found


def _expression(smile: float | None, mouth_open: float | None) -> str:
    if _above(smile, SMILE):
        return "smiling"
    # An open mouth is an expression, though not a smile.
    if smile is not None and mouth_open is not None and max(smile, mouth_open) <= NEUTRAL:
        return "neutral expression"
    return ""


def _direction(yaw: float, pitch: float) -> str:
    """As seen by who looks at the picture. A turn goes before a tilt: the two together are seldom meant, and the pitch
    of a turned head is less sure."""
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
