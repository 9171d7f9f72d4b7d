"""How much of a caption training reads. Apart from captions.py, so that no latents depend on what captions say."""

import re
from typing import NamedTuple

TOKEN_LENGTHS = (75, 150, 225)  # what train.max_token_length may be


class TokenCount(NamedTuple):
    """Tokens of a caption with the two marks around it, how many the base model reads, and the words beyond those."""

    tokens: int
    limit: int
    unseen_words: int


def token_count(text: str, tokenizer, max_token_length: int = TOKEN_LENGTHS[0]) -> TokenCount:
    """How long a caption is for the base model's own tokenizer (a CLIPTokenizer of transformers), of which training
    reads `max_token_length` tokens beside the two marks."""
    limit = max_token_length + 2
    encoded = tokenizer(text, return_offsets_mapping=True)
    tokens, unseen = len(encoded["input_ids"]), 0
    if tokens > limit:  # the last place goes to the closing mark
        first_cut = encoded["offset_mapping"][limit - 1][0]
        unseen = sum(word.end() > first_cut for word in re.finditer(r"[\w'’-]+", text))
    return TokenCount(tokens, limit, unseen)


def cut_words(count: TokenCount) -> str:
    """A sentence about the words of a caption that training does not read; "" where it reads all."""
    if count.tokens <= count.limit:
        return ""
    longer = next((length for length in TOKEN_LENGTHS if count.tokens <= length + 2), None)
    return (
        f"{count.tokens} tokens, the base model reads {count.limit}: the last {count.unseen_words} words will not be "
        f"seen; shorten it{f', or set train.max_token_length: {longer}' if longer else ''}."
    )
