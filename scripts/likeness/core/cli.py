"""What every script shares: arguments, the log, progress bars, threads, and errors without tracebacks."""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, TextIO, TypeVar

from tqdm import tqdm

from likeness.core.errors import DISK_FULL, LikenessError, system_reason
from likeness.core.files import FREE_DISK_ADVICE, split_paths

Item = TypeVar("Item")
Result = TypeVar("Result")

# Errors of the disk that can end a script in the middle of its work, and what the user can do.
DISK_TROUBLE = dict.fromkeys(DISK_FULL, FREE_DISK_ADVICE) | {
    errno.EROFS: "make the disk writable",
    errno.EACCES: "give yourself the right to write there",
    errno.EISDIR: "remove that folder",
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EREMOTEIO), "see to the disk or the network drive"),
}

CONTROL_SIGNS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # without tab and newline
NO_TEMPORARY_FOLDER = "No usable temporary directory found"  # Python's own message; its errno is ENOENT

# The stream that the user sees. `_open_log` points file descriptors 1 and 2 at the log file, so that what libraries
# print goes there.
terminal: TextIO = sys.stderr


def arguments(doc: str, *names: str) -> argparse.Namespace:
    """Parse `--config JSON --log FILE --threads N` and one option per name, each a path. A name that ends in * takes
    any number of paths. A value that is too long for a command line is read from a file: the argument is then @PATH.

    `config` comes back as nested namespaces (config.train.rank). A key that the rule did not pass is an AttributeError.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument(
        "--config", type=_namespace, default=SimpleNamespace(), help="canonical JSON of the sections used"
    )
    parser.add_argument("--log", type=Path, help="write output here; progress stays on the terminal")
    parser.add_argument("--threads", type=int, default=1, help="how many items to work on at once")
    for name in names:
        option = f"--{name.rstrip('*').replace('_', '-')}"
        if name.endswith("*"):
            parser.add_argument(option, type=Path, nargs="*", default=[])
        else:
            parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    for name in (name.rstrip("*") for name in names if name.endswith("*")):
        values = [str(path) for path in getattr(args, name)]
        if len(values) == 1 and values[0].startswith("@"):
            setattr(args, name, split_paths(_read(values[0])))
    if args.log:
        _open_log(args.log)
    return args


def as_mappings(value: object) -> Any:
    """Turn namespaces back into the mappings that they were parsed from, at every depth."""
    value = vars(value) if isinstance(value, SimpleNamespace) else value
    if isinstance(value, dict):
        return {key: as_mappings(inner) for key, inner in value.items()}
    return [as_mappings(inner) for inner in value] if isinstance(value, list) else value


def run(main: Callable[[], None]) -> None:
    """Run a script's main. An error that the user can correct is printed as one line on the terminal and in the log,
    and the exit status is 1."""
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
        _leave(f"{where}{system_reason(error)}; {DISK_TROUBLE[error.errno]} and run the same command again")
    if not _log_is_written():
        say("the log could not be written, perhaps because its disk is full; what the job made is whole")


def _leave(message: str) -> NoReturn:
    say(f"error: {message}")
    _log_is_written()
    sys.exit(1)


def _log_is_written() -> bool:
    """Whether Python's buffered output can be flushed to the log. If not, stdout is replaced: the interpreter flushes
    it again when it exits, and would then report the whole job as failed."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open
        return False
    return True


def say(text: str) -> None:
    """Print one line on the terminal and, if there is a separate log, in the log. The terminal comes first: on a full
    disk the log cannot be written, and the line may be the message about that. Control characters are escaped, because
    the name of a photo can contain them."""
    text = CONTROL_SIGNS.sub(lambda sign: ascii(sign[0])[1:-1], text)
    if terminal is not sys.stderr:
        with contextlib.suppress(OSError):  # the terminal was closed
            tqdm.write(text, file=terminal)
    try:
        print(text, flush=True)
    except OSError:
        if terminal is sys.stderr:
            raise


def last_error(logs: Iterable[Path], since: float) -> str:
    """The last error message in the newest log that was written after `since`; "" where there is none."""
    lines = [
        (path.stat().st_mtime, line.removeprefix("error: "))
        for path in logs
        if path.stat().st_mtime >= since
        for line in path.read_text(errors="replace").splitlines()
        if line.startswith("error: ")
    ]
    return max(lines, default=(0.0, ""), key=lambda line: line[0])[1]


def progress(items: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """A progress bar on the terminal: over `items`, or moved by `update`. It prints nothing where the output is no
    terminal (a pipe, a SLURM log), because \\r is noise there."""
    return tqdm(items, file=terminal, disable=not terminal.isatty(), dynamic_ncols=True, **options)


def map_in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], threads: int, **options: Any
) -> Iterator[tuple[Item, Result]]:
    """Every item with its result, in the order of the items, computed in threads, with a progress bar.

    Threads are enough, because the libraries that do the work (decoders, OpenCV, MediaPipe) release the GIL. And one
    process holds each picture and each model only once.
    """
    with ThreadPoolExecutor(threads) as pool:
        results = progress(pool.map(function, items), total=len(items), **options)
        yield from zip(items, results, strict=True)


def _namespace(text: str) -> Any:
    return json.loads(_read(text) if text.startswith("@") else text, object_hook=_known_keys)


def _read(address: str) -> str:
    """The text of the file in an argument @PATH. The file's name is the sha256 of its content."""
    path = Path(address[1:])
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != path.name:
        raise LikenessError(f"{path} is missing or was changed since it was written; run the same command again")
    return data.decode()


def _known_keys(mapping: dict[str, Any]) -> SimpleNamespace | dict[str, Any]:
    """An object of the JSON as a namespace; as a dict where a key is no Python name."""
    return SimpleNamespace(**mapping) if all(key.isidentifier() for key in mapping) else mapping


def _open_log(path: Path) -> None:
    global terminal
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    terminal = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
