"""A file of any kind of network, put into the base model's weights, is the model that was trained."""

import pytest
import safetensors.torch
import torch

from likeness.core.errors import LikenessError
from likeness.drawing.sampling import Cell, draw_pictures, load_pipeline
from likeness.models.lora_file import lora_bytes
from likeness.models.lora_merge import layers_of, merged
from trained_run import predicted, trained

CPU = torch.device("cpu")
LEARNED = {"conv_rank": 2, "conv_alpha": 1, "learning_rate": 0.02, "text_encoder_lr": 0.02, "save_precision": "fp32"}
SAMPLE = {"negative_prompt": "", "steps": 2, "guidance_scale": 5.0, "batch_size": 2, "clip_skip": 1}
WORDS = "photo of ohwx woman"


def weights(run) -> dict[str, dict[str, torch.Tensor]]:
    """network -> layer -> weight with the whole adapter, of the models in training, by peft's own merge."""
    found = {}
    for name, network in run.networks.items():
        for layer in network.layers:
            layer.merge()
        pairs = zip(network.modules, network.layers, strict=True)
        found[name] = {module.path: layer.get_base_layer().weight.detach().clone() for module, layer in pairs}
        for layer in network.layers:
            layer.unmerge()
    return found


@pytest.mark.parametrize("network", ["dora", "loha", "lokr"])
def test_what_is_drawn_is_the_model_in_training(tmp_path, base_manifest, network):
    """At weight 1 the very model; at 0.5 half of the way there; between weights nothing is left over."""
    run = trained(tmp_path, base_manifest, network=network, train_text_encoder=True, **LEARNED)
    pipeline, set_weight, conditioning_by_weight = load_pipeline(base_manifest, run.lora(2), CPU)
    assert conditioning_by_weight, "the text encoder was trained"
    base = predicted(pipeline.unet)
    set_weight(1.0)
    trained_output = predicted(run.networks["unet"].model)
    assert torch.allclose(predicted(pipeline.unet), trained_output, atol=1e-4)
    assert (trained_output - base).abs().max() > 1e-2, "nothing was learned"

    whole = weights(run)
    before = load_pipeline(base_manifest, None, CPU).diffusers
    assert set(whole) == {"unet", "text_encoder"}
    for strength in (0.5, 1.0, 0.0):
        set_weight(strength)
        for part, layers in whole.items():
            for path, weight in layers.items():
                start = getattr(before, part).get_submodule(path).weight
                expected = start + strength * (weight - start)
                found = getattr(pipeline, part).get_submodule(path).weight
                assert torch.allclose(found, expected, atol=1e-5), (part, path, strength)
    assert torch.equal(predicted(pipeline.unet), base)


@pytest.mark.parametrize("network", ["lora", "locon"])
def test_plain_loras_are_drawn_as_by_diffusers_loader(tmp_path, base_manifest, network, monkeypatch):
    run = trained(tmp_path, base_manifest, network=network, train_text_encoder=True, **LEARNED)
    cells = [Cell(weight, WORDS, "near", 1) for weight in (0.5, 1.0)]

    def pictures() -> list[torch.Tensor]:
        pipeline = load_pipeline(base_manifest, run.lora(2), CPU)
        images = [image.tobytes() for _, image in draw_pictures(pipeline, cells, SAMPLE, (64, 64))]
        return [torch.frombuffer(bytearray(image), dtype=torch.uint8).int() for image in images]

    by_diffusers = pictures()
    monkeypatch.setattr("likeness.drawing.sampling.diffusers_reads", lambda layers: False)
    for one, two in zip(by_diffusers, pictures(), strict=True):
        assert (one - two).abs().max() <= 1, "one level of rounding in a pixel"
    assert (by_diffusers[0] - by_diffusers[1]).abs().max() > 1, "the weight made no difference"


@pytest.mark.parametrize("first", ["whole", "factored"])
@pytest.mark.parametrize("second", ["whole", "factored"])
def test_lokr_takes_its_scale_from_the_factored_matrices(first, second):
    """LyCORIS: alpha / rank where a factor is a product of two, 1 where both are whole."""
    torch.manual_seed(0)
    matrices = {"lokr_w1": (2, 3), "lokr_w2": (4, 5)}
    layer, factors = {"alpha": torch.tensor(3.0)}, []
    for (name, (rows, columns)), kind in zip(matrices.items(), (first, second), strict=True):
        a, b = torch.randn(rows, 6), torch.randn(6, columns)
        factors.append(a @ b)
        layer |= {name: a @ b} if kind == "whole" else {f"{name}_a": a, f"{name}_b": b}
    scale = 1 if first == second == "whole" else 3 / 6
    weight = torch.randn(8, 15)
    assert torch.allclose(merged(weight, layer, 1.0), weight + scale * torch.kron(*factors), atol=1e-5)


def test_half_precision_weights_are_changed_in_fp32():
    """256 steps of 2^-11 of a weight: added in fp16 one by one they would be lost, rounded once they are there."""
    weight = torch.ones(1, 1, dtype=torch.float16)
    layer = {
        "alpha": torch.tensor(1.0),
        "lora_up.weight": torch.tensor([[2**-11]]),
        "lora_down.weight": torch.ones(1, 1),
    }
    found = merged(weight, layer, 1.0)
    assert found.dtype == torch.float32 and found.item() == 1 + 2**-11


def test_a_layer_that_the_base_model_has_not_is_named(tmp_path, base_manifest):
    tensors = {f"lora_unet_elsewhere.{name}": torch.ones(1, 1) for name in ("hada_w1_a", "hada_w1_b", "alpha")}
    (tmp_path / "other.safetensors").write_bytes(lora_bytes(tensors, "fp32"))
    with pytest.raises(LikenessError, match="lora_unet_elsewhere .*another family"):
        load_pipeline(base_manifest, tmp_path / "other.safetensors", CPU)


def test_a_layer_that_diffusers_drops_is_an_error(tmp_path, base_manifest):
    """The same file with one layer more, which its loader passes over in silence."""
    run = trained(tmp_path, base_manifest, train_text_encoder=True, max_train_steps=2, epochs=1)
    tensors = safetensors.torch.load_file(run.lora(1))
    layer = next(iter(layers_of(tensors)))
    more = {key.replace(layer, "lora_te_elsewhere"): tensor.clone() for key, tensor in tensors.items() if layer in key}
    (tmp_path / "other.safetensors").write_bytes(lora_bytes(tensors | more, "fp32"))
    with pytest.raises(LikenessError, match="a place for"):
        load_pipeline(base_manifest, tmp_path / "other.safetensors", CPU)
