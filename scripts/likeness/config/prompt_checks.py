"""The checks of the prompts in config.yaml."""

import re
from itertools import accumulate
from string import Formatter

from likeness.captions.identity_words import whole_word
from likeness.core.errors import LikenessError
from likeness.core.section import quote
from likeness.models.prompts import check_prompt, drawn_words

MAX_BRACKETS = 100  # nested brackets; (words:2) has the effect of seven


def placeholders(prompt: str) -> set[str]:
    """The placeholders in a prompt: subject, class_noun. Raises ValueError for any other brace."""
    try:
        parts = list(Formatter().parse(prompt))
    except ValueError:
        parts = [("", prompt, "", None)]
    places = {name for _, name, *_ in parts if name is not None}
    other = any(form or conversion or set("{}") & set(text) for text, _, form, conversion in parts)
    if places - {"subject", "class_noun"} or other:
        raise ValueError(f"prompt {quote(prompt)} has a brace that is neither {{subject}} nor {{class_noun}}")
    return places


def check_words(prompt: str, negative: bool = False) -> None:
    """Raises ValueError, which pydantic expects, if A1111 would draw the prompt in another way than it is drawn
    here."""
    if _nesting(prompt) > MAX_BRACKETS:
        raise ValueError(f"prompt {quote(prompt)} has more than {MAX_BRACKETS} brackets within one another")
    try:
        check_prompt(prompt, negative)
    except LikenessError as error:
        raise ValueError(f"prompt {quote(prompt)} {error}") from None


def _nesting(prompt: str) -> int:
    """The largest number of brackets of one kind that are open at once."""
    signs = re.sub(r"\\.", "", prompt)
    depths = (accumulate((sign == pair[0]) - (sign == pair[1]) for sign in signs) for pair in ("()", "[]"))
    return max((depth for of_kind in depths for depth in of_kind), default=0)


def check_naming_prompt(prompt: str) -> None:
    """Raises ValueError unless a prompt has {subject} in it and draws it."""
    check_words(prompt)
    if "subject" not in placeholders(prompt):
        raise ValueError(f"prompt {quote(prompt)} lacks {{subject}}; expected it in every prompt")
    if "{subject}" not in drawn_words(prompt):
        raise ValueError(f"prompt {quote(prompt)} weighs {{subject}} so that it is not drawn; expected more than 0")


def check_negative_prompt(prompt: str) -> None:
    """Raises ValueError if a negative prompt has a brace, or a part that A1111 would draw in another way."""
    check_words(prompt, negative=True)
    if set("{}") & set(prompt):
        raise ValueError(f"negative_prompt {quote(prompt)} has a brace, which stands for nothing there")


def calls(text: str, trigger: str) -> bool:
    """Whether a trigger is a word of a text; case is ignored, as the text encoders do."""
    return re.search(whole_word(trigger), text, re.IGNORECASE) is not None
