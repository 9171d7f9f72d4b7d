"""Removing the words for a person's identity (hair, age, build) from captions that a model wrote.

The rules are for English and work on words. A parser is not needed, because captioners write few kinds of sentences
("a woman with brown hair wearing a hat in front of a wall").
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from likeness.core.errors import LikenessError


def whole_word(word: str) -> str:
    """The pattern of a word or of several words, without letters or digits directly before or after them; _ is
    allowed there."""
    return rf"(?<![^\W_]){re.escape(word)}(?![^\W_])"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words at the start of a caption for the kind of picture.
KINDS = _set("photo photograph picture image portrait selfie closeup close-up close shot view headshot")
EMPTY_LEAD = _set(
    "a an the this that there is are of in on it we see shows showing features featuring depicts depicting captures "
    "image picture photo photograph photos pictures images which appears to be arafed araffe araffed"
)
WITH = {"with", "has", "have", "having", "wearing", "sporting"}  # may be followed by a list
JOINING_WORDS = WITH | _set("and , but who that is are was looks looking appears very while")
PREPOSITIONS = _set("in on at of by near next to under over behind before against from into for around beside")
ING_NOUNS = _set("building ceiling clothing earring evening lighting morning painting railing wedding")
VERBS = _set("sits stands smiles looks wears holds poses stares walks leans laughs sitting")
COUNTS = {"two": "another person"} | dict.fromkeys(
    ("three", "four", "five", "several", "many", "group", "couple", "some"), "other people"
)
ARTICLES = {"a", "an", "the", "this", "one"}
POSSESSIVES = {"her", "his", "their", "its"}
# Words before the person's noun for what can change; all other words there describe the person's identity.
MOODS = _set("happy sad angry serious surprised sleepy tired bored excited shirtless wet well-dressed")
# Adjectives that come in rows: "long, wavy, dark brown hair", "blue and green eyes".
LOOKS = _set(
    "long short wavy curly straight thick thin messy dark light pale brown blonde blond black white gray grey red "
    "auburn golden silver blue green hazel"
)
# Words after a feature: how hair is worn, and where on the body a feature is.
HAIR_STYLE_WORDS = _set("pulled tied swept parted cut styled worn put up back down blowing flowing falling loose")
BODY = _set("face head chin neck chest body back arm arms hand hands shoulder shoulders ears eyes")


class IdentityWords(NamedTuple):
    """Words for a person's identity, in lower case: nouns for people, nouns for features of the body, adjectives.

    Features and traits are phrases, as tuples of words.
    """

    people: frozenset[str]
    features: frozenset[tuple[str, ...]]
    traits: frozenset[tuple[str, ...]]


def identity_words(file: Path) -> IdentityWords:
    """The words in a file such as resources/identity_words.txt. Raises LikenessError if a line is under no known
    heading."""
    lists: dict[str, set[str]] = {name: set() for name in IdentityWords._fields}
    heading = ""
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        text = " ".join(line.partition("#")[0].lower().split())
        if text.startswith("["):
            heading = text.strip("[]")
        if text and heading not in lists:
            known = ", ".join(f"[{name}]" for name in lists)
            raise LikenessError(f"{file}: {text!r} stands under no known heading; expected one of {known} above it")
        if text and not text.startswith("["):
            lists[heading].add(text)
    phrases = (frozenset(tuple(text.split()) for text in lists[name]) for name in ("features", "traits"))
    return IdentityWords(frozenset(lists["people"]), *phrases)


def model_caption(text: str, trigger: str, class_noun: str, words: IdentityWords) -> str:
    """A caption that a model wrote, without the person's identity. The first person in it becomes trigger and class
    noun. A listed word is removed together with the words before it and the word that joins the phrase to the sentence.
    Everything that can change stays."""
    words = words._replace(people=words.people | {class_noun.lower().split()[-1]})
    sentences = [_tokens(sentence) for sentence in re.split(r"[.!?;]+(?:\s+|$)", text)]
    first, *others = [tokens for tokens in sentences if tokens] or [[]]
    kept = _after_person(first, words) + [_clause(tokens, words) for tokens in others]
    return ", ".join([f"{trigger} {class_noun}", *dict.fromkeys(filter(None, kept))])


def without_identity(text: str, words: IdentityWords) -> str:
    """A caption by a person or a model, without the person's identity. A listed word is removed together with the words
    before it and the word that joins the phrase to the sentence. Several sentences are joined by commas."""
    sentences = (_tokens(sentence) for sentence in re.split(r"[.!?;]+(?:\s+|$)", text))
    return ", ".join(filter(None, (_text(_without_identity(tokens, words)) for tokens in sentences)))


def _tokens(text: str) -> list[str]:
    """The words and commas of a text; the first word in lower case."""
    tokens = re.findall(r"[\w'’-]+|,", text.replace("’", "'"))
    return [tokens[0].lower(), *tokens[1:]] if tokens else []


def _after_person(tokens: list[str], words: IdentityWords) -> list[str]:
    """The parts of the first sentence without its person: the person's mood, other people, the rest of the sentence,
    the kind of picture."""
    at = next((i for i, token in enumerate(tokens) if _bare(token) in words.people), None)
    if at is None:
        return [_clause(tokens, words)]
    start = at
    while start and not _ends_phrase(tokens[start - 1], words):
        start -= 1
    while start and _is_verb(tokens[start - 1]) and tokens[start - 1].lower() not in EMPTY_LEAD:
        start -= 1  # a smiling woman
    before = [token.lower() for token in tokens[start:at]]
    lead = [token.lower() for token in tokens[:start]]
    counted = next((COUNTS[token] for token in (*lead, *before) if token in COUNTS), "")
    moods = [word for word in before if word in MOODS or (_is_verb(word) and word != "looking")]
    rest = tokens[at + 1 :]
    if tokens[at].endswith("'s"):  # a woman's face
        rest = rest[1:]
    others = _second_person(rest, words)
    if others:
        rest, counted = rest[others:], "another person"
    return [
        *moods,
        f"with {counted}" if counted else "",
        _clause(rest, words),
        _kind_of_picture(lead, words),
    ]


def _second_person(tokens: list[str], words: IdentityWords) -> int:
    """The number of words at the beginning that name a second person, such as "and a young man"; 0 if there is none."""
    if tokens[:1] not in (["and"], ["with"]):
        return 0
    for n, token in enumerate(tokens[1:6], start=2):
        if _bare(token) in words.people:
            return n
        if _ends_phrase(token, words):
            break
    return 0


def _kind_of_picture(lead: Sequence[str], words: IdentityWords) -> str:
    """The kind of picture: "black and white photo" for "this is a black and white photo of"."""
    tokens = [token for token in lead if token not in COUNTS and token != ","]
    if "black" in tokens and "white" in tokens:
        return "black and white photo"
    if "close" in tokens or "close-up" in tokens or "closeup" in tokens:
        return "close-up"
    tokens = [token for token in tokens if token not in EMPTY_LEAD]
    return _text(_without_identity(tokens, words)) if KINDS.intersection(tokens) else ""


def _clause(tokens: list[str], words: IdentityWords) -> str:
    """A sentence, or the part of it after the person, without its subject and without the person's identity."""
    rest = _without_subject(tokens, words)
    rest = ["with" if token in ("has", "have") else token for token in rest]
    if len(rest) > 1 and rest[0] == "and" and not _ends_phrase(rest[1], words):  # and her dog
        rest[0] = "with"
    for i in range(len(rest) - 3, -1, -1):  # and the person is smiling
        if rest[i] in ARTICLES and _bare(rest[i + 1]) in words.people and rest[i + 2] in ("is", "are"):
            del rest[i : i + 3]
    return _text(_without_identity(rest, words))


