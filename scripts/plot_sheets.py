"""Draw one sheet per prompt, as A1111's X/Y/Z plot does: checkpoints across, weights down, the chosen cell framed."""

from likeness.choosing import grid
from likeness.choosing.choice import read_choice
from likeness.choosing.scores import measured_pictures
from likeness.core import cli
from likeness.core.files import publish_folder
from likeness.drawing.marking import marked_png


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "scores", "choice", "folder")
    choice = read_choice(args.choice)
    table = measured_pictures(args.samples, args.scores, choice)
    sheets = {name: marked_png(pixels, text) for name, pixels, text in grid.sheets(table, choice)}
    publish_folder(args.folder, sheets)
    cli.say(f"{len(sheets)} sheets in {args.folder}")


if __name__ == "__main__":
    cli.run(main)
