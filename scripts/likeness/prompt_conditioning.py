"""What the U-Net reads of a prompt, as A1111 has it read: in chunks, with the weights of prompts.py. Apart from
conditioning.py, which the trainer reads captions with, so that no training depends on how prompts are drawn.
"""

from collections.abc import Sequence

import torch

from likeness.conditioning import CHUNK, Conditioning, conditioning
from likeness.prompts import sections

COMMA_REACH = 20  # A1111's default for "Prompt word wrap length limit"
# Of the mean size of a chunk's states; below, their mean is rounding. That of the demonstration's encoder is 0.006.
SMALLEST_MEAN = 1e-5


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
