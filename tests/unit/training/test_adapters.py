"""Every kind of network goes to the file as its readers know it: names, shapes, and the very change of weights."""

import re

import pytest
import safetensors.torch
import torch

from likeness.models.families import SD2, SD15, SDXL
from likeness.models.lora_file import unet_modules
from likeness.training import adapters
from trained_run import short_settings, trained


def layers(config: dict) -> dict[str, torch.nn.Module]:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return dict(UNet2DConditionModel.from_config(config).named_modules())


@pytest.mark.parametrize(
    ("family", "convolutions", "count"), [(SD15, True, 278), (SD2, False, 192), (SDXL, False, 722)]
)
def test_modules_are_kohyas_in_number_and_are_there(family, convolutions, count):
    modules = unet_modules(family.config["unet"], convolutions=convolutions)
    found = layers(family.config["unet"])
    assert len(modules) == len({m.key for m in modules}) == count
    assert all(isinstance(found[m.path], torch.nn.Linear | torch.nn.Conv2d) for m in modules)


def test_locon_leaves_out_no_residual_block_and_no_sampler():
    """Every layer of the blocks that kohya names when conv_dim is given, by looking at the model itself."""
    found = layers(SD15.config["unet"])
    wanted = {
        path
        for path, layer in found.items()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        and any(part in path for part in (".resnets.", ".downsamplers.", ".upsamplers."))
    }
    assert wanted == {m.path for m in unet_modules(SD15.config["unet"], convolutions=True)} - {
        m.path for m in unet_modules(SD15.config["unet"])
    }


@pytest.mark.parametrize("convolutions", [False, True])
def test_sdxls_keys_are_the_ones_that_diffusers_maps_back(convolutions):
    """diffusers' reader of CompVis names leads to the layer that each key was made for."""
    from diffusers.loaders.lora_conversion_utils import (
        _convert_non_diffusers_lora_to_diffusers,
        _maybe_map_sgm_blocks_to_diffusers,
    )

    class Config:
        layers_per_block = 2

    modules = unet_modules(SDXL.config["unet"], convolutions=convolutions)
    tensors = {}
    for module in modules:
        tensors[f"{module.key}.lora_down.weight"] = torch.zeros(1, 1)
        tensors[f"{module.key}.lora_up.weight"] = torch.zeros(1, 1)
        tensors[f"{module.key}.alpha"] = torch.tensor(1.0)
    mapped, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(tensors, Config()))
    old_names = {".processor.to_out_lora": ".to_out.0", ".processor.": ".", "_lora.": ".lora."}
    paths = set()
    for key in mapped:
        for old, new in old_names.items():
            key = key.replace(old, new)
        paths.add(re.split(r"\.(?:lora|up|down)\b", key.removeprefix("unet."))[0])
    assert paths == {m.path for m in modules}


def test_attention_alone_leaves_the_feed_forward_layers_out():
    keys = [m.key for m in unet_modules(SD15.config["unet"], "attention")]
    assert len(keys) == 128 and not any("_ff_" in key or "proj_in" in key for key in keys)


def kronecker(tensors: dict, rank: int) -> torch.Tensor:
    """LyCORIS's LoKr: the first factor whole, the second whole or of two, then scaled by alpha / rank."""
    first = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    second = tensors["lokr_w2"] if "lokr_w2" in tensors else tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
    factored = not {"lokr_w1", "lokr_w2"} <= set(tensors)
    if second.dim() == 4:
        first = first[:, :, None, None]
    return torch.kron(first, second) * (tensors["alpha"] / rank if factored else 1)


def hadamard(tensors: dict, rank: int) -> torch.Tensor:
    """LyCORIS's LoHa: the product, element by element, of two low-rank matrices."""
    one, two = (tensors[f"hada_w{i}_a"] @ tensors[f"hada_w{i}_b"] for i in (1, 2))
    return one * two * tensors["alpha"] / rank


