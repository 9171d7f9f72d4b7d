"""Class pictures: other people of the subject's class, as the base model draws them, for training to keep the class by.

Called kohya's regularisation images, or diffusers' class images.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from likeness.dataset import NO_IMAGE
from likeness.errors import LikenessError
from likeness.faces import Detector
from likeness.provenance import digest
from likeness.sampling import Cell
from likeness.scoring import SECOND_FACE, is_broken

# Of the pictures that are drawn, one in three must be of use. A base model that does worse does not know the class.
TRIES = 3


def planned(captions: Sequence[str], count: int) -> Iterator[Cell]:
    """TRIES x count pictures to draw in turn: each caption with its first seed, then each with its next one, and so on.

    The first seed follows from the caption. So no two pictures begin with the same noise, and one caption more, or a
    higher count, leaves the others as they are.
    """
    first = {caption: int(digest(caption)[:7], 16) for caption in captions}
    cells = (Cell(0.0, text, "untrained", seed + turn) for turn in range(TRIES * count) for text, seed in first.items())
    return islice(cells, TRIES * count)


def chosen(captions: Sequence[str], count: int, faults: Callable[[Sequence[Cell]], list[str]]) -> list[Cell]:
    """The first `count` planned pictures without a fault. `faults` draws some, and says what is wrong with each.

    Raises LikenessError if there are too few, or no captions.
    """
    if not captions:
        raise LikenessError(NO_IMAGE)
    waiting, kept, wrong = planned(captions, count), [], Counter()
    while len(kept) < count:
        cells = list(islice(waiting, count - len(kept)))
        if not cells:
            raise LikenessError(
                f"the base model drew {TRIES * count} class pictures, of which {len(kept)} can be used and {count} are "
                f"wanted ({', '.join(f'{what}: {number}' for what, number in sorted(wrong.items()))}); raise "
                "sample.steps, lower regularisation_images, or set regularisation to a folder of photos of other people"
            )
        found = dict(zip(cells, faults(cells), strict=True))
        kept += [cell for cell, fault in found.items() if not fault]
        wrong.update(fault for fault in found.values() if fault)
    return kept


def fault(image: np.ndarray, detector: Detector) -> str:
    """What keeps uint8 RGB (height, width, 3) from being a class picture: "broken", "no face", "several faces", or ""
    where nothing does."""
    if is_broken(image):
        return "broken"
    rows = detector.faces(image)
    if not rows:
        return "no face"
    return "several faces" if any(row["w"] >= SECOND_FACE * rows[0]["w"] for row in rows[1:]) else ""
