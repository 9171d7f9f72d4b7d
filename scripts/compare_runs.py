"""Write the page that compares the runs of a subject."""

from likeness.choosing.choice import read_choice
from likeness.choosing.scores import scored_pictures
from likeness.core import cli
from likeness.core.files import write_atomic
from likeness.report.runs import runs_html


def main() -> None:
    args = cli.arguments(__doc__, "choices*", "scores*", "samples*", "page")
    settings = cli.as_mappings(args.config.runs)
    runs, choices = {}, {}
    for path, scores in zip(args.choices, args.scores, strict=True):
        folder = scores.parent
        choices[folder.name] = choice = read_choice(path)
        samples = [table for table in args.samples if table.is_relative_to(folder)]
        runs[folder.name] = scored_pictures(samples, scores, choice)
    in_order = {name: settings[name] for name in choices}
    html = runs_html(runs, choices, in_order, subject=args.config.subject_name)
    write_atomic(args.page, html)
    cli.say(f"{args.page}: {len(html) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
