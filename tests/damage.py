"""Damages a file as disks and programs do."""

from pathlib import Path


def flip(path: Path) -> None:
    """Flip one bit in the middle of the file; its size stays the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Cut off the last third of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: 2 * len(data) // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = (flip, cut, empty)


def folder_instead(path: Path) -> None:
    """Replace the file by a folder of its name that contains a file."""
    path.unlink()
    (path / "inside").mkdir(parents=True)


def link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


REPLACED = (folder_instead, link_to_nothing)

# Contents of files that are named .safetensors and are not.
NO_SAFETENSORS = {
    "empty": b"",
    "ones": b"\xff" * 8,
    "huge header": (2**40).to_bytes(8, "little") + b"{}",
    "large header": (99_000_000).to_bytes(8, "little") + b"{}",
    "list": (2).to_bytes(8, "little") + b"[]",
    "half a header": (30).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":1}',
    "zip": b"PK\3\4" * 9,
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 2132625894\n",
}
