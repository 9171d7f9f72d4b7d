"""The run store: everything a training has earned so far, in one folder that no workflow engine deletes.

    {key}/lock                        held by the process that trains; a second one waits
    {key}/state.pt                    the last saved state: LoRA, optimizer, scheduler, scaler, step, metrics
    {key}/epoch-000003.safetensors    the finished epochs, each written once
    {key}/history                     a line per finished epoch: Snakemake deletes a job's log when it starts it again

The key is the hash of everything the result depends on, so a store is never stale, and going back to earlier settings
finds the earlier epochs. State is written before the epoch's file, and the file can be made from the state: a kill
between the two costs nothing.
"""

import fcntl
import io
import os
import socket
import time
from pathlib import Path

from likeness.files import private_folder, write_atomic


class RunStore:
    """One training's folder, locked for this process until it ends."""

    def __init__(self, folder: Path, say=print):
        self.folder = folder
        private_folder(folder)
        self._lock = open(folder / "lock", "a+")  # noqa: SIM115 - held for the life of the process
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            say(f"{self._lock.read().strip() or 'another process'} trains this very run; waiting for it to end")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._owner = f"process {os.getpid()} on {socket.gethostname()}"
        self._lock.truncate(0)
        self._lock.write(self._owner)
        self._lock.flush()

    def epoch_file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}.safetensors"

    def finished(self, epochs: int) -> bool:
        """True if every epoch up to `epochs` is there: nothing is left to train."""
        return all(self.epoch_file(n).is_file() for n in range(1, epochs + 1))

    def save_epoch(self, epoch: int, lora: bytes) -> None:
        write_atomic(self.epoch_file(epoch), lora)
        with open(self.folder / "history", "a") as history:
            history.write(f"epoch {epoch} by {self._owner}\n")

    def save_state(self, state: dict) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.folder / "state.pt", buffer.getvalue())

    def load_state(self) -> dict | None:
        """The last saved state, or None in a new store."""
        import torch

        path = self.folder / "state.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


class SaveClock:
    """Says when a state within an epoch is due, so that a kill costs at most some minutes of training."""

    SECONDS = 120  # a rank-128 state of SD 1.5 is about 0.9 GB and takes a second or two to write: under 2 %

    def __init__(self):
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.SECONDS

    def restart(self) -> None:
        self.saved_at = time.monotonic()
