#!/usr/bin/env python3
"""Write resources/known_words.txt, the words for which Stable Diffusion's text encoder has a token of its own:
tools/make_known_words.py bpe_simple_vocab_16e6.txt.gz"""

import gzip
import sys
from pathlib import Path

# CLIP's vocabulary (MIT licence) is sorted by frequency. The first 25,000 pieces contain the words and names that
# people use. Triggers are rare pieces: shs is number 15,672, ohwx 47,481, sks 47,624.
FIRST = 25_000
HEAD = f"""# Words that the base model knows, so that as a trigger they mean something else already. Made by
# tools/make_known_words.py: those of three letters and more among the first {FIRST} pieces of CLIP's vocabulary.
"""


def known_words(vocabulary: Path) -> list[str]:
    """The whole words in the order of the vocabulary. Its lines are pairs of pieces; </w> marks the end of a word."""
    pairs = gzip.decompress(vocabulary.read_bytes()).decode().splitlines()[1 : FIRST + 1]
    words = [pair.replace(" ", "").removesuffix("</w>") for pair in pairs if pair.endswith("</w>")]
    return sorted({word for word in words if word.isalpha() and len(word) > 2})


if __name__ == "__main__":
    Path("resources/known_words.txt").write_text(HEAD + "\n".join(known_words(Path(sys.argv[1]))) + "\n")
