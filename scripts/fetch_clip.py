"""Locate the CLIP model of a run (a folder or a hub id), hash it, and write where it is."""

from likeness.core import cli
from likeness.core.errors import LikenessError
from likeness.models import clip, pretrained


def main() -> None:
    args = cli.arguments(__doc__, "roots*", "clip")
    name = args.config.select.clip
    if name is None:
        raise LikenessError("select.clip is empty, so there is no CLIP model to fetch")
    about = pretrained.write_manifest(args.clip, clip.clip_folder(name, args.roots))
    cli.say(f"CLIP model {name}: digest {about['digest'][:16]}")


if __name__ == "__main__":
    cli.run(main)
