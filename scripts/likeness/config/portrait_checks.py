"""The checks of scenes and places that need the other sections or the disk. A message is a line with the key's path."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from likeness.config.mistakes import hint
from likeness.config.paths import photo_folder
from likeness.config.portrait_sections import Place, Scene
from likeness.config.prompt_checks import calls
from likeness.config.sections import Subject
from likeness.core.errors import LikenessError
from likeness.core.section import quote
from likeness.models.prompts import drawn_words
from likeness.photos.file_kinds import checked_photos


def problems_of_scenes(scenes: Mapping[str, Scene], subjects: Mapping[str, Subject]) -> list[str]:
    """Messages for negative prompts that contain a subject's trigger."""
    return [
        f"portraits.scenes.{name}.{message}"
        for name, scene in scenes.items()
        for message in _called_subjects(scene.negative_prompt, subjects)
    ]


def checked_places(
    places: Mapping[str, Place], subjects: Mapping[str, Subject], roots: Iterable[Path], within_job: bool
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Every place with the path of its folder below a root, and the problems of them."""
    checked: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, place in places.items():
        problems += [f"places.{name}.{message}" for message in _called_subjects(place.negative_prompt, subjects)]
        problems += [
            f"places.{name}.faces: no subject {quote(subject)}; expected names of subjects{hint(subject)}"
            for subject in place.faces
            if subject not in subjects
        ]
        try:
            folder = photo_folder(place.pictures, roots, "people, or paintings of them")
            if not within_job:
                checked_photos(place.pictures, folder)
            checked[name] = place.model_dump() | {"pictures": str(folder)}
        except LikenessError as error:
            problems.append(f"places.{name}.pictures: {error}")
    return checked, problems


def _called_subjects(negative_prompt: str | None, subjects: Mapping[str, Subject]) -> list[str]:
    return [
        f"negative_prompt: {quote(negative_prompt)} has {quote(subject.trigger)}, which calls {name}; leave it out"
        for name, subject in subjects.items()
        if negative_prompt and calls(drawn_words(negative_prompt), subject.trigger)
    ]
