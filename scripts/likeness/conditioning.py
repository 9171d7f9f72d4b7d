"""What the U-Net reads of a caption or a prompt: the text encoders' hidden states and, for SDXL, their pooled summary.

Encoders and tokenizers are given as lists, one for each text encoder of the family (load_text_encoders).
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch

from likeness.base_model import load_part
from likeness.errors import LikenessError
from likeness.families import FAMILIES
from likeness.prompts import sections

TOKENS = 77  # what CLIP reads at once, with its two marks
CHUNK = TOKENS - 2  # tokens of words among them
COMMA_REACH = 20  # A1111's default for "Prompt word wrap length limit"
# Of the mean size of a chunk's states; below, their mean is rounding. That of the demonstration's encoder is 0.006.
SMALLEST_MEAN = 1e-5


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


def prompt_chunks(tokenizer, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt's tokens in chunks of 75 between a begin and an end, int64 (chunks, 77), and each token's weight,
    float32 of the same shape.

    As in A1111's modules/sd_hijack_clip.py, tokenize_line: BREAK ends a chunk; where the words go on, a chunk ends
    behind the last comma among its last 20 tokens, if there is one, so that what stands between commas stays together.
    """
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    chunks = []
    prompt_sections = sections(prompt)
    for number, section in enumerate(prompt_sections):
        tokens = [
            (token, part.weight)
            for part in section
            for token in tokenizer(part.text, add_special_tokens=False, verbose=False).input_ids
        ]
        cut = _cut([token for token, _ in tokens], comma)
        # An empty section before a BREAK is an empty chunk; behind the last BREAK it is none.
        if not cut and (number < len(prompt_sections) - 1 or not chunks):
            cut = [slice(0, 0)]
        chunks += [tokens[part] for part in cut]
    ids = [[begin, *(t for t, _ in chunk), end, *[padding] * (CHUNK - len(chunk))] for chunk in chunks]
    weights = [[1.0, *(w for _, w in chunk), *[1.0] * (1 + CHUNK - len(chunk))] for chunk in chunks]
    return torch.tensor(ids), torch.tensor(weights)


def _cut(tokens: Sequence[int], comma: int) -> list[slice]:
    """Where the chunks of a section lie; none without tokens."""
    found, start = [], 0
    while start < len(tokens):
        end = min(start + CHUNK, len(tokens))
        if end < len(tokens) and tokens[end] != comma and comma in (last := tokens[end - COMMA_REACH : end]):
            end -= last[::-1].index(comma)
        found.append(slice(start, end))
        start = end
    return found


def prompt_conditioning(
    encoders: Sequence[torch.nn.Module], tokenizers: Sequence, prompt: str, clip_skip: int
) -> Conditioning:
    """What the U-Net reads of a prompt, as A1111 has it read: the chunks one behind another, each with its begin and
    end, n = 1 and 77 tokens for each; pooled of the first chunk."""
    ids, weights = zip(*(prompt_chunks(tokenizer, prompt) for tokenizer in tokenizers), strict=True)
    device = encoders[0].device
    read = conditioning(encoders, torch.stack(ids, dim=1).to(device), clip_skip)
    states = read.hidden.split([encoder.config.hidden_size for encoder in encoders], dim=-1)
    weighted = [_weighted(*pair) for pair in zip(states, (w.to(device) for w in weights), strict=True)]
    return Conditioning(
        torch.cat(weighted, dim=-1).flatten(0, 1)[None], read.pooled[:1] if len(encoders) == 2 else None
    )


def _weighted(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The states of one encoder, (chunks, 77, width), times their tokens' weights, (chunks, 77); then each chunk is
    brought back to the mean that it had. A1111's modules/sd_emphasis.py, EmphasisOriginal, its default."""
    if (weights == 1).all():
        return states
    weighted = states.float() * weights[:, :, None]
    before, after = (t.float().mean(dim=(1, 2), keepdim=True) for t in (states, weighted))
    # What is only rounding, as of a text encoder that was never trained, is no mean to come back to.
    is_mean = before.abs() > SMALLEST_MEAN * states.float().abs().mean(dim=(1, 2), keepdim=True)
    return torch.where(is_mean, weighted * (before / after), weighted).to(states.dtype)


@cache
def size_ids(height: int, width: int, n: int, device: torch.device) -> torch.Tensor:
    """What SDXL is told of a picture's size, (n, 6): original height and width, crop's top and left, target height and
    width. Crops are brought to their size before, so all of it is that. Kept, because a copy makes the GPU wait."""
    return torch.tensor([[height, width, 0, 0, height, width]] * n, device=device)
