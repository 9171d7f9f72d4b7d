"""Keep, hold out or drop every photo, with a reason, and advise what to photograph next."""

from pathlib import PurePath

from likeness.core import cli, manifests
from likeness.faces import curation, photo_advice


def main() -> None:
    args = cli.arguments(__doc__, "faces", "photos")
    by_hand = cli.as_mappings(args.config.decisions.photos)
    rows = curation.curate(manifests.read_table(args.faces), args.config.curate, args.config.subject.reference, by_hand)
    manifests.write_table(args.photos, rows, curation.PHOTO_COLUMNS)
    for row in rows:
        if row["fate"] == "dropped":
            cli.say(f"  {PurePath(row['photo']).name}: {row['reason']}: {row['detail']}")
    cli.say(curation.counts(rows))
    for sentence in photo_advice.advice(rows):
        cli.say(sentence)


if __name__ == "__main__":
    cli.run(main)
