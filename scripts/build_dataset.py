"""Write the training set in the layout of kohya's trainers: image/{repeats}_{trigger} {class_noun}/ with .png and .txt
files, and reg/1_{class_noun}/ with the regularisation photos or the class pictures."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from likeness.captions import identity_words, wording
from likeness.core import cli, files, manifests, provenance
from likeness.core.errors import LikenessError, PhotoError
from likeness.photos import caption_files, decoding, images
from likeness.training import schedule


def main() -> None:
    inputs = ("photos", "captions", "words", "regularisation*", "texts*", "not_read*", "class_pictures*")
    args = cli.arguments(__doc__, *inputs, "cache", "dataset", "folder", "reg_folder")
    subject, train, manifest_folder = args.config.subject, args.config.train, args.dataset.parent
    trained, heldout = (subject_items(args.captions, fate) for fate in ("train", "heldout"))
    words = identity_words.identity_words(args.words)
    trained = [with_class_caption(item, subject.trigger, subject.class_noun, words) for item in trained]
    store = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)))
    for path, why in why_not_read(args.regularisation, args.texts, args.not_read).items():
        cli.say(f"{path}: {why}")
    hashes = photo_hashes(args.regularisation)
    refuse_the_subject(hashes, args.photos)
    if args.class_pictures:
        others = drawn_items(args.class_pictures[0])
    else:
        others = class_items(hashes, args.texts, subject.class_noun, args.config.resolution, store)
    if args.regularisation and not others:
        raise LikenessError(
            f"none of the {len(args.regularisation)} regularisation photos can be used; each must be a picture of at "
            f"least {args.config.resolution} px on its shorter side"
        )

    shown = train, *schedule.sizes({"images": trained, "regularisation": others})
    repeats = schedule.schedule(*shown).repeats
    concept = args.folder / f"{repeats}_{subject.trigger} {subject.class_noun}"
    # The name of the folder has the number of repeats. An old folder would be trained on, too, so it is removed.
    files.publish_folder(args.folder, {})
    files.publish_folder(args.reg_folder, {})
    manifest = {
        "subject": f"{subject.trigger} {subject.class_noun}",
        "resolution": args.config.resolution,
        "folder": files.seen_from(manifest_folder, concept),
        "repeats": repeats,
        "arithmetic": schedule.arithmetic(*shown),
        "bare_class": captioned(wording.bare_class_caption(subject.class_noun)),
        "images": laid_out(trained, concept, manifest_folder),
        "heldout": [listed(item, item["png"], manifest_folder) for item in heldout],
        "regularisation": laid_out(others, args.reg_folder / f"1_{subject.class_noun}", manifest_folder),
    }
    manifests.write_json(args.dataset, manifest)
    cli.say(manifest["arithmetic"])
    cli.say(store.summary())


def subject_items(table: Path, fate: str) -> list[dict[str, Any]]:
    """The subject's pictures of one fate, sorted by name."""
    rows = manifests.read_table(table).to_dict("records")
    items = [
        listed_item(table, row, row["image_sha256"], row["text"], "upscale_faces") | {"face": json.loads(row["face"])}
        for row in rows
        if row["fate"] == fate
    ]
    return sorted(items, key=lambda item: item["name"])


def drawn_items(table: Path) -> list[dict[str, Any]]:
    """The class pictures, which have the right size already."""
    rows = manifests.read_table(table).to_dict("records")
    return [listed_item(table, row, row["sha256"], row["caption"], "draw_class_pictures") for row in rows]


def listed_item(table: Path, row: Mapping[str, Any], sha256: str, caption: str, rule: str) -> dict[str, Any]:
    """The item of a table's row. Raises LikenessError if its picture is not the one that `rule` made."""
    return made_item(Path(row["image"]).stem, manifests.checked(table.parent / row["image"], sha256, rule), caption)