def _without_subject(tokens: list[str], words: IdentityWords) -> list[str]:
    """The tokens without a subject at the start: "she is", "the young woman appears to be", "who is"."""
    start = 0
    if tokens[:1] in (["she"], ["he"], ["they"]):
        start = 1
    elif tokens and tokens[0] in ARTICLES:
        start = next((i + 1 for i, token in enumerate(tokens[:5]) if _bare(token) in words.people), 0)
    while start < len(tokens) and tokens[start] in ("who", "that", "is", "are", "was", "were", "also", ","):
        start += 1
    if tokens[start : start + 2] in (["appears", "to"], ["seems", "to"]):
        start += 3
    return tokens[start:]


def _without_identity(tokens: list[str], words: IdentityWords) -> list[str]:
    """The tokens without listed words, the words before them and the word that joins them to the sentence."""
    tokens, i = list(tokens), 0
    while i < len(tokens):
        if length := _match(tokens, i, words.features):
            i = _cut(tokens, i, i + length, words)
        elif length := _match(tokens, i, words.traits):
            follows = i + length
            while follows < len(tokens) and (tokens[follows] in ("and", ",") or _match(tokens, follows, words.traits)):
                follows += _match(tokens, follows, words.traits) or 1
            following = tokens[follows] if follows < len(tokens) else ""
            if _bare(following) in words.people:
                del tokens[i:follows]
                _mend_article(tokens, i - 1)
            elif not following or tokens[i + length] in ("and", ",") or _ends_phrase(following, words):
                i = _cut(tokens, i, i + length, words)
            else:  # "an old building"; or adjectives of a feature, which are removed with it
                i = follows
        else:
            i += 1
    return tokens


