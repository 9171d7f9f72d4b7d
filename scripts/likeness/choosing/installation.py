"""Copying the chosen LoRA to where other programs look for it, without touching a file that is not ours."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.provenance import canonical, file_sha256

# Beside the files, because results/ may be deleted and made again: {file name: {sha256, project}}.
RECORD = ".likeness.json"
COLUMNS = ["file", "sha256", "detail"]


def install(files: Mapping[str, Path], folder: Path, project: str) -> list[dict[str, Any]]:
    """Copy `files` {name: source} into a folder. Returns a row (COLUMNS) for each.

    A file that is there already is replaced if `project` wrote it and nobody has changed it since. A .json or .png that
    somebody changed stays, because programs write notes and previews of the user's into them. Raises LikenessError, and
    copies nothing, if one of the other files is not ours.
    """
    record = _record(folder)
    changed = {name for name in files if (folder / name).exists() and not _is_ours(folder / name, record, project)}
    for name in sorted(changed):
        if not _may_be_edited(name) or record.get(name, {}).get("project") != project:
            raise LikenessError(_not_ours(folder / name, record.get(name)))
    rows = []
    for name, source in files.items():
        if name in changed:
            sha256, detail = file_sha256(folder / name), "was changed since it was installed, so it stays"
        else:
            data = source.read_bytes()
            write_atomic(folder / name, data)
            sha256, detail = hashlib.sha256(data).hexdigest(), ""
            record[name] = {"sha256": sha256, "project": project}
        rows.append({"file": str(folder / name), "sha256": sha256, "detail": detail})
    write_atomic(folder / RECORD, canonical(record) + "\n")
    return rows


def missing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The installed files that are no longer there."""
    return [row["file"] for row in rows if not Path(row["file"]).is_file()]


def _record(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / RECORD).read_text()))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise LikenessError(f"{folder / RECORD} is damaged; delete it, and the LoRAs beside it that are ours") from None


def _is_ours(path: Path, record: Mapping[str, Any], project: str) -> bool:
    about = record.get(path.name)
    return about is not None and about["project"] == project and about["sha256"] == file_sha256(path)


def _may_be_edited(name: str) -> bool:
    return Path(name).suffix in (".json", ".png")


def _not_ours(path: Path, about: Mapping[str, Any] | None) -> str:
    if about is None:
        why = "is there already and is not ours"
    elif about["sha256"] == file_sha256(path):
        why = f"is there already, from the project in {about['project']}"
    else:
        why = "was changed since it was installed"
    return f"{path} {why}; move it away, or give the subject or the run another name. Nothing was installed there"
