"""Copy the chosen LoRA, with its sidecar and preview, into the folders of other programs."""

from pathlib import Path

from likeness.choosing.installation import COLUMNS, install
from likeness.core import cli
from likeness.core.manifests import read_json, write_table
from likeness.training.checkpoints import checkpoint_file


def main() -> None:
    args = cli.arguments(__doc__, "lora", "sidecar", "preview", "models", "installed")
    files = {path.name: path for path in (args.lora, args.sidecar, args.preview)}
    if args.config.every_epoch:
        checkpoints = [checkpoint_file(args.models, entry["epoch"]) for entry in read_json(args.models)["epochs"]]
        files |= {path.name: path for path in checkpoints}
    rows = []
    for folder in args.config.folders:
        rows += install(files, Path(folder), args.config.project)
    write_table(args.installed, rows, COLUMNS)
    for row in rows:
        cli.say(f"{row['file']}: {row['detail'] or 'installed'}")


if __name__ == "__main__":
    cli.run(main)
