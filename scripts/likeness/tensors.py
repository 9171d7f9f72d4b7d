"""safetensors files whose bytes depend on nothing but their content."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple


def safetensors_bytes(tensors: Mapping, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of torch tensors, with metadata (str -> str)."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return with_metadata(data, metadata)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file's bytes with other metadata, sorted: the library's own order changes from run to run."""
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(json.loads(data[8 : 8 + length]))}
    text = _padded(json.dumps(header, separators=(",", ":")).encode())
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file's bytes."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})


def tensor_part(data: bytes) -> bytes:
    """A safetensors file's bytes behind its header."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _without_metadata(header: dict) -> dict:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


# What the format calls the numbers that weights can be of; others (whole numbers) are a quantised model's.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class Entry(NamedTuple):
    """One tensor of a safetensors file: `dtype` in the format's words, the bytes from `start` to `end` of the file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def read(self):
        """The tensor, on the CPU. Read, not mapped: what was read of a file that is larger than memory is let go."""
        import torch

        kind = torch_dtypes()[self.dtype]
        if self.start == self.end:
            return torch.empty(self.shape, dtype=kind)
        with open(self.file, "rb") as file:
            file.seek(self.start)
            data = bytearray(file.read(self.end - self.start))
        return torch.frombuffer(data, dtype=kind).reshape(self.shape)


class Header(NamedTuple):
    """What a safetensors file says of itself."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Raises ValueError, with one line, if the file is no whole safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt"):  # which looks at every entry: no gaps, no overlaps, nothing beyond the file's end
            pass
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    metadata = found.pop("__metadata__", {})
    entries = {}
    for name, about in found.items():
        start, end = (8 + length + offset for offset in about["data_offsets"])
        entries[name] = Entry(path, name, about["dtype"], tuple(about["shape"]), start, end)
    return Header(entries, metadata)


def write_tensors(path: Path, about: Mapping[str, tuple[str, tuple[int, ...]]], read: Callable) -> None:
    """A file as safetensors' save_file writes it with metadata {"format": "pt"}, of tensors that `read` gives by name,
    one at a time. `about` is the dtype, in the format's words, and the shape that each is written in.
    """
    kinds = torch_dtypes()
    # The widest numbers first, so that every tensor starts at a multiple of its own width.
    names = sorted(about, key=lambda name: (-kinds[about[name][0]].itemsize, name))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        dtype, shape = about[name]
        start, end = end, end + math.prod(shape) * kinds[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = _padded(json.dumps(header, separators=(",", ":")).encode())
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = read(name).to(kinds[about[name][0]]).contiguous()
            file.write(tensor.reshape(-1).view(kinds["U8"]).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def torch_dtypes() -> dict:
    """torch's names of the numbers that are read and written here, by the format's."""
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
    """Tensors start at a multiple of 8 bytes, as the format asks."""
    return header + b" " * (-len(header) % 8)