def why_not_read(photos: Sequence[Path], texts: Sequence[Path], unreadable_entries: Sequence[Path]) -> dict[Path, str]:
    """{path in the regularisation folder: why it is not read}, for captions without a photo and for paths that are no
    files."""
    no_texts = [path for path in unreadable_entries if path.suffix.lower() in caption_files.SUFFIXES]
    reasons = caption_files.not_read(texts, no_texts, caption_files.by_photo(photos, texts))
    for path in set(unreadable_entries) - set(no_texts):
        try:
            decoding.check_file(path)
        except PhotoError as error:
            reasons[path] = f"left out: {error}"
    return dict(sorted(reasons.items()))


def photo_hashes(photos: Sequence[Path]) -> dict[Path, str]:
    """The sha256 of every photo that is a readable file; the log lists the others."""
    hashes = {}
    for photo in sorted(photos):
        try:
            hashes[photo] = decoding.photo_sha256(photo)
        except PhotoError as error:
            cli.say(f"{photo}: left out: {error}")
    return hashes


def class_items(
    hashes: Mapping[Path, str], texts: Sequence[Path], class_noun: str, resolution: int, store: files.ItemCache
) -> list[dict[str, Any]]:
    """The usable regularisation photos, as squares with the resolution; the log lists the others. `hashes` come from
    `photo_hashes`."""
    items, own_texts = [], caption_files.by_photo(hashes, texts)
    stems = images.unique_stems(str(photo) for photo in hashes)
    for photo, sha256 in cli.progress(hashes.items(), desc="regularisation", unit="photo"):
        text = own_texts.get(photo)

        def square(photo: Path = photo, sha256: str = sha256) -> bytes:
            pixels = images.class_photo(images.read_photo(photo), resolution)
            decoding.check_unchanged(photo, sha256)
            return images.png_bytes(pixels)

        try:
            png = store.get(square, sha256, str(resolution))
        except PhotoError as error:
            cli.say(f"{photo}: left out: {error}")
            continue
        items.append(made_item(stems[str(photo)], png, caption_files.user_caption(text) if text else class_noun))
    return items


def refuse_the_subject(hashes: Mapping[Path, str], photos: Path) -> None:
    """Raises LikenessError if a regularisation photo is one of the subject's photos: it would work against the
    training."""
    rows = manifests.read_table(photos).to_dict("records") if hashes else []
    names = {row["sha256"]: Path(row["photo"]).name for row in rows}
    for photo, sha256 in hashes.items():
        if same := names.get(sha256):
            raise LikenessError(f"{photo} is the subject's photo {same}; remove it from the regularisation folder")


def made_item(name: str, png: Path, caption: str) -> dict[str, Any]:
    """The entry of a picture in dataset.json, and its current path as `png`."""
    with Image.open(png) as picture:
        size = list(picture.size)
    return {
        "name": name,
        "png": png,
        "sha256": provenance.file_sha256(png),
        "size": size,
        **captioned(caption),
    }


def captioned(caption: str) -> dict[str, str]:
    return {"caption": caption, "caption_sha256": hashlib.sha256(caption.encode()).hexdigest()}


def with_class_caption(
    item: dict[str, Any], trigger: str, class_noun: str, words: identity_words.IdentityWords
) -> dict[str, Any]:
    """An item of the subject with a caption of the class alone, for train.preserve_class."""
    about = captioned(wording.class_caption(item["caption"], trigger, class_noun, words))
    return item | {f"class_{key}": value for key, value in about.items()}


def laid_out(items: Sequence[Mapping[str, Any]], folder: Path, manifest_folder: Path) -> list[dict[str, Any]]:
    """Write a .png and a .txt of every item into a folder, which is not created if there are no items. Returns the
    entries of dataset.json."""
    if items:
        pngs = {f"{item['name']}.png": item["png"] for item in items}
        files.publish_folder(folder, pngs | {f"{item['name']}.txt": item["caption"] for item in items})
    return [listed(item, folder / f"{item['name']}.png", manifest_folder) for item in items]


def listed(item: Mapping[str, Any], image: Path, manifest_folder: Path) -> dict[str, Any]:
    """The entry of an item in dataset.json."""
    about = {key: value for key, value in item.items() if key != "png"}
    return about | {"image": files.seen_from(manifest_folder, image)}


if __name__ == "__main__":
    cli.run(main)
