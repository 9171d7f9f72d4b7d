"""safetensors files whose bytes depend only on their content."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


def safetensors_bytes(tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of tensors, with metadata."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return with_metadata(data, metadata)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file's bytes with other metadata, sorted by key: the library's own order changes from run to
    run."""
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(json.loads(data[8 : 8 + length]))}
    text = _padded(json.dumps(header, separators=(",", ":")).encode())
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file's bytes."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})


def tensor_part(data: bytes) -> bytes:
    """A safetensors file's bytes after its header."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _without_metadata(header: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


# The format's names of the dtypes that weights can have; the integer types are those of quantised models.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class Entry(NamedTuple):
    """One tensor of a safetensors file: `dtype` is the format's name; the data are the bytes from `start` to `end`."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self) -> "torch.Tensor":
        """The tensor, on the CPU. The file is not mapped into memory, because it may be larger than that."""
        import torch

        dtype = torch_dtypes()[self.dtype]
        if self.start == self.end:
            return torch.empty(self.shape, dtype=dtype)
        with open(self.file, "rb") as file:
            file.seek(self.start)
            data = bytearray(file.read(self.end - self.start))
        return torch.frombuffer(data, dtype=dtype).reshape(self.shape)


class Header(NamedTuple):
    """The header of a safetensors file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a file. Raises ValueError, with one line, if the file is not a complete safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):  # checks every entry: no gaps, no overlaps, nothing beyond the file's end
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    metadata = header.pop("__metadata__", None) or {}  # it may be null
    entries = {}
    for name, about in header.items():
        start, end = (8 + length + offset for offset in about["data_offsets"])
        entries[name] = Entry(path, name, about["dtype"], tuple(about["shape"]), start, end)
    return Header(entries, metadata)


LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def tensor_names(path: Path) -> list[str]:
    """The names of a safetensors file's tensors, read without torch and without the other checks of read_header. Raises
    ValueError if the file does not begin with a header."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > LONGEST_HEADER:
            raise ValueError("it does not begin with the header of a safetensors file")
        return list(json.loads(file.read(length)))


def write_tensors(
    path: Path, about: Mapping[str, tuple[str, tuple[int, ...]]], read: Callable[[str], "torch.Tensor"]
) -> None:
    """Write a file as safetensors' save_file does with metadata {"format": "pt"}. `about` is the dtype (the format's
    name) and the shape of each tensor by its name; `read` returns one tensor by its name, so that only one is in memory
    at a time."""
    dtypes = torch_dtypes()
    # The widest dtypes come first, so that every tensor starts at a multiple of its own width.
    names = sorted(about, key=lambda name: (-dtypes[about[name][0]].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        dtype, shape = about[name]
        start, end = end, end + math.prod(shape) * dtypes[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = _padded(json.dumps(header, separators=(",", ":")).encode())
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name).to(dtypes[about[name][0]]).contiguous()
            file.write(tensor.reshape(-1).view(dtypes["U8"]).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def torch_dtypes() -> "dict[str, torch.dtype]":
    """torch's dtypes by the format's names: those that are read and written here."""
    import torch

    return {
        "F64": torch.float64,
        "F32": torch.float32,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I64": torch.int64,
        "I32": torch.int32,
        "U8": torch.uint8,
    }


def _padded(header: bytes) -> bytes:
    """The header, filled up so that the tensors start at a multiple of 8 bytes, as the format requires."""
    return header + b" " * (-len(header) % 8)