def low_rank(tensors: dict, rank: int) -> torch.Tensor:
    """kohya's: up times down, 1 x 1 convolution after a larger one."""
    down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
    change = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
    return change * tensors["alpha"] / down.shape[0]


@pytest.mark.parametrize(
    ("network", "definition"),
    [("lora", low_rank), ("locon", low_rank), ("dora", low_rank), ("loha", hadamard), ("lokr", kronecker)],
)
def test_the_file_holds_the_change_of_weights_by_its_definition(tmp_path, base_manifest, network, definition):
    settings = {"rank": 4, "alpha": 2, "conv_rank": 2, "conv_alpha": 1, "learning_rate": 0.01, "save_precision": "fp32"}
    run = trained(tmp_path, base_manifest, network=network, **settings)
    tensors = safetensors.torch.load_file(run.lora(2))
    unet = run.networks["unet"]
    for module, layer in zip(unet.modules, unet.layers, strict=True):
        mine = {
            key.removeprefix(f"{module.key}."): tensor
            for key, tensor in tensors.items()
            if key.startswith(f"{module.key}.")
        }
        change = layer.get_delta_weight("default").detach()
        assert torch.allclose(definition(mine, 4).reshape(change.shape), change, atol=1e-6), module.path
        if network == "dora":
            weight = layer.get_base_layer().weight
            norms = (weight + change).flatten(1).norm(dim=1)
            scaled = (weight + change) * (mine["dora_scale"].flatten() / norms).reshape(-1, *[1] * (weight.dim() - 1))
            x = torch.randn(2, weight.shape[1], *([5, 5] if weight.dim() == 4 else []))
            with torch.no_grad():
                base = layer.get_base_layer()
                expected = torch.func.functional_call(base, {"weight": scaled}, (x,))
                assert torch.allclose(layer(x), expected, atol=1e-4), module.path
    largest = max(layer.get_delta_weight("default").abs().max() for layer in unet.layers)
    assert largest > 1e-4, "nothing was learned"


def test_locon_gives_its_own_rank_to_large_convolutions_only(tmp_path, base_manifest):
    run = trained(tmp_path, base_manifest, network="locon", rank=4, alpha=2, conv_rank=2, conv_alpha=1)
    tensors = safetensors.torch.load_file(run.lora(2))
    downs = {key: tensor for key, tensor in tensors.items() if key.endswith("lora_down.weight")}
    for key, down in downs.items():
        large = down.dim() == 4 and down.shape[-1] > 1
        assert down.shape[0] == (2 if large else 4), key
        assert tensors[key.replace("lora_down.weight", "alpha")].item() == (1 if large else 2)


@pytest.mark.parametrize("network", ["locon", "dora", "loha", "lokr"])
def test_dropout_and_a_kill_leave_the_bytes_alone(tmp_path, base_manifest, network):
    """Dropout draws from the step's own seed, so a second training is the same to the byte."""
    options = {"network": network, "dropout": 0.3, "max_train_steps": 4}
    first, second = (trained(tmp_path / name, base_manifest, **options) for name in ("one", "two"))
    plain = trained(tmp_path / "plain", base_manifest, **options | {"dropout": 0.0})
    assert first.lora(2).read_bytes() == second.lora(2).read_bytes() != plain.lora(2).read_bytes()


def test_a_lora_starts_silent_and_as_kohya_draws_it(base_manifest):
    """up is zero; down is uniform within 1 / sqrt(inputs), which is kaiming_uniform with a = sqrt(5)."""
    torch.manual_seed(0)
    network = adapters.networks(short_settings(rank=16, alpha=16), base_manifest, torch.device("cpu"))["unet"]
    for key, tensor in network.tensors().items():
        if key.endswith("lora_up.weight"):
            assert not tensor.any(), key
        elif key.endswith("lora_down.weight"):
            bound = tensor[0].numel() ** -0.5
            assert 0.9 * bound < float(tensor.abs().max()) <= bound, key
            assert float(tensor.std()) == pytest.approx(bound / 3**0.5, rel=0.15), key
