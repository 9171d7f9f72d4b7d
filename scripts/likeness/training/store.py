"""The run store: everything a training has earned so far, in one folder that no workflow engine deletes.

    {key}/lock                        held by the process that trains; a second one waits
    {key}/owner                       which process that is; one that lost its lock finds another name here, and stops
    {key}/state.pt                    the last saved state: LoRA, optimizer, scheduler, scaler, step, metrics
    {key}/state.previous.pt           the one before: a disk may damage a file long after it was written whole
    {key}/epoch-000003.safetensors    the finished epochs, each written once
    {key}/epoch-000003.json           its hash, and the metrics up to its end: a state is soon that of another epoch
    {key}/history                     a line per finished epoch: Snakemake deletes a job's log when it starts it again

The key is the hash of everything the result depends on, so a store is never stale, and going back to earlier settings
finds the earlier epochs. State is written before the epoch's file, and the file can be made from the state: a kill
between the two costs nothing.
"""

import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from likeness.errors import LikenessError
from likeness.files import locked, private_folder, write_atomic
from likeness.provenance import canonical, digest, file_sha256


class RunStore:
    """One training's folder, locked for this process until it ends; with `lock` False (the further processes of one
    training) only to be read."""

    def __init__(self, folder: Path, say=print, lock: bool = True):
        self.folder, self._say = folder, say
        self._whole: set[int] = set()
        private_folder(folder)
        if lock:
            self._take()

    def _take(self) -> None:
        """Wait until no other process has the lock, and write down that this one does."""
        # For writing: over NFS only such a file can be locked for one process alone.
        self._lock = open(self.folder / "lock", "a")  # noqa: SIM115 - held for the life of the process
        if not locked(self._lock, wait=False):
            self._say(f"{self._read_owner() or 'another process'} trains this very run; waiting for it to end")
            locked(self._lock, wait=True)
        # The time, because containers give every process the same number.
        self._owner = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now()}"
        write_atomic(self.folder / "owner", self._owner)

    def _read_owner(self) -> str:
        """By opening the file anew, which makes NFS ask its server; "" if nobody has owned this store yet."""
        owner = self.folder / "owner"
        return owner.read_text() if owner.is_file() else ""

    def _check_owner(self) -> None:
        """Raises LikenessError if another process took the lock while this one thought it had it.

        An NFS server forgets the locks of a client that it has not heard of for a minute or two, and with Lustre's
        localflock they count on one machine only.
        """
        owner = self._read_owner()
        if owner and owner != self._owner:
            raise LikenessError(
                f"{owner} trains this very run, because the lock in {self.folder} was lost; this process leaves it to "
                "that one. If it happens again, the file system's locks do not hold: docs/slurm.md, Shared storage"
            )

    def epoch_file(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:06d}.safetensors"

    def has_epoch(self, epoch: int) -> bool:
        """True if an epoch is there, whole. One that a disk damaged is taken away, so that it is trained again."""
        lora, metrics = self.epoch_file(epoch), self._metrics_file(epoch)
        if not lora.is_file() or not metrics.is_file():
            return False
        if epoch not in self._whole:  # a LoRA of 150 MB takes a tenth of a second to read
            if not _is_whole(lora, metrics):
                self._say(f"{lora} was damaged since it was written; it is trained again")
                lora.unlink()
                return False
            self._whole.add(epoch)
        return True

    def finished(self, epochs: Iterable[int]) -> bool:
        """True if all these epochs are there: nothing is left to train."""
        return all(self.has_epoch(n) for n in epochs)

    def save_epoch(self, epoch: int, lora: bytes, measured: Mapping) -> None:
        """Keep an epoch's LoRA and what was measured up to its end. Raises LikenessError if the lock was lost."""
        self._check_owner()
        kept = {"lora": hashlib.sha256(lora).hexdigest(), "measured": measured}
        kept["sha256"] = digest(canonical([kept["lora"], measured]))
        write_atomic(self._metrics_file(epoch), canonical(kept))
        write_atomic(self.epoch_file(epoch), lora)
        self._whole.add(epoch)
        history = self.folder / "history"
        earlier = history.read_text() if history.is_file() else ""
        write_atomic(history, f"{earlier}epoch {epoch} by {self._owner}\n")

    def measured(self, epoch: int) -> dict:
        """What `save_epoch` was given with the LoRA."""
        return json.loads(self._metrics_file(epoch).read_bytes())["measured"]

    def _metrics_file(self, epoch: int) -> Path:
        return self.epoch_file(epoch).with_suffix(".json")

    def save_state(self, state: dict) -> None:
        """Keep a state. Raises LikenessError if the lock was lost."""
        import torch

        self._check_owner()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        new = self.folder / "state.new.pt"
        write_atomic(new, data + hashlib.sha256(data).digest())
        # A kill between these two leaves a new state, a previous one, and none in the middle: load_state knows.
        if self._states[1].is_file():
            os.replace(self._states[1], self._states[2])
        os.replace(new, self._states[1])

    def load_state(self, before: float = float("inf")) -> dict | None:
        """The newest saved state that is whole and whose step is at most `before`, or None if there is none.

        Raises LikenessError if all are damaged.
        """
        import torch

        found = [path for path in self._states if path.is_file()]
        whole = False
        for path in found:
            data = path.read_bytes()
            if hashlib.sha256(data[:-32]).digest() != data[-32:]:
                self._say(f"{path} is damaged; using the state saved before it")
                continue
            whole = True
            state = torch.load(io.BytesIO(data[:-32]), map_location="cpu", weights_only=True)
            if state["step"] <= before:
                return state
        if found and not whole:
            raise LikenessError(f"every saved state in {self.folder} is damaged; delete that folder to train anew")
        return None

    @property
    def _states(self) -> list[Path]:
        """Newest first; the first is there only after a kill in the midst of saving."""
        return [self.folder / f"state{kind}.pt" for kind in (".new", "", ".previous")]


def _is_whole(lora: Path, metrics: Path) -> bool:
    try:
        kept = json.loads(metrics.read_bytes())
        about = digest(canonical([kept["lora"], kept["measured"]]))
        return kept["sha256"] == about and kept["lora"] == file_sha256(lora)
    except (ValueError, LookupError, TypeError):  # not JSON any more, or another one
        return False


class SaveClock:
    """Says when a state within an epoch is due, so that a kill costs at most some minutes of training."""

    SECONDS = 120  # a rank-128 state of SD 1.5 is about 0.9 GB and takes a second or two to write: under 2 %

    def __init__(self):
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.SECONDS

    def restart(self) -> None:
        self.saved_at = time.monotonic()
