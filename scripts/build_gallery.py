"""Write the gallery of a run: a page with its portraits, the best first, and the folder of their previews."""

from likeness.core import cli
from likeness.core.files import publish_folder, write_atomic
from likeness.report.gallery import gallery_page
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
    publish_folder(args.folder, pictures)
    write_atomic(args.page, html)
    cli.say(f"pictures: {thumbnails.summary()}")
    cli.say(
        f"{args.page}: {len(html) / 1e6:.1f} MB, and {len(pictures)} previews in {args.folder}; open it in a browser"
    )


if __name__ == "__main__":
    cli.run(main)
