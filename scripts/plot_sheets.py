"""Draw one sheet per prompt, as A1111's X/Y/Z plot does: checkpoints across, weights down, the chosen cell framed."""

from likeness import cli, grid, selection
from likeness.files import publish_folder
from likeness.marking import marked_png


def main() -> None:
    args = cli.arguments(__doc__, "samples*", "scores", "choice", "folder")
    choice = selection.read_choice(args.choice)
    table = selection.measured_pictures(args.samples, args.scores, choice)
    sheets = {name: marked_png(pixels, text) for name, pixels, text in grid.sheets(table, choice)}
    publish_folder(args.folder, sheets)
    cli.say(f"{len(sheets)} sheets in {args.folder}")


if __name__ == "__main__":
    cli.run(main)
