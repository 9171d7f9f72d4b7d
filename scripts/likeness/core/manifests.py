"""Manifests: the tables and JSON files that stages pass to one another. A manifest that was changed after it was
written is an error.

Beside each manifest is a hidden file, `.{name}.made`, with the script that wrote it and its hash.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.provenance import canonical, file_sha256

if TYPE_CHECKING:
    import pandas as pd


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write a tab-separated manifest with a header, columns in the given order, rows as the caller sorted them. A
    column that a row lacks is an empty cell."""
    import pandas as pd

    # Missing values become empty texts: with None in a column pandas would write its whole numbers as 9.0.
    cells = [["" if row.get(column) is None else row[column] for column in columns] for row in rows]
    table = pd.DataFrame(cells, columns=list(columns))
    _write(path, table.to_csv(sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL))


def write_json(path: Path, value: Any, **style: Any) -> None:
    """Write a JSON manifest: by json.dumps with the options in `style`, without options as canonical JSON."""
    _write(path, (json.dumps(value, **style) if style else canonical(value)) + "\n")


def _write(path: Path, text: str) -> None:
    _note(path, hashlib.sha256(text.encode()).hexdigest())
    write_atomic(path, text)


def seal(path: Path) -> None:
    """Record the hash of a file that was written in another way, so that later changes are recognised."""
    _note(path, file_sha256(path))


def is_whole(path: Path) -> bool:
    """Whether a file is unchanged since it was written or sealed; also true for a file without a record."""
    return path.is_file() and (is_sealed(path) or not _made(path).exists())


def is_sealed(path: Path) -> bool:
    """Whether a file has a record and is unchanged since it was written or sealed."""
    try:
        return path.is_file() and _about(path).get("sha256") == file_sha256(path)
    except LikenessError:
        return False


def _note(path: Path, sha256: str) -> None:
    write_atomic(_made(path), canonical({"by": Path(sys.argv[0]).stem, "of": path.name, "sha256": sha256}) + "\n")


def _made(path: Path) -> Path:
    return path.with_name(f".{path.name}.made")


def read_table(path: Path, **kinds: type) -> "pd.DataFrame":
    """A manifest as a DataFrame. Every cell is a string (an empty one is ""), except in the columns named in `kinds`.

    Raises LikenessError if it was changed since it was written.
    """
    import pandas as pd

    text = _read(path)
    try:
        table = pd.read_csv(io.BytesIO(text), sep="\t", dtype=str, keep_default_na=False)
        missing = [name for name in kinds if name not in table]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        return table.astype(kinds) if len(table) else table
    except ValueError as error:
        raise _damaged(path, error) from None


def read_json(path: Path) -> Any:
    """The value of a JSON manifest. Raises LikenessError if it was changed since it was written."""
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> bytes:
    about, content = _about(path), path.read_bytes() if path.is_file() else None
    if about and (content is None or hashlib.sha256(content).hexdigest() != about["sha256"]):
        raise changed(path, about["by"])
    if content is None:
        raise _damaged(path, "it is no file")
    return content


def _about(path: Path) -> dict[str, str]:
    """The content of the hidden file: by, sha256; empty if there is no such file. Raises LikenessError if it does not
    describe this manifest, because it was damaged or exchanged with another one."""
    made = _made(path)
    if not made.exists():
        return {}
    try:
        about = json.loads(made.read_bytes())
        if about.get("of", path.name) != path.name:
            raise ValueError
        return {key: about[key] for key in ("by", "sha256")}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise _damaged(path, f"{made.name} beside it does not say what was written") from None


def _damaged(path: Path, what: object) -> LikenessError:
    return LikenessError(f"{path} is damaged ({what}); delete it, and run snakemake again")


def checked(path: Path, sha256: str, rule: str) -> Path:
    """The path of a file that a manifest lists. Raises LikenessError if it is not the file that `rule` made."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise changed(path, rule)
    return path


def checked_files(folder: Path, names: Iterable[str], hashes: Iterable[str], rule: str) -> list[str]:
    """The paths of a table's files, which are in a folder. Raises LikenessError as `checked` does."""
    return [str(checked(folder / name, sha256, rule)) for name, sha256 in zip(names, hashes, strict=True)]


def changed(path: Path, rule: str) -> LikenessError:
    """The error for a file that is missing or no longer as `rule` made it."""
    if path.is_dir():  # Snakemake does not remove it
        return LikenessError(f"{path} is a folder, not the file that {rule} made; remove it, then {again(rule)}")
    return LikenessError(f"{path} is missing or was changed since it was made; {again(rule)}")


def again(rule: str) -> str:
    """The advice for a rule whose results cannot be used."""
    return f"run: snakemake --cores all --forcerun {rule}"
