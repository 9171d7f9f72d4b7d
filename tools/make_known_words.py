#!/usr/bin/env python3
"""Write resources/known_words.txt, the words that Stable Diffusion's text encoder has a token of its own for:
tools/make_known_words.py bpe_simple_vocab_16e6.txt.gz"""

import gzip
import sys
from pathlib import Path

# CLIP's vocabulary (MIT licence) joined the most frequent pieces of its captions first. After so many it has the words
# and names that people use; far behind them are the rare ones of triggers: shs 15,672, ohwx 47,481, sks 47,624.
FIRST = 25_000
HEAD = f"""# Words that the base model knows, so that as a trigger they mean something else already. Made by
# tools/make_known_words.py: those of three letters and more among the first {FIRST} pieces of CLIP's vocabulary.
"""


def known_words(vocabulary: Path) -> list[str]:
    """Whole words in the order of the vocabulary, whose lines are pairs of pieces; </w> ends a word."""
    pairs = gzip.decompress(vocabulary.read_bytes()).decode().splitlines()[1 : FIRST + 1]
    words = [pair.replace(" ", "").removesuffix("</w>") for pair in pairs if pair.endswith("</w>")]
    return sorted({word for word in words if word.isalpha() and len(word) > 2})


if __name__ == "__main__":
    Path("resources/known_words.txt").write_text(HEAD + "\n".join(known_words(Path(sys.argv[1]))) + "\n")
