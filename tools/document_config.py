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
