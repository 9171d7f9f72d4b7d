"""The U-Net's conditioning on a prompt, as in A1111: in chunks, with the weights of prompts.py.

This is not part of conditioning.py, which reads the captions of the training: so no training depends on this code.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from likeness.models.conditioning import CHUNK, Conditioning, conditioning
from likeness.models.prompts import sections

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedModel

COMMA_REACH = 20  # A1111's default for "Prompt word wrap length limit"
# As a share of the mean size of a chunk's states: a smaller mean is a rounding error. The demonstration's is 0.006.
SMALLEST_MEAN = 1e-5


def prompt_chunks(tokenizer: "CLIPTokenizer", prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt's tokens in chunks of 75 between a begin and an end token, int64 (chunks, 77), and the weight of each
    token, float32 with the same shape.

    This follows tokenize_line in A1111's modules/sd_hijack_clip.py. BREAK ends a chunk. If a section is longer than a
    chunk, the chunk ends after the last comma among its last 20 tokens, if there is one, so that the words between two
    commas stay together.
    """
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    assert isinstance(comma, int)  # not a list, because it is the number of a single token
    chunks: list[list[tuple[int, float]]] = []
    prompt_sections = sections(prompt)
    for number, section in enumerate(prompt_sections):
        tokens = [
            (token, part.weight)
            for part in section
            for token in tokenizer(part.text, add_special_tokens=False, verbose=False).input_ids
        ]
        cut = _cut([token for token, _ in tokens], comma)
        # An empty section before a BREAK makes an empty chunk. After the last BREAK it makes none.
        if not cut and (number < len(prompt_sections) - 1 or not chunks):
            cut = [slice(0, 0)]
        chunks += [tokens[part] for part in cut]
    ids = [[begin, *(t for t, _ in chunk), end, *[padding] * (CHUNK - len(chunk))] for chunk in chunks]
    weights = [[1.0, *(w for _, w in chunk), *[1.0] * (1 + CHUNK - len(chunk))] for chunk in chunks]
    return torch.tensor(ids), torch.tensor(weights)


def _cut(tokens: Sequence[int], comma: int) -> list[slice]:
    """The chunks of a section as slices of its tokens; empty if there are no tokens."""
    slices, start = [], 0
    while start < len(tokens):
        end = min(start + CHUNK, len(tokens))
        if end < len(tokens) and tokens[end] != comma and comma in (last := tokens[end - COMMA_REACH : end]):
            end -= last[::-1].index(comma)
        slices.append(slice(start, end))
        start = end
    return slices


def prompt_conditioning(
    encoders: "Sequence[PreTrainedModel]", tokenizers: "Sequence[CLIPTokenizer]", prompt: str, clip_skip: int
) -> Conditioning:
    """The conditioning on a prompt as in A1111, with n = 1: the chunks are concatenated, each with its 77 tokens, and
    `pooled` is that of the first chunk."""
    ids, weights = zip(*(prompt_chunks(tokenizer, prompt) for tokenizer in tokenizers), strict=True)
    device = encoders[0].device
    read = conditioning(encoders, torch.stack(ids, dim=1).to(device), clip_skip)
    states = read.hidden.split([encoder.config.hidden_size for encoder in encoders], dim=-1)
    weighted = [_weighted(*pair) for pair in zip(states, (w.to(device) for w in weights), strict=True)]
    pooled = None if read.pooled is None else read.pooled[:1]
    return Conditioning(torch.cat(weighted, dim=-1).flatten(0, 1)[None], pooled)


def _weighted(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The states of one encoder, (chunks, 77, width), multiplied by the weights of their tokens, (chunks, 77). Then
    each chunk is scaled to the mean that it had before. A1111's default: modules/sd_emphasis.py, EmphasisOriginal."""
    if (weights == 1).all():
        return states
    weighted = states.float() * weights[:, :, None]
    before, after = (t.float().mean(dim=(1, 2), keepdim=True) for t in (states, weighted))
    # Without scaling where the mean is only a rounding error, as for a text encoder that was never trained.
    is_mean = before.abs() > SMALLEST_MEAN * states.float().abs().mean(dim=(1, 2), keepdim=True)
    return torch.where(is_mean, weighted * (before / after), weighted).to(states.dtype)
