"""What files say, whatever their dates: hashes that are remembered, so that thousands of photos are read once."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from likeness.errors import LikenessError
from likeness.provenance import canonical, digest, file_sha256

# Larger files (base models) are known by size and date: reading them at each call would take a minute, and the stage
# that uses them hashes them itself.
LARGE = 100_000_000  # bytes


class Contents:
    """The hashes of files, kept in `store` (JSON) by size and dates of the file."""

    def __init__(self, store: Path):
        self._store, self._known, self._changed = store, {}, False
        with suppress(OSError, ValueError):
            known = json.loads(store.read_bytes())
            self._known = known if isinstance(known, dict) else {}

    def fingerprint(self, files: Iterable[Path]) -> str:
        """One hash for the names and the contents of files, in whatever order and folder; a file that is gone is
        none."""
        return digest(canonical(sorted([path.name, self._content(path)] for path in files)))

    def save(self) -> None:
        """Remember what was read; where nothing can be written it is read again next time."""
        if self._changed and self._store.parent.is_dir():
            from likeness.files import write_atomic  # only here: it brings pandas, and most calls have nothing new

            with suppress(OSError, LikenessError):
                write_atomic(self._store, canonical(self._known))

    def _content(self, path: Path) -> str:
        try:
            about = path.stat()
            if about.st_size > LARGE:
                return f"{about.st_size} {about.st_mtime_ns}"
            # Nobody can set the second date, so bytes do not change without it.
            seen = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            known = self._known.get(str(path))
            if not isinstance(known, list) or known[:3] != seen:
                self._known[str(path)] = known = [*seen, file_sha256(path)]
                self._changed = True
            return known[3]
        except OSError:
            return "none"
