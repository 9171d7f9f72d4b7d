"""Write the page of a data set: every photo with its fate, its crop and its caption, to look at before training."""

from likeness.core import cli
from likeness.core.files import write_atomic
from likeness.report.dataset_page import dataset_html
from likeness.report.thumbnails import thumbnail_cache

TABLES = ("photos", "crops", "upscaled", "captions", "dataset")


def main() -> None:
    args = cli.arguments(__doc__, *TABLES, "cache", "page")
    thumbnails = thumbnail_cache(args.cache)
    tables = {name: getattr(args, name) for name in TABLES}
    html = dataset_html(**tables, subject=args.config.subject_name, thumbnails=thumbnails, threads=args.threads)
    write_atomic(args.page, html)
    cli.say(f"thumbnails: {thumbnails.summary()}")
    cli.say(f"{args.page}: {len(html) / 1e6:.1f} MB; open it in a browser before hours of training")


if __name__ == "__main__":
    cli.run(main)
