"""Write the report of a run: the page with the choice, the grid and the evidence, and the folder of its samples."""

from likeness.core import cli
from likeness.report.page import publish_page
from likeness.report.run_page import report_page
from likeness.report.thumbnails import thumbnail_cache

TABLES = ("photos", "crops", "upscaled", "captions", "dataset", "metrics", "samples*", "scores", "choice")


def main() -> None:
    args = cli.arguments(__doc__, *TABLES, "gallery*", "cache", "report", "folder")
    thumbnails = thumbnail_cache(args.cache)
    html, pictures = report_page(
        **{name.rstrip("*"): getattr(args, name.rstrip("*")) for name in TABLES},
        title=f"{args.config.subject_name}, {args.config.run_name}",
        subject=vars(args.config.subject),
        config=cli.as_mappings(args.config),
        folder=args.folder.name,
        has_gallery=bool(args.gallery),
        thumbnails=thumbnails,
        threads=args.threads,
    )
    cli.say(f"pictures: {thumbnails.summary()}")
    publish_page(args.report, html, args.folder, pictures, "pictures")


if __name__ == "__main__":
    cli.run(main)
