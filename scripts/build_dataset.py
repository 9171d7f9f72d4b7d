"""Lay the training set out as kohya's trainers read it: image/{repeats}_{trigger} {class_noun}/ with .png and .txt, and
reg/1_{class_noun}/ with the regularisation photos, or with the class pictures in their place."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from likeness import caption_files, captions, cli, dataset, files, identity_words, images, manifests, provenance
from likeness.errors import LikenessError


def main() -> None:
    given = ("photos", "captions", "words", "regularisation*", "texts*", "class_pictures*")
    args = cli.arguments(__doc__, *given, "cache", "dataset", "folder", "reg_folder")
    subject, train, manifest_folder = args.config.subject, vars(args.config.train), args.dataset.parent
    trained, heldout = (subject_items(args.captions, fate) for fate in ("train", "heldout"))
    words = identity_words.identity_words(args.words)
    trained = [with_class_caption(item, subject.trigger, subject.class_noun, words) for item in trained]
    store = files.ItemCache(args.cache, provenance.code_digest(Path(__file__)))
    refuse_the_subject(args.regularisation, args.photos)
    if args.class_pictures:
        others = drawn_items(args.class_pictures[0])
    else:
        others = class_items(args.regularisation, args.texts, subject.class_noun, args.config.resolution, store)

    schedule = train, *dataset.sizes({"images": trained, "regularisation": others})
    repeats = dataset.schedule(*schedule)["repeats"]
    concept = args.folder / f"{repeats}_{subject.trigger} {subject.class_noun}"
    # Another number of repeats is another folder; one that stayed would be trained on as well.
    files.publish_folder(args.folder, {})
    files.publish_folder(args.reg_folder, {})
    manifest = {
        "subject": f"{subject.trigger} {subject.class_noun}",
        "resolution": args.config.resolution,
        "folder": files.seen_from(manifest_folder, concept),
        "repeats": repeats,
        "arithmetic": dataset.arithmetic(*schedule),
        "bare_class": captioned(captions.bare_class_caption(subject.class_noun)),
        "images": laid_out(trained, concept, manifest_folder),
        "heldout": [listed(item, item["png"], manifest_folder) for item in heldout],
        "regularisation": laid_out(others, args.reg_folder / f"1_{subject.class_noun}", manifest_folder),
    }
    manifests.write_json(args.dataset, manifest)
    cli.say(manifest["arithmetic"])
    cli.say(store.summary())


def subject_items(table: Path, fate: str) -> list[dict]:
    """The subject's pictures of one fate, by name."""
    rows = manifests.read_table(table).to_dict("records")
    items = [
        listed_item(table, row, row["image_sha256"], row["text"], "upscale_faces") | {"face": json.loads(row["face"])}
        for row in rows
        if row["fate"] == fate
    ]
    return sorted(items, key=lambda item: item["name"])


def drawn_items(table: Path) -> list[dict]:
    """The class pictures, which have the resolution."""
    rows = manifests.read_table(table).to_dict("records")
    return [listed_item(table, row, row["sha256"], row["caption"], "draw_class_pictures") for row in rows]


def listed_item(table: Path, row: Mapping, sha256: str, caption: str, rule: str) -> dict:
    """The item of a table's row, whose picture is the one that `rule` made."""
    return made_item(Path(row["image"]).stem, manifests.checked(table.parent / row["image"], sha256, rule), caption)


def class_items(
    photos: Sequence[Path], texts: Sequence[Path], class_noun: str, resolution: int, store: files.ItemCache
) -> list[dict]:
    """The regularisation photos that can be used, squares at the resolution; the others are named in the log."""
    items, own_texts = [], caption_files.by_photo(photos, texts)
    stems = images.unique_stems(str(photo) for photo in photos)
    for photo in cli.progress(sorted(photos), desc="regularisation", unit="photo"):
        sha256, text = provenance.file_sha256(photo), own_texts.get(photo)

        def square(photo: Path = photo) -> bytes:
            return images.png_bytes(images.class_photo(images.read_photo(photo), resolution))

        try:
            png = store.get(square, sha256, str(resolution))
        except LikenessError as error:
            cli.say(f"{photo}: left out: {error}")
            continue
        items.append(made_item(stems[str(photo)], png, caption_files.user_caption(text) if text else class_noun))
    if photos and not items:
        raise LikenessError(
            f"none of the {len(photos)} regularisation photos can be used; each must be a picture of at least "
            f"{resolution} px on its shorter side"
        )
    return items


def refuse_the_subject(regularisation: Sequence[Path], photos: Path) -> None:
    """Raises LikenessError if a regularisation photo is one of the subject's, which would unteach the subject."""
    rows = manifests.read_table(photos).to_dict("records") if regularisation else []
    names = {row["sha256"]: Path(row["photo"]).name for row in rows}
    for photo in regularisation:
        if same := names.get(provenance.file_sha256(photo)):
            raise LikenessError(f"{photo} is the subject's photo {same}; remove it from the regularisation folder")


def made_item(name: str, png: Path, caption: str) -> dict:
    """What dataset.json says of a picture, and as `png` where it is now."""
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


def with_class_caption(item: dict, trigger: str, class_noun: str, words: identity_words.IdentityWords) -> dict:
    """An item of the subject with the caption that train.preserve_class shows it by."""
    about = captioned(captions.class_caption(item["caption"], trigger, class_noun, words))
    return item | {f"class_{key}": value for key, value in about.items()}


def laid_out(items: Sequence[Mapping], folder: Path, manifest_folder: Path) -> list[dict]:
    """Write a .png and a .txt of every item into a folder; without items there is none."""
    if items:
        pngs = {f"{item['name']}.png": item["png"] for item in items}
        files.publish_folder(folder, pngs | {f"{item['name']}.txt": item["caption"] for item in items})
    return [listed(item, folder / f"{item['name']}.png", manifest_folder) for item in items]


def listed(item: Mapping, image: Path, manifest_folder: Path) -> dict:
    """An item as dataset.json lists it."""
    about = {key: value for key, value in item.items() if key != "png"}
    return about | {"image": files.seen_from(manifest_folder, image)}


if __name__ == "__main__":
    cli.run(main)
