"""Write a caption for every picture: the user's own caption if there is one, else one that is made from the
measurements, or by a captioner."""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from likeness.captions import caption_length, captioners, identity_words, wording
from likeness.core import cli, devices, files, manifests, provenance
from likeness.models import base_model, pretrained
from likeness.photos import caption_files, images

COLUMNS = [
    *("photo", "fate", "image", "image_sha256", "face"),
    *("caption", "sha256", "text", "source", "tokens", "detail"),
]


def main() -> None:
    names = ("upscaled", "base", "texts*", "no_texts*", "words*", "captioner*", "cache", "captions", "folder")
    args = cli.arguments(__doc__, *names)
    trigger, class_noun = args.config.subject.trigger, args.config.subject.class_noun
    backend = args.config.caption.backend
    items = files.ItemCache(args.cache, backend, provenance.code_digest(Path(__file__)))
    tokenizer = base_model.load_part(base_model.load_manifest(args.base), "tokenizer")

    @cache
    def model_digest() -> str:
        return pretrained.read_manifest(args.captioner[0])[1]

    # Loaded for the first photo that has neither a caption of the user's nor one in the cache.
    @cache
    def captioner() -> Callable[[np.ndarray], str]:
        devices.claim_gpu(cli.say)
        return captioners.load_captioner(backend, pretrained.verified_folder(args.captioner[0]), devices.torch_device())

    @cache
    def left_out() -> identity_words.IdentityWords:
        return identity_words.identity_words(args.words[0])

    def from_template(row: Mapping[str, Any]) -> str:
        attributes, *pose = (json.loads(row[name]) for name in ("attributes", "yaw", "pitch", "face_fraction"))
        measured = provenance.canonical([trigger, class_noun, attributes, pose])
        text = items.get(lambda: wording.template_caption(trigger, class_noun, attributes, *pose).encode(), measured)
        return text.read_text(encoding="utf-8")

    def from_model(row: Mapping[str, Any]) -> str:
        """The unedited text of the model is cached. So the model is not needed again for another list of words or
        another trigger."""
        picture = manifests.checked(args.upscaled.parent / row["image"], row["sha256"], "upscale_faces")
        text = items.get(lambda: captioner()(images.read_photo(picture)).encode(), model_digest(), row["sha256"])
        return identity_words.model_caption(text.read_text(encoding="utf-8"), trigger, class_noun, left_out())

    table = manifests.read_table(args.upscaled).to_dict("records")
    own_texts = caption_files.by_photo({Path(row["photo"]) for row in table}, args.texts)
    not_read = caption_files.not_read(args.texts, args.no_texts, own_texts)
    for path, why in not_read.items():
        cli.say(f"{path}: {why}")
    photos_of: dict[Path, list[str]] = {}
    for photo, path in sorted(own_texts.items()):
        photos_of.setdefault(path, []).append(photo.name)

    by_hand = cli.as_mappings(args.config.decisions.captions)
    make_caption = from_template if backend == "template" else from_model
    rows, texts = [], {}
    for row in cli.progress(table, desc="caption", unit="photo"):
        name, photo = f"{Path(row['image']).stem}.txt", Path(row["photo"])
        decided = by_hand.get(photo.name)
        own = None if decided else own_texts.get(photo)
        text = decided or (caption_files.user_caption(own) if own else make_caption(row))
        count = caption_length.token_count(text, tokenizer, min(args.config.token_lengths))
        file, photos = (own.name, photos_of[own]) if own else (name, [row["photo"]])
        # The caption of a held-out photo has no effect on the training.
        warnings = wording.warnings(file, text, trigger, count, photos) if row["fate"] == "train" else []
        detail = " ".join(warnings)
        texts[name] = text
        rows.append(
            {
                **{name: row[name] for name in ("photo", "fate", "image", "face")},
                "image_sha256": row["sha256"],
                "caption": f"{args.folder.name}/{name}",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text,
                "source": "user" if decided or own else backend,
                "tokens": count.tokens,
                "detail": detail,
            }
        )
        cli.say(f"{row['photo']}: {text}")
        if detail:
            cli.say(detail)
    for path, why in not_read.items():
        about = {"fate": "not read", "caption": files.seen_from(args.captions.parent, path), "detail": why}
        rows.append(about)
    files.publish_folder(args.folder, texts)
    manifests.write_table(args.captions, rows, COLUMNS)
    cli.say(items.summary())


if __name__ == "__main__":
    cli.run(main)
