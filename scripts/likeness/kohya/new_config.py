"""A config.yaml from a project of kohya's: its text, what changed on the way, and what our checks say of it."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from likeness.config.checks import checked_config
from likeness.config.sections import Config
from likeness.core.errors import LikenessError
from likeness.kohya.concepts import of_regularisation, subjects_of
from likeness.kohya.conversion import SECTIONS, Conversion
from likeness.kohya.mapping import PLACES
from likeness.kohya.network_types import convert_network
from likeness.kohya.optimisation import convert_length, convert_optimizer, convert_rates
from likeness.kohya.paths_here import path_here
from likeness.kohya.project_files import Project
from likeness.kohya.prompt_lines import PROMPTS, convert_samples
from likeness.kohya.single_settings import (
    convert_attention,
    convert_captions,
    convert_model,
    convert_noise_and_loss,
    convert_precision,
    convert_resolution,
)

CONSENTS = ("self", "written", "synthetic")
HEAD = "# From kohya's project {source}, by scripts/import_kohya.py. docs/config.md lists every key.\n"
# The model of examples/sd15.yaml, where kohya's files name none.
BASE_MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# What stands beside keys that kohya's files do not say. The checks ask for an empty one.
TO_WRITE = {
    "consent": "who agreed: self (it is you), written (you hold their written consent), synthetic (nobody exists)",
    "trigger": "the rare word in the captions that calls the person",
    "class_noun": "what the base model calls such a person: woman, man, person",
}


class NewConfig(NamedTuple):
    """The text of a config.yaml, and sentences about it."""

    text: str
    inexact: list[str]
    without_place: dict[str, str]
    problems: list[str]
    """What the checks say, each a line with the key's path."""


def new_config(project: Project, source: Path, out: Path, consent: str | None, program: Path) -> NewConfig:
    """The config.yaml for a project. Its paths are for the folder of `out`; `program` is the folder of the Snakefile.

    Consent is a legal statement, so it is never guessed. It is not required either, because a second import only for
    this word would help nobody: without it the key is left empty, and the checks ask for it before the first job.
    """
    found = subjects_of(project.concepts, project.regularisation)
    conversion = converted(project, found, out.parent)
    subjects = {name: _subject(subject, out.parent, consent) for name, subject in found.items()}
    config = _nested(conversion.config | {"subjects": subjects, "runs": {"portrait": {}}})
    text = HEAD.format(source=ascii(str(source))) + _yaml(config)
    notes = [*conversion.inexact, *of_regularisation(project.concepts, project.regularisation), *_same_trigger(found)]
    return NewConfig(text, notes, conversion.without_place, _problems(text, [out.parent, program]))


def converted(project: Project, subjects: Mapping[str, Mapping[str, Any]], here: Path) -> Conversion:
    """The settings of a project, with paths for a config.yaml in the folder `here`."""
    conversion = Conversion(project.settings or {})
    if project.settings is None:
        conversion.config |= {"train.repeats": project.concepts[0].repeats, "sample.prompts": PROMPTS}
    else:
        _convert_all(conversion, project, subjects, here)
    for key, value in (("base_model", BASE_MODEL), ("resolution", 512)):
        if key not in conversion.config:
            conversion.config[key] = value
            conversion.inexact.append(f"{key}: kohya's files do not say it; {value} is written, correct it")
    return conversion


def _convert_all(
    conversion: Conversion, project: Project, subjects: Mapping[str, Mapping[str, Any]], here: Path
) -> None:
    convert_model(conversion, project.roots, here)
    convert_resolution(conversion)
    for key in ("train_batch_size", "gradient_accumulation_steps"):
        conversion.put(PLACES[key], conversion.take(key, 1), key)
    if "network_module" in conversion.left:
        _convert_training(conversion, project)
    else:
        conversion.config["train.repeats"] = project.concepts[0].repeats
        conversion.inexact.append(
            "learning rate, network and length: a dataset_config does not say them, so ours are used; a --config_file "
            "of sd-scripts with train_data_dir or dataset_config has them"
        )
    convert_captions(conversion)
    convert_samples(conversion, subjects, project.roots)
    conversion.convert_rest()
    conversion.inexact.append(
        "train.preserve_class: kohya has no such loss; here it is on by default (1.0), write 0 for kohya's loss alone"
    )


def _convert_training(conversion: Conversion, project: Project) -> None:
    convert_network(conversion)
    convert_optimizer(conversion)
    convert_rates(conversion)
    convert_length(conversion, project.concepts, bool(project.regularisation))
    convert_precision(conversion)
    convert_attention(conversion)
    convert_noise_and_loss(conversion)


def _subject(found: Mapping[str, Any], here: Path, consent: str | None) -> dict[str, Any]:
    subject: dict[str, Any] = {"photos": path_here(found["photos"], here)}
    subject |= {key: found[key] or None for key in ("trigger", "class_noun")} | {"consent": consent}
    if "regularisation" in found:
        subject["regularisation"] = path_here(found["regularisation"], here)
    return subject


def _same_trigger(subjects: Mapping[str, Mapping[str, Any]]) -> list[str]:
    triggers = [subject["trigger"] for subject in subjects.values() if subject["trigger"]]
    notes = [f"{len(subjects)} concepts: each is a subject with a LoRA of its own, where kohya trains one for all"]
    if len(set(triggers)) < len(triggers):
        notes.append("concepts have the same trigger; if they are one person, put their photos into one folder")
    return notes if len(subjects) > 1 else []


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path as sections, in the order of docs/config.md."""
    nested = {key: flat[key] for key in Config.model_fields if key in flat}
    for section in ("train", "sample"):
        keys = [key for key in SECTIONS[section].model_fields if f"{section}.{key}" in flat]
        nested[section] = {key: flat[f"{section}.{key}"] for key in keys}
    return nested


def _yaml(config: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)
    for key, meaning in TO_WRITE.items():
        text = text.replace(f"\n    {key}: null\n", f"\n    {key}: # {meaning}\n")
    return text


def _problems(text: str, roots: Sequence[Path]) -> list[str]:
    """What the checks say of a configuration. They stop at an empty consent, so first they are asked with one."""
    raw = yaml.safe_load(text)
    with_consent = copy.deepcopy(raw)
    for subject in with_consent["subjects"].values():
        subject["consent"] = subject["consent"] or "synthetic"
    problems = _lines_of_checks(with_consent, roots)
    return problems + [line for line in _lines_of_checks(raw, roots) if line not in problems]


def _lines_of_checks(raw: dict[str, Any], roots: Sequence[Path]) -> list[str]:
    try:
        checked_config(raw, roots)
    except LikenessError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []
