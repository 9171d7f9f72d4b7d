"""The course of a training on disk: metrics.tsv for programs, TensorBoard events beside it for people."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from likeness.errors import DISK_FULL, LikenessError
from likeness.training.plan import heldout_digest

COLUMNS = ("epoch", "step", "loss", "preservation", "lr", "lr_text_encoder", "gradient_norm", "validation_loss")


class MetricsLog:
    """Writes rows as they come. A resumed run hands over the earlier rows first, so both files are always whole.

    Raises LikenessError if the disk is full. TensorBoard's own writer has a thread, where such an error would be lost.
    """

    def __init__(self, table: Path):
        from tensorboard.compat.proto.event_pb2 import Event

        with _disk_explained(table):
            table.parent.mkdir(parents=True, exist_ok=True)
            for old in table.parent.glob("events.out.tfevents.*"):
                old.unlink()  # TensorBoard would draw the killed run's curve over this one's
            self.written = 0
            self.table = open(table, "w")  # noqa: SIM115 - closed by __exit__
            self.table.write("\t".join(COLUMNS) + "\n")
            self.events = open(table.with_name(f"events.out.tfevents.{time.time():.0f}"), "wb")  # noqa: SIM115
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_exception) -> None:
        for file in (self.table, self.events):
            with contextlib.suppress(OSError):  # every write was flushed: what fails here was said there
                file.close()

    def write(self, rows: Sequence[Mapping]) -> None:
        """All rows so far; the ones that are new are written. What is empty in a row was not measured at its step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        new, now = rows[self.written :], time.time()
        with _disk_explained(Path(self.table.name)):
            self.table.writelines("\t".join(str(row[column]) for column in COLUMNS) + "\n" for row in new)
            self.table.flush()
        with _disk_explained(Path(self.events.name)):
            for row in new:
                measured = {column: row[column] for column in COLUMNS[2:] if row[column] != ""}
                values = [Summary.Value(tag=name, simple_value=value) for name, value in measured.items()]
                self._add(Event(wall_time=now, step=row["step"], summary=Summary(value=values)))
            self.events.flush()
        self.written = len(rows)

    def _add(self, event) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self.events).write(event.SerializeToString())


def comparable(kept: Mapping, heldout: Sequence[Mapping], say: Callable[[str], None]) -> list[dict]:
    """The rows that were kept with a state or an epoch (`run.measured`), without the validation losses if they were
    measured on other photos than `heldout`."""
    if kept["heldout"] == heldout_digest(heldout):
        return kept["metrics"]
    say("the held-out photos have changed: validation losses measured on the earlier ones are left out")
    return [row | {"validation_loss": ""} for row in kept["metrics"]]


@contextlib.contextmanager
def _disk_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise LikenessError(
            f"{path}: {error.strerror.lower()}; free some space and run the same command again, what was saved before "
            "is safe"
        ) from None
