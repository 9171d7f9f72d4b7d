"""Locate the base model (a diffusers folder, a single .safetensors file or a hub id) and the user's own VAE, hash
them, and write where they are."""

from pathlib import Path

from likeness.core import cli
from likeness.core.files import private_folder
from likeness.core.manifests import read_json, write_json
from likeness.core.pinned_models import model_path
from likeness.models.base_model import diffusers_folder, manifest, vae_folder
from likeness.models.kinds import distilled_word


def main() -> None:
    args = cli.arguments(__doc__, "models", "roots*", "same_family*", "cache", "base")
    model = args.config.base_model
    private_folder(args.cache)
    merge_list = model_path(args.models, "bpe_simple_vocab_16e6.txt.gz")
    own_vae, revision = args.config.vae is not None, args.config.base_revision
    same_family = [read_json(path) for path in args.same_family]
    folder = diffusers_folder(model, revision, args.roots, merge_list, args.cache, own_vae, same_family)
    vae = vae_folder(args.config.vae, args.roots, folder, args.cache) if own_vae else None
    about = manifest(model, folder, args.base.parent, vae, args.config.prediction_type)
    write_json(args.base, about)
    if word := distilled_word(Path(model).name):
        cli.say(
            f"warning: base_model {model}: by its name a distilled model ({word}): made to be drawn in 1 to 8 steps "
            "with a guidance_scale of 1 to 2, which training as a plain model undoes; train on the model that it was "
            "made from, and where this one draws, set sample.steps and sample.guidance_scale so"
        )
    cli.say(f"base model {model}: {about['family']}, {about['prediction_type']}, digest {about['digest'][:16]}")


if __name__ == "__main__":
    cli.run(main)
