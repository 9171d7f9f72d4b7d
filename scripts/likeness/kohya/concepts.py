"""Kohya's concept folders ("25_ohwx woman") as subjects."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from likeness.config.checks import RESERVED_SUBJECTS
from likeness.core.errors import LikenessError
from likeness.photos.file_kinds import photo_files

FOLDER_NAME = re.compile(r"(\d+)(?:_(.*))?", re.DOTALL)


class Concept(NamedTuple):
    """A folder of pictures, how often each is shown, and kohya's class_tokens, which may be empty."""

    folder: Path
    repeats: int
    words: str

    @property
    def trigger(self) -> str:
        """The first word of several; empty if it cannot be told from a class noun."""
        first, _, rest = self.words.partition(" ")
        return first if rest else ""

    @property
    def class_noun(self) -> str:
        return self.words.partition(" ")[2]


def concept_of(folder: Path) -> Concept | None:
    """The concept that a folder's name says, as sd-scripts reads it; None if the name does not begin with a number."""
    name = FOLDER_NAME.fullmatch(folder.name)
    if not name or int(name[1]) < 1:
        return None
    return Concept(folder, int(name[1]), words_of(name[2] or ""))


def words_of(text: str) -> str:
    """Class tokens with single blanks, and without commas, which end a part of a caption."""
    return " ".join(text.replace(",", " ").split())


def concepts_in(folder: Path) -> list[Concept]:
    """The concepts of the folders directly in a folder, sorted; empty if it does not exist."""
    if not folder.is_dir():
        return []
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return [concept for path in folders if (concept := concept_of(path))]


def photo_count(concept: Concept) -> int:
    return len(photo_files(concept.folder))


def check_one_number_of_repeats(concepts: Sequence[Concept]) -> None:
    """Raises LikenessError if concepts have different repeats. All subjects share the section train."""
    if len({concept.repeats for concept in concepts}) > 1:
        names = ", ".join(concept.folder.name for concept in concepts)
        raise LikenessError(
            f"the concepts have different repeats ({names}), and train.repeats is one number for all subjects; import "
            f"one folder at a time, for example {str(concepts[0].folder)!r}, or give all the same number"
        )


def subjects_of(concepts: Iterable[Concept], regularisation: Sequence[Concept]) -> dict[str, dict[str, Any]]:
    """The subjects by name, without consent. Their folders are paths as they were found."""
    subjects: dict[str, dict[str, Any]] = {}
    for concept in concepts:
        subject = {"photos": concept.folder, "trigger": concept.trigger, "class_noun": concept.class_noun}
        alike = [reg for reg in regularisation if reg.words == concept.class_noun]
        if alike or regularisation:
            subject["regularisation"] = (alike or regularisation)[0].folder
        subjects[_free_name(concept.words or concept.folder.name, subjects)] = subject
    return subjects


def _free_name(words: str, taken: Iterable[str]) -> str:
    """A subject's name from words: letters from A to Z, digits and _, and not a name that is taken or reserved."""
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")[:90] or "subject"
    reserved = {*RESERVED_SUBJECTS, *(other.lower() for other in taken)}  # some file systems ignore case
    numbered = (name if number == 1 else f"{name}_{number}" for number in range(1, 10_000))
    return next(free for free in numbered if free.lower() not in reserved)


def of_regularisation(concepts: Sequence[Concept], regularisation: Sequence[Concept]) -> list[str]:
    """What becomes different for regularisation photos, in sentences."""
    if not regularisation:
        return []
    used = {subject["regularisation"] for subject in subjects_of(concepts, regularisation).values()}
    unused = [reg.folder.name for reg in regularisation if reg.folder not in used]
    notes = ["regularisation photos are shown as often as the subject's; their own repeats have no place"]
    return notes + [f"regularisation folders that no subject gets: {', '.join(unused)}"] * bool(unused)
