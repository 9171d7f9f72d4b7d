"""Manifests: the tables and JSON files that stages hand to one another. What was changed since is refused, not used.

Beside each manifest lies a hidden file, `.{name}.made`, that says who wrote it and its hash.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.errors import LikenessError
from likeness.files import write_atomic
from likeness.provenance import canonical, file_sha256


def write_table(path: Path, rows: Sequence[Mapping], columns: Sequence[str]) -> None:
    """A tab-separated manifest with a header, columns in the given order, rows as the caller sorted them."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(columns))
    _write(path, table.to_csv(sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_MINIMAL))


def write_json(path: Path, value: Any, **style) -> None:
    """A JSON manifest; `style` goes to json.dumps, canonical without."""
    _write(path, (json.dumps(value, **style) if style else canonical(value)) + "\n")


def _write(path: Path, text: str) -> None:
    _note(path, hashlib.sha256(text.encode()).hexdigest())
    write_atomic(path, text)


def seal(path: Path) -> None:
    """Say of a file that was written in another way that it is whole now: from here on a change is noticed."""
    _note(path, file_sha256(path))


def is_whole(path: Path) -> bool:
    """Whether a file is as it was when it was written or sealed; one without the hidden file is taken as it is."""
    about = _about(path)
    return not about or about["sha256"] == file_sha256(path)


def _note(path: Path, sha256: str) -> None:
    write_atomic(_made(path), canonical({"by": Path(sys.argv[0]).stem, "sha256": sha256}) + "\n")


def _made(path: Path) -> Path:
    return path.with_name(f".{path.name}.made")


def read_table(path: Path, **kinds: type):
    """A manifest as a pandas.DataFrame, every cell a string (empty stays ""), but for the columns named in `kinds`.

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
    if not is_whole(path):
        raise changed(path, _about(path)["by"])
    return path.read_bytes()


def _about(path: Path) -> dict[str, str]:
    """What the hidden file says: by, sha256; empty without one."""
    made = _made(path)
    if not made.is_file():
        return {}
    try:
        about = json.loads(made.read_bytes())
        return {key: about[key] for key in ("by", "sha256")}
    except (ValueError, LookupError, TypeError):
        raise _damaged(path, "what is written of it is no JSON") from None


def _damaged(path: Path, what: object) -> LikenessError:
    return LikenessError(f"{path} is damaged ({what}); delete it, and run snakemake again")


def checked(path: Path, sha256: str, rule: str) -> Path:
    """The path of a file that a manifest lists. Raises LikenessError if it is not the one that `rule` made."""
    if not path.is_file() or file_sha256(path) != sha256:
        raise changed(path, rule)
    return path


def checked_files(folder: Path, names: Iterable[str], hashes: Iterable[str], rule: str) -> list[str]:
    """The paths of a table's files, which lie in a folder. Raises LikenessError as `checked`."""
    return [str(checked(folder / name, sha256, rule)) for name, sha256 in zip(names, hashes, strict=True)]


def changed(path: Path, rule: str) -> LikenessError:
    """What is said of a file that is no longer what `rule` made."""
    return LikenessError(
        f"{path} is missing or was changed since it was made; run: snakemake --cores all --forcerun {rule}"
    )
