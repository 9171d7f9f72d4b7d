"""CLIP's tokenizer from its published merge list: what a base model without tokenizer files needs."""

import gzip
from pathlib import Path

# CLIP's vocabulary (Radford et al. 2021): 256 bytes, the same 256 at a word's end, 48,894 merges, 2 marks.
MERGES = 49152 - 256 - 2


def clip_tokenizer(merge_list: Path):
    """transformers' CLIPTokenizer from bpe_simple_vocab_16e6.txt.gz: 49,408 tokens, 77 per prompt."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(merge_list.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : MERGES + 1]]
    letters = list(_byte_letters().values())
    tokens = letters + [f"{letter}</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=77,
    )


def _byte_letters() -> dict[int, str]:
    """GPT-2's reversible byte -> printable letter map, printable bytes first: the order gives the token numbers."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + n) for n, b in enumerate(others)}
