"""Write a config.yaml for a project of kohya's: its folder, the JSON of kohya_ss' GUI, or a TOML of sd-scripts.

Photos are neither copied nor changed: config.yaml points to their folders. What has no place here is printed.
"""

import argparse
import os
from pathlib import Path

from likeness.core import cli
from likeness.core.errors import LikenessError
from likeness.kohya.new_config import CONSENTS, NewConfig, new_config
from likeness.kohya.project_files import read_project

PROGRAM = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="the project's folder or its img folder, or a .json or .toml file")
    parser.add_argument("--out", type=Path, default=Path("config.yaml"), help="the file to write (config.yaml)")
    parser.add_argument(
        "--consent", choices=CONSENTS, help="who agreed to the likeness; else you write it into the file"
    )
    args = parser.parse_args()
    check_is_free(args.out)
    new = new_config(read_project(args.source), args.source, args.out, args.consent, PROGRAM)
    try:
        with open(args.out, "x", encoding="utf-8") as file:  # "x": also a file that appeared just now is kept
            file.write(new.text)
    except FileExistsError:
        check_is_free(args.out)
    tell(args.out, new)


def check_is_free(out: Path) -> None:
    """Raises LikenessError if a file is there, or no folder to write it into."""
    if os.path.lexists(out):
        raise LikenessError(
            f"{out} exists, and no file is overwritten; rename it, or write another one: --out mine.yaml"
        )
    if not out.parent.is_dir():
        raise LikenessError(f"no folder {str(out.parent)!r} to write {out.name} into; make it")


def tell(out: Path, new: NewConfig) -> None:
    cli.say(f"{out} is written")
    parts = {
        "Not exactly as in kohya:": new.inexact,
        "Without a place here:": [f"{key}: {reason}" for key, reason in sorted(new.without_place.items())],
        "Before the first run, write or correct:": new.problems,
    }
    for title, lines in parts.items():
        if lines:
            cli.say("\n".join([title, *(f"  {line}" for line in lines)]))
    cli.say("Faces are cut out and photos are chosen: see docs/kohya.md, Bring your project")
    if out.name != "config.yaml":
        cli.say("To run it, name it config.yaml: beside another config.yaml, its keys would count too")


if __name__ == "__main__":
    cli.run(main)
