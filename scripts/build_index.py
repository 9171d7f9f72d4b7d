"""Write the start page of the results: every run of every subject, with the choice and links to the evidence."""

from likeness.choosing.choice import read_choice
from likeness.core import cli
from likeness.core.files import write_atomic
from likeness.core.manifests import checked
from likeness.report.index import index_html


def main() -> None:
    args = cli.arguments(__doc__, "choices*", "previews*", "galleries*", "page")
    choices, previews = {}, {}
    for path, preview in zip(args.choices, args.previews, strict=True):
        subject, run, *_ = path.relative_to(args.page.parent).parts
        choice = read_choice(path)
        choices[subject, run] = choice
        previews[subject, run] = checked(preview, choice["preview_sha256"], "choose_checkpoint")
    unfinished = cli.as_mappings(getattr(args.config, "unfinished", {}))
    galleries = {page.relative_to(args.page.parent).parts[:2] for page in args.galleries}
    html = index_html(choices, previews, galleries, cli.as_mappings(args.config.subjects), unfinished)
    write_atomic(args.page, html)
    cli.say(f"{args.page}: {len(html) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
