"""What every script shares: arguments, the log, progress bars, threads, and errors without tracebacks."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn, TypeVar

from tqdm import tqdm

from likeness.errors import DISK_FULL, LikenessError
from likeness.files import listed

Item, Result = TypeVar("Item"), TypeVar("Result")

# What ends a script in the middle of its work, and what to do.
DISK_TROUBLE = dict.fromkeys(DISK_FULL, "free some space (df -h, and df -i for the number of files)") | {
    errno.EROFS: "make the disk writable",
    errno.EACCES: "give yourself the right to write there",
    errno.EISDIR: "remove that folder",
}

NO_TEMPORARY_FOLDER = "No usable temporary directory found"  # Python's words, under the number of a missing file

# Where a person looks. `open_log` points 1 and 2 at the log file, so that the chatter of libraries goes there.
terminal = sys.stderr


def arguments(doc: str, *names: str) -> argparse.Namespace:
    """Parse `--config JSON --log FILE --threads N` and one option per name, each a path; a name ending in * takes any
    number of them. What is too long for a command is read from a file, whose name is given after an @.

    `config` comes back as nested namespaces (config.train.rank); a key that the rule did not hand over is an error.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument(
        "--config", type=_namespace, default=SimpleNamespace(), help="canonical JSON of the sections used"
    )
    parser.add_argument("--log", type=Path, help="write output here; progress stays on the terminal")
    parser.add_argument("--threads", type=int, default=1, help="how many items to work on at once")
    for name in names:
        option = f"--{name.rstrip('*').replace('_', '-')}"
        parser.add_argument(
            option,
            type=Path,
            required=not name.endswith("*"),
            **({"nargs": "*", "default": []} if name.endswith("*") else {}),
        )
    args = parser.parse_args()
    for name in (name.rstrip("*") for name in names if name.endswith("*")):
        given = [str(path) for path in getattr(args, name)]
        if len(given) == 1 and given[0].startswith("@"):
            setattr(args, name, listed(_read(given[0])))
    if args.log:
        _open_log(args.log)
    return args


def plain(value: object) -> object:
    """Namespaces as the mappings that they were."""
    value = vars(value) if isinstance(value, SimpleNamespace) else value
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def run(main: Callable[[], None]) -> None:
    """Run a script's main; what a user can mend is one line on the terminal and in the log, exit status 1."""
    try:
        main()
    except LikenessError as error:
        _leave(str(error))
    except OSError as error:
        if NO_TEMPORARY_FOLDER in str(error):
            _leave("no folder for temporary files can be written; free some space in one, or set TMPDIR to another")
        if error.errno not in DISK_TROUBLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _leave(f"{where}{error.strerror.lower()}; {DISK_TROUBLE[error.errno]} and run the same command again")
    if not _log_is_written():
        say("the log could not be written, perhaps because its disk is full; what the job made is whole")


def _leave(message: str) -> NoReturn:
    say(f"error: {message}")
    _log_is_written()
    sys.exit(1)


def _log_is_written() -> bool:
    """Whether the log takes what Python still holds for it. If not, Python lets go of it: it would try again at its
    end, and then call the whole job failed."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open
        return False
    return True


def say(text: str) -> None:
    """One line for the terminal and, when that is somewhere else, for the log. The terminal comes first: on a full disk
    the log cannot be written, and that is what the line says."""
    if terminal is not sys.stderr:
        with contextlib.suppress(OSError):  # nobody looks any more
            tqdm.write(text, file=terminal)
    try:
        print(text, flush=True)
    except OSError:
        if terminal is sys.stderr:
            raise


def progress(items: Iterable, **options) -> tqdm:
    """A progress bar on the terminal; silent where nobody looks (a pipe, a SLURM log), because \\r is noise there."""
    return tqdm(items, file=terminal, disable=not terminal.isatty(), dynamic_ncols=True, **options)


def mapped(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, **options
) -> Iterator[tuple[Item, Result]]:
    """Every item with its result, in the order of the items, computed in threads, under a progress bar.

    Threads, because the work is done by libraries that let go of Python's lock (decoders, OpenCV, MediaPipe), and one
    process holds each picture and each model once.
    """
    with ThreadPoolExecutor(threads) as pool:
        results = progress(pool.map(function, items), total=len(items), **options)
        yield from zip(items, results, strict=True)


def _namespace(text: str) -> SimpleNamespace:
    return json.loads(_read(text) if text.startswith("@") else text, object_hook=_known_keys)


def _read(address: str) -> str:
    """What a file says that was given as @path, and whose name is the hash of what it says."""
    path = Path(address[1:])
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != path.name:
        raise LikenessError(f"{path} is missing or was changed since it was written; run the same command again")
    return data.decode()


def _known_keys(mapping: dict) -> SimpleNamespace | dict:
    return SimpleNamespace(**mapping) if all(key.isidentifier() for key in mapping) else mapping


def _open_log(path: Path) -> None:
    global terminal
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
