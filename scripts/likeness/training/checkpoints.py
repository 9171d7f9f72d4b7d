"""Reads models.json, which lists the checkpoint file of each epoch."""

from pathlib import Path

from likeness.core.errors import LikenessError
from likeness.core.manifests import again, read_json
from likeness.core.provenance import file_sha256


def checkpoint_file(models: Path, epoch: int) -> Path:
    """The LoRA file of an epoch. Raises LikenessError if the file is missing or was changed."""
    entry = next((e for e in read_json(models)["epochs"] if e["epoch"] == epoch), None)
    path = models.parent / entry["file"] if entry else None
    if entry is None or path is None or not path.is_file() or file_sha256(path) != entry["sha256"]:
        raise LikenessError(
            f"{path or f'the checkpoint of epoch {epoch}'} is missing or was changed since it was trained; "
            f"{again('train_lora')} (it is copied from the run store, nothing is trained again)"
        )
    return path
