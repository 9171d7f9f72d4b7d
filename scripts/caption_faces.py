"""Write a caption for every picture: the user's own where there is one, else one that is made from what was
measured, or by a model that looks at it."""

import hashlib
import json
from functools import cache
from pathlib import Path

from likeness import (
    base_model,
    caption_files,
    caption_length,
    captioners,
    captions,
    cli,
    devices,
    files,
    identity_words,
    images,
    manifests,
    pretrained,
    provenance,
)

COLUMNS = [
    *("photo", "fate", "image", "image_sha256", "face"),
    *("caption", "sha256", "text", "source", "tokens", "detail"),
]


def main() -> None:
    args = cli.arguments(__doc__, "upscaled", "base", "texts*", "words*", "captioner*", "cache", "captions", "folder")
    trigger, class_noun = args.config.subject.trigger, args.config.subject.class_noun
    backend = args.config.caption.backend
    items = files.ItemCache(args.cache, backend, provenance.code_digest(Path(__file__)))
    tokenizer = base_model.load_part(base_model.load_manifest(args.base), "tokenizer")

    @cache
    def found() -> tuple[Path, str]:
        return pretrained.read_manifest(args.captioner[0])

    # Loaded by the first photo without a caption of the user's that is new to the cache.
    @cache
    def captioner():
        devices.claim_gpu(cli.say)
        return captioners.load_captioner(backend, found()[0], devices.torch_device())

    @cache
    def left_out() -> identity_words.IdentityWords:
        return identity_words.identity_words(args.words[0])

    def from_template(row: dict) -> str:
        attributes, *pose = (json.loads(row[name]) for name in ("attributes", "yaw", "pitch", "face_fraction"))
        measured = provenance.canonical([trigger, class_noun, attributes, pose])
        text = items.get(lambda: captions.template_caption(trigger, class_noun, attributes, *pose).encode(), measured)
        return text.read_text(encoding="utf-8")

    def from_model(row: dict) -> str:
        """The model's own words are cached, so that another list of words or another trigger does not need it again."""
        picture = manifests.checked(args.upscaled.parent / row["image"], row["sha256"], "upscale_faces")
        said = items.get(lambda: captioner()(images.read_photo(picture)).encode(), found()[1], row["sha256"])
        return identity_words.model_caption(said.read_text(encoding="utf-8"), trigger, class_noun, left_out())

    table = manifests.read_table(args.upscaled).to_dict("records")
    own_texts = caption_files.by_photo({Path(row["photo"]) for row in table}, args.texts)
    for text in caption_files.without_photo(args.texts, own_texts):
        cli.say(f"{text}: belongs to no photo that is used, so it is not read; a caption is named as its photo is")
    photos_of: dict[Path, list[str]] = {}
    for photo, text in sorted(own_texts.items()):
        photos_of.setdefault(text, []).append(photo.name)

    made = from_template if backend == "template" else from_model
    rows, texts = [], {}
    for row in cli.progress(table, desc="caption", unit="photo"):
        name, own = f"{Path(row['image']).stem}.txt", own_texts.get(Path(row["photo"]))
        text = caption_files.user_caption(own) if own else made(row)
        count = caption_length.token_count(text, tokenizer, min(args.config.token_lengths))
        file, photos = (own.name, photos_of[own]) if own else (name, [row["photo"]])
        # A held-out photo teaches nothing, whatever its caption says.
        warnings = captions.warnings(file, text, trigger, count, photos) if row["fate"] == "train" else []
        detail = " ".join(warnings)
        texts[name] = text
        rows.append(
            {
                **{name: row[name] for name in ("photo", "fate", "image", "face")},
                "image_sha256": row["sha256"],
                "caption": f"{args.folder.name}/{name}",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text,
                "source": "user" if own else backend,
                "tokens": count.tokens,
                "detail": detail,
            }
        )
        cli.say(f"{row['photo']}: {text}")
        if detail:
            cli.say(detail)
    files.publish_folder(args.folder, texts)
    manifests.write_table(args.captions, rows, COLUMNS)
    cli.say(items.summary())


if __name__ == "__main__":
    cli.run(main)
