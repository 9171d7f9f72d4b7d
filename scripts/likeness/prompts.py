r"""A1111's prompt syntax: weights, escapes and BREAK, and what of it is not drawn here.

`(words)` weighs 1.1, `[words]` 1 / 1.1, `(words:1.5)` 1.5, brackets within brackets multiply, `\(` is a bracket that is
drawn, BREAK begins a new chunk (conditioning.py). Read as A1111 reads it (modules/prompt_parser.py,
parse_prompt_attention), so that an infotext means there what was drawn here.
"""

import re
from typing import NamedTuple

from likeness.errors import LikenessError

ROUND, SQUARE = 1.1, 1 / 1.1
SHOWN = 40  # letters of what is refused
LARGEST_WEIGHT = 10.0  # twenty-four brackets around a word; more is a slip of the hand

_PIECE = re.compile(r"\\[\\()\[\]]?|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
# What A1111 takes out of a prompt, or reads as something else than words to draw. {} is what was found.
_NOT_DRAWN = [
    (
        r"<\w+:.*?(?:>|$)",
        "calls another file by {} in A1111, and none here; leave it out, the trained LoRA is called by itself",
    ),
    (r"#.*", "has {}, which is a comment in A1111; leave it out"),
    (r"^Negative prompt:", "begins with {}, as the negative prompt of an infotext does; begin with other words"),
]
# In a prompt that is no negative one.
_COMPOSED = [
    (r"\bAND\b", "has {}, which draws two prompts at once in A1111; write it in small letters"),
    (
        r":\s*[+-]?(?:\d+\.?|\d*\.\d+)\s*$",
        "ends with {}, which A1111 takes for a weight of the whole prompt; write a comma behind it",
    ),
]
# In a pair of square brackets without others in it.
_BY_STEP = [
    (
        r"\[[^][]*:\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*\]",
        "has {}, which A1111 draws from or up to a step only (prompt editing); write (words:1.2) for a weight",
    ),
    (r"\[[^][]*\|[^][]*\]", "has {}, which A1111 changes from step to step (alternating words); choose one"),
]


class Part(NamedTuple):
    """Words of a prompt that are read together, and what they are weighed with."""

    text: str
    weight: float


def sections(prompt: str) -> list[list[Part]]:
    """The parts of a prompt, in the sections that BREAK divides it into; at least one section.

    Neighbours of one weight are one part, also where no space is between their brackets. A bracket that is never closed
    is closed at the end; one that was never opened is drawn. Raises LikenessError if a weight is no number or beyond
    LARGEST_WEIGHT, or if BREAK stands in brackets, where A1111 draws it as a word.
    """
    found: list[list[list]] = [[]]
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, weight: float) -> None:
        for part in found[-1][opened[bracket].pop() :]:
            part[1] *= weight

    for match in _PIECE.finditer(prompt):
        piece, number = match[0], match[1]
        if piece.startswith("\\"):
            found[-1].append([piece[1:], 1.0])
        elif piece in opened:
            opened[piece].append(len(found[-1]))
        elif number and opened["("]:
            close("(", _number(number))
        elif piece == ")" and opened["("]:
            close("(", ROUND)
        elif piece == "]" and opened["["]:
            close("[", SQUARE)
        else:
            first, *others = _BREAK.split(piece)
            if others and any(opened.values()):
                raise LikenessError("has BREAK in brackets; close them before it")
            found[-1].append([first, 1.0])
            found += [[[other, 1.0]] for other in others]
    for bracket, weight in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, weight)
    for section in found:
        if heavy := next((weight for _, weight in section if abs(weight) > LARGEST_WEIGHT), None):
            raise LikenessError(f"has words of weight {heavy:g}; expected at most {LARGEST_WEIGHT:g}")
    return [_joined(section) for section in found]


def drawn_words(prompt: str) -> str:
    """The words of a prompt that are drawn, without brackets and weights: those of a weight above 0."""
    words = ("".join(part.text for part in section if part.weight > 0) for section in sections(prompt))
    return ", ".join(" ".join(text.split()) for text in words)


def literal(text: str) -> str:
    """A prompt that draws just this text, whatever signs are in it. Small letters are the same to CLIP."""
    escaped = re.sub(r"[\\()\[\]]", r"\\\g<0>", text)
    return re.sub(r"\b(?:BREAK|AND)\b", lambda word: word[0].lower(), escaped)


def check_prompt(prompt: str, negative: bool = False) -> None:
    """Raises LikenessError, with what the prompt has, if A1111 would draw it otherwise than it is drawn here."""
    sections(prompt)
    _refuse(prompt, _NOT_DRAWN + _COMPOSED * (not negative))
    inner, rest = "", re.sub(r"\\.", "", prompt)
    while inner != rest:  # from the innermost brackets outwards
        _refuse(rest, _BY_STEP)
        inner, rest = rest, re.sub(r"\[([^][]*)\]", r"\1", rest)


def _refuse(text: str, patterns: list[tuple[str, str]]) -> None:
    for pattern, what in patterns:
        if found := re.search(pattern, text):
            raise LikenessError(what.format(repr(found[0][:SHOWN])))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LikenessError(f"has the weight {text[:SHOWN]!r}; expected a number such as 1.2") from None


def _joined(section: list[list]) -> list[Part]:
    joined: list[Part] = []
    for text, weight in section:
        if joined and joined[-1].weight == weight:
            joined[-1] = Part(joined[-1].text + text, weight)
        else:
            joined.append(Part(text, weight))
    return joined
