"""Class pictures: pictures of other people of the subject's class, drawn by the base model. Training on them preserves
the class.

kohya calls them regularisation images, diffusers calls them class images.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from likeness.core.errors import LikenessError
from likeness.core.provenance import digest
from likeness.drawing.faults import SECOND_FACE, is_broken
from likeness.drawing.sampling import Cell
from likeness.faces.detection import Detector

# At least one in three pictures must be usable. A base model that does worse does not know the class.
TRIES = 3


def candidates(captions: Sequence[str], count: int) -> Iterator[Cell]:
    """TRIES x count pictures in the order in which they are drawn: every caption with its first seed, then every
    caption with its second seed, and so on.

    A caption's first seed is computed from its text. So no two pictures have the same noise, and another caption or a
    higher count does not change the other pictures.
    """
    first = {caption: int(digest(caption)[:7], 16) for caption in captions}
    cells = (Cell(0.0, text, "untrained", seed + turn) for turn in range(TRIES * count) for text, seed in first.items())
    return islice(cells, TRIES * count)


def choose_pictures(captions: Sequence[str], count: int, faults: Callable[[Sequence[Cell]], list[str]]) -> list[Cell]:
    """The first `count` candidates without a fault. `faults` draws some pictures and gives the fault of each.

    Raises LikenessError if there are too few.
    """
    remaining = candidates(captions, count)
    kept: list[Cell] = []
    fault_counts: Counter[str] = Counter()
    while len(kept) < count:
        cells = list(islice(remaining, count - len(kept)))
        if not cells:
            raise LikenessError(
                f"the base model drew {TRIES * count} class pictures, of which {len(kept)} can be used and {count} are "
                f"wanted ({', '.join(f'{what}: {number}' for what, number in sorted(fault_counts.items()))}); raise "
                "sample.steps, lower regularisation_images, or set regularisation to a folder of photos of other people"
            )
        results = dict(zip(cells, faults(cells), strict=True))
        kept += [cell for cell, fault in results.items() if not fault]
        fault_counts.update(fault for fault in results.values() if fault)
    return kept


def fault(image: np.ndarray, detector: Detector) -> str:
    """The reason why uint8 RGB (height, width, 3) cannot be a class picture: "broken", "no face" or "several faces"; ""
    if it can be one."""
    if is_broken(image):
        return "broken"
    rows = detector.faces(image)
    if not rows:
        return "no face"
    return "several faces" if any(row["w"] >= SECOND_FACE * rows[0]["w"] for row in rows[1:]) else ""
