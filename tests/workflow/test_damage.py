"""The damage table: every file of a finished run is damaged, and what reads it makes it anew or refuses it by name."""

import hashlib
import os
import re
import shutil
import subprocess

import pytest

import fork_server
from damage import DAMAGES, flip
from project import Project

RUN = "results/ava/portrait"
# What the rules hand to one another -> the rule that makes it, and those that read it.
HANDED_ON = {
    "results/base.json": ("fetch_base", "caption_faces cache_latents train_lora sample_checkpoint choose_checkpoint"),
    "small_base/unet/*.safetensors": ("fetch_base", "train_lora sample_checkpoint"),
    "small_base/vae/*.safetensors": ("fetch_base", "cache_latents sample_checkpoint"),
    "small_base/text_encoder/*.safetensors": ("fetch_base", "cache_latents sample_checkpoint"),
    "results/models/models.json": ("fetch_models", "detect_faces score_checkpoint"),
    "results/models/face_detection_short_range.tflite": ("fetch_models", "detect_faces"),
    "results/models/face_recognition_sface.onnx": ("fetch_models", "detect_faces score_checkpoint"),
    "results/ava/faces.tsv": ("detect_faces", "curate_photos"),
    "results/ava/photos.tsv": ("curate_photos", "crop_faces build_dataset_page"),
    "results/ava/crops.tsv": ("crop_faces", "upscale_faces score_checkpoint build_dataset_page build_report"),
    "results/ava/crops/01.png": ("crop_faces", "upscale_faces score_checkpoint build_dataset_page build_report"),
    "results/ava/upscaled.tsv": ("upscale_faces", "caption_faces build_dataset_page build_report"),
    "results/ava/upscaled/01.png": ("upscale_faces", "build_dataset build_dataset_page build_report"),
    "results/ava/captions.tsv": ("caption_faces", "build_dataset build_dataset_page build_report"),
    "results/ava/dataset.json": ("build_dataset", "cache_latents train_lora build_dataset_page build_report"),
    "results/ava/image/*/01.png": ("build_dataset", "cache_latents"),
    "results/ava/latents.safetensors": ("cache_latents", "train_lora"),
    f"{RUN}/models.json": ("train_lora", "sample_checkpoint choose_checkpoint"),
    f"{RUN}/models/ava_portrait-000002.safetensors": ("train_lora", "sample_checkpoint choose_checkpoint"),
    f"{RUN}/log/metrics.tsv": ("train_lora", "build_report"),
    f"{RUN}/samples/000002.tsv": ("sample_checkpoint", "score_checkpoint plot_grid plot_sheets build_report"),
    f"{RUN}/samples/000002/0000_w0.50_s1.png": (
        "sample_checkpoint",
        "score_checkpoint plot_grid plot_sheets build_report",
    ),
    f"{RUN}/scores.tsv": ("score_checkpoint", "choose_checkpoint plot_grid plot_sheets build_report"),
    f"{RUN}/best/choice.json": ("choose_checkpoint", "plot_grid plot_sheets build_report build_index"),
    f"{RUN}/best/ava_portrait.png": ("choose_checkpoint", "build_index"),
}
# What the caches of rules keep.
KEPT = {
    rule: f"results/.cache/{rule}/*/*"
    for rule in (
        *("detect_faces", "crop_faces", "upscale_faces", "caption_faces", "cache_latents"),
        *("sample_checkpoint", "score_checkpoint"),
    )
}


TIME_STAMP = ".snakemake_timestamp"  # Snakemake writes one into each folder that is an output


@pytest.fixture(scope="module")
def project(finished_project, tmp_path_factory) -> Project:
    return finished_project.copied(tmp_path_factory.mktemp("damage") / "project")


@pytest.fixture(scope="module")
def commands(project) -> dict[str, str]:
    """rule -> what Snakemake runs for it; of sample_checkpoint for the last epoch."""
    found = re.findall(r"^Shell command: (.*?scripts/(\w+)\.py .*)", project.run("-n", "-p", "--forceall").text, re.M)
    epochs = [command for command, rule in found if rule == "sample_checkpoint" and "samples/000002.tsv" in command]
    return {rule: command for command, rule in found} | {"sample_checkpoint": epochs[0]}


