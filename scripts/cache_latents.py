"""Encode the training pictures with the VAE and the captions with the text encoder, each only once."""

import json
from functools import cache
from pathlib import Path

from likeness import cli
from likeness.base_model import load_manifest, load_part, part_digest
from likeness.devices import claim_gpu, torch_device
from likeness.files import ItemCache, write_atomic
from likeness.provenance import code_digest


def main() -> None:
    args = cli.arguments(__doc__, "dataset", "base", "cache", "latents")
    claim_gpu(cli.say)
    from likeness.latents import encoded_caption, encoded_image, latents_bytes

    dataset, base = json.loads(args.dataset.read_text()), load_manifest(args.base)
    store = ItemCache(args.cache, code_digest(Path(__file__)))

    @cache
    def part(name: str):
        model = load_part(base, name)
        return model if name == "tokenizer" else model.to(torch_device())

    def image(item: dict) -> Path:
        png, size = args.dataset.parent / item["image"], dataset["resolution"]
        vae = part_digest(base, "vae")
        return store.get(lambda: encoded_image(part("vae"), png, size), "image", item["sha256"], vae, str(size))

    def caption(words: str) -> Path:
        text = part_digest(base, "text_encoder", "tokenizer")
        return store.get(lambda: encoded_caption(part("tokenizer"), part("text_encoder"), words), "text", words, text)

    items = list(cli.progress(dataset["images"], desc="cache_latents", unit="photo"))
    write_atomic(args.latents, latents_bytes(items, image, caption))
    cli.say(store.summary())


if __name__ == "__main__":
    cli.run(main)
