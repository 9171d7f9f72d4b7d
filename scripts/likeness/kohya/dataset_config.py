"""sd-scripts' dataset_config: its subsets as concepts, and the settings that they share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from likeness.core.errors import LikenessError
from likeness.core.section import quote
from likeness.kohya.concepts import Concept, concept_of, words_of
from likeness.kohya.conversion import is_on, number
from likeness.kohya.mapping import OF_REGULARISATION

OF_A_SUBSET = ("image_dir", "num_repeats", "class_tokens", "is_reg")


class Dataset(NamedTuple):
    """The concepts of a dataset_config, its regularisation pictures, and its other settings."""

    concepts: list[Concept]
    regularisation: list[Concept]
    settings: dict[str, Any]


def is_dataset(content: Mapping[str, Any]) -> bool:
    return "datasets" in content


def dataset_of(file: Path, content: Mapping[str, Any]) -> Dataset:
    """What a dataset_config says. A subset's setting goes before that of its dataset, and this before that of general.
    Raises LikenessError if it has no folder, or if subsets of people have different settings."""
    merged = [
        general | {key: value for key, value in dataset.items() if key != "subsets"} | _table(file, "subsets", subset)
        for general in [_table(file, "general", content.get("general", {}))]
        for dataset in (_table(file, "datasets", dataset) for dataset in _tables(file, "datasets", content["datasets"]))
        for subset in _tables(file, "subsets", dataset.get("subsets", []))
    ]
    concepts: list[Concept] = []
    regularisation: list[Concept] = []
    settings: list[dict[str, Any]] = []
    of_class: list[dict[str, Any]] = []
    for subset in merged:
        is_reg = is_on(subset.get("is_reg"))
        (regularisation if is_reg else concepts).append(_concept(file, subset))
        own = {key: value for key, value in subset.items() if key not in OF_A_SUBSET}
        (of_class if is_reg else settings).append(own)
    for other in settings[1:]:
        if different := [key for key in {**settings[0], **other} if settings[0].get(key) != other.get(key)]:
            key = different[0]
            raise LikenessError(
                f"{file}: the subsets have different {key} ({settings[0].get(key)!r}, {other.get(key)!r}), and all "
                "subjects share one training; keep one of them in a copy of the file"
            )
    shared = settings[0] if settings else {}
    other = {
        f"{key}{OF_REGULARISATION}": value for own in of_class for key, value in own.items() if shared.get(key) != value
    }
    return Dataset(concepts, regularisation, _under_sd_scripts_names(shared) | other)


def _tables(file: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LikenessError(f"{file}: {key} is no list; expected [[{key}]]")
    return value


def _table(file: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LikenessError(f"{file}: {key} has {quote(value)}; expected keys with their values")
    return value


def _concept(file: Path, subset: Mapping[str, Any]) -> Concept:
    if "image_dir" not in subset or "metadata_file" in subset:
        raise LikenessError(
            f"{file}: a subset has no image_dir or has a metadata_file; expected a folder of photos with captions in "
            ".txt files beside them"
        )
    folder = Path(str(subset["image_dir"]))
    named = concept_of(folder)
    words = words_of(str(subset.get("class_tokens") or (named.words if named else "")))
    return Concept(folder, int(number("num_repeats", subset.get("num_repeats", 1))), words)


def _under_sd_scripts_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {("train_batch_size" if key == "batch_size" else key): value for key, value in settings.items()}
