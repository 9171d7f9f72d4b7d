"""Kohya's files: a project folder, the GUI's JSON, and sd-scripts' TOML."""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from likeness.config.mistakes import hint
from likeness.config.paths import found_below
from likeness.config.yaml_file import file_text
from likeness.core.errors import LikenessError
from likeness.core.section import quote
from likeness.kohya.concepts import Concept, check_one_number_of_repeats, concept_of, concepts_in
from likeness.kohya.dataset_config import Dataset, dataset_of, is_dataset
from likeness.kohya.gui_settings import sd_scripts_settings
from likeness.kohya.mapping import SD_SCRIPTS_DEFAULTS

EXPECTED = "expected a folder with folders such as '25_ohwx woman' in it"


class Project(NamedTuple):
    """What kohya's files say. `settings` has sd-scripts' names; None if there are only folders."""

    concepts: list[Concept]
    regularisation: list[Concept]
    settings: dict[str, Any] | None
    roots: tuple[Path, ...]
    """Where relative paths of the settings lead."""


def read_project(source: Path) -> Project:
    """What a project's folder, img folder, JSON or TOML says. Raises LikenessError if it is none of them."""
    if source.is_dir():
        project = _project_of_folders(source)
    elif not source.is_file():
        raise LikenessError(f"no file or folder {quote(str(source))}{hint(str(source))}")
    elif source.suffix.lower() == ".json":
        project = _with_folders(sd_scripts_settings(_json(source)), None, source)
    elif source.suffix.lower() == ".toml":
        project = _project_of_toml(source)
    else:
        raise LikenessError(f"{source}: expected a folder, the GUI's .json, or a .toml of sd-scripts")
    check_one_number_of_repeats(project.concepts)
    return project


def _project_of_folders(folder: Path) -> Project:
    if concept := concept_of(folder.absolute()):
        return Project([concept._replace(folder=folder)], [], None, ())
    project, images = (folder, folder / "img") if (folder / "img").is_dir() else (folder.absolute().parent, folder)
    regularisation = concepts_in(project / "reg") if images.absolute().name == "img" else []
    return Project(_checked(concepts_in(images), str(images)), regularisation, None, ())


def _checked(concepts: list[Concept], where: str) -> list[Concept]:
    if not concepts:
        raise LikenessError(f"no concept in {quote(where)}; {EXPECTED}")
    return concepts


def _project_of_toml(source: Path) -> Project:
    content = _toml(source)
    if is_dataset(content):
        dataset = dataset_of(source, {key: content.pop(key) for key in ("general", "datasets") if key in content})
    else:
        dataset = None
    # As sd-scripts does: the keys of all sections as one, the last one counts.
    settings: dict[str, Any] = {}
    for key, value in content.items():
        settings |= value if isinstance(value, dict) else {key: value}
    # With a dataset_config alone, the settings were arguments of a command that is not known.
    return _with_folders(SD_SCRIPTS_DEFAULTS | settings if settings else {}, dataset, source)


def _with_folders(settings: dict[str, Any], dataset: Dataset | None, source: Path) -> Project:
    """The project of settings: its concepts are in a dataset_config, or in the folders that the settings name."""
    roots: tuple[Path, ...] = (Path("."), source.parent)
    if dataset is None and (named := settings.pop("dataset_config", None)):
        file = _existing("dataset_config", str(named), roots)
        dataset = dataset_of(file, _toml(file))
        roots = (*roots, file.parent)
    train, regularisation = settings.pop("train_data_dir", None), settings.pop("reg_data_dir", None)
    if dataset:
        settings |= dataset.settings
        concepts, of_class = (list(_located(found, roots)) for found in (dataset.concepts, dataset.regularisation))
        return Project(_checked(concepts, str(source)), of_class, settings, roots)
    if not train:
        raise LikenessError(f"{source}: has neither train_data_dir nor datasets; {EXPECTED}")
    concepts = concepts_in(_existing("train_data_dir", str(train), roots))
    of_class = concepts_in(_existing("reg_data_dir", str(regularisation), roots)) if regularisation else []
    return Project(_checked(concepts, str(train)), of_class, settings, roots)


def _located(concepts: Iterable[Concept], roots: tuple[Path, ...]) -> Iterable[Concept]:
    return (concept._replace(folder=_existing("image_dir", str(concept.folder), roots)) for concept in concepts)


def _existing(key: str, path: str, roots: tuple[Path, ...]) -> Path:
    """Where a path of the settings leads. Raises LikenessError if nothing is there."""
    found = found_below(path, roots)
    if found is None:
        raise LikenessError(f"{key}: nothing at {quote(path)}; correct it in a copy of the file{hint(path)}")
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file_text(file))
    except json.JSONDecodeError as error:
        raise LikenessError(f"{file}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise LikenessError(f"{file}: is nested deeper than any setting") from None
    if not isinstance(content, dict):
        raise LikenessError(f"{file}: has no keys; expected the JSON that the GUI saves")
    return content


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file_text(file))
    except tomllib.TOMLDecodeError as error:
        raise LikenessError(f"{file}: {str(error).lower()}") from None
    except RecursionError:
        raise LikenessError(f"{file}: is nested deeper than any setting") from None
