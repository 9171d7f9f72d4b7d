"""What a result depends on: canonical JSON, hashes of files, and the local code behind a script."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[2]

# Modules that change what a job prints or where it runs, never what it makes: a reworded message must not cause a new
# training.
NOT_IN_KEYS = {
    SCRIPTS / "likeness" / name
    for name in (
        *("core/cli.py", "core/devices.py", "core/errors.py", "core/imports.py"),
        *("training/course.py", "training/metrics.py"),
        *("core/section.py", "training/settings.py"),  # the values themselves are in the key
    )
}


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal texts, whatever the order they were written in."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(*parts: bytes | str) -> str:
    """sha256 (hex) of the parts. The length of each part is hashed before it, so that ("ab", "c") differs from
    ("a", "bc")."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big"))
        h.update(data)
    return h.hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file, read in pieces: a base model is several GB."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _module_files(module: str) -> Iterable[Path]:
    """The files under scripts/ that run when a dotted name is imported: the module and the packages around it."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        base = SCRIPTS.joinpath(*parts[:n])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                yield candidate


@cache
def imported_files(path: Path) -> tuple[Path, ...]:
    """The files under scripts/ that run when a module is imported. Each module is parsed only once."""
    return tuple(file for module in _imported_modules(path) for file in _module_files(module))


def _imported_modules(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:  # without a level there is always a module
                raise SyntaxError(f"{path}: relative import; write the full name, so that reruns can follow it")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def local_sources(script: Path) -> tuple[Path, ...]:
    """A script and every module under scripts/ that it imports, directly or not: the script first, the rest sorted.

    Files in a package folder that are not Python (a template) are included, because they change what the package's
    modules do.
    """
    seen: set[Path] = set()
    todo = [script.resolve()]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.name == "__init__.py" and path.parent != SCRIPTS / "likeness":
            seen.update(p for p in path.parent.iterdir() if p.is_file() and p.suffix != ".py")
        if path.suffix == ".py":
            todo += imported_files(path)
    return (script.resolve(), *sorted(seen - {script.resolve()}))


@cache
def code_digest(script: Path) -> str:
    """One hash for a script and the local modules that change its results: part of every cache key."""
    return digest(*(p.read_bytes() for p in local_sources(script) if p not in NOT_IN_KEYS))
