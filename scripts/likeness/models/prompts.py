r"""A1111's prompt syntax: weights, escapes and BREAK, and the parts of it that are not supported here.

`(words)` has the weight 1.1, `[words]` 1 / 1.1, `(words:1.5)` 1.5. Nested brackets multiply. `\(` is a literal bracket.
BREAK starts a new chunk (prompt_conditioning.py). The parser follows parse_prompt_attention in A1111's
modules/prompt_parser.py, so that A1111 reads an infotext with the same meaning.
"""

import re
from typing import NamedTuple

from likeness.core.errors import LikenessError

ROUND, SQUARE = 1.1, 1 / 1.1
MAX_QUOTED = 40  # characters of a refused text in the error message
LARGEST_WEIGHT = 10.0  # twenty-four brackets around a word; a larger weight is a typing error

_PIECE = re.compile(r"\\[\\()\[\]]?|[()\[\]]|:\s*([+-]?[.\d]+)\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
# Texts that A1111 removes from a prompt, or does not read as words, and the error message; {} stands for the text.
_REFUSED = [
    (
        r"<\w+:.*?(?:>|$)",
        "calls another file by {} in A1111, and none here; leave it out, the trained LoRA is called by itself",
    ),
    (r"#.*", "has {}, which is a comment in A1111; leave it out"),
    (r"^Negative prompt:", "begins with {}, as the negative prompt of an infotext does; begin with other words"),
]
# The same for prompts that are not negative prompts.
_REFUSED_IN_POSITIVE = [
    (r"\bAND\b", "has {}, which draws two prompts at once in A1111; write it in small letters"),
    (
        r":\s*[+-]?(?:\d+\.?|\d*\.\d+)\s*$",
        "ends with {}, which A1111 takes for a weight of the whole prompt; write a comma behind it",
    ),
]
# The same within a pair of square brackets that contains no other pair.
_BY_STEP = [
    (
        r"\[[^][]*:\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*\]",
        "has {}, which A1111 draws from or up to a step only (prompt editing); write (words:1.2) for a weight",
    ),
    (r"\[[^][]*\|[^][]*\]", "has {}, which A1111 changes from step to step (alternating words); choose one"),
]


class Part(NamedTuple):
    """Words of a prompt that have the same weight and are tokenized together."""

    text: str
    weight: float


def sections(prompt: str) -> list[list[Part]]:
    """The parts of a prompt for each of the sections that BREAK divides it into; at least one section.

    Neighbours with the same weight are one part, even if there is no space between their brackets. An unclosed bracket
    ends with the prompt; a closing bracket without an opening one is a literal bracket. Raises LikenessError if a
    weight is not a number or larger than LARGEST_WEIGHT, or if BREAK stands in brackets, where A1111 reads it as a
    word.
    """
    parsed: list[list[Part]] = [[]]
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(bracket: str, weight: float) -> None:
        start = opened[bracket].pop()
        parsed[-1][start:] = [Part(part.text, part.weight * weight) for part in parsed[-1][start:]]

    for match in _PIECE.finditer(prompt):
        piece, number = match[0], match[1]
        if piece.startswith("\\"):
            parsed[-1].append(Part(piece[1:], 1.0))
        elif piece in opened:
            opened[piece].append(len(parsed[-1]))
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
            parsed[-1].append(Part(first, 1.0))
            parsed += [[Part(other, 1.0)] for other in others]
    for bracket, weight in (("(", ROUND), ("[", SQUARE)):
        while opened[bracket]:
            close(bracket, weight)
    for section in parsed:
        if heavy := next((weight for _, weight in section if abs(weight) > LARGEST_WEIGHT), None):
            raise LikenessError(f"has words of weight {heavy:g}; expected at most {LARGEST_WEIGHT:g}")
    return [_joined(section) for section in parsed]


def drawn_words(prompt: str) -> str:
    """The words of a prompt with a weight above 0, without brackets and weights."""
    words = ("".join(part.text for part in section if part.weight > 0) for section in sections(prompt))
    return ", ".join(" ".join(text.split()) for text in words)


def literal(text: str) -> str:
    """A prompt that has no syntax, only this text: brackets are escaped, BREAK and AND are written in small letters,
    which are the same for CLIP."""
    escaped = re.sub(r"[\\()\[\]]", r"\\\g<0>", text)
    return re.sub(r"\b(?:BREAK|AND)\b", lambda word: word[0].lower(), escaped)


def check_prompt(prompt: str, negative: bool = False) -> None:
    """Raises LikenessError, with the unsupported text, if A1111 would read the prompt differently."""
    sections(prompt)
    _refuse(prompt, _REFUSED + _REFUSED_IN_POSITIVE * (not negative))
    inner, rest = "", re.sub(r"\\.", "", prompt)
    while inner != rest:  # from the innermost brackets outwards
        _refuse(rest, _BY_STEP)
        inner, rest = rest, re.sub(r"\[([^][]*)\]", r"\1", rest)


def _refuse(text: str, patterns: list[tuple[str, str]]) -> None:
    for pattern, what in patterns:
        if found := re.search(pattern, text):
            raise LikenessError(what.format(repr(found[0][:MAX_QUOTED])))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise LikenessError(f"has the weight {text[:MAX_QUOTED]!r}; expected a number such as 1.2") from None


def _joined(section: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for text, weight in section:
        if joined and joined[-1].weight == weight:
            joined[-1] = Part(joined[-1].text + text, weight)
        else:
            joined.append(Part(text, weight))
    return joined
