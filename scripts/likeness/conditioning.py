"""What the U-Net reads of a caption: the text encoders' hidden states and, for SDXL, their pooled summary.

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


class Conditioning(NamedTuple):
    """`hidden` (n, 77, width); `pooled` (n, width) for SDXL, else None."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None


def load_tokenizers(base: dict) -> list:
    parts = FAMILIES[base["family"]].text_encoders
    return [load_part(base, part.replace("text_encoder", "tokenizer")) for part in parts]


def load_text_encoders(base: dict, dtype: torch.dtype | None = None) -> list[torch.nn.Module]:
    """In fp32 without a `dtype`."""
    return [load_part(base, part, dtype) for part in FAMILIES[base["family"]].text_encoders]


def token_ids(tokenizers: Sequence, caption: str) -> torch.Tensor:
    """int64 (encoders, 77); what is longer is cut."""
    options = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
    return torch.cat([tokenizer(caption, **options).input_ids for tokenizer in tokenizers])


def conditioning(encoders: Sequence[torch.nn.Module], tokens: torch.Tensor, clip_skip: int) -> Conditioning:
    """`tokens` is int64 (n, encoders, 77).

    SD 1.x and 2.x: the last hidden state, or with clip_skip 2 the one before, through the last layer norm. SDXL: the
    one before the last of each encoder (with clip_skip 1; larger ones count from there, as in diffusers, where A1111
    leaves clip_skip aside for SDXL), side by side, and the second one's text embedding.

    Raises LikenessError if clip_skip reaches past the first layer.
    """
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
