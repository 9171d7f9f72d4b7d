"""Encode each picture with the VAE and each caption with the text encoders, once for all runs."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from likeness.captions.caption_length import cut_words, token_count
from likeness.core import cli
from likeness.core.devices import claim_gpu, memory_explained, torch_device
from likeness.core.files import ItemCache, write_atomic
from likeness.core.manifests import checked, read_json, seal
from likeness.core.provenance import canonical, code_digest
from likeness.models.base_model import load_manifest, load_part, part_digest


def main() -> None:
    args = cli.arguments(__doc__, "dataset", "base", "cache", "latents")
    claim_gpu(cli.say)
    from likeness.models.conditioning import CHUNK, load_text_encoders, load_tokenizers
    from likeness.training.latents import GROUPS, encoded_caption, encoded_image, latents_bytes

    dataset, base = read_json(args.dataset), load_manifest(args.base)
    store = ItemCache(args.cache, code_digest(Path(__file__)))

    @cache
    def vae() -> Any:
        return load_part(base, "vae").to(torch_device())

    @cache
    def text_models() -> tuple[list[Any], list[Any]]:
        return load_tokenizers(base), [encoder.to(torch_device()) for encoder in load_text_encoders(base)]

    bar = cli.progress(None, total=sum(len(dataset[group]) for group in GROUPS), desc="cache_latents", unit="photo")

    def image(item: Mapping[str, Any], mirrored: bool) -> Path:
        bar.update(not mirrored)
        png = checked(args.dataset.parent / item["image"], item["sha256"], "build_dataset")
        size, model = item["size"], part_digest(base, "vae")
        key = ["image", item["sha256"], model, canonical([size, mirrored])]
        return store.get(lambda: encoded_image(vae(), png, size, mirrored), *key)

    def caption(text: str, max_token_length: int) -> Path:
        models = part_digest(base, "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        skip = args.config.clip_skip
        key = ["text", text, models, str(skip)] + [str(max_token_length)] * (max_token_length != CHUNK)
        return store.get(lambda: encoded_caption(*text_models(), text, skip, max_token_length), *key)

    lengths = args.config.token_lengths
    if captions := dict.fromkeys(item["caption"] for item in dataset["regularisation"]):
        tokenizer = load_part(base, "tokenizer")
        for text in captions:
            if cut := cut_words(token_count(text, tokenizer, min(lengths))):
                cli.say(f"regularisation caption {text[:40]!r}...: {cut}")
    with bar, memory_explained({"resolution": dataset["resolution"]}):
        write_atomic(args.latents, latents_bytes(dataset, args.config.flips, image, caption, lengths))
        seal(args.latents)
    cli.say(store.summary())


if __name__ == "__main__":
    cli.run(main)
