"""What the U-Net reads of a text: the text encoders' hidden states and, for SDXL, their pooled summary.

Encoders and tokenizers are given as lists, one for each text encoder of the family (load_text_encoders).
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from likeness.base_model import load_part
from likeness.errors import LikenessError
from likeness.families import FAMILIES

TOKENS = 77  # what CLIP reads at once, with its two marks
CHUNK = TOKENS - 2  # tokens of words among them


class Conditioning(NamedTuple):
    """`hidden` (n, tokens, width), 77 tokens where one chunk is read; `pooled` (n, width) for SDXL, else None."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None


def load_tokenizers(base: dict) -> list:
    parts = FAMILIES[base["family"]].text_encoders
    return [load_part(base, part.replace("text_encoder", "tokenizer")) for part in parts]


def load_text_encoders(base: dict, dtype: torch.dtype | None = None) -> list[torch.nn.Module]:
    """In fp32 without a `dtype`."""
    return [load_part(base, part, dtype) for part in FAMILIES[base["family"]].text_encoders]


def token_ids(tokenizers: Sequence, caption: str, max_token_length: int = CHUNK) -> torch.Tensor:
    """A caption's tokens, int64 (encoders, 77); with a `max_token_length` of 150 or 225 in so many chunks of 75, int64
    (encoders, 2 or 3, 77). What is longer is cut; brackets are words like others.

    Chunks as in kohya's library/strategy_base.py, _get_input_ids: each between a begin and an end of its own. Where a
    tokenizer pads with another token than the end, the end stands behind the last word, and first in a chunk without
    words.
    """
    options = {"padding": "max_length", "truncation": True, "max_length": max_token_length + 2, "return_tensors": "pt"}
    whole = torch.cat([tokenizer(caption, **options).input_ids for tokenizer in tokenizers])
    if max_token_length == CHUNK:
        return whole
    words = whole[:, 1:-1].unflatten(1, (-1, CHUNK))
    begin, end = (whole[:, place, None, None].expand(-1, words.shape[1], 1) for place in (0, -1))
    chunks = torch.cat([begin, words, end], dim=2)
    for chunk, tokenizer in zip(chunks, tokenizers, strict=True):
        mark, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
        if mark != padding:
            chunk[(chunk[:, -2] != mark) & (chunk[:, -2] != padding), -1] = mark
            chunk[chunk[:, 1] == padding, 1] = mark
    return chunks


def conditioning(encoders: Sequence[torch.nn.Module], tokens: torch.Tensor, clip_skip: int) -> Conditioning:
    """`tokens` is int64 (n, encoders, 77), or (n, encoders, chunks, 77).

    SD 1.x and 2.x: the last hidden state, or with clip_skip 2 the one before, through the last layer norm. SDXL: the
    one before the last of each encoder (with clip_skip 1; larger ones count from there, as in diffusers, where A1111
    leaves clip_skip aside for SDXL), side by side, and the second one's text embedding. Chunks one behind another with
    one begin and one end around all, and the first one's text embedding (kohya's library/strategy_sd.py and
    strategy_sdxl.py, encode_tokens).

    Raises LikenessError if clip_skip reaches past the first layer.
    """
    if tokens.dim() == 4:
        n, _, chunks, _ = tokens.shape
        read = conditioning(encoders, tokens.transpose(1, 2).flatten(0, 1), clip_skip)
        hidden = read.hidden.unflatten(0, (n, chunks))
        words = hidden[:, :, 1:-1].flatten(1, 2)
        pooled = None if read.pooled is None else read.pooled[::chunks]
        return Conditioning(torch.cat([hidden[:, 0, :1], words, hidden[:, -1, -1:]], dim=1), pooled)
    outputs = [encoder(tokens[:, i], output_hidden_states=True) for i, encoder in enumerate(encoders)]
    # The first of the hidden states is the embeddings, before any layer; SDXL begins one layer lower.
    layers = min(len(output.hidden_states) for output in outputs) - 1
    if clip_skip > (deepest := layers - (len(encoders) == 2)):
        raise LikenessError(
            f"clip_skip {clip_skip}: the base model's text encoder has {layers} layers; expected at most {deepest}"
        )
    if len(encoders) == 2:
        hidden = torch.cat([output.hidden_states[-1 - clip_skip] for output in outputs], dim=-1)
        return Conditioning(hidden, outputs[1].text_embeds)
    if clip_skip == 1:
        return Conditioning(outputs[0].last_hidden_state, None)
    inner = getattr(encoders[0], "text_model", encoders[0])  # transformers before and after 5.6
    return Conditioning(inner.final_layer_norm(outputs[0].hidden_states[-clip_skip]), None)


@cache
def size_ids(height: int, width: int, n: int, device: torch.device) -> torch.Tensor:
    """What SDXL is told of a picture's size, (n, 6): original height and width, crop's top and left, target height and
    width. Crops are brought to their size before, so all of it is that. Kept, because a copy makes the GPU wait."""
    return torch.tensor([[height, width, 0, 0, height, width]] * n, device=device)
