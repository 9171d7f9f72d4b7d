"""best/ holds what a user needs: the LoRA, A1111's sidecar and preview, and a card that says where it comes from."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from markdown_it import MarkdownIt
from PIL import Image

from infotext_reader import loras, parameters, text_chunks
from likeness.choosing.best import _text
from likeness.choosing.scores import read_scores
from likeness.choosing.scoring import MODELS
from likeness.core.manifests import read_table
from likeness.core.provenance import SCRIPTS, file_sha256
from likeness.core.tensors import read_metadata, with_metadata
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA
from likeness.drawing.sampling import load_pipeline
from made_run import SELECT, made_scores, made_untrained, write_models, write_run, write_subject
from marked import source_type
from trained_run import predicted, trained

CONFIG = {
    "subject_name": "ava",
    "run_name": "portrait",
    "by_hand": None,
    "subject": {"trigger": "ohwx", "class_noun": "woman", "consent": "synthetic"},
    "train": {"network": "lora", "rank": 16, "alpha": 8.0, "optimizer": "AdamW"},
    "sample": {"prompts": ["photo of {subject}"], "seeds": [1, 2], "negative_prompt": ""},
    "select": {**SELECT, "copy_limit": 0.95, "leak_limit": 0.5, "clip": None},
}
MEASURED_BY = {name: f"{n:064x}" for n, name in enumerate(MODELS)}
OUTPUTS = {"lora": "ava_portrait.safetensors", "sidecar": "ava_portrait.json", "preview": "ava_portrait.png"}
OUTPUTS |= {"choice": "choice.json", "card": "README.md"}


@pytest.fixture
def run(tmp_path, ava) -> Path:
    """A run on disk whose best cell is epoch 2 at weight 0.8."""
    levels = {(2, 0.8): 0.8}
    asked = made_scores(lambda *cell: levels.get(cell, 0.3), epochs=3, noise=0.05)
    write_run(tmp_path, pd.concat([asked, without_trigger(0.45, judge=0.25)], ignore_index=True))
    write_models(tmp_path, 3)
    write_subject(tmp_path / "subject", ava)
    (tmp_path / "subject/models.json").write_text(json.dumps(MEASURED_BY))
    return tmp_path


def without_trigger(level: float, judge: float) -> pd.DataFrame:
    """Pictures without the trigger, so much like the person."""
    table = made_untrained(lambda *cell: level, epochs=3, seeds=(1,))
    return table.assign(judge_identity=np.where(table["epoch"] > 0, judge, 0.0))


def choose_checkpoint(run: Path, config: dict = CONFIG, drawing_base: str = "base.json") -> subprocess.CompletedProcess:
    inputs = {
        "scores": "scores.tsv",
        "models": "models.json",
        "base": "subject/base.json",
        "drawing-base": f"subject/{drawing_base}",
        "dataset": "subject/dataset.json",
        "crops": "subject/crops.tsv",
        "measured-by": "subject/models.json",
    }
    paths = {name: run / path for name, path in inputs.items()} | {n: run / "best" / p for n, p in OUTPUTS.items()}
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    command = [sys.executable, SCRIPTS / "choose_checkpoint.py", "--config", json.dumps(config), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_chosen_file_is_copied_and_named_in_choice_json(run):
    result = choose_checkpoint(run)
    assert result.returncode == 0
    assert 'Without "ohwx", "woman" nearly draws the person: likeness 0.45' in result.stdout
    choice = json.loads((run / "best" / "choice.json").read_text())
    assert choice["leak_limit"] == 0.5
    assert (choice["epoch"], choice["weight"], choice["lora"]) == (2, 0.8, "ava_portrait.safetensors")
    assert (run / "best" / choice["lora"]).read_text() == "lora of epoch 2"
    assert choice["sha256"] == file_sha256(run / "best" / choice["lora"])
    assert {"score", "interval", "indistinguishable", "rule", "evidence", "cells"} <= choice.keys()


def test_the_card_of_a_choice_by_hand_says_what_the_measure_would_have_taken(run):
    done = choose_checkpoint(run, CONFIG | {"by_hand": {"epoch": 1, "weight": 1.0}})
    assert done.returncode == 0, done.stdout
    choice = json.loads((run / "best/choice.json").read_text())
    assert (choice["epoch"], choice["weight"]) == (1, 1.0) and choice["measured_choice"]["epoch"] == 2
    card = (run / "best/README.md").read_text()
    assert "**Use epoch 1 at weight 1, chosen by hand**" in card
    assert "By hand (decisions.yaml). The measure would have taken epoch 2 at weight 0.8" in card
    sidecar = json.loads((run / "best/ava_portrait.json").read_text())
    assert sidecar["preferred weight"] == 1.0 and "chosen by hand" in sidecar["description"]


def test_the_sidecar_has_exactly_the_keys_that_a1111_reads(run):
    choose_checkpoint(run)
    sidecar = json.loads((run / "best" / "ava_portrait.json").read_text())
    assert sorted(sidecar) == [
        "activation text",
        "description",
        "negative text",
        "notes",
        "preferred weight",
        "sd version",
    ]
    assert sidecar["activation text"] == "ohwx woman"
    assert sidecar["preferred weight"] == 0.8
    assert sidecar["sd version"] == "SD1"


def test_the_preview_is_the_best_picture_of_the_chosen_cell_and_marked(run):
    choose_checkpoint(run)
    scores = read_scores(run / "scores.tsv")
    cell = scores[(scores["epoch"] == 2) & (scores["weight"] == 0.8) & (scores["kind"] == "near")]
    expected = cell.loc[cell["identity"].idxmax(), "image"]
    preview = run / "best" / "ava_portrait.png"
    assert (np.asarray(Image.open(preview)) == np.asarray(Image.open(expected))).all()
    assert source_type(preview) == TRAINED_ALGORITHMIC_MEDIA
    found = parameters(text_chunks(preview)["parameters"])
    assert loras(found["Prompt"]) == {"ava_portrait": 0.8}, "by the name of the file beside it"
    assert found["Lora hashes"].split(":")[0] == "ava_portrait"


def test_the_card_tells_consent_choice_and_every_hash(run):
    choose_checkpoint(run)
    card = (run / "best" / "README.md").read_text()
    dataset, base = (json.loads((run / "subject" / f"{name}.json").read_text()) for name in ("dataset", "base"))
    for text in (
        "synthetic",
        "Use epoch 2 at weight 0.8",
        "<lora:ava_portrait:0.8> ohwx woman",
        "train.rank | 16",
        "made by AI",
    ):
        assert text in card
    choice = json.loads((run / "best" / "choice.json").read_text())
    (chosen,) = (cell for cell in choice["cells"] if (cell["epoch"], cell["weight"]) == (2, 0.8))
    for name in ("identity", "judge_identity", "prompt_score"):
        assert f"| {chosen[name]:.3f} (base model: {choice['base'][name]:.3f}) |" in card
    assert "Pictures of it that are excluded | none" in card
    assert 'Without "ohwx", "woman" nearly draws the person: likeness 0.45' in card
    assert "Identity without the trigger | 0.450 (base model: 0.000) |" in card
    assert "Identity without the trigger by the recogniser that took no part | 0.250 (base model: 0.000) |" in card
    hashes = {file_sha256(run / "best" / "ava_portrait.safetensors"), file_sha256(run / "subject" / "dataset.json")}
    hashes |= {base["digest"], *base["sha256"].values()}
    hashes |= {image[key] for image in dataset["images"] for key in ("sha256", "caption_sha256")}
    hashes |= {file_sha256(run / "best" / OUTPUTS[name]) for name in ("sidecar", "preview")} | set(MEASURED_BY.values())
    crops, scores = read_table(run / "subject/crops.tsv"), read_scores(run / "scores.tsv")
    drawn = scores.loc[((scores["epoch"] == 2) & (scores["weight"] == 0.8)) | (scores["epoch"] == 0), "image"]
    assert len(drawn) == 2 * (8 + 2) and {"train", "heldout"} <= set(crops["fate"])
    hashes |= {*crops["sha256"], *(file_sha256(Path(image)) for image in drawn)} - {""}
    assert hashes <= set(re.findall(r"[0-9a-f]{64}", card))


def test_another_model_that_drew_is_named_and_is_the_one_to_draw_with(run):
    base = json.loads((run / "subject/base.json").read_text())
    drawing = base | {"model": "models/fine_tune.safetensors", "digest": "6" * 64, "sha256": {"unet/x": "7" * 64}}
    (run / "subject/finetune.json").write_text(json.dumps(drawing))
    assert choose_checkpoint(run, drawing_base="finetune.json").returncode == 0
    choice, sidecar = (json.loads((run / "best" / OUTPUTS[name]).read_text()) for name in ("choice", "sidecar"))
    assert choice["trained_on"] == {"model": "demo", "digest": "3" * 64}
    assert choice["drawn_with"] == {"model": "models/fine_tune.safetensors", "digest": "6" * 64}
    assert "Chosen on pictures by fine_tune.safetensors." in sidecar["notes"]
    card = (run / "best/README.md").read_text()
    assert "Draw with `models/fine_tune.safetensors`: epoch and weight were chosen on its pictures." in card
    assert f"trained on: unet/model.safetensors | `{'4' * 64}`" in card and f"drawn with: unet/x | `{'7' * 64}`" in card
    assert "| Trained on: model | demo |" in card and "| Drawn with: digest | " + "6" * 64 in card
    choose_checkpoint(run)
    card = (run / "best/README.md").read_text()
    assert "Draw with the base model that it was trained on, `demo`" in card and "fine_tune" not in card


def test_the_same_run_gives_the_same_bytes(run):
    choose_checkpoint(run)
    first = {name: (run / "best" / name).read_bytes() for name in OUTPUTS.values()}
    choose_checkpoint(run)
    assert first == {name: (run / "best" / name).read_bytes() for name in OUTPUTS.values()}


def a1111_card(folder: Path, name: str) -> dict:
    """What A1111 makes of a LoRA in models/Lora, by its documented rules: the picture of the card is <name>.png, what
    the user noted of it is <name>.json. A click inserts <lora:alias:weight>, the preferred weight if that is not 0, and
    the activation text; the alias is the file's ss_output_name, which its default setting prefers. A card whose
    "sd version" is none that A1111 knows is hidden from the others."""
    metadata = read_metadata((folder / f"{name}.safetensors").read_bytes())
    user = json.loads((folder / f"{name}.json").read_text())
    weight = user.get("preferred weight", 0.0)
    assert isinstance(weight, float) and weight, "0 means the weight of A1111's settings"
    assert (folder / f"{name}.png").is_file() and user["sd version"] in ("Unknown", "SD1", "SD2", "SDXL")
    alias = metadata.get("ss_output_name", name)
    return {"prompt": f"<lora:{alias}:{weight}> {user['activation text']}", "description": user["description"]}


def comfy_patched(lora: Path, strength: float, models: dict[str, torch.nn.Module]) -> set[str]:
    """Patch models as ComfyUI's LoRA loader is documented to: a layer's key is the prefix and its path with underscores
    for dots; to its weight comes strength * alpha / rank * up @ down. Returns the keys that found no layer."""
    tensors, left = safetensors.torch.load_file(lora), set()
    left |= set(tensors)
    for prefix, model in models.items():
        for path, layer in model.named_modules():
            key = f"{prefix}_{path.replace('.', '_')}"
            if f"{key}.lora_up.weight" in tensors:
                up, down = (tensors[f"{key}.lora_{side}.weight"].float() for side in ("up", "down"))
                change = (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
                scale = strength * tensors[f"{key}.alpha"].item() / down.shape[0]
                layer.weight.data += scale * change
                left -= {f"{key}.alpha", f"{key}.lora_up.weight", f"{key}.lora_down.weight"}
    return left


def test_a1111_and_comfyui_read_the_chosen_file_at_the_chosen_weight(run, base_manifest):
    """A trained LoRA goes through choose_checkpoint; what their readers' rules make of best/ is what was judged."""
    about = {"ss_output_name": "ava_portrait"}
    source = run / "models" / "ava_portrait-000002.safetensors"
    source.write_bytes(
        with_metadata(trained(run / "trained", base_manifest, learning_rate=0.02).lora(2).read_bytes(), about)
    )
    models = json.loads((run / "models.json").read_text())
    models["epochs"][1]["sha256"] = file_sha256(source)
    (run / "models.json").write_text(json.dumps(models))
    assert choose_checkpoint(run).returncode == 0
    card = a1111_card(run / "best", "ava_portrait")
    assert card["prompt"] == "<lora:ava_portrait:0.8> ohwx woman" and "epoch 2 at weight 0.8" in card["description"]

    lora = run / "best" / "ava_portrait.safetensors"
    judged = load_pipeline(base_manifest, lora, torch.device("cpu"))
    judged.set_weight(0.8)
    plain = load_pipeline(base_manifest, None, torch.device("cpu")).diffusers
    before = predicted(plain.unet)
    assert comfy_patched(lora, 0.8, {"lora_unet": plain.unet}) == set(), "every key finds its layer"
    after = predicted(plain.unet)
    assert torch.allclose(after, predicted(judged.diffusers.unet), atol=1e-4)
    assert (after - before).abs().max() > 1e-2, "the LoRA makes no difference"


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("?")], ids=["missing", "changed"])
def test_a_lora_that_is_gone_or_changed_says_how_to_get_it_back(run, damage):
    damage(run / "models" / "ava_portrait-000002.safetensors")
    result = choose_checkpoint(run)
    assert result.returncode == 1
    assert "missing or was changed" in result.stdout
    assert "snakemake --cores all --forcerun train_lora" in result.stdout
    assert "Traceback" not in result.stderr
    assert not (run / "best").exists()


