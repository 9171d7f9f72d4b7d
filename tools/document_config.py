#!/usr/bin/env python3
"""Write docs/config.md and docs/config.schema.json from the models in likeness/config.py: tools/document_config.py"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from likeness.config import json_schema  # noqa: E402

HEAD = """# config.yaml, key by key

Made by `tools/document_config.py` from `scripts/likeness/config.py`. Editors complete and check the file with
`docs/config.schema.json`. A run may override any key of `train`, `sample` and `select`.

## How it is read

The file is YAML or JSON in UTF-8. Before the first job every mistake is told in a line, with the path of its key, or
the line of the file where it cannot be read at all. A key twice in one place is a mistake, for only the last would
count; so are keys that YAML does not read as text (`no:`, `1:`: write them between quotes), tags, Snakemake's YAML
templates, and aliases that stand for more than 100,000 values. A key that is left empty has its default; where the
table says "or empty", empty is a value.

`--configfile mine.yaml` replaces the subjects and the runs; the other keys of `config.yaml` hold where `mine.yaml` is
silent. Snakemake itself reads that file first: if it is no YAML, it says so without the line, and a key that stands
there twice is still found.

Warned about, and run all the same: a setting that does nothing beside another one (a rate of a text encoder that is
not trained); a trigger that the base model knows (`resources/known_words.txt`, the first words of CLIP's vocabulary)
or that is the subject's name; a Stable Diffusion of full size without a GPU, with the hours that it takes at least:
18 core seconds for each picture that is trained on and 14 for each step of drawing at 512 px, as
[measured](training.md) on AMD EPYC.
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
    places = {"Subject": "subjects.{name}"}
    parts = [HEAD, "## top level\n\n" + table(schema)]
    for name, model in schema["$defs"].items():
        parts.append(f"## {places.get(name, name.lower())}\n\n{table(model)}")
    (ROOT / "docs/config.md").write_text("\n".join(f"{part.strip()}\n" for part in parts))
    (ROOT / "docs/config.schema.json").write_text(json.dumps(schema, indent=1) + "\n")


if __name__ == "__main__":
    main()
