"""The pictures of a checkpoint: every cell from its own seed, whatever batch it is in, each weight and prompt once."""

import json
import sys
from pathlib import Path
from typing import get_args

import diffusers
import numpy as np
import pytest
import torch

import sample_checkpoint
from infotext_reader import loras, parameters, text_chunks
from likeness.choosing.scores import SCORED_KINDS
from likeness.config.sections import Sample
from likeness.core.errors import LikenessError
from likeness.core.files import write_atomic
from likeness.core.manifests import read_table
from likeness.core.provenance import file_sha256
from likeness.core.tensors import read_metadata, with_metadata
from likeness.drawing import sampling
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA
from likeness.drawing.sampling import SAMPLERS, Cell, cells, draw_pictures, load_pipeline
from trained_run import trained

CPU = torch.device("cpu")
SUBJECT = {"trigger": "ohwx", "class_noun": "woman"}
SAMPLE = {"negative_prompt": "blurred", "steps": 3, "guidance_scale": 5.0, "batch_size": None, "clip_skip": 1}
PROMPTS = ("photo of ohwx woman", "photo of ohwx woman smiling")
CELLS = [Cell(0.0, prompt, "near", seed) for prompt in PROMPTS for seed in (1, 2, 3)]


def pictures(pipeline, wanted=CELLS, **changes) -> dict[Cell, np.ndarray]:
    return {cell: np.asarray(image) for cell, image in draw_pictures(pipeline, wanted, SAMPLE | changes, (64, 64))}


@pytest.fixture(scope="module")
def pipeline(base_manifest):
    return load_pipeline(base_manifest, None, CPU)


@pytest.fixture(scope="module")
def lora(tmp_path_factory, base_manifest):
    """A LoRA of the U-Net that learned enough to be seen."""
    settings = {"learning_rate": 0.02, "save_precision": "fp32"}
    return trained(tmp_path_factory.mktemp("trained"), base_manifest, **settings).lora(2)


def test_every_kind_of_prompt_is_drawn_at_every_weight_from_the_same_seeds():
    sample = Sample(
        prompts=["photo of {subject}"],
        far_prompts=["{subject} as an astronaut"],
        canary_prompts=["{subject} with a beard"],
        two_people_prompt="{subject} beside a man",
        weights=[0.5, 1.0],
        seeds=[3, 4],
    )
    found = cells(sample.model_dump(), SUBJECT, epoch=2)
    by_kind = {kind: {cell.prompt for cell in found if cell.kind == kind} for kind in (cell.kind for cell in found)}
    assert by_kind == {
        "near": {"photo of ohwx woman"},
        "far": {"ohwx woman as an astronaut"},
        "canary": {"ohwx woman with a beard"},
        "untrained": {"photo of a woman, portrait", "photo of a woman"},
        "two_people": {"ohwx woman beside a man"},
    }
    assert set(by_kind) - set(SCORED_KINDS) == {"untrained", "two_people"}, "these two are gates and no score"
    assert len(found) == len(set(found)) == 6 * 2 * 2
    assert [cell.weight for cell in found] == sorted(cell.weight for cell in found), "a weight is set once"
    pairs = {(cell.prompt, cell.seed) for cell in found}
    base = cells(sample.model_dump(), SUBJECT, epoch=0)
    assert {cell.weight for cell in base} == {0.0} and {(cell.prompt, cell.seed) for cell in base} == pairs


def test_a_cell_has_the_same_pixels_whatever_batch_it_is_in(pipeline):
    """On a CPU: to one level of 255. A kernel may add in another order when a batch has another size."""
    alone, together = pictures(pipeline, batch_size=1), pictures(pipeline, batch_size=6)
    backwards = pictures(pipeline, wanted=CELLS[::-1], batch_size=4)
    for cell in CELLS:
        for other in (together, backwards):
            assert np.abs(alone[cell].astype(int) - other[cell]).max() <= 1
    different = [np.abs(alone[a].astype(int) - alone[b]).max() for a in CELLS for b in CELLS if a < b]
    assert min(different) > 2, "other seeds and prompts are other pictures"


