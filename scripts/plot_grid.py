"""Draw the checkpoints x weights grid of a run as one PNG, marked as AI made."""

from likeness import cli, grid, selection
from likeness.files import write_atomic
from likeness.marking import marked_png


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "scores", "choice", "grid")
    choice = selection.read_choice(args.choice)
    table = selection.measured_pictures(args.samples, args.scores, choice)
    write_atomic(args.grid, marked_png(grid.grid(table, choice)))
    cli.say(f"{len(table)} pictures, {table['prompt'].nunique()} sheets")


if __name__ == "__main__":
    cli.run(main)
