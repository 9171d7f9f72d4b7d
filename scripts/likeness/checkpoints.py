"""models.json: which file is which epoch's checkpoint."""

from pathlib import Path

from likeness.errors import LikenessError
from likeness.manifests import read_json
from likeness.provenance import file_sha256


def checkpoint_file(models: Path, epoch: int) -> Path:
    """The LoRA file of an epoch. Raises LikenessError if it is not the one that was trained."""
    entry = next((e for e in read_json(models)["epochs"] if e["epoch"] == epoch), None)
    path = entry and models.parent / entry["file"]
    if not path or not path.is_file() or file_sha256(path) != entry["sha256"]:
        raise LikenessError(
            f"{path or f'the checkpoint of epoch {epoch}'} is missing or was changed since it was trained; run: "
            "snakemake --cores all --forcerun train_lora (it is copied from the run store, nothing is trained again)"
        )
    return path
