"""CLIP's tokenizer, made from the published merge list: for base models without tokenizer files."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

# CLIP's vocabulary (Radford et al. 2021): 256 bytes, the same 256 at the end of a word, 48,894 merges, 2 marks.
MERGES = 49152 - 256 - 2
TOKENS = 77  # CLIP's context length, with its two marks


def clip_tokenizer(merge_list: Path) -> "CLIPTokenizer":
    """transformers' CLIPTokenizer from bpe_simple_vocab_16e6.txt.gz: 49,408 tokens, 77 per prompt."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(merge_list.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    letters = list(_byte_letters().values())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]  # transformers says str, and tokenizers wants pairs
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )


def _byte_letters() -> dict[int, str]:
    """GPT-2's reversible map from bytes to printable letters. The printable bytes come first: the order decides the
    numbers of the tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