def test_of_a_run_that_leaks_everywhere_the_best_is_handed_over_and_said_to_leak(run):
    levels = {(2, 0.8): 0.7}
    scores = made_scores(lambda *cell: levels.get(cell, 0.3), epochs=3, noise=0.05, gate=lambda *cell: "leak")
    scores = write_run(run, scores)
    assert choose_checkpoint(run).returncode == 0
    choice = json.loads((run / "best" / "choice.json").read_text())
    assert (choice["epoch"], choice["weight"], choice["evidence"]) == (2, 0.8, "leaking")
    cell = scores[(scores["epoch"] == 2) & (scores["weight"] == 0.8)]
    best = run / cell.loc[cell["identity"].idxmax(), "image"]
    assert (np.asarray(Image.open(run / "best/ava_portrait.png")) == np.asarray(Image.open(best))).all()
    card, sidecar = (run / "best" / "README.md").read_text(), json.loads((run / "best/ava_portrait.json").read_text())
    for words in ("The least bad is epoch 2 at weight 0.8", "leaks are let pass", "that are excluded | 8 leak |"):
        assert words in card
    assert "where the prompt does not name them" in sidecar["notes"]


def test_without_evidence_the_card_and_the_sidecar_say_so(run):
    write_run(run, made_scores(lambda *cell: 0.0, epochs=3, gate=lambda *cell: "no_face"))
    assert choose_checkpoint(run).returncode == 0
    choice = json.loads((run / "best" / "choice.json").read_text())
    assert (choice["epoch"], choice["weight"], choice["evidence"]) == (3, 1.0, "none")
    assert "No evidence: no picture passes the gates" in (run / "best" / "README.md").read_text()
    assert "No evidence" in json.loads((run / "best" / "ava_portrait.json").read_text())["notes"]


