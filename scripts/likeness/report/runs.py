"""The page that compares the runs of a subject: which one to use, their different settings, and their pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from likeness.choosing.choice import chosen_cell
from likeness.choosing.scores import PAIR, in_chosen_cell, picture_label
from likeness.choosing.selection import compare
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
        blocks=_blocks(runs, choices),
    )


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """{run: ["rank 32", ...]} of the settings that are not the same in all runs."""
    flat = {
        name: {(section, key): value for section in SECTIONS for key, value in sections[section].items()}
        for name, sections in settings.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if any(values[key] != flat[next(iter(flat))][key] for values in flat.values())]
    return {name: [f"{key[1]} {_text(values[key])}" for key in differing] for name, values in flat.items()}


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
    """One block per prompt: {prompt, rows: [{seed, tiles}]}, with a tile for the base model and for the chosen cell of
    each run."""
    base = pd.concat([table[table["epoch"] == 0] for table in runs.values()]).drop_duplicates(PAIR)
    columns = [("base model", base)]
    for name, table in runs.items():
        columns.append((name, table[in_chosen_cell(table, choices[name])]))
    blocks = []
    for prompt, rows in base.groupby("prompt", sort=False):
        seeds = [
            {"seed": seed, "tiles": [_tile(name, table, prompt, seed) for name, table in columns]}
            for seed in sorted(rows["seed"])
        ]
        blocks.append({"prompt": prompt, "rows": seeds})
    return blocks


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
