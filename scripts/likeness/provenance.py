"""What a result was made from: canonical texts, hashes of files, and the local code behind a script."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parent.parent

# Modules that change what a job says or where it runs, never what it makes: a reworded message must not train again.
SAYING = ("cli.py", "devices.py", "errors.py", "imports.py", "training/course.py", "training/metrics.py")
NOT_IN_KEYS = {SCRIPTS / "likeness" / name for name in SAYING}


def canonical(value: Any) -> str:
    """JSON with sorted keys: equal values give equal texts, whatever the order they were written in."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(*parts: bytes | str) -> str:
    """sha256 (hex) of the parts; each part's length goes in first, so that ("ab", "c") differs from ("a", "bc")."""
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
    """The files under scripts/ that importing a dotted name runs: the module and the packages around it."""
    parts = module.split(".")
    for n in range(1, len(parts) + 1):
        base = SCRIPTS.joinpath(*parts[:n])
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                yield candidate


@cache
def _imported_files(path: Path) -> tuple[Path, ...]:
    """The files under scripts/ that a module's imports run; read once, however many scripts import it."""
    return tuple(file for module in _imported_modules(path) for file in _module_files(module))


def _imported_modules(path: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SyntaxError(f"{path}: relative import; write the full name, so that reruns can follow it")
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def local_sources(script: Path) -> tuple[Path, ...]:
    """A script and every module under scripts/ that it imports, directly or not; the script first, the rest sorted.

    Data files that a module reads (a template) count when they lie in the module's own package folder and are
    not Python, because they change what the module does.
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
            todo += _imported_files(path)
    return (script.resolve(), *sorted(seen - {script.resolve()}))


@cache
def code_digest(script: Path) -> str:
    """One hash for a script and the local modules that decide what it makes: part of every cache key."""
    return digest(*(p.read_bytes() for p in local_sources(script) if p not in NOT_IN_KEYS))
