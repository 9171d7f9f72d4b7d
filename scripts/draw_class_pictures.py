"""Draw other people of the class with the base model, by the training captions with the class in place of the
person."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from likeness.captions.identity_words import identity_words
from likeness.captions.wording import class_caption
from likeness.core import cli
from likeness.core.devices import claim_gpu, torch_device
from likeness.core.errors import LikenessError
from likeness.core.files import ItemCache, publish_folder
from likeness.core.manifests import read_json, read_table, write_table
from likeness.core.pinned_models import (
    FACE_DETECTION_FULL_RANGE,
    FACE_DETECTION_SHORT_RANGE,
    FACE_LANDMARKER,
    model_path,
)
from likeness.core.provenance import canonical, code_digest
from likeness.drawing.infotext import infotext
from likeness.drawing.marking import marked_png
from likeness.faces.detection import Detector
from likeness.models.base_model import load_manifest
from likeness.models.prompts import literal
from likeness.photos.images import png_bytes, read_photo
from likeness.training.schedule import NO_IMAGE

DETECTOR = (FACE_DETECTION_SHORT_RANGE, FACE_DETECTION_FULL_RANGE, FACE_LANDMARKER)


def main() -> None:
    args = cli.arguments(__doc__, "captions", "words", "base", "models", "cache", "pictures", "folder")
    subject, resolution = args.config.subject, args.config.resolution
    sample = vars(args.config.sample) | {"clip_skip": args.config.clip_skip}
    # The settings that a picture depends on. The batch size is not one of them.
    settings = {key: value for key, value in sample.items() if key != "batch_size"}
    base = load_manifest(args.base)
    claim_gpu(cli.say)
    from likeness.drawing import class_pictures, sampling

    drawing, looking = code_digest(Path(sampling.__file__)), code_digest(Path(class_pictures.__file__))
    store = ItemCache(args.cache, base["digest"], canonical(settings | {"resolution": resolution}), drawing)
    hashes = read_json(model_path(args.models, "models.json"))
    looked_by = canonical([looking, *(hashes[name] for name in DETECTOR)])
    pipeline = cache(lambda: sampling.load_pipeline(base, None, torch_device(), sample["sampler"]))
    detector = cache(lambda: Detector(args.models))

    drawn: dict[sampling.Cell, Path] = {}

    def of(cell: sampling.Cell) -> str:
        return canonical([cell.prompt, cell.seed])

    def fault(cell: sampling.Cell) -> str:
        def look() -> bytes:
            return class_pictures.fault(read_photo(drawn[cell]), detector()).encode()

        reason = store.get(look, of(cell), looked_by).read_text()
        if reason:
            cli.say(f"{cell.prompt}, seed {cell.seed}: left out: {reason}")
        return reason

    def faults(cells: Sequence[sampling.Cell]) -> list[str]:
        drawn.update((cell, path) for cell in cells if (path := store.find(of(cell))))
        missing = [cell for cell in cells if cell not in drawn]
        images = sampling.draw_pictures(pipeline(), missing, sample, (resolution, resolution)) if missing else ()
        for cell, image in cli.progress(images, total=len(missing), desc="class pictures", unit="picture"):
            drawn[cell] = store.put(png_bytes(np.asarray(image)), of(cell))
        return [fault(cell) for cell in cells]

    table = read_table(args.captions)
    texts = table["text"][table["fate"] == "train"]
    if texts.empty:
        raise LikenessError(NO_IMAGE)
    words = identity_words(args.words)
    captions = [class_caption(text, subject.trigger, subject.class_noun, words) for text in texts]
    prompts = {literal(caption): caption for caption in captions}  # captions have no prompt syntax
    rows, pictures = [], {}
    for n, cell in enumerate(class_pictures.choose_pictures(list(prompts), subject.regularisation_images, faults)):
        name = f"{n:04d}_s{cell.seed}.png"
        how = infotext(cell.prompt, cell.seed, (resolution, resolution), settings, base, None)
        pictures[name] = marked_png(read_photo(drawn[cell]), how)
        sha256 = hashlib.sha256(pictures[name]).hexdigest()
        about = {"caption": prompts[cell.prompt], "seed": cell.seed}
        rows.append({"image": f"{args.folder.name}/{name}", "sha256": sha256, **about})
    publish_folder(args.folder, pictures)
    write_table(args.pictures, rows, ["image", "sha256", "caption", "seed"])
    cli.say(store.summary())


if __name__ == "__main__":
    cli.run(main)
