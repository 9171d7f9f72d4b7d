"""Hashes of files' contents. They are stored between calls, so that thousands of photos are read only once."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.provenance import canonical, digest, file_sha256

# A larger file (a base model) is identified by size and date: reading it at each call would take a minute, and the
# stage that uses it hashes it itself.
LARGE = 100_000_000  # bytes


class Contents:
    """The hashes of files, stored in `store` (JSON). A hash is valid as long as size and dates of its file are."""

    def __init__(self, store: Path):
        self._store, self._changed = store, False
        # By path: size, date of change, date of the inode's change, hash. The file may hold any JSON.
        self._known: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            known = json.loads(store.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def fingerprint(self, files: Iterable[Path]) -> str:
        """One hash for the names and the contents of files. Their order and their folders do not change it; a file that
        is missing counts with the content "none"."""
        return digest(canonical(sorted([path.name, self._content(path)] for path in files)))

    def save(self) -> None:
        """Store the new hashes. If the store cannot be written, the files are read again next time."""
        if self._changed and self._store.parent.is_dir():
            with suppress(OSError, LikenessError):
                write_atomic(self._store, canonical(self._known))

    def _content(self, path: Path) -> str:
        try:
            about = path.stat()
            if about.st_size > LARGE:
                return f"{about.st_size} {about.st_mtime_ns}"
            # No program can set st_ctime, so the content does not change without it.
            state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            known = self._known.get(str(path))
            if isinstance(known, list) and known[:3] == state and len(known) == 4 and isinstance(known[3], str):
                return known[3]
            sha256 = file_sha256(path)
            self._known[str(path)] = [*state, sha256]
            self._changed = True
            return sha256
        except OSError:
            return "none"
