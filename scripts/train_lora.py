"""Train the LoRA: one checkpoint per saved epoch. A killed training goes on from its last saved state.

With `train.gpus` above 1 it starts itself again for each further GPU: every process trains its share of each batch, and
the first one writes.
"""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from likeness import cli
from likeness.base_model import load_manifest
from likeness.dataset import arithmetic, saved_epochs, schedule, sizes
from likeness.devices import claim_gpu, is_emulated, torch_device
from likeness.errors import LikenessError
from likeness.files import publish_folder, write_atomic
from likeness.manifests import read_json, seal, write_json
from likeness.provenance import code_digest, file_sha256
from likeness.tensors import read_metadata, with_metadata
from likeness.training.launch import INTERRUPTED, start_others
from likeness.training.metadata import lora_metadata
from likeness.training.plan import run_key
from likeness.training.store import RunStore

FIRST = "RANK" not in os.environ  # which launch.start_others gives to the others


def main() -> None:
    names = ("dataset", "latents", "base", "weights*", "cache", "models", "folder", "metrics", "settings")
    args = cli.arguments(__doc__, *names)
    train = vars(args.config.train) | {"clip_skip": args.config.clip_skip}
    train["optimizer_args"] = vars(train["optimizer_args"])
    name = f"{args.config.subject_name}_{args.config.run_name}"
    dataset, base = read_json(args.dataset), load_manifest(args.base)
    refuse_missing_captions(dataset)
    steps = schedule(train, *sizes(dataset))
    saved = saved_epochs(steps["epochs"], train["save_every_n_epochs"])
    if FIRST:
        announce(name, train, dataset, base)

    weights = args.weights[0] if args.weights else None
    key = run_key(train, dataset, base, file_sha256(weights) if weights else "", code_digest(Path(__file__)))
    store = RunStore(args.cache / key, cli.say, lock=FIRST)
    before = sum(store.has_epoch(n) for n in saved)
    train_in_store(args, train, dataset, base, store, saved, weights)
    if not FIRST:
        return
    if args.metrics.is_file():  # Snakemake deletes it with a job that lost its lock, and this one writes on
        seal(args.metrics)

    # The store knows no names: a run that is renamed trains nothing, its files only say another name.
    about = lora_metadata(name, train, steps, dataset, base)
    loras = {
        f"{name}-{n:06d}.safetensors": described(store.epoch_file(n), about, n, steps["steps_per_epoch"]) for n in saved
    }
    publish_folder(args.folder, loras)
    epochs = [
        {"epoch": n, "file": f"{args.folder.name}/{file}", "sha256": file_sha256(args.folder / file)}
        for n, file in zip(saved, loras, strict=True)
    ]
    write_atomic(args.settings, json.dumps(vars(args.config), default=vars, indent=1, sort_keys=True) + "\n")
    write_json(args.models, {"run": key, **steps, "epochs": epochs}, indent=1)
    cli.say(f"items: {len(saved) - before} computed, {before} reused")


def train_in_store(args, train: dict, dataset: dict, base: dict, store: RunStore, saved: list, weights) -> None:
    """Run the trainer; with every epoch there, only the metrics are written. A signal makes the process leave."""
    finished = FIRST and store.finished(saved)
    if FIRST and not finished:
        if train["device"] != "cpu":
            claim_gpu(cli.say, train["gpus"])
        if train["gpus"] > 1:
            start_others(train["gpus"])
    from likeness.training.metrics import MetricsLog, comparable

    with MetricsLog(args.metrics) if FIRST else nullcontext() as log:
        if finished:
            log.write(comparable(store.measured(saved[-1]), dataset["heldout"], cli.say))
            return
        from likeness.latents import load_latents
        from likeness.training import loop

        latents, device = load_latents(args.latents, dataset, train["max_token_length"]), torch_device(train["device"])
        if FIRST and is_emulated(train["precision"], device):
            cli.say(
                f"precision {train['precision']}: this CPU has no instructions for it, so each step takes many "
                "times as long as with train.precision: fp32"
            )
        report = log.write if FIRST else lambda rows: None
        if not loop.train(train, dataset, latents, base, store, device, report, weights):
            sys.exit(INTERRUPTED)


def described(lora: Path, about: dict[str, str], epoch: int, steps_per_epoch: int) -> bytes:
    """An epoch's file with what A1111 shows of it; the tensors stay as they are."""
    data = lora.read_bytes()
    when = {"ss_epoch": str(epoch), "ss_steps": str(epoch * steps_per_epoch)}
    return with_metadata(data, read_metadata(data) | about | when)


def refuse_missing_captions(dataset: dict) -> None:
    """Raises LikenessError if a picture has no caption: what is not said of it would be learned as the person."""
    missing = [item["name"] for item in dataset["images"] if not item["caption"].strip()]
    if missing:
        raise LikenessError(
            f"no caption for {', '.join(missing)}; write a .txt beside the photo, or delete the empty one"
        )


def announce(name: str, train: dict, dataset: dict, base: dict) -> None:
    """Every parameter and the arithmetic of the steps, before anything heavy is loaded."""
    cli.say(f"training {name} on {base['model']} ({base['family']}, {base['prediction_type']})")
    for key, value in sorted(train.items()):
        cli.say(f"  {key}: {value}")
    cli.say(arithmetic(train, *sizes(dataset)))


if __name__ == "__main__":
    cli.run(main)
