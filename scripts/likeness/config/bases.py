"""The base models of a configuration: which one each run trains on, which one draws it, and the names of their files.

A base model is known by its settings: the model, its revision, its VAE and its prediction type. Its file is
results/base{name}.json. The name is empty for the base model of the top level.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from likeness.config.sections import Config, Run
from likeness.core.provenance import canonical, digest
from likeness.core.section import BASE_KEYS, MODEL_KEYS, Section, quote
from likeness.models.families import Family

LONGEST_NAME = 40  # letters of a model's name in a file's name: enough to tell models apart for a reader


def base_settings(section: Section, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """The BASE_KEYS of a section that may name a base model in the place of another one, whose BASE_KEYS are
    `otherwise`. A revision, a VAE and a prediction type belong to one model: if the section names a model, they are not
    taken from the other one."""
    own = {key: getattr(section, key) for key in BASE_KEYS}
    inherited = otherwise if own["base_model"] is None else {"clip_skip": otherwise["clip_skip"]}
    return {key: inherited.get(key) if own[key] is None else own[key] for key in BASE_KEYS}


def without_model(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section that a run overrides, without those of another base model than the run's."""
    return {key: value for key, value in values.items() if "base_model" not in overrides or key not in MODEL_KEYS}


def top_level_base(config: Config) -> dict[str, Any]:
    """The BASE_KEYS of the top level."""
    return {key: getattr(config, key) for key in BASE_KEYS}


def base_of_run(run: Run, top: Mapping[str, Any]) -> dict[str, Any]:
    """The BASE_KEYS of the base model that a run trains on, its name as `base`, and `latents`, the name in
    latents{name}.safetensors, which depend on clip_skip too. `top` has the BASE_KEYS of the top level."""
    settings = base_settings(run, top)
    base = base_name(settings, top)
    skip = "" if settings["clip_skip"] == top["clip_skip"] else f"-clip_skip{settings['clip_skip']}"
    return settings | {"base": base, "latents": base + skip}


def base_name(settings: Mapping[str, Any], top: Mapping[str, Any]) -> str:
    """The name in base{name}.json of a base model: "" for that of the top level, else its file's or folder's name and a
    hash of its settings."""
    known_by = [settings[key] for key in MODEL_KEYS]
    if known_by == [top[key] for key in MODEL_KEYS]:
        return ""
    words = re.sub(r"\W+", "_", PurePath(settings["base_model"]).name.removesuffix(".safetensors"), flags=re.ASCII)
    return f"-{words[:LONGEST_NAME]}-{digest(canonical(known_by))[:8]}"


def bases_by_place(runs: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The BASE_KEYS of every base model, by the path of its keys where it is named first: "" is the top level.

    `runs` are complete, with base_of_run; `top` has the BASE_KEYS of the top level.
    """
    of_runs = [(f"runs.{name}.", run) for name, run in runs.items()]
    drawing = [(f"runs.{name}.sample.", run["sample"]) for name, run in runs.items() if run["sample"]]
    portraits = [("portraits.", run["portraits"]) for run in runs.values() if run["sample"]]
    places: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for place, settings in [("", top), *of_runs, *drawing, *portraits]:
        places.setdefault(base_name(settings, top), (place, settings))
    return dict(places.values())


def all_bases(
    runs: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any], family_of: Callable[[str], Family | None]
) -> dict[str, Any]:
    """Every base model by its name: its MODEL_KEYS, and `same_family`, the names of earlier ones whose family it must
    have. These are those that exchange a LoRA with it and for which `family_of` does not tell whether they may.

    `family_of` gives the family of a model, None if only a job can tell it. The others are as in bases_by_place.
    """
    bases: dict[str, Any] = {
        base_name(settings, top): {key: settings[key] for key in MODEL_KEYS} | {"same_family": []}
        for settings in bases_by_place(runs, top).values()
    }
    order = list(bases)
    for pair in _exchanges(runs):
        if None in [family_of(bases[name]["base_model"]) for name in pair]:
            # Always the later one of two: if each needed the other, none could be made.
            earlier, later = sorted(pair, key=order.index)
            bases[later]["same_family"] = sorted({*bases[later]["same_family"], earlier})
    return bases


def other_families(runs: Mapping[str, Mapping[str, Any]], family_of: Callable[[str], Family | None]) -> list[str]:
    """Messages for runs that are drawn with a model of another family than the one that they are trained on, as far as
    `family_of` tells it. Of runs with the same two models only the first is named. The arguments are as in all_bases.
    """
    messages = []
    for name, section in _exchanges(runs).values():
        trained, drawing = runs[name]["base_model"], runs[name][section]["base_model"]
        expected, found = family_of(trained), family_of(drawing)
        if expected and found and expected is not found:
            place = "portraits" if section == "portraits" else f"runs.{name}.sample"
            messages.append(
                f"{place}.base_model: {quote(drawing)} is a {found.title}, but the LoRA is trained on "
                f"{quote(trained)}, a {expected.title}, and works with no other family; name a model of that one"
            )
    return messages


def _exchanges(runs: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], tuple[str, str]]:
    """The names of two base models, of which the first trains a LoRA and the second draws with it, each with the first
    run of these two and the section that names the second. Two settings of one model are of one family."""
    exchanges: dict[tuple[str, str], tuple[str, str]] = {}
    for name, run in runs.items():
        for section, base in (("sample", "drawing_base"), ("portraits", "portrait_base")):
            if run["sample"] and run[section]["base_model"] != run["base_model"]:
                exchanges.setdefault((run["base"], run[base]), (name, section))
    return exchanges
