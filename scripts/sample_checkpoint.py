"""Draw every picture of one checkpoint: prompts x weights x seeds. Epoch 0 is the base model without the LoRA."""

from pathlib import Path

import numpy as np

from likeness import cli
from likeness.base_model import load_manifest
from likeness.checkpoints import checkpoint_file
from likeness.devices import claim_gpu, torch_device
from likeness.files import ItemCache, publish_folder, write_atomic, write_table
from likeness.provenance import canonical, code_digest, digest, file_sha256
from likeness.tensors import with_metadata


def main() -> None:
    args = cli.arguments(__doc__, "models*", "base", "cache", "samples", "folder")
    sample = vars(args.config.sample) | {"clip_skip": args.config.clip_skip}
    subject = vars(args.config.subject)
    epoch, resolution = args.config.epoch, args.config.resolution
    base = load_manifest(args.base)
    lora = checkpoint_file(args.models[0], epoch) if epoch else None
    claim_gpu(cli.say)
    from likeness.sampling import cells, drawn, load_pipeline

    settings = {key: sample[key] for key in ("negative_prompt", "steps", "guidance_scale", "clip_skip")} | {
        "resolution": resolution
    }
    # Without its metadata: a file that only says another name or number of epochs draws the same pictures.
    weights = digest(with_metadata(lora.read_bytes(), {})) if lora else ""
    made_with = (base["digest"], weights, canonical(settings), code_digest(Path(__file__)))
    store = ItemCache(args.cache, *made_with)
    paths = {cell: store.path(canonical(cell)) for cell in cells(sample, subject, epoch)}
    missing = [cell for cell, path in paths.items() if not path.is_file()]
    if missing:
        from likeness.marking import marked_png

        pipeline = load_pipeline(base, lora, torch_device())
        for cell, image in cli.progress(
            drawn(pipeline, missing, sample, resolution), total=len(missing), desc=f"epoch {epoch}"
        ):
            write_atomic(paths[cell], marked_png(np.asarray(image)))

    names = {cell: f"{n:04d}_w{cell.weight:.2f}_s{cell.seed}.png" for n, cell in enumerate(paths)}
    publish_folder(args.folder, {names[cell]: path for cell, path in paths.items()})
    rows = [
        {"epoch": epoch, **cell._asdict(), "image": f"{args.folder.name}/{names[cell]}", "sha256": file_sha256(path)}
        for cell, path in paths.items()
    ]
    write_table(args.samples, rows, ["epoch", "weight", "prompt", "kind", "seed", "image", "sha256"])
    cli.say(f"items: {len(missing)} computed, {len(paths) - len(missing)} reused")


if __name__ == "__main__":
    cli.run(main)
