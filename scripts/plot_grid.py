"""Draw the checkpoints x weights grid of a run as one PNG, marked as AI made."""

from likeness.choosing import grid
from likeness.choosing.choice import read_choice
from likeness.choosing.scores import measured_pictures
from likeness.core import cli
from likeness.core.files import write_atomic
from likeness.drawing.marking import marked_png


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "scores", "choice", "grid")
    choice = read_choice(args.choice)
    table = measured_pictures(args.samples, args.scores, choice)
    write_atomic(args.grid, marked_png(grid.grid(table, choice)))
    cli.say(f"{len(table)} pictures, {table['prompt'].nunique()} sheets")


if __name__ == "__main__":
    cli.run(main)
