"""Atomic writes, file locks, folders that hold exactly what a manifest lists, and the item cache."""

import fcntl
import hashlib
import os
import shlex
import shutil
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from likeness.core.errors import DISK_FULL, LikenessError, system_reason
from likeness.core.provenance import digest, file_sha256

# With OWNER_UMASK only the user has access to a project's files; with GROUP_UMASK the folder's group has it, too.
OWNER_UMASK, GROUP_UMASK = 0o077, 0o007
# The least free space of a disk: the smallest data set and Snakemake's own records need more.
LEAST_FREE, LEAST_FREE_FILES = 10_000_000, 500  # bytes, files
FREE_DISK_ADVICE = "free some space (df -h, and df -i for the number of files)"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file beside the target and rename it. Readers see the old file or the new one, never a part, even if the
    process is killed.

    Raises LikenessError if the disk is full, and then keeps the old file; or if the target is a folder.
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
            f"{path}: {system_reason(error)} ({len(data) / 1e6:.0f} MB to write); free some space and run the same "
            "command again, what was saved before is safe"
        ) from None
    try:
        os.replace(temporary, path)
    except IsADirectoryError:  # its message would name the temporary file
        temporary.unlink()
        raise LikenessError(
            f"{path} is a folder, where a file is to be written; remove it, and run the same command again"
        ) from None


def check_space(folders: Iterable[Path]) -> None:
    """Raises LikenessError if the disk of a folder has no room for what Snakemake itself writes: Snakemake's own error
    has many lines."""
    for folder in (folder for folder in folders if folder.is_dir()):
        disk = os.statvfs(folder)
        blocks, files = (disk.f_bavail, disk.f_favail) if os.geteuid() else (disk.f_bfree, disk.f_ffree)
        if blocks * disk.f_frsize < LEAST_FREE or (disk.f_files and files < LEAST_FREE_FILES):  # f_files: 0 on btrfs
            raise LikenessError(
                f"the disk of {folder.resolve()} is full; {FREE_DISK_ADVICE} and run the same command again, what was "
                "made before is safe"
            )


def seen_from(folder: Path, path: Path) -> str:
    """The path of a file relative to a folder, for a manifest in that folder. Links among the parent folders are
    resolved, because .. of a link leads elsewhere; the file itself may be a link and keeps its name."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def join_paths(paths: Iterable[Path | str]) -> str:
    """Paths as one text, separated by NUL, the only character that no path contains. Commands get a file with it in the
    place of many arguments."""
    return "\0".join(map(str, paths))


def split_paths(text: str) -> list[Path]:
    """The paths in the text that `join_paths` makes."""
    return [Path(path) for path in text.split("\0") if path]


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its content; do nothing if the path does not exist."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish_folder(folder: Path, items: Mapping[str, bytes | str | Path]) -> None:
    """Make `folder` hold exactly these items (name -> content, or a file to copy); other files are removed."""
    keep_only(folder, items)
    for name, item in items.items():
        write_atomic(folder / name, item.read_bytes() if isinstance(item, Path) else item)


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove everything from a folder but the files of these names. The folder is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in names or old.is_dir():
            remove(old)


def private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, with access for this user alone, because caches hold portraits. With
    GROUP_UMASK the folder's group has access, too.

    A link among the parents may point to a folder that was deleted, as scratch space sometimes is; it is made again. An
    existing folder that others can read is closed to them. Raises LikenessError if the folder, or the cache around it,
    belongs to another user, or has content that others could have written.
    """
    mode = 0o770 if _umask() == GROUP_UMASK else 0o700
    place = folder.resolve()
    try:
        for path in (*reversed(place.parents), place):
            if not path.exists():
                path.mkdir(mode=mode, exist_ok=True)
            elif not path.is_dir():
                raise LikenessError(f"{path} is no folder; remove it, and run the same command again")
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
    """The umask of this process. It can be read only by setting it; the strictest one is set for that moment."""
    umask = os.umask(OWNER_UMASK)
    os.umask(umask)
    return umask


def _within_cache(folder: Path) -> list[Path]:
    """The folder and its parents up to the one named .cache."""
    above = [folder, *folder.parents]
    names = [path.name for path in above]
    return above[: names.index(".cache") + 1] if ".cache" in names else [folder]


