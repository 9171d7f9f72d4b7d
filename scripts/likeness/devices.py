"""One GPU per job: a device is taken by a file lock before torch is imported, and held until the process ends."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

# Held for the life of the process: closing the file would give the device back.
_held = []


def gpu_ids() -> list[str]:
    """The GPUs that this user may take: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [i.strip() for i in visible.split(",") if i.strip() not in ("", "-1")]
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else []


def claim_gpu(say=print) -> None:
    """Wait for a free GPU and make it the only one that CUDA sees. Call before torch is imported.

    Snakemake counts GPUs but does not deal them out, and knows nothing of orphans or of a second Snakemake; the lock
    does. Inside a SLURM job the cluster has already chosen; without a GPU there is nothing to take.
    """
    ids = [] if "SLURM_JOB_ID" in os.environ else gpu_ids()
    if not ids:
        return
    folder = Path(tempfile.gettempdir()) / f"likeness-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while not (taken := _lock_one(folder, ids)):
        if not waited:
            say(f"waiting for a free GPU among {', '.join(ids)}")
            waited = True
        time.sleep(0.5)
    os.environ["CUDA_VISIBLE_DEVICES"] = taken
    say(f"device: GPU {taken}")


def _lock_one(folder: Path, ids: list[str]) -> str | None:
    for gpu in ids:
        file = open(folder / f"{gpu.replace('/', '_')}.lock", "w")  # noqa: SIM115 - stays open
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        return gpu
    return None


def torch_device():
    """The device to compute on: the claimed GPU, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
