"""A made caption says only what was measured with some certainty, and the class caption is that of anybody."""

import pytest

from likeness.captions.caption_length import TokenCount
from likeness.captions.identity_words import identity_words
from likeness.captions.wording import bare_class_caption, class_caption, template_caption, warnings
from measured_face import UNSURE


@pytest.mark.parametrize(
    ("attributes", "yaw", "pitch", "said"),
    [
        ({}, 0, 8, []),
        ({"smile": 0.8}, 0, 8, ["smiling"]),
        ({"smile": 0.8, "mouth_open": 0.4}, 0, 8, ["smiling", "mouth open"]),
        ({"smile": 0.02, "mouth_open": 0.01}, 0, 8, ["neutral expression"]),
        ({"smile": 0.02, "mouth_open": 0.5}, 0, 8, ["mouth open"]),
        ({"smile": None, "mouth_open": None, "eyes_closed": None, "background": None}, 0, 8, []),
        ({"eyes_closed": 0.9}, 0, 8, ["eyes closed"]),
        ({"glasses": True}, 0, 8, ["wearing glasses"]),
        ({"glasses": False}, 0, 8, []),
        ({"background": 0.1}, 0, 8, ["dark background"]),
        ({"background": 0.9}, 0, 8, ["bright background"]),
        ({"light": 0.15, "background": 0.1}, 0, 8, ["dim light", "dark background"]),
        ({"light": 0.15, "background": 0.9}, 0, 8, ["bright background"]),
        ({"light_side": 0.4}, 0, 8, ["side light from the right"]),
        ({"light_side": -0.4}, 0, 8, ["side light from the left"]),
        ({"monochrome": True}, 0, 8, ["black and white photo"]),
        ({}, 30, 8, ["head turned to the right"]),
        ({}, -30, 8, ["head turned to the left"]),
        ({"gaze_x": 0.1}, 15, 8, []),
        ({}, 0, 30, ["head tilted down"]),
        ({}, 0, -20, ["head tilted up"]),
        ({}, -30, 30, ["head turned to the left"]),
        ({"gaze_x": 0.1}, 0, 8, ["looking at the camera"]),
        ({"gaze_x": -0.6}, 15, 8, ["looking at the camera"]),
        ({"gaze_x": 0.1}, 25, 8, ["looking to the right", "head turned to the right"]),
        ({"gaze_x": -0.1}, -25, 8, ["looking to the left", "head turned to the left"]),
        ({"gaze_x": 0.8}, -45, 8, ["head turned to the left"]),
        ({"gaze_x": 0.1, "gaze_y": 0.5}, 0, 8, []),
        ({"gaze_x": 0.1, "eyes_closed": 0.9}, 0, 8, ["eyes closed"]),
        ({"smile": 0.9, "background": 0.1}, -40, 0, ["smiling", "head turned to the left", "dark background"]),
    ],
)
def test_only_what_is_sure_is_said(attributes, yaw, pitch, said):
    assert template_caption("ohwx", "woman", UNSURE | attributes, yaw, pitch, 0.45) == ", ".join(["ohwx woman", *said])


def test_only_a_tight_crop_is_called_a_close_up():
    assert template_caption("ohwx", "woman", UNSURE, 0, 8, 0.8) == "ohwx woman, close-up"


def test_attributes_that_nobody_measured_are_left_out():
    assert template_caption("ohwx", "man", {}, 0, 0, 0.45) == "ohwx man"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ohwx woman, smiling, dark background", "a woman, smiling, dark background"),
        ("OHWX", "a woman"),
        ("a photo of ohwx", "a photo of a woman"),
        ("an ohwx woman in a park", "a woman in a park"),
        ("woman ohwx in the rain", "a woman in the rain"),
        ("the ohwx woman", "the woman"),
        ("ohwx's face, close-up", "a woman's face, close-up"),
        ("tall woman, standing next to ohwx woman", "tall woman, standing next to a woman"),
        # What she is goes, what may change stays.
        ("photo of ohwx woman with long blonde hair, wearing a red hat", "photo of a woman, wearing a red hat"),
        ("young ohwx woman, green eyes, freckles, laughing", "a woman, laughing"),
        ("Photo of ohwx woman. She is at ohwx's desk.", "photo of a woman, she is at a woman's desk"),
        # Another word that holds the trigger is another word, and who names nobody says nothing of her.
        ("ohwxian woman at sea", "ohwxian woman at sea"),
        ("a woman on a beach", "a woman on a beach"),
        # However it is written, the trigger goes, and the noun beside it once.
        ("ohwx_woman, smile, red_dress", "a woman, smile, red_dress"),
        ("ohwx women at a table", "a woman at a table"),
        ("ohwx old woman", "a woman"),
        ("photograph of woman ohwx woman", "photograph of a woman"),
        ("ohwx woman. She has long blonde hair. She wears a red dress.", "a woman, she wears a red dress"),
        ("ohwx woman , , smiling", "a woman, smiling"),
        # Where nothing is left, it is the bare class: an empty caption would say less than that.
        ("blonde hair", "photo of a woman"),
    ],
)
def test_the_class_caption_is_that_of_anybody_on_the_same_picture(root, text, expected):
    words = identity_words(root / "resources/identity_words.txt")
    assert class_caption(text, "ohwx", "woman", words) == expected


def test_the_class_noun_stays_whatever_is_in_it_and_has_the_right_article(root):
    words = identity_words(root / "resources/identity_words.txt")
    assert class_caption("sks old man, smiling", "sks", "old man", words) == "an old man, smiling"
    assert class_caption("photo of a sks actor", "sks", "actor", words) == "photo of an actor"
    assert class_caption("s+k, smiling", "s+k", "wo\\man", words) == "a wo\\man, smiling"
    assert [bare_class_caption(noun) for noun in ("woman", "old man")] == ["photo of a woman", "photo of an old man"]


def test_warnings_name_the_file_and_what_to_do():
    fine, long = (5, 77, 0), (82, 77, 5)
    assert warnings("a.txt", "photo of OHWX woman", "ohwx", TokenCount(*fine), ["a.jpg"]) == []
    assert warnings("a.txt", "ohwx", "ohwx", TokenCount(*long), ["a.jpg"]) == [
        "a.txt: 82 tokens, the base model reads 77: the last 5 words will not be seen; shorten it, or set "
        "train.max_token_length: 150."
    ]
    (longer,) = warnings("a.txt", "ohwx", "ohwx", TokenCount(160, 77, 9), ["a.jpg"])
    assert longer.endswith("the last 9 words will not be seen; shorten it, or set train.max_token_length: 225.")
    (longest,) = warnings("a.txt", "ohwx", "ohwx", TokenCount(300, 227, 9), ["a.jpg"])
    assert longest.endswith("300 tokens, the base model reads 227: the last 9 words will not be seen; shorten it.")
    missing, shared = warnings("a.txt", "an ohwxy", "ohwx", TokenCount(*fine), ["a.jpg", "a.png"])
    assert "a.txt: the trigger 'ohwx' is not in it" in missing
    assert shared == "a.txt: the caption of a.jpg and a.png; rename one of them to give it its own."
