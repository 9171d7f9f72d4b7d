"""How much of a caption training reads. It is separate from wording.py, so that the cache keys of latents do not depend
on the wording of captions."""

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

TOKEN_LENGTHS = (75, 150, 225)  # what train.max_token_length may be


class TokenCount(NamedTuple):
    """Tokens of a caption, including the two that mark its start and its end; how many the base model reads; and how
    many words lie beyond those."""

    tokens: int
    limit: int
    unseen_words: int


def token_count(text: str, tokenizer: "CLIPTokenizer", max_token_length: int = TOKEN_LENGTHS[0]) -> TokenCount:
    """The length of a caption by the base model's own tokenizer. Training reads `max_token_length` tokens of it and the
    two marks."""
    limit = max_token_length + 2
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens, unseen = len(encoded["input_ids"]), 0
    if tokens > limit:  # the last token that is read is the end mark
        first_cut = encoded["offset_mapping"][limit - 1][0]
        unseen = sum(word.end() > first_cut for word in re.finditer(r"[\w'’-]+", text))
    return TokenCount(tokens, limit, unseen)


def cut_words(count: TokenCount) -> str:
    """A sentence about the words of a caption that training does not read; "" if it reads all of them."""
    if count.tokens <= count.limit:
        return ""
    longer = next((length for length in TOKEN_LENGTHS if count.tokens <= length + 2), None)
    return (
        f"{count.tokens} tokens, the base model reads {count.limit}: the last {count.unseen_words} words will not be "
        f"seen; shorten it{f', or set train.max_token_length: {longer}' if longer else ''}."
    )
