"""Files that are either whole or not there, their locks, folders that hold just what a manifest lists, and the item
cache."""

import fcntl
import hashlib
import os
import shlex
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from likeness.errors import DISK_FULL, LikenessError
from likeness.provenance import digest, file_sha256

# With the first one a project's files are its user's alone; with the second the folder's group has all rights, too.
OWNER_UMASK, GROUP_UMASK = 0o077, 0o007


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write beside the target, then rename: a reader or a kill sees the old file or the new one, never half.

    Raises LikenessError if the disk is full; the old file is still there then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
            f.flush()
            os.fsync(f.fileno())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in DISK_FULL:
            raise
        raise LikenessError(
            f"{path}: {error.strerror.lower()} ({len(data) / 1e6:.0f} MB to write); free some space and run the same "
            "command again, what was saved before is safe"
        ) from None
    os.replace(temporary, path)


def seen_from(folder: Path, path: Path) -> str:
    """The path of a file from a folder, for a manifest in it. Both may lie behind links, where .. leads elsewhere: the
    folders are taken for what they are. A file that is a link itself keeps its name."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def listing(paths: Iterable[Path | str]) -> str:
    """Paths as one text, for a file that stands for them in a command; a name may have any character but NUL."""
    return "\0".join(map(str, paths))


def listed(text: str) -> list[Path]:
    """The paths of a `listing`."""
    return [Path(path) for path in text.split("\0") if path]


def publish_folder(folder: Path, items: Mapping[str, bytes | str | Path]) -> None:
    """Make `folder` hold exactly these items (name -> content, or a file to copy); other files are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in items:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    for name, item in items.items():
        write_atomic(folder / name, item.read_bytes() if isinstance(item, Path) else item)


def private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone: caches hold portraits. With GROUP_UMASK
    they are for the folder's group, too.

    A link on the way may lead to a folder that was deleted, as scratch space is now and then. An older folder that
    others may read is closed to them. Raises LikenessError if the folder, or the cache that it is in, is another
    user's, or has what others may have written.
    """
    mode = 0o770 if _umask() == GROUP_UMASK else 0o700
    place = folder.resolve()
    try:
        for path in (*reversed(place.parents), place):
            if not path.exists():
                path.mkdir(mode=mode, exist_ok=True)
        for path in _within_cache(folder):
            _close(path.resolve(), mode)
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError
    except PermissionError:
        raise LikenessError(
            f"{path} is closed to this user, because caches are private to who made them; run as that user, or in a "
            "copy of the project without results, or let that user set share_with_group (docs/slurm.md)"
        ) from None


def _umask() -> int:
    """Of this process. It can be read only by setting it; to the strictest, for the moment."""
    umask = os.umask(OWNER_UMASK)
    os.umask(umask)
    return umask


def _within_cache(folder: Path) -> list[Path]:
    """The folder, and those above it up to the one named .cache."""
    above = [folder, *folder.parents]
    names = [path.name for path in above]
    return above[: names.index(".cache") + 1] if ".cache" in names else [folder]


def _close(folder: Path, mode: int) -> None:
    """Take every right but those of `mode` from a folder. Raises PermissionError if it is another user's alone,
    LikenessError if something is in it and who has no such right may have written that."""
    status = folder.stat()
    if status.st_uid != os.geteuid():
        if mode != 0o770:
            raise PermissionError
        return
    open_to = stat.S_IMODE(status.st_mode) & 0o777 & ~mode
    if open_to & 0o022 and any(folder.iterdir()):
        raise LikenessError(
            f"others than you may write to {folder}, and what they put there would be used; delete it, or if they are "
            f"to be trusted, close it: chmod {mode:o} {shlex.quote(str(folder))}"
        )
    if open_to:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~open_to)
        print(f"{folder} was open to others; it is closed now")


OTHER_FOLDER = (
    "mount the file system with them (Lustre: -o flock), or put a link to a folder on another one in the place of this "
    "folder (docs/slurm.md, Shared storage)"
)


def locked(file: IO, wait: bool, otherwise: str = OTHER_FOLDER) -> bool:
    """Lock an open file for this process, until the file is closed. False, at once, if another process has it; with
    `wait` it waits for that one.

    Raises LikenessError if the file system has no locks; `otherwise` says what to do then.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise LikenessError(
            f"{file.name} cannot be locked ({error.strerror.lower()}), and without locks two jobs could do the same "
            f"work; {otherwise}"
        ) from None
    return True


class ItemCache:
    """Content-addressed results of one stage: only items whose content, settings, code or model is new are computed.

    One folder per stage; a key is the hash of everything the result depends on. Nothing is ever rewritten, so threads
    and processes may share a cache. A file's name says the hash of what is in it, so that one that a disk damaged is
    found and made anew. Counts what it computed and what it found, for the log's last line.
    """

    def __init__(self, folder: Path, *common: bytes | str):
        self.folder, self.common = folder, common
        self.computed = self.reused = 0
        self._counting = threading.Lock()
        private_folder(folder)

    def get(self, compute: Callable[[], bytes], *parts: bytes | str) -> Path:
        """The file with the result for these parts; `compute` is called only when there is no whole one yet."""
        found = self.find(*parts)
        path = found or self.put(compute(), *parts)
        with self._counting:
            self.reused += found is not None
            self.computed += found is None
        return path

    def find(self, *parts: bytes | str) -> Path | None:
        """The file with the result for these parts, whole; None if there is none yet."""
        place = self._place(*parts)
        names = os.listdir(place.parent) if place.parent.is_dir() else []
        for path in (place.with_name(name) for name in sorted(names) if name.startswith(f"{place.name}.")):
            if file_sha256(path) == path.suffix[1:]:
                return path
            print(f"{path} was damaged since it was written; it is made anew")
            path.unlink(missing_ok=True)
        return None

    def put(self, data: bytes, *parts: bytes | str) -> Path:
        """Keep the result for these parts."""
        place = self._place(*parts)
        path = place.with_name(f"{place.name}.{hashlib.sha256(data).hexdigest()}")
        write_atomic(path, data)
        return path

    def _place(self, *parts: bytes | str) -> Path:
        key = digest(*self.common, *parts)
        return self.folder / key[:2] / key

    def summary(self) -> str:
        return f"items: {self.computed} computed, {self.reused} reused"
