"""safetensors files whose bytes depend on nothing but their content."""

import json
from collections.abc import Mapping


def safetensors_bytes(tensors: Mapping, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of torch tensors, with metadata (str -> str)."""
    import safetensors.torch

    data = safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return with_metadata(data, metadata)


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file's bytes with other metadata, sorted: the library's own order changes from run to run."""
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **_without_metadata(json.loads(data[8 : 8 + length]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes, as the format asks
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file's bytes."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})


def tensor_part(data: bytes) -> bytes:
    """A safetensors file's bytes behind its header."""
    return data[8 + int.from_bytes(data[:8], "little") :]


def _without_metadata(header: dict) -> dict:
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
