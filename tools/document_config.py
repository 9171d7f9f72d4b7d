#!/usr/bin/env python3
"""Write docs/config.md and docs/config.schema.json from the models in scripts/likeness/config."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.config.sections import json_schema  # noqa: E402

HEAD = """# config.yaml, key by key

This page lists every key of `config.yaml`, its default and its meaning. It is made by `tools/document_config.py` from
`scripts/likeness/config/`. With `docs/config.schema.json` editors complete and check the file. A run may override any
key of `train`, `sample` and `select`, and the base model.

## How it is read

**The file** is YAML or JSON in UTF-8. A key that is left empty has its default. Where the table says "or empty", empty
is a value of its own. `~` and variables in paths are not replaced.

**Mistakes** are reported before the first job, each in one line. The line has the path of the key, or the line of the
file if the file cannot be read at all. These are mistakes:

* an unknown key. The message names the key that was probably meant: the nearest key, the same key in another section,
  or the key for what kohya, ai-toolkit, OneTrainer, A1111 or diffusers call so
* a key that stands twice in one place, because only the last would count
* a key that YAML does not read as text (`no:`, `1:`): write it between quotes
* tags, Snakemake's YAML templates, and aliases that stand for more than 100,000 values
* numbers that YAML reads in base 8 (`010`) or base 60 (`1:30`)
* typographic quotes of a word processor

**Other files.** `--configfile mine.yaml` replaces the subjects and the runs. For keys that `mine.yaml` does not have,
those of `config.yaml` hold. Snakemake itself reads `mine.yaml` first. If that file is not YAML or not UTF-8, Snakemake
reports it without the line; the same file as `config.yaml` is reported with the line. A key that stands there twice is
found in both cases. `--config key=value` sets keys of the top level. Within `--config key={...}` Snakemake reads every
number as text, so write those keys into a file.

**A table of subjects** (`subjects: people.tsv`) has tabs between its cells and is saved as UTF-8. Quotes of a
spreadsheet, blanks around cells and empty rows do not matter. A mistake in it is reported with its line.

**Warnings** do not stop the run. There is one

* for a setting that has no effect beside another one (a learning rate of a text encoder that is not trained, a
  bootstrap of one picture)
* for a trigger that the base model knows (`resources/known_words.txt`, the first words of CLIP's vocabulary), or that
  is the subject's name
* for a Stable Diffusion of full size without a GPU. It gives the hours that the run takes at least at 512 px: 18 core
  seconds for each picture that is trained on, as [measured](training.md) on AMD EPYC, and 14 core seconds for each
  step of drawing, by the share of FLOPs
"""


def kind(schema: dict) -> str:
    """A property's type in words."""
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(kind(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}"
    return {"null": "empty", "object": "mapping"}.get(schema.get("type", "object"), schema.get("type", "object"))


def table(model: dict) -> str:
    """A Markdown table of one section's keys."""
    required = model.get("required", [])
    rows = ["| key | kind | default | |", "|---|---|---|---|"]
    for key, schema in model["properties"].items():
        default = "required" if key in required else f"`{json.dumps(schema.get('default'))}`"
        if "$ref" in schema or isinstance(schema.get("default"), dict):
            default = ""
        meaning = " ".join(schema.get("description", "").split()).replace("|", "\\|")
        rows.append(f"| `{key}` | {kind(schema)} | {default} | {meaning} |")
    return "\n".join(rows)


def main() -> None:
    schema = json_schema()
    places = {
        **{"Subject": "subjects.{name}", "Run": "runs.{name}"},
        **{"Scene": "portraits.scenes.{name}", "Place": "places.{name}"},
    }
    parts = [HEAD, "## top level\n\n" + table(schema)]
    for name, model in schema["$defs"].items():
        parts.append(f"## {places.get(name, name.lower())}\n\n{table(model)}")
    (ROOT / "docs/config.md").write_text("\n".join(f"{part.strip()}\n" for part in parts))
    (ROOT / "docs/config.schema.json").write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