@pytest.mark.parametrize(
    ("network", "calls_diffusers", "said"),
    [
        ("lora", True, "**A1111, Forge**: copy"),
        ("locon", True, "**A1111, Forge**: copy"),
        ("loha", False, "**diffusers** does not read this kind (loha)"),
        ("lokr", False, "**diffusers** does not read this kind (lokr)"),
        ("dora", False, "**A1111, InvokeAI**: not with this file"),
    ],
)
def test_the_card_names_only_programs_that_draw_the_kind_of_file(run, network, calls_diffusers, said):
    choose_checkpoint(run, CONFIG | {"train": CONFIG["train"] | {"network": network}})
    card = (run / "best/README.md").read_text()
    assert ("pipe.load_lora_weights" in card) == calls_diffusers
    assert said in card and "**ComfyUI**: copy `ava_portrait.safetensors`" in card


@pytest.mark.parametrize(
    "text",
    [
        *["__hair__ _x_ a_b _", "*x* **y** ~~z~~", "`a` ``b``", "a | b", "![x](y) [z]: w", "<b> </script> <!-- -->"],
        *["&lt; &amp;", r"a\_b \\ c", "$x$ $$y$$", "]]> \u202e 写真", "a_ _b __c d__ train.rank_x"],
    ],
)
@pytest.mark.parametrize("frame", ["{}", "x {}", "**Use {}**", "| | |\n|---|---|\n| k | {} |\n"])
def test_text_is_shown_sign_by_sign_as_markdown(text, frame):
    page = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(frame.format(_text(text)))
    assert set(re.findall(r"<(\w+)", page)) <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert text in html.unescape(page)


def test_the_card_shows_what_looks_like_markdown_or_html_as_it_is(run):
    trigger = "`<b>_|ohwx*"
    subject = CONFIG["subject"] | {"trigger": trigger}
    train = CONFIG["train"] | {"network_weights": "</script><script>alert(1)</script>[a](b) | *c*"}
    assert choose_checkpoint(run, CONFIG | {"subject": subject, "train": train}).returncode == 0
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render((run / "best/README.md").read_text())
    assert "<script" not in page and "<b>" not in page and "<em>" not in page
    shown = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert f"write {trigger} woman in the prompt" in shown
    assert train["network_weights"] in shown and "train.network_weights" in shown
