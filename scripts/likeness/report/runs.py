"""The page that compares the runs of a subject: which to use, what they change, and what each draws."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from likeness.report.page import rendered
from likeness.report.pictures import sample_uri
from likeness.selection import PAIR, chosen_cell, compare, in_chosen_cell, picture_label

SECTIONS = ("train", "sample", "select")


def runs_html(
    runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping], settings: Mapping[str, Mapping], *, subject: str
) -> str:
    """The whole page. Same tables, same text.

    By name and in the order of the configuration: tables of selection.scored_pictures, choices, and the train, sample
    and select sections. The bootstrap is that of the first run's select section.
    """
    select = next(iter(settings.values()))["select"]
    compared = compare(runs, choices, bootstrap=select["bootstrap"], seed=select["seed"])
    changes = changed_settings(settings)
    return rendered(
        "runs.html.j2",
        title=f"{subject}: {len(runs)} runs",
        subject=subject,
        compared=compared,
        choices=choices,
        rows=[_row(name, choice, changes[name], compared) for name, choice in choices.items()],
        blocks=_blocks(runs, choices),
    )


def changed_settings(settings: Mapping[str, Mapping]) -> dict[str, list[str]]:
    """{run: ["rank 32", ...]} of what is not the same in all runs."""
    flat = {
        name: {(section, key): value for section in SECTIONS for key, value in sections[section].items()}
        for name, sections in settings.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    differing = [key for key in keys if any(values[key] != flat[next(iter(flat))][key] for values in flat.values())]
    return {name: [f"{key[1]} {_said(values[key])}" for key in differing] for name, values in flat.items()}


def _said(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items()) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _row(name: str, choice: Mapping, changes: list[str], compared: Mapping) -> dict:
    return {
        "run": name,
        "changes": changes,
        "choice": choice,
        "cell": chosen_cell(choice),
        "used": name == compared["run"],
        "best": name == compared["best"],
        "difference": compared["differences"].get(name),
    }


def _blocks(runs: Mapping[str, pd.DataFrame], choices: Mapping[str, Mapping]) -> list[dict]:
    """One per prompt: {prompt, rows: [{seed, tiles}]}, a tile for the base model and for each run's chosen cell."""
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


def _tile(name: str, table: pd.DataFrame, prompt: str, seed: int) -> dict | None:
    """None where a run did not draw this."""
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
