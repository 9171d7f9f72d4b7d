"""Train the LoRA: one checkpoint per epoch. A killed training goes on from its last saved state."""

import json
import sys
from pathlib import Path

from likeness import cli
from likeness.base_model import load_manifest
from likeness.devices import claim_gpu, torch_device
from likeness.files import publish_folder, write_atomic
from likeness.provenance import code_digest, file_sha256
from likeness.tensors import read_metadata, with_metadata
from likeness.training.metadata import lora_metadata
from likeness.training.plan import plan, run_key
from likeness.training.store import RunStore


def main() -> None:
    args = cli.arguments(__doc__, "dataset", "latents", "base", "cache", "models", "folder", "metrics", "settings")
    train, resolution = vars(args.config.train) | {"clip_skip": args.config.clip_skip}, args.config.resolution
    name = f"{args.config.subject_name}_{args.config.run_name}"
    dataset, base = json.loads(args.dataset.read_text()), load_manifest(args.base)
    steps = plan(train, len(dataset["images"]))
    announce(name, train, steps, base)

    key = run_key(train, resolution, dataset, base, code_digest(Path(__file__)))
    store = RunStore(args.cache / key, cli.say)
    before = sum(store.epoch_file(n).is_file() for n in range(1, train["epochs"] + 1))
    train_in_store(args, train, dataset, base, store)

    # The store knows no names: a run that is renamed trains nothing, its files only say another name.
    about = lora_metadata(name, train, steps, resolution, dataset, base)
    loras = {
        f"{name}-{n:06d}.safetensors": described(store.epoch_file(n), about, n, steps["steps_per_epoch"])
        for n in range(1, train["epochs"] + 1)
    }
    publish_folder(args.folder, loras)
    epochs = [
        {"epoch": n, "file": f"{args.folder.name}/{file}", "sha256": file_sha256(args.folder / file)}
        for n, file in enumerate(loras, start=1)
    ]
    write_atomic(args.settings, json.dumps(vars(args.config), default=vars, indent=1, sort_keys=True) + "\n")
    write_atomic(args.models, json.dumps({"run": key, **steps, "epochs": epochs}, indent=1) + "\n")
    cli.say(f"items: {train['epochs'] - before} computed, {before} reused")


def train_in_store(args, train: dict, dataset: dict, base: dict, store: RunStore) -> None:
    """Run the trainer; with every epoch there, only the metrics are written. A signal makes the process leave."""
    if not store.finished(train["epochs"]):
        claim_gpu(cli.say)
    from likeness.training.metrics import MetricsLog

    with MetricsLog(args.metrics) as log:
        if store.finished(train["epochs"]):
            log.write([row for row in store.load_state()["metrics"] if row["epoch"] <= train["epochs"]])
            return
        from likeness.latents import load_latents
        from likeness.training import loop

        latents = load_latents(args.latents, dataset["images"])
        if not loop.train(train, dataset["images"], latents, base, store, torch_device(), log.write):
            sys.exit(loop.INTERRUPTED)


def described(lora: Path, about: dict[str, str], epoch: int, steps_per_epoch: int) -> bytes:
    """An epoch's file with what A1111 shows of it; the tensors stay as they are."""
    data = lora.read_bytes()
    when = {"ss_epoch": str(epoch), "ss_steps": str(epoch * steps_per_epoch)}
    return with_metadata(data, read_metadata(data) | about | when)


def announce(name: str, train: dict, steps: dict, base: dict) -> None:
    """Every parameter and the arithmetic of the steps, before anything heavy is loaded."""
    cli.say(f"training {name} on {base['model']} ({base['prediction_type']})")
    for key, value in sorted(train.items()):
        cli.say(f"  {key}: {value}")
    cli.say(
        f"{steps['images']} images x {steps['repeats']} repeats / (batch size {train['batch_size']} x accumulation "
        f"{train['gradient_accumulation_steps']}) = {steps['steps_per_epoch']} steps per epoch, x {train['epochs']} "
        f"epochs = {steps['total_steps']} optimisation steps"
    )


if __name__ == "__main__":
    cli.run(main)