def _cut(tokens: list[str], start: int, end: int, words: IdentityWords) -> int:
    """Remove the phrase whose head is the listed word at [start, end). Returns the index at which to continue."""
    start, joiner = _phrase_start(tokens, start, words)
    end = _phrase_end(tokens, end, words, is_subject=start == 0 and not joiner)
    if joiner in WITH and tokens[end : end + 1] in (["and"], [","]):  # with a beard and glasses
        following = end + (2 if tokens[end : end + 2] == [",", "and"] else 1)
        if following < len(tokens) and not _ends_phrase(tokens[following], words):
            end = following - 1
            tokens[end] = joiner
    del tokens[start:end]
    return start


def _phrase_start(tokens: Sequence[str], start: int, words: IdentityWords) -> tuple[int, str]:
    """The index at which a phrase begins, including the words that join it to those before; and the first of the
    joining words ("with")."""
    while start and (not _ends_phrase(tokens[start - 1], words) or _in_a_row(tokens, start)):
        start -= 1
    joiner = tokens[start - 1].lower() if start else ""
    if joiner in PREPOSITIONS or _is_verb(joiner):
        start -= 1
    while start and tokens[start - 1].lower() in JOINING_WORDS:
        start -= 1
        joiner = tokens[start].lower()
    return start, joiner


def _phrase_end(tokens: Sequence[str], end: int, words: IdentityWords, is_subject: bool) -> int:
    """The index after a phrase, including what follows its head and describes it."""
    while end < len(tokens) and tokens[end].lower() in HAIR_STYLE_WORDS:
        end += 1
    if tokens[end : end + 1] == ["of"]:  # a tattoo of a dragon
        end = next((i for i in range(end + 1, len(tokens)) if _ends_phrase(tokens[i], words)), len(tokens))
    if POSSESSIVES.intersection(tokens[end + 1 : end + 2]) and BODY.intersection(tokens[end + 2 : end + 3]):
        end += 3  # freckles on her face
    openers = ("that", "which", "is", "are") if is_subject else ("that", "which")
    if end < len(tokens) and tokens[end] in openers:  # hair that falls over her shoulders; her hair is long
        end = next((i for i in range(end, len(tokens)) if tokens[i] == ","), len(tokens))
    return end


def _in_a_row(tokens: Sequence[str], at: int) -> bool:
    """Whether the token before this index is a comma or "and" between two adjectives."""
    return at > 1 and tokens[at - 1] in (",", "and") and tokens[at - 2].lower() in LOOKS


def _match(tokens: Sequence[str], at: int, phrases: frozenset[tuple[str, ...]]) -> int:
    """The number of words of the longest phrase at this index; 0 if there is none."""
    lowered = tuple(token.lower() for token in tokens[at : at + 4])
    return max((n for n in range(1, len(lowered) + 1) if lowered[:n] in phrases), default=0)


def _ends_phrase(token: str, words: IdentityWords) -> bool:
    """Whether a noun phrase (a noun with the words before it) cannot contain this word."""
    token = token.lower()
    return token in JOINING_WORDS | PREPOSITIONS or _is_verb(token) or _bare(token) in words.people


def _is_verb(token: str) -> bool:
    token = token.lower()
    return token in VERBS or (token.endswith("ing") and len(token) > 5 and "-" not in token and token not in ING_NOUNS)


def _bare(token: str) -> str:
    """A word in lower case, without a possessive ending."""
    return token.lower().removesuffix("'s")


def _mend_article(tokens: list[str], at: int) -> None:
    """Make an article at this index agree with the next word: a or an."""
    if at >= 0 and at + 1 < len(tokens) and tokens[at] in ("a", "an"):
        tokens[at] = "an" if tokens[at + 1][0] in "aeiou" else "a"


def _text(tokens: Sequence[str]) -> str:
    """Tokens as text, without joining words and commas at either end."""
    tokens = list(tokens)
    while tokens and tokens[0] in ("and", ",", "who", "that", "is", "are", "while"):
        tokens = tokens[1:]
    while tokens and tokens[-1] in JOINING_WORDS | ARTICLES | POSSESSIVES:
        tokens = tokens[:-1]
    return " ".join(tokens).replace(" ,", ",")
