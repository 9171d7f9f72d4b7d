"""Locate the captioner (a folder or a hub id), hash it, and write where it is."""

from likeness.captions import captioners
from likeness.core import cli
from likeness.core.errors import LikenessError
from likeness.models import pretrained


def main() -> None:
    args = cli.arguments(__doc__, "roots*", "captioner")
    backend, model = args.config.caption.backend, args.config.caption.model
    if backend == "template":
        raise LikenessError("caption.backend is template, so there is no captioner to fetch")
    folder = captioners.model_folder(backend, model, args.roots)
    about = pretrained.write_manifest(args.captioner, folder)
    cli.say(f"captioner {model or backend}: digest {about['digest'][:16]}")


if __name__ == "__main__":
    cli.run(main)
