"""What disks and programs do to a file."""

from pathlib import Path


def flip(path: Path) -> None:
    """One bit, in the middle: the file looks as whole as before."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The last third is gone."""
    data = path.read_bytes()
    path.write_bytes(data[: 2 * len(data) // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (flip, cut, empty)
