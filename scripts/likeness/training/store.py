"""The run store: the saved states and finished epochs of a training, in a folder that Snakemake never deletes.

    {key}/lock                        locked by the process that trains; another process waits
    {key}/owner                       the name of this process; one that lost the lock reads another name and stops
    {key}/state.pt                    the last saved state: LoRA, optimizer, scheduler, scaler, step, metrics
    {key}/state.previous.pt           the state before it, in case the disk damages the last one
    {key}/epoch-000003.safetensors    the LoRA of a finished epoch, written once
    {key}/epoch-000003.json           the hash of the LoRA, and the metrics up to the end of the epoch
    {key}/history                     a line per finished epoch; Snakemake deletes the log when it restarts the job

The key is the hash of everything that the result depends on. So a store is never out of date, and with earlier settings
the earlier epochs are used again. The hash of a state or an epoch includes the key and, for an epoch, its number, so
that files cannot be confused. A state is saved before the LoRA of its epoch, and the LoRA can be made from the state:
if the process is killed between the two, nothing is lost.
"""

import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from likeness.core.errors import LikenessError
from likeness.core.files import lock, private_folder, remove, write_atomic
from likeness.core.provenance import canonical, digest, file_sha256


class RunStore:
    """The folder of one training, locked by this process until it ends. If not `exclusive`, it is only read (by the
    further processes of a training)."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print, exclusive: bool = True):
        self.folder, self._say = folder, say
        self._whole: set[int] = set()
        private_folder(folder)
        if exclusive:
            self._take()

    def _take(self) -> None:
        """Wait until no other process has the lock, take it, and write the name of this process into `owner`."""
        # The file is opened for writing, because NFS allows exclusive locks only on such files.
        self._lock = open(self.folder / "lock", "a")  # noqa: SIM115 - held for the life of the process
        if not lock(self._lock, wait=False):
            self._say(f"{self._read_owner() or 'another process'} trains this very run; waiting for it to end")
            lock(self._lock, wait=True)
        # The name includes the time, because processes in containers often have the same number.
        self._owner = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now()}"
        write_atomic(self.folder / "owner", self._owner)

    def _read_owner(self) -> str:
        """The name in `owner`; "" if the store had no owner yet. The file is opened each time, so that NFS asks its
        server."""
        owner = self.folder / "owner"
        return owner.read_text(errors="replace") if owner.is_file() else ""

    def _check_owner(self) -> None:
        """Raises LikenessError if another process has taken the lock of this one.

        That can happen: an NFS server forgets the locks of a client that is silent for a minute or two, and with
        Lustre's localflock a lock counts on one machine only.
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
        """True if an epoch is stored and undamaged. A damaged epoch is deleted, so that it is trained again."""
        files = self.epoch_file(epoch), self._metrics_file(epoch)
        if not all(map(os.path.lexists, files)):
            return False
        if epoch not in self._whole:  # checked once, because reading a LoRA of 150 MB takes 0.1 s
            if not self._is_whole(epoch):
                self._say(f"{files[0]} was damaged since it was written; it is trained again")
                for file in files:
                    remove(file)
                return False
            self._whole.add(epoch)
        return True

    def _is_whole(self, epoch: int) -> bool:
        try:
            record = json.loads(self._metrics_file(epoch).read_bytes())
            seal = self._seal(epoch, record["lora"], record["measured"])
            return record["sha256"] == seal and record["lora"] == file_sha256(self.epoch_file(epoch))
        except (OSError, ValueError, LookupError, TypeError):  # the file is missing, is not JSON, or has other JSON
            return False

    def _seal(self, epoch: int, lora: str, measured: Mapping[str, Any]) -> str:
        """The hash of an epoch's record: of the run's key, the epoch, the LoRA's hash and the metrics."""
        return digest(canonical([self.folder.name, epoch, lora, measured]))

    def has_all_epochs(self, epochs: Iterable[int]) -> bool:
        """True if all of these epochs are stored, so that nothing is left to train."""
        return all(self.has_epoch(n) for n in epochs)

    def save_epoch(self, epoch: int, lora: bytes, measured: Mapping[str, Any]) -> None:
        """Store an epoch's LoRA and the metrics up to its end. Raises LikenessError if the lock was lost."""
        self._check_owner()
        sha256 = hashlib.sha256(lora).hexdigest()
        record = {"lora": sha256, "measured": measured, "sha256": self._seal(epoch, sha256, measured)}
        write_atomic(self._metrics_file(epoch), canonical(record))
        write_atomic(self.epoch_file(epoch), lora)
        self._whole.add(epoch)
        history = self.folder / "history"
        earlier = history.read_text(errors="replace") if history.is_file() else ""
        write_atomic(history, f"{earlier}epoch {epoch} by {self._owner}\n")

    def measured(self, epoch: int) -> dict[str, Any]:
        """The `measured` that `save_epoch` stored with the LoRA."""
        return json.loads(self._metrics_file(epoch).read_bytes())["measured"]

    def _metrics_file(self, epoch: int) -> Path:
        return self.epoch_file(epoch).with_suffix(".json")

    def save_state(self, state: dict[str, Any]) -> None:
        """Store a state. The state before it is kept too. Raises LikenessError if the lock was lost."""
        import torch

        self._check_owner()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        new = self.folder / "state.new.pt"
        write_atomic(new, data + self._state_seal(data))
        # If the process is killed between the next two calls, state.new.pt and state.previous.pt exist, but state.pt
        # does not. load_state reads all three.
        if self._states[1].is_file():
            os.replace(self._states[1], self._states[2])
        os.replace(new, self._states[1])

    def load_state(self, before: float = float("inf")) -> dict[str, Any] | None:
        """The newest undamaged state whose step is at most `before`, or None if there is none.

        Raises LikenessError if all are damaged.
        """
        import torch

        states = [path for path in self._states if path.is_file()]
        whole = False
        for path in states:
            data = path.read_bytes()
            if self._state_seal(data[:-32]) != data[-32:]:
                self._say(f"{path} is damaged; using the state saved before it")
                continue
            whole = True
            state = torch.load(io.BytesIO(data[:-32]), map_location="cpu", weights_only=True)
            if state["step"] <= before:
                return state
        if states and not whole:
            raise LikenessError(f"every saved state in {self.folder} is damaged; delete that folder to train anew")
        return None

    def _state_seal(self, data: bytes) -> bytes:
        """The hash of a state and of the run's key."""
        return hashlib.sha256(self.folder.name.encode() + data).digest()

    @property
    def _states(self) -> list[Path]:
        """The files of states, newest first. The first exists only if a process was killed while it saved a state."""
        return [self.folder / f"state{kind}.pt" for kind in (".new", "", ".previous")]


class SaveClock:
    """Tells when a state is to be saved within an epoch, so that a kill costs at most some minutes of training."""

    # A state of SD 1.5 at rank 128 has about 0.9 GB and takes a second or two to write: less than 2 % of the time.
    SECONDS = 120

    def __init__(self) -> None:
        self.saved_at = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.saved_at >= self.SECONDS

    def restart(self) -> None:
        self.saved_at = time.monotonic()
