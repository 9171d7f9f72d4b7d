"""Lay the training set out as kohya's trainers read it: image/{repeats}_{trigger} {class_noun}/ with .png and .txt."""

from pathlib import Path

from likeness import cli, dataset, files, provenance


def main() -> None:
    args = cli.arguments(__doc__, "captions", "dataset", "folder")
    subject, train = args.config.subject, args.config.train
    rows = files.read_table(args.captions).to_dict("records")
    schedule = (train.max_train_steps, train.batch_size, train.gradient_accumulation_steps, len(rows), train.epochs)
    repeats = dataset.repeats(*schedule)
    concept = f"{repeats}_{subject.trigger} {subject.class_noun}"
    manifest = {
        "subject": f"{subject.trigger} {subject.class_noun}",
        "resolution": args.config.resolution,
        "folder": f"{args.folder.name}/{concept}",
        "repeats": repeats,
        "arithmetic": dataset.arithmetic(*schedule),
        "images": [],
    }
    contents = {}
    for row in sorted(rows, key=lambda row: row["image"]):
        name = Path(row["image"]).stem
        contents[f"{name}.png"] = args.captions.parent / row["image"]
        contents[f"{name}.txt"] = row["text"]
        manifest["images"].append(
            {
                "name": name,
                "image": f"{manifest['folder']}/{name}.png",
                "sha256": row["image_sha256"],
                "caption": row["text"],
                "caption_sha256": row["sha256"],
            }
        )
    # Another number of repeats is another folder; one that stayed would be trained on as well.
    files.publish_folder(args.folder, {})
    files.publish_folder(args.folder / concept, contents)
    files.write_atomic(args.dataset, provenance.canonical(manifest) + "\n")
    cli.say(manifest["arithmetic"])


if __name__ == "__main__":
    cli.run(main)