def _close(folder: Path, mode: int) -> None:
    """Remove all access rights of a folder but those of `mode`. Raises PermissionError if the folder belongs to another
    user and is not shared. Raises LikenessError if others could have written its content, or if the rights cannot be
    removed."""
    status = folder.stat()
    open_to = stat.S_IMODE(status.st_mode) & 0o777 & ~mode
    if status.st_uid != os.geteuid():
        if mode != 0o770:
            raise PermissionError
        if open_to:
            raise LikenessError(
                f"others than your group have rights in {folder}, and it is another user's; ask that user to close it: "
                f"chmod {mode:o} {shlex.quote(str(folder))}"
            )
        return
    if open_to & 0o022 and any(folder.iterdir()):
        raise LikenessError(
            f"others than you may write to {folder}, and what they put there would be used; delete it, or if they are "
            f"to be trusted, close it: chmod {mode:o} {shlex.quote(str(folder))}"
        )
    if open_to:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~open_to)
        if stat.S_IMODE(folder.stat().st_mode) & open_to:
            raise LikenessError(
                f"the disk of {folder} has no access rights (exFAT, a share of Windows), so others could read the "
                "portraits that are kept there, and change them; move the project to another disk, or put a link to a "
                "folder on one in the place of this folder"
            )
        print(f"{folder} was open to others; it is closed now")


OTHER_FOLDER = (
    "mount the file system with them (Lustre: -o flock), or put a link to a folder on another one in the place of this "
    "folder (docs/slurm.md, Shared storage)"
)


def lock(file: IO[Any], wait: bool, otherwise: str = OTHER_FOLDER) -> bool:
    """Lock an open file for this process, until the file is closed. If another process holds the lock, wait for it, or
    without `wait` return False at once.

    Raises LikenessError if the file system has no locks; `otherwise` is the advice in its message.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        raise LikenessError(
            f"{file.name} cannot be locked ({system_reason(error)}), and without locks two jobs could do the same "
            f"work; {otherwise}"
        ) from None
    return True


class ItemCache:
    """Content-addressed results of one stage: only items whose content, settings, code or model is new are computed.

    There is one folder per stage, and a key is the hash of everything the result depends on. Files are never rewritten,
    so threads and processes may share a cache. The name of a file contains the hash of its content, so that a damaged
    file is recognised and made again. The cache counts computed and reused results for the last line of the log.
    """

    def __init__(self, folder: Path, *common: bytes | str):
        self.folder, self.common = folder, common
        self.computed = self.reused = 0
        self._counting = threading.Lock()
        private_folder(folder)

    def get(self, compute: Callable[[], bytes], *parts: bytes | str) -> Path:
        """The file with the result for these parts; `compute` is called only if the cache has no undamaged one."""
        cached = self.find(*parts)
        path = cached or self.put(compute(), *parts)
        with self._counting:
            self.reused += cached is not None
            self.computed += cached is None
        return path

    def find(self, *parts: bytes | str) -> Path | None:
        """The undamaged file with the result for these parts; None if there is none yet."""
        place = self._place(*parts)
        if not place.parent.is_dir():
            with suppress(OSError):  # fails on a folder that another process has just made, which stays
                place.parent.unlink()  # a file or a broken link in the place of the folder
            return None
        names = [name for name in sorted(os.listdir(place.parent)) if name.startswith(f"{place.name}.")]
        for path in map(place.with_name, names):
            if path.is_file() and file_sha256(path) == path.suffix[1:]:
                return path
            print(f"{path} was damaged since it was written; it is made anew")
            remove(path)
        return None

    def put(self, data: bytes, *parts: bytes | str) -> Path:
        """Store the result for these parts. Returns its file."""
        place = self._place(*parts)
        path = place.with_name(f"{place.name}.{hashlib.sha256(data).hexdigest()}")
        write_atomic(path, data)
        return path

    def _place(self, *parts: bytes | str) -> Path:
        key = digest(*self.common, *parts)
        return self.folder / key[:2] / key

    def summary(self) -> str:
        return f"items: {self.computed} computed, {self.reused} reused"