def run(project: Project, command: str) -> subprocess.CompletedProcess:
    """A rule's command, as Snakemake runs it."""
    environment = os.environ | {"HUB_OFFLINE": "1", "HF_HUB_OFFLINE": "1"} | fork_server.environment()
    command = f"set -euo pipefail; {command}"
    return subprocess.run(["bash", "-c", command], cwd=project.folder, env=environment, capture_output=True, text=True)


def state(project: Project) -> dict[str, str]:
    """Every result -> its hash; without the caches, the logs, and TensorBoard's file, which has times in it."""
    left_out = {".cache", "logs", "log", "models"}
    files = (path for path in (project.folder / "results").rglob("*") if path.is_file() and path.name != TIME_STAMP)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not left_out & set((name := path.relative_to(project.folder).as_posix()).split("/")[1:-1])
    }


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", HANDED_ON)
def test_what_a_rule_is_handed_is_refused_by_name_when_it_is_damaged(project, commands, pattern, damage):
    maker, readers = HANDED_ON[pattern]
    (path,) = project.folder.glob(pattern)
    whole, before = path.read_bytes(), state(project)
    cache = project.folder / "results/.cache"
    kept = cache.rename(cache.with_name(".kept"))  # or else what is kept from before is used, and nothing is read
    shutil.copytree(kept / "in_files", cache / "in_files")  # part of the commands
    path.unlink()  # it may be a link to what other tests read
    path.write_bytes(whole)
    damage(path)
    damaged = path.read_bytes()
    try:
        # One reader for each further kind of damage: all of them read by the same functions.
        for reader in readers.split() if damage is DAMAGES[0] else readers.split()[:1]:
            done = run(project, commands[reader])
            said = done.stdout + done.stderr
            assert done.returncode == 1, f"{reader} used it"
            assert "Traceback" not in said and f"--forcerun {maker}" in said, f"{reader}: {said}"
            assert path.name in said, said
            assert path.read_bytes() == damaged, "it is the user's to look at"
    finally:
        path.write_bytes(whole)
        shutil.rmtree(cache, ignore_errors=True)
        kept.rename(cache)
    assert state(project) == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_beside_a_manifest_is_named(project, commands, damage):
    note = project.folder / "results/ava/.crops.tsv.made"
    whole = note.read_bytes()
    damage(note)
    done = run(project, commands["upscale_faces"])
    note.write_bytes(whole)
    assert done.returncode == 1 and "results/ava/crops.tsv" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_data_set_is_named_where_the_number_of_epochs_follows_from_it(finished_project, tmp_path):
    """By Snakemake itself, before any job."""
    project = finished_project.copied(tmp_path / "project")
    project.configure(train={"epochs": None, "repeats": 2})
    dataset = "results/ava/dataset.json"
    project.run(dataset)
    flip(project.folder / dataset)
    outcome = project.run("-n", check=False)
    assert outcome.status != 0 and "Traceback (most recent call last)" not in outcome.text
    assert "results/ava/dataset.json is missing or was changed" in outcome.text
    assert "run: snakemake --cores all --forcerun build_dataset" in outcome.text


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("rule", KEPT)
def test_what_a_cache_keeps_is_made_anew_when_it_is_damaged(project, commands, rule, damage):
    before = state(project)
    kept = [path for path in project.folder.glob(KEPT[rule]) if path.is_file()]
    for path in kept:
        damage(path)
    done = run(project, commands[rule])
    assert done.returncode == 0, done.stdout + done.stderr
    log = (project.folder / re.search(r"--log (\S+)", commands[rule])[1]).read_text()
    assert log.count("was damaged since it was written; it is made anew") > 0
    assert state(project) == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["epoch-000001.safetensors", "epoch-000002.safetensors", "epoch-000002.json"])
def test_an_epoch_that_is_damaged_in_the_run_store_is_trained_again(project, commands, name, damage):
    before = state(project) | {"loras": project.loras()}
    (path,) = project.folder.glob(f"results/.cache/runs/*/{name}")
    damage(path)
    done = run(project, commands["train_lora"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(project) | {"loras": project.loras()} == before


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_state_before_a_damaged_one(project, commands, damage):
    before = state(project) | {"loras": project.loras()}
    (store,) = project.folder.glob("results/.cache/runs/*")
    damage(store / "state.pt")
    (store / "epoch-000002.safetensors").unlink()
    done = run(project, commands["train_lora"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert state(project) | {"loras": project.loras()} == before
