"""decisions.yaml: what a person decides about single photos and about the choice, in the place of the program."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from likeness.config.mistakes import hint, validated
from likeness.config.paths import found_below
from likeness.config.portrait_sections import Face, Name
from likeness.config.yaml_file import file_content
from likeness.core.errors import LikenessError
from likeness.core.section import Count, Number, Prompt, Section, quote
from likeness.photos.file_kinds import matching_name

FILE = "decisions.yaml"
Reason = Literal["several_faces", "too_small", "blurred", "bad_exposure", "occluded", "other_person", "near_duplicate"]
CropSide = Annotated[int, Field(ge=16, le=65_535)]  # px; the longest side that a JPEG can have


def _listed(written: Any) -> Any:
    return written if isinstance(written, list) else [written]


def _as_tuple(written: Any) -> Any:
    """YAML has no tuples."""
    return tuple(written) if isinstance(written, list) else written


class PhotoDecision(Section):
    use: Literal["drop", "train", "heldout"] | None = None
    """drop: leave the photo out. train: train on it. heldout: judge with it, and never train on it. Empty: the program
    decides."""
    keep: Annotated[list[Reason], BeforeValidator(_listed)] = []
    """Reasons for which the program drops the photo, and which you overrule. One that it did not find has no effect."""
    face: Face | None = None
    """The subject's face: largest, a number counted from the left, or a point [x, y] in px on it. Empty: the face that
    is most like the subject."""
    crop: Annotated[tuple[Number, Number, CropSide] | None, BeforeValidator(_as_tuple)] = None
    """The square to train on: [x, y, side], its middle and its side in px of the upright photo. Empty: the square
    around the face."""
    rotation: Annotated[Number, Field(ge=-180, le=180)] | None = None
    """How far the square is turned clockwise, in degrees. Empty: as the face is."""
    caption: Prompt | None = None
    """The caption. It comes before that of a .txt file beside the photo."""

    @model_validator(mode="after")
    def decided_once(self) -> Self:
        if self.use == "drop" and (self.keep or self.crop or self.caption):
            raise ValueError("use: drop leaves the photo out, so keep, crop and caption have no effect; leave them out")
        if self.caption == "":
            raise ValueError("the caption is empty; write one, or leave the key out")
        return self


class RunDecision(Section):
    epoch: Count
    """The epoch to take."""
    weight: Annotated[Number, Field(gt=0)]
    """The weight to take, one of sample.weights."""


class Decisions(Section):
    photos: dict[str, PhotoDecision] = {}
    """By the photo's file name."""
    runs: dict[Name, RunDecision] = {}
    """By the run's name: the choice by hand."""


# The keys of each place, by the names of mistakes.py.
KEYS = {
    place: list(section.model_fields)
    for place, section in (("", Decisions), ("photos", PhotoDecision), ("runs.{name}", RunDecision))
}


def decisions_file(written: str | None, folder: Path, roots: Iterable[Path]) -> Path | None:
    """The file of a subject's decisions: the one that the configuration names, else FILE in the folder of photos. None
    if there is none. Raises LikenessError if the named one does not exist."""
    if written is None:
        return folder / FILE if (folder / FILE).is_file() else None
    file = found_below(written, roots, os.path.isfile)
    if file is None:
        raise LikenessError(f"no file {quote(written)}; expected a file of decisions{hint(written)}")
    return file


def checked_decisions(
    file: Path | None, photos: Collection[str], runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What the rules are given: `photos` {photo: how it is used and cut}, `captions` {photo: caption} and `choices`
    {run: {epoch, weight}}. Without a file all three are empty.

    `photos` are the names of the files in the subject's folder. A name that differs in case or Unicode form is taken as
    theirs. Raises LikenessError with a line for every mistake.
    """
    content = file_content(file) if file else None
    problems, decisions = validated(Decisions, {} if content is None else content, (), KEYS)
    of_photos: dict[str, PhotoDecision] = {}
    if decisions:
        of_photos, problems = _by_photo(decisions.photos, photos)
        problems += _problems_of_runs(decisions.runs, runs)
    if decisions is None or problems:
        raise LikenessError("\n  ".join(f"{file}: {problem}" for problem in problems))
    nothing = _without_caption(PhotoDecision())
    by_hand = {name: _without_caption(decision) for name, decision in of_photos.items()}
    return {
        "photos": {name: decision for name, decision in by_hand.items() if decision != nothing},
        "captions": {name: each.caption for name, each in of_photos.items() if each.caption},
        "choices": {name: choice.model_dump() for name, choice in decisions.runs.items()},
    }


def _without_caption(decision: PhotoDecision) -> dict[str, Any]:
    return decision.model_dump(exclude={"caption"})


def _by_photo(
    decisions: Mapping[str, PhotoDecision], photos: Collection[str]
) -> tuple[dict[str, PhotoDecision], list[str]]:
    """The decisions by the names that the photos have, and the problems of the names."""
    by_photo: dict[str, PhotoDecision] = {}
    problems = []
    for name, decision in decisions.items():
        photo = matching_name(name, photos)
        if photo is None:
            problems.append(f"photos.{name}: no photo of this name; expected names of files in the folder of photos")
        elif photo in by_photo:
            problems.append(f"photos.{name}: is decided twice; expected each photo once")
        else:
            by_photo[photo] = decision
    return by_photo, problems


def _problems_of_runs(decisions: Mapping[str, RunDecision], runs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, choice in decisions.items():
        if name not in runs:
            yield f"runs.{name}: no run of this name; expected one of {', '.join(runs)}"
        elif choice.weight not in (weights := runs[name]["sample"].get("weights", [choice.weight])):
            drawn = ", ".join(f"{weight:g}" for weight in weights)
            yield f"runs.{name}.weight: nothing is drawn at {choice.weight:g}; expected one of {drawn} (sample.weights)"