def test_where_memory_runs_out_batches_are_halved_and_no_cell_is_lost(pipeline):
    """Room for two pictures: the U-Net of more fails as torch does on a CPU."""
    sizes = []

    def full(unet, inputs, options):
        sizes.append(len(inputs[0]) // 2)  # with guidance each picture stands there twice
        if sizes[-1] > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    expected = pictures(pipeline)
    hook = pipeline.diffusers.unet.register_forward_pre_hook(full, with_kwargs=True)
    try:
        found = pictures(pipeline, batch_size=6)
    finally:
        hook.remove()
    assert list(found) == CELLS and list(dict.fromkeys(sizes)) == [6, 3, 1]
    assert all(np.abs(found[cell].astype(int) - expected[cell]).max() <= 1 for cell in CELLS)


def test_no_room_for_one_picture_says_what_to_change(pipeline):
    def full(unet, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    hook = pipeline.diffusers.unet.register_forward_pre_hook(full)
    try:
        with pytest.raises(LikenessError, match="out of memory"):
            pictures(pipeline)
    finally:
        hook.remove()


def test_each_prompt_is_read_once_and_each_weight_set_once(base_manifest, lora, monkeypatch):
    """With a LoRA of the U-Net alone; nothing is loaded while the weight changes."""
    pipeline = load_pipeline(base_manifest, lora, CPU)
    assert not pipeline.conditioning_by_weight
    texts, weights = [], []
    read = sampling.conditioning_of
    noted = lambda pipe, text, skip: texts.append(text) or read(pipe, text, skip)  # noqa: E731
    monkeypatch.setattr(sampling, "conditioning_of", noted)
    noting = pipeline._replace(set_weight=lambda weight: weights.append(weight) or pipeline.set_weight(weight))
    wanted = [cell._replace(weight=weight) for weight in (0.5, 1.0) for cell in CELLS]
    found = pictures(noting, wanted=wanted, batch_size=2)
    assert sorted(texts) == sorted(["blurred", *PROMPTS]) and weights == [0.5, 1.0]
    half, whole = (found[CELLS[0]._replace(weight=weight)].astype(int) for weight in (0.5, 1.0))
    assert np.abs(half - whole).max() > 1, "the weight made no difference"


def test_the_prompt_is_read_anew_where_the_lora_changes_the_text_encoder(tmp_path, base_manifest):
    settings = {"learning_rate": 0.02, "text_encoder_lr": 0.02, "save_precision": "fp32"}
    run = trained(tmp_path, base_manifest, train_text_encoder=True, **settings)
    wanted = [CELLS[0]._replace(weight=weight) for weight in (0.5, 1.0)]
    together = pictures(load_pipeline(base_manifest, run.lora(2), CPU), wanted=wanted)
    alone = pictures(load_pipeline(base_manifest, run.lora(2), CPU), wanted=wanted[1:])
    assert (together[wanted[1]] == alone[wanted[1]]).all()


def test_weight_0_is_the_base_model(base_manifest, pipeline, lora):
    with_lora = pictures(load_pipeline(base_manifest, lora, CPU))
    assert all(np.abs(with_lora[cell].astype(int) - image).max() <= 1 for cell, image in pictures(pipeline).items())


def test_the_configuration_names_the_samplers_that_there_are():
    assert get_args(Sample.model_fields["sampler"].annotation) == tuple(SAMPLERS)


def test_every_sampler_draws_its_own_picture_and_the_same_one_again(base_manifest):
    found = {}
    for name in SAMPLERS:
        first, again = (
            pictures(load_pipeline(base_manifest, None, CPU, name), wanted=CELLS[:1])[CELLS[0]] for _ in range(2)
        )
        assert (first == again).all(), name
        found[name] = first.tobytes()
    assert len(set(found.values())) == len(SAMPLERS)


def test_a_base_models_own_scheduler_cannot_turn_a_sampler_into_another(base_manifest):
    """The pipeline of a finetune that was saved with Karras' noise levels."""
    plain = load_pipeline(base_manifest, None, CPU, "DPM++ 2M").diffusers.scheduler
    karras = load_pipeline(base_manifest, None, CPU).diffusers.scheduler
    assert (plain.config.use_karras_sigmas, karras.config.use_karras_sigmas) == (False, True)
    name, settings = SAMPLERS["DPM++ 2M"]
    assert type(karras).__name__ == name
    assert not type(karras).from_config(karras.config, **settings).config.use_karras_sigmas


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_batch_follows_from_what_one_picture_takes(base_manifest):
    sizes = []
    pipeline = load_pipeline(base_manifest, None, torch.device("cuda"))
    hook = pipeline.diffusers.unet.register_forward_pre_hook(
        lambda unet, inputs, options: sizes.append(len(inputs[0]) // 2), with_kwargs=True
    )
    found = pictures(pipeline, wanted=[Cell(0.0, PROMPTS[0], "near", seed) for seed in range(40)])
    hook.remove()
    assert len(found) == 40 and list(dict.fromkeys(sizes)) == [1, 39]


# --- the script ----------------------------------------------------------------------------------------------------


class Checkpoint:
    """A checkpoint on disk, and `sample_checkpoint` in this process: what its rule calls."""

    def __init__(self, folder: Path, base: dict, lora: Path, monkeypatch, capsys):
        self.folder, self.monkeypatch, self.capsys = folder, monkeypatch, capsys
        (folder / "base.json").write_text(json.dumps(base, default=str))
        self.name_lora("ava_portrait", lora)

    def name_lora(self, name: str, lora: Path) -> None:
        """The same tensors as another run's file: other name, other metadata."""
        file = self.folder / f"models/{name}-000002.safetensors"
        about = read_metadata(lora.read_bytes()) | {"ss_output_name": name}
        write_atomic(file, with_metadata(lora.read_bytes(), about))
        entry = {"epoch": 2, "file": f"models/{file.name}", "sha256": file_sha256(file)}
        (self.folder / "models.json").write_text(json.dumps({"epochs": [entry]}))

    def drawn(self, **changes) -> tuple[str, list[dict]]:
        """The last line of the log, and the rows of the table."""
        sample = {"prompts": ["photo of {subject}"], "untrained_prompts": ["photo of a {class_noun}"]}
        sample |= {"weights": [0.5, 1.0], "seeds": [1, 2], "steps": 2}
        sample = Sample(clip_skip=1, **sample | changes).model_dump()
        config = {"sample": sample, "resolution": 64, "subject": SUBJECT, "epoch": 2}
        files = {"models": "models.json", "base": "base.json", "cache": "cache", "samples": "2.tsv", "folder": "2"}
        options = [word for name, file in files.items() for word in (f"--{name}", str(self.folder / file))]
        self.monkeypatch.setattr(sys, "argv", ["sample_checkpoint.py", "--config", json.dumps(config), *options])
        sample_checkpoint.main()
        rows = read_table(self.folder / "2.tsv").to_dict("records")
        return self.capsys.readouterr().out.splitlines()[-1], rows


@pytest.fixture
def checkpoint(tmp_path, base_manifest, lora, monkeypatch, capsys) -> Checkpoint:
    return Checkpoint(tmp_path, base_manifest, lora, monkeypatch, capsys)


def test_only_new_cells_are_drawn(checkpoint):
    assert checkpoint.drawn()[0] == "items: 8 computed, 0 reused", "2 weights, 2 prompts, 2 seeds"
    assert checkpoint.drawn()[0] == "items: 0 computed, 8 reused"
    assert checkpoint.drawn(weights=[0.5, 0.75, 1.0])[0] == "items: 4 computed, 8 reused"
    assert checkpoint.drawn(far_prompts=["{subject} outdoors"])[0] == "items: 4 computed, 8 reused"
    assert checkpoint.drawn(two_people_prompt="{subject} and a man")[0] == "items: 4 computed, 8 reused"
    assert checkpoint.drawn(seeds=[1, 2, 3])[0] == "items: 4 computed, 8 reused"
    moved = {"prompts": ["{subject} outdoors"], "canary_prompts": ["photo of {subject}"]}
    assert checkpoint.drawn(**moved)[0] == "items: 0 computed, 12 reused", "another kind of prompt, the same words"
    assert checkpoint.drawn(batch_size=1)[0] == "items: 0 computed, 8 reused"
    assert checkpoint.drawn(sampler="Euler a")[0] == "items: 8 computed, 0 reused"


def test_models_and_lora_are_loaded_once_and_not_at_all_without_a_new_cell(checkpoint):
    loaded = []

    def counted(owner, name: str) -> None:
        real = getattr(owner, name)
        double = lambda *arguments, **options: loaded.append(name) or real(*arguments, **options)  # noqa: E731
        checkpoint.monkeypatch.setattr(owner, name, double)

    counted(sampling, "load_pipeline")
    counted(diffusers.StableDiffusionPipeline, "load_lora_weights")
    checkpoint.drawn()
    assert loaded == ["load_pipeline", "load_lora_weights"], "for 2 weights, 2 prompts, 2 seeds"
    checkpoint.drawn(weights=[0.5])
    assert len(loaded) == 2


def test_a_run_of_another_name_only_says_it_in_its_pictures(checkpoint, lora):
    _, before = checkpoint.drawn()
    checkpoint.name_lora("ava_other", lora)
    counted, after = checkpoint.drawn()
    assert counted == "items: 0 computed, 8 reused"
    assert [row["pixels"] for row in before] == [row["pixels"] for row in after], "what scoring knows a picture by"
    assert not {row["sha256"] for row in before} & {row["sha256"] for row in after}
    assert len({row["pixels"] for row in after}) == 8
    for row in after:
        chunks = text_chunks(checkpoint.folder / row["image"])
        found = parameters(chunks["parameters"])
        assert loras(found["Prompt"]) == {"ava_other-000002": float(row["weight"])}
        assert (found["Prompt"].split(" <")[0], found["Seed"], found["Steps"]) == (row["prompt"], row["seed"], "2")
        assert TRAINED_ALGORITHMIC_MEDIA in chunks["XML:com.adobe.xmp"]
