"""Draw the samples of one checkpoint: prompts x weights x seeds. Epoch 0 is the base model without the LoRA."""

from pathlib import Path

import numpy as np

from likeness.core import cli
from likeness.core.devices import claim_gpu, torch_device
from likeness.core.files import ItemCache, publish_folder
from likeness.core.manifests import write_table
from likeness.core.provenance import canonical, code_digest, digest
from likeness.core.tensors import with_metadata
from likeness.drawing.infotext import UsedLora, infotext, lora_hash
from likeness.drawing.marking import marked_png, picture_hashes
from likeness.models.base_model import load_manifest
from likeness.photos.images import png_bytes, read_photo
from likeness.training.checkpoints import checkpoint_file

# The settings that a picture depends on, beside the models, its cell and its size.
SETTINGS = ("negative_prompt", "steps", "sampler", "guidance_scale", "clip_skip")


def main() -> None:
    args = cli.arguments(__doc__, "models*", "base", "cache", "samples", "folder")
    sample = vars(args.config.sample)
    subject = vars(args.config.subject)
    epoch, resolution = args.config.epoch, args.config.resolution
    size = (resolution, resolution)
    base = load_manifest(args.base)
    lora = checkpoint_file(args.models[0], epoch) if epoch else None
    claim_gpu(cli.say)
    from likeness.drawing import sampling

    settings = {key: sample[key] for key in SETTINGS}
    # Without the metadata: a file with another name or number of epochs in it draws the same pictures.
    weights = digest(with_metadata(lora.read_bytes(), {})) if lora else ""
    # Only the code that draws. The code that adds metadata to the pictures does not change their pixels.
    drawing = code_digest(Path(sampling.__file__))
    store = ItemCache(args.cache, base["digest"], weights, canonical(settings | {"resolution": resolution}), drawing)

    def of(cell: sampling.Cell) -> str:
        return canonical([cell.weight, cell.prompt, cell.seed])

    cells = list(dict.fromkeys(sampling.cells(sample, subject, epoch)))
    paths = {cell: path for cell in cells if (path := store.find(of(cell)))}
    missing = [cell for cell in cells if cell not in paths]
    if missing:
        pipeline = sampling.load_pipeline(base, lora, torch_device(), sample["sampler"])
        for cell, image in cli.progress(
            sampling.draw_pictures(pipeline, missing, sample, size),
            total=len(missing),
            desc=f"epoch {epoch}",
        ):
            paths[cell] = store.put(png_bytes(np.asarray(image)), of(cell))

    hash_of_lora = lora_hash(lora.read_bytes()) if lora else ""
    rows, pictures = [], {}
    for n, cell in enumerate(cells):
        name = f"{n:04d}_w{cell.weight:.2f}_s{cell.seed}.png"
        pixels = read_photo(paths[cell])
        used = UsedLora(lora.stem, cell.weight, hash_of_lora) if lora else None
        pictures[name] = marked_png(pixels, infotext(cell.prompt, cell.seed, size, settings, base, used))
        content = picture_hashes(pictures[name], pixels)
        rows.append({"epoch": epoch, **cell._asdict(), "image": f"{args.folder.name}/{name}", **content})
    publish_folder(args.folder, pictures)
    write_table(args.samples, rows, ["epoch", *sampling.Cell._fields, "image", "sha256", "pixels"])
    cli.say(f"items: {len(missing)} computed, {len(cells) - len(missing)} reused")


if __name__ == "__main__":
    cli.run(main)
