"""Writes the metrics of a training: metrics.tsv for programs, and TensorBoard events beside it for people."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from likeness.core.errors import DISK_FULL, LikenessError, system_reason
from likeness.training.plan import heldout_digest

COLUMNS = ("epoch", "step", "loss", "preservation", "lr", "lr_text_encoder", "gradient_norm", "validation_loss")


class MetricsLog:
    """Writes rows of metrics as they come. A resumed run passes the earlier rows again, so both files are complete.

    Raises LikenessError if the disk is full. TensorBoard's own writer is not used, because it writes in a thread, where
    such an error would be lost.
    """

    def __init__(self, table: Path):
        from tensorboard.compat.proto.event_pb2 import Event

        with _disk_explained(table):
            table.parent.mkdir(parents=True, exist_ok=True)
            for old in table.parent.glob("events.out.tfevents.*"):
                old.unlink()  # otherwise TensorBoard would draw the curve of a killed run too
            self.written = 0
            self.table = open(table, "w")  # noqa: SIM115 - closed by __exit__
            self.table.write("\t".join(COLUMNS) + "\n")
            self.events = open(table.with_name(f"events.out.tfevents.{time.time():.0f}"), "wb")  # noqa: SIM115
            self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_exception: object) -> None:
        for file in (self.table, self.events):
            with contextlib.suppress(OSError):  # every write was flushed, so an error was reported there
                file.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the new ones of `rows`, which are all rows so far. An empty value was not measured at its step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        new, now = rows[self.written :], time.time()
        with _disk_explained(Path(self.table.name)):
            self.table.writelines("\t".join(str(row[column]) for column in COLUMNS) + "\n" for row in new)
            self.table.flush()
        with _disk_explained(Path(self.events.name)):
            for row in new:
                numbers = {column: row[column] for column in COLUMNS[2:] if row[column] != ""}
                values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
                self._add(Event(wall_time=now, step=row["step"], summary=Summary(value=values)))
            self.events.flush()
        self.written = len(rows)

    def _add(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        RecordWriter(self.events).write(event.SerializeToString())


def comparable(
    record: Mapping[str, Any], heldout: Sequence[Mapping[str, Any]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows of metrics in `record`, which `run.metrics_record` made and a state or an epoch kept. If they were
    measured on other held-out photos than `heldout`, their validation losses are removed."""
    if record["heldout"] == heldout_digest(heldout):
        return record["metrics"]
    say("the held-out photos have changed: validation losses measured on the earlier ones are left out")
    return [row | {"validation_loss": ""} for row in record["metrics"]]


@contextlib.contextmanager
def _disk_explained(path: Path) -> Iterator[None]:
    """Turns the error of a full disk into a LikenessError that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise LikenessError(
            f"{path}: {system_reason(error)}; free some space and run the same command again, what was saved "
            "before is safe"
        ) from None
