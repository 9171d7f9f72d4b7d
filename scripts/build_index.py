"""Write the first page of the results: every subject and every run, with what was chosen and links to the evidence."""

from likeness import cli
from likeness.files import write_atomic
from likeness.manifests import checked
from likeness.report.index import index_html
from likeness.selection import read_choice


def main() -> None:
    args = cli.arguments(__doc__, "choices*", "previews*", "page")
    choices, previews = {}, {}
    for path, preview in zip(args.choices, args.previews, strict=True):
        subject, run, *_ = path.relative_to(args.page.parent).parts
        choice = read_choice(path)
        choices[subject, run] = choice
        previews[subject, run] = checked(preview, choice["preview_sha256"], "choose_checkpoint")
    html = index_html(choices, previews, cli.plain(args.config.subjects))
    write_atomic(args.page, html)
    cli.say(f"{args.page}: {len(html) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
