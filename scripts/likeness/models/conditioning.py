"""The U-Net's conditioning on a text: the hidden states of the text encoders and, for SDXL, a pooled embedding.

Encoders and tokenizers are lists with one entry for each text encoder of the family (load_text_encoders).
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from likeness.core.errors import LikenessError
from likeness.models.base_model import load_part
from likeness.models.families import FAMILIES
from likeness.models.tokenizer import TOKENS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CHUNK = TOKENS - 2  # tokens of a chunk without its begin and end


class Conditioning(NamedTuple):
    """`hidden` (n, tokens, width), with 77 tokens for one chunk; `pooled` (n, width) for SDXL, else None."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None


def load_tokenizers(base: Mapping[str, Any]) -> list["CLIPTokenizer"]:
    parts = FAMILIES[base["family"]].text_encoders
    return [load_part(base, part.replace("text_encoder", "tokenizer")) for part in parts]


def load_text_encoders(base: Mapping[str, Any], dtype: torch.dtype | None = None) -> list[torch.nn.Module]:
    """The text encoders, by default in fp32."""
    return [load_part(base, part, dtype) for part in FAMILIES[base["family"]].text_encoders]


def token_ids(tokenizers: Sequence["CLIPTokenizer"], caption: str, max_token_length: int = CHUNK) -> torch.Tensor:
    """A caption's tokens, int64 (encoders, 77). A `max_token_length` of 150 or 225 gives 2 or 3 chunks of 75 tokens:
    int64 (encoders, 2 or 3, 77). A longer caption is cut. Brackets have no special meaning.

    The chunks are those of kohya's library/strategy_base.py, _get_input_ids: each has its own begin and end token. If
    the tokenizer's padding is not its end token, the end token directly follows the last word; in a chunk without
    words it is the first token after the begin.
    """
    length = max_token_length + 2
    whole = torch.cat(
        [
            tokenizer(caption, padding="max_length", truncation=True, max_length=length, return_tensors="pt").input_ids
            for tokenizer in tokenizers
        ]
    )
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
    """The conditioning on `tokens`, int64 (n, encoders, 77) or (n, encoders, chunks, 77).

    SD 1.x and 2.x use the last hidden state, or with clip_skip 2 the one before it, followed by the final layer norm.
    SDXL uses the hidden state before the last of each encoder, concatenated along the width, and the text embedding of
    the second encoder. There clip_skip counts from the state before the last, as in diffusers; A1111 ignores clip_skip
    for SDXL. Chunks are concatenated with a single begin and end around all of them, and the text embedding is that of
    the first chunk (kohya's library/strategy_sd.py and strategy_sdxl.py, encode_tokens).

    Raises LikenessError if clip_skip is larger than the number of layers.
    """
    if tokens.dim() == 4:
        n, _, chunks, _ = tokens.shape
        read = conditioning(encoders, tokens.transpose(1, 2).flatten(0, 1), clip_skip)
        hidden = read.hidden.unflatten(0, (n, chunks))
        words = hidden[:, :, 1:-1].flatten(1, 2)
        pooled = None if read.pooled is None else read.pooled[::chunks]
        return Conditioning(torch.cat([hidden[:, 0, :1], words, hidden[:, -1, -1:]], dim=1), pooled)
    outputs = [encoder(tokens[:, i], output_hidden_states=True) for i, encoder in enumerate(encoders)]
    # The first hidden state is the embedding, before any layer. SDXL starts one layer below the last.
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
    inner: Any = getattr(encoders[0], "text_model", encoders[0])  # transformers before and after 5.6
    return Conditioning(inner.final_layer_norm(outputs[0].hidden_states[-clip_skip]), None)


@cache
def size_ids(height: int, width: int, n: int, device: torch.device) -> torch.Tensor:
    """SDXL's size conditioning, (n, 6): original height and width, top and left of the crop, target height and width.
    Pictures have their final size already, so original and target are equal. The tensor is cached, because a copy to
    the GPU would make it wait."""
    return torch.tensor([[height, width, 0, 0, height, width]] * n, device=device)
