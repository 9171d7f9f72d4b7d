"""Write a caption for every training image: the user's own where there is one, else one from what was measured."""

import hashlib
import json
from pathlib import Path, PurePath

from likeness import captions, cli, files, provenance

COLUMNS = ["photo", "image", "image_sha256", "caption", "sha256", "text", "source"]


def main() -> None:
    args = cli.arguments(__doc__, "upscaled", "texts*", "cache", "captions", "folder")
    trigger, class_noun = args.config.subject.trigger, args.config.subject.class_noun
    settings = provenance.canonical([args.config.caption.backend, trigger, class_noun])
    items = files.ItemCache(args.cache, settings, provenance.code_digest(Path(__file__)))
    own_texts = {path.stem: path for path in args.texts}

    def template(row: dict) -> bytes:
        attributes = json.loads(row["attributes"])
        return captions.template_caption(
            trigger, class_noun, attributes, float(row["yaw"]), float(row["pitch"])
        ).encode()

    rows, texts = [], {}
    for row in files.read_table(args.upscaled).to_dict("records"):
        own = own_texts.get(PurePath(row["photo"]).stem)
        if own:
            text = captions.user_caption(own)
            if trigger not in text:
                cli.say(f"{own.name}: the trigger {trigger!r} is not in it; this photo will not teach that word")
        else:
            measured = provenance.canonical([row["attributes"], row["yaw"], row["pitch"]])
            text = items.get(lambda row=row: template(row), measured).read_text(encoding="utf-8")
        name = f"{Path(row['image']).stem}.txt"
        texts[name] = text
        rows.append(
            {
                "photo": row["photo"],
                "image": row["image"],
                "image_sha256": row["sha256"],
                "caption": f"{args.folder.name}/{name}",
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
                "text": text,
                "source": "user" if own else "template",
            }
        )
        cli.say(f"{row['photo']}: {text}")
    files.publish_folder(args.folder, texts)
    files.write_table(args.captions, rows, COLUMNS)
    cli.say(items.summary())


if __name__ == "__main__":
    cli.run(main)
