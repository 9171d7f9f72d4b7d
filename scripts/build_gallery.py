"""Write the gallery of a run: a page with its portraits, the best first, and the folder of their previews."""

from likeness.core import cli
from likeness.report.gallery import gallery_page
from likeness.report.page import publish_page
from likeness.report.thumbnails import thumbnail_cache


def main() -> None:
    args = cli.arguments(__doc__, "portraits", "cache", "page", "folder")
    thumbnails = thumbnail_cache(args.cache)
    html, pictures = gallery_page(
        args.portraits,
        subject=args.config.subject_name,
        run=args.config.run_name,
        folder=args.folder.name,
        thumbnails=thumbnails,
        threads=args.threads,
    )
    cli.say(f"pictures: {thumbnails.summary()}")
    publish_page(args.page, html, args.folder, pictures, "previews")


if __name__ == "__main__":
    cli.run(main)
