"""Write the report of a run: one HTML file with the choice, the grid, the evidence, the photos and the settings."""

from likeness import cli, report
from likeness.files import write_atomic
from likeness.report.pictures import thumbnail_cache

TABLES = ("photos", "crops", "upscaled", "captions", "dataset", "metrics", "samples*", "scores", "choice")


def main() -> None:
    args = cli.arguments(__doc__, *TABLES, "cache", "report")
    thumbnails = thumbnail_cache(args.cache)
    html = report.report_html(
        **{name.rstrip("*"): getattr(args, name.rstrip("*")) for name in TABLES},
        title=f"{args.config.subject_name}, {args.config.run_name}",
        subject=vars(args.config.subject),
        config=cli.plain(args.config),
        thumbnails=thumbnails,
        threads=args.threads,
    )
    write_atomic(args.report, html)
    cli.say(f"thumbnails: {thumbnails.summary()}")
    cli.say(f"{args.report}: {len(html) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    cli.run(main)
