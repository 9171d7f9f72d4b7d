"""The page that compares the runs of a subject: which one to use, their different settings, and their pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from likeness.choosing.choice import chosen_cell, listed_words
from likeness.choosing.scores import PAIR, in_chosen_cell, picture_label
from likeness.choosing.selection import compare
from likeness.core.section import BASE_KEYS
from likeness.report.page import rendered
from likeness.report.thumbnails import sample_uri

SECTIONS = ("train", "sample", "select")


def runs_html(
    runs: Mapping[str, pd.DataFrame],
    choices: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    subject: str,
) -> str:
    """The text of the page. It depends only on the arguments and the pictures.

    `runs` are tables of scores.scored_pictures, and `settings` the train, sample and select sections. Both, and
    `choices`, are by name and in the order of the configuration. The bootstrap is that of the first run's select
    section.
    """
    select = next(iter(settings.values()))["select"]
    comparison = compare(runs, choices, bootstrap=select["bootstrap"], seed=select["seed"])
    changes = changed_settings(settings)
    return rendered(
        "runs.html.j2",
        title=f"{subject}: {len(runs)} runs",
        subject=subject,
        compared=comparison,
        choices=choices,
        rows=[_row(name, choice, changes[name], comparison) for name, choice in choices.items()],
        columns=[*_base_columns(runs, choices), *runs],
        blocks=_blocks(runs, choices),
    )


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """{run: ["rank 32", ...]} of the settings that are not the same in all runs. The base model that draws is only
    shown where it is not the one that is trained on."""
    flat = {
        name: {("", key): run[key] for key in BASE_KEYS}
        | {(section, key): value for section in SECTIONS for key, value in run[section].items()}
        for name, run in settings.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if any(values[key] != flat[next(iter(flat))][key] for values in flat.values())]
    for key in BASE_KEYS:
        if all(values["sample", key] == values["", key] for values in flat.values()):
            differing = [other for other in differing if other != ("sample", key)]
    return {name: [f"{_name(*key)} {_text(values[key])}" for key in differing] for name, values in flat.items()}


def _name(section: str, key: str) -> str:
    return f"{section}.{key}" if key in BASE_KEYS and section else key


def _text(value: object) -> str:
    """A setting's value as text for the page."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(name: str, choice: Mapping[str, Any], changes: list[str], compared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run": name,
        "changes": changes,
        "choice": choice,
        "cell": chosen_cell(choice),
        "used": name == compared["run"],
        "best": name == compared["best"],
        "difference": compared["differences"].get(name),
    }


def _blocks(runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One block per prompt: {prompt, rows: [{seed, tiles}]}, with a tile for each base model that draws and for the
    chosen cell of each run."""
    bases = _base_columns(runs, choices)
    chosen = {name: table[in_chosen_cell(table, choices[name])] for name, table in runs.items()}
    columns = [*bases.items(), *chosen.items()]
    blocks = []
    for prompt, rows in pd.concat(bases.values()).groupby("prompt", sort=False):
        seeds = [
            {"seed": seed, "tiles": [_tile(name, table, prompt, seed) for name, table in columns]}
            for seed in sorted(rows["seed"].unique())
        ]
        blocks.append({"prompt": prompt, "rows": seeds})
    return blocks


def _base_columns(
    runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping[str, Any]]
) -> dict[str, pd.DataFrame]:
    """The pictures of each base model that draws, without a LoRA, by the heading of its column."""
    runs_of: dict[str, list[str]] = {}
    for name, choice in choices.items():
        runs_of.setdefault(choice["drawn_with"]["digest"], []).append(name)
    columns = {}
    for names in runs_of.values():
        pictures = pd.concat([runs[name][runs[name]["epoch"] == 0] for name in names]).drop_duplicates(PAIR)
        columns[_base_heading(choices, names, len(runs_of))] = pictures
    return columns


def _base_heading(choices: Mapping[str, Mapping[str, Any]], names: Sequence[str], bases: int) -> str:
    """The heading of a base model's column. If there are others, it names the model and the runs that it draws, because
    two base models that differ in their VAE alone have one name."""
    if bases == 1:
        return "base model"
    return f"{PurePath(choices[names[0]]['drawn_with']['model']).name}, which draws {listed_words(names)}"


def _tile(name: str, table: pd.DataFrame, prompt: str, seed: int) -> dict[str, Any] | None:
    """The picture of a run for a prompt and a seed; None if the run has none."""
    rows = table[(table["prompt"] == prompt) & (table["seed"] == seed)]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return {
        "title": f"{name}, {prompt}, seed {seed}",
        "label": picture_label(row),
        "gated": bool(row["gate"]),
        "uri": sample_uri(Path(row["image"])),
    }
