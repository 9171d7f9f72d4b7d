"""Join pictures side by side at one height: the README's second picture, of the demonstration's results.

    python tools/join_pictures.py docs/face.jpg results/ava/portrait/places/meadow/0000_original.png \
        results/ava/portrait/places/meadow/0000_s1_face.png resources/people/ava/04.jpg

The result has the mark of pictures that are made by AI, because all of these are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from likeness.drawing.marking import marked_jpeg  # noqa: E402
from likeness.photos.images import lanczos, read_photo  # noqa: E402

HEIGHT = 400  # px; three squares are as wide as the README's text
GAP = 8  # px
QUALITY = 92


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("joined", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    args = parser.parse_args()
    parts = []
    for path in args.pictures:
        picture = read_photo(path)
        width = round(picture.shape[1] * HEIGHT / picture.shape[0])
        parts += [np.full((HEIGHT, GAP, 3), 255, np.uint8), lanczos(picture, width, HEIGHT)]
    args.joined.write_bytes(marked_jpeg(np.hstack(parts[1:]), QUALITY))


if __name__ == "__main__":
    main()
