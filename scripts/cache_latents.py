"""Encode the pictures with the VAE and the captions with the text encoder, each only once."""

from functools import cache
from pathlib import Path

from likeness import cli
from likeness.base_model import load_manifest, load_part, part_digest
from likeness.caption_length import cut_words, token_count
from likeness.devices import claim_gpu, memory_explained, torch_device
from likeness.files import ItemCache, write_atomic
from likeness.manifests import checked, read_json, seal
from likeness.provenance import canonical, code_digest


def main() -> None:
    args = cli.arguments(__doc__, "dataset", "base", "cache", "latents")
    claim_gpu(cli.say)
    from likeness.conditioning import load_text_encoders, load_tokenizers
    from likeness.latents import CHUNK, GROUPS, encoded_caption, encoded_image, latents_bytes

    dataset, base = read_json(args.dataset), load_manifest(args.base)
    store = ItemCache(args.cache, code_digest(Path(__file__)))

    @cache
    def vae():
        return load_part(base, "vae").to(torch_device())

    @cache
    def text() -> tuple[list, list]:
        return load_tokenizers(base), [encoder.to(torch_device()) for encoder in load_text_encoders(base)]

    bar = cli.progress(None, total=sum(len(dataset[group]) for group in GROUPS), desc="cache_latents", unit="photo")

    def image(item: dict, mirrored: bool) -> Path:
        bar.update(not mirrored)
        png = checked(args.dataset.parent / item["image"], item["sha256"], "build_dataset")
        size, model = item["size"], part_digest(base, "vae")
        key = ["image", item["sha256"], model, canonical([size, mirrored])]
        return store.get(lambda: encoded_image(vae(), png, size, mirrored), *key)

    def caption(words: str, max_token_length: int) -> Path:
        models = part_digest(base, "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        skip = args.config.clip_skip
        key = ["text", words, models, str(skip)] + [str(max_token_length)] * (max_token_length != CHUNK)
        return store.get(lambda: encoded_caption(*text(), words, skip, max_token_length), *key)

    lengths = args.config.token_lengths
    if others := dict.fromkeys(item["caption"] for item in dataset["regularisation"]):
        tokenizer = load_part(base, "tokenizer")
        for words in others:
            if cut := cut_words(token_count(words, tokenizer, min(lengths))):
                cli.say(f"regularisation caption {words[:40]!r}...: {cut}")
    with bar, memory_explained({"resolution": dataset["resolution"]}):
        write_atomic(args.latents, latents_bytes(dataset, args.config.flips, image, caption, lengths))
        seal(args.latents)
    cli.say(store.summary())


if __name__ == "__main__":
    cli.run(main)
