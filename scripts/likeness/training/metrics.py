"""The course of a training on disk: metrics.tsv for programs, TensorBoard events beside it for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = ("epoch", "step", "loss", "lr", "lr_text_encoder", "gradient_norm", "validation_loss")


class MetricsLog:
    """Writes rows as they come. A resumed run hands over the earlier rows first, so both files are always whole."""

    def __init__(self, table: Path):
        from torch.utils.tensorboard import SummaryWriter

        table.parent.mkdir(parents=True, exist_ok=True)
        for old in table.parent.glob("events.out.tfevents.*"):
            old.unlink()  # TensorBoard would draw the killed run's curve over this one's
        self.written = 0
        self.events = SummaryWriter(str(table.parent))
        self.table = open(table, "w")  # noqa: SIM115 - closed by __exit__
        self.table.write("\t".join(COLUMNS) + "\n")

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_exception) -> None:
        self.table.close()
        self.events.close()

    def write(self, rows: Sequence[Mapping]) -> None:
        """All rows so far; the ones that are new are written. What is empty in a row was not measured at its step."""
        for row in rows[self.written :]:
            self.table.write("\t".join(str(row[column]) for column in COLUMNS) + "\n")
            for column in COLUMNS[2:]:
                if row[column] != "":
                    self.events.add_scalar(column, row[column], row["step"])
        self.table.flush()
        self.written = len(rows)
