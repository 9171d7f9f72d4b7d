"""models.json: which file is which epoch's checkpoint."""

import json
from pathlib import Path

from likeness.errors import LikenessError
from likeness.provenance import file_sha256


def checkpoint_file(models: Path, epoch: int) -> Path:
    """The LoRA file of an epoch. Raises LikenessError if it is not the one that was trained."""
    entry = next((e for e in json.loads(models.read_text())["epochs"] if e["epoch"] == epoch), None)
    path = entry and models.parent / entry["file"]
    if not path or not path.is_file() or file_sha256(path) != entry["sha256"]:
        raise LikenessError(
            f"the checkpoint of epoch {epoch} beside {models} is missing or was changed; "
            "run: snakemake --forcerun train_lora (it is copied from the run store, nothing is trained again)"
        )
    return path
