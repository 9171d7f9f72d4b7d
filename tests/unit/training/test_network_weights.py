"""Files to go on from, as other programs write them: read to their numbers, or refused with one line before anything is
changed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from damage import NO_SAFETENSORS
from likeness.core.errors import LikenessError
from likeness.models.families import SDXL
from likeness.models.lora_file import unet_modules
from likeness.training import adapters
from trained_run import short_settings, trained

Tensors = dict[str, torch.Tensor]


def networks(base: dict, **changes) -> dict[str, adapters.Network]:
    settings = short_settings(network="lora", rank=4, alpha=2, train_text_encoder=True).model_copy(update=changes)
    return adapters.networks(settings, base, torch.device("cpu"))


def tensors_of(found: dict[str, adapters.Network]) -> Tensors:
    return {key: value.clone() for network in found.values() for key, value in network.tensors().items()}


@pytest.fixture(scope="module")
def found(base_manifest) -> dict[str, adapters.Network]:
    return networks(base_manifest)


@pytest.fixture(scope="module")
def whole(found) -> Tensors:
    """The tensors of a file for these networks, with numbers of its own."""
    torch.manual_seed(5)
    return {
        key: value.clone() if key.endswith("alpha") else torch.randn_like(value)
        for key, value in tensors_of(found).items()
    }


def renamed(tensors: Tensors, before: str, after: str) -> Tensors:
    return {key.replace(before, after): value for key, value in tensors.items()}


READ: dict[str, Callable[[Tensors], Tensors]] = {
    "ours": lambda t: t,
    "kohya's lora_te1_": lambda t: renamed(t, "lora_te_", "lora_te1_"),
    "fp16": lambda t: {key: value.half() for key, value in t.items()},
    "linear layers as 1x1 convolutions": lambda t: {k: v[..., None, None] if v.ndim == 2 else v for k, v in t.items()},
    "1x1 convolutions as linear layers": lambda t: {k: v[:, :, 0, 0] if v.ndim == 4 else v for k, v in t.items()},
    "fp64": lambda t: {key: value.double() for key, value in t.items()},
    "alphas of one number": lambda t: {k: v.reshape(1) if k.endswith("alpha") else v for k, v in t.items()},
    "alphas that are whole": lambda t: {k: v.long() if k.endswith("alpha") else v for k, v in t.items()},
}


@pytest.mark.parametrize("layout", READ)
def test_a_file_is_read_to_its_numbers(tmp_path, found, whole, layout):
    file = READ[layout](dict(whole))
    save_file(file, tmp_path / "lora.safetensors")
    adapters.load_weights(found, tmp_path / "lora.safetensors")
    expected = {key: (whole[key].half() if layout == "fp16" else whole[key]).float() for key in whole}
    assert all(torch.equal(value, expected[key]) for key, value in tensors_of(found).items())


def test_a_file_without_alphas_has_the_rank_for_one(tmp_path, base_manifest, whole):
    file = {key: value for key, value in whole.items() if not key.endswith("alpha")}
    save_file(file, tmp_path / "lora.safetensors")
    of_rank = networks(base_manifest, alpha=4)
    adapters.load_weights(of_rank, tmp_path / "lora.safetensors")
    assert all(torch.equal(tensors_of(of_rank)[key], value) for key, value in file.items())
    with pytest.raises(LikenessError, match=r"alpha differs in alpha, 4, expected 2; network, rank"):
        adapters.load_weights(networks(base_manifest), tmp_path / "lora.safetensors")


def test_sdxls_layers_are_known_by_diffusers_names_too(tmp_path):
    """ComfyUI and A1111 read both."""
    network = SimpleNamespace(modules=unet_modules(SDXL.config["unet"]))
    before = {f"lora_unet_{module.path.replace('.', '_')}.alpha": torch.tensor(1.0) for module in network.modules}
    save_file(before, tmp_path / "lora.safetensors")
    entries = adapters._file_entries({"unet": network}, tmp_path / "lora.safetensors", "lora")
    assert set(entries) == {f"{module.key}.alpha" for module in network.modules} and len(entries) == 722
    assert "lora_unet_middle_block_1_proj_in.alpha" in entries


DOWN, TEXT = (
    f"lora_{layer}.lora_down.weight"
    for layer in (
        "unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        "te_text_model_encoder_layers_0_self_attn_q_proj",
    )
)
ALPHA = DOWN.replace("lora_down.weight", "alpha")
REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "LyCORIS' preset full": (
        lambda t: (
            t | {f"lora_unet_{n}.lora_up.weight": torch.ones(4, 4) for n in ("conv_in", "time_embedding_linear_1")}
        ),
        r"2 names differ \(there is no layer for lora_unet_conv_in.lora_up.weight.*preset attn-mlp",
    ),
    "without text encoder": (
        lambda t: {k: v for k, v in t.items() if "_te_" not in k},
        r"\d+ names differ \(lora_te_\S+ is missing\); network, rank",
    ),
    "LoHa": (
        lambda t: {k.replace("lora_up.weight", "hada_w1_a"): v for k, v in t.items()},
        r"lora_up.weight is missing\)",
    ),
    "peft's names": (lambda t: {f"base_model.model.{k}": v for k, v in t.items()}, r"is missing\)"),
    **{
        f"names of {program}": (
            lambda t, ends=ends: {
                k.replace(".lora_down.weight", ends[0]).replace(".lora_up.weight", ends[1]): v
                for k, v in t.items()
                if not k.endswith("alpha")
            },
            r"it has the names of diffusers or peft \(lora_\S+\); expected kohya's",
        )
        for program, ends in {
            "diffusers": (".lora.down.weight", ".lora.up.weight"),
            "older diffusers": (".processor.to_q_lora.down.weight", ".processor.to_q_lora.up.weight"),
            "peft": (".lora_A.weight", ".lora_B.weight"),
        }.items()
    },
    "infinite in fp32": (
        lambda t: t | {DOWN: t[DOWN].double() * 1e300},
        f"{DOWN} has \\d+ numbers that are infinite or none",
    ),
    "both names of a text encoder": (
        lambda t: t | {TEXT.replace("lora_te_", "lora_te1_"): t[TEXT].clone()},
        "it contains lora_te1?_.* under two names",
    ),
    "NaN": (lambda t: t | {DOWN: t[DOWN] * torch.nan}, f"{DOWN} has \\d+ numbers that are infinite or none"),
    "infinite in fp16": (
        lambda t: t | {DOWN: (t[DOWN] * 1e9).half()},
        f"{DOWN} has \\d+ numbers that are infinite or none",
    ),
    "alpha of none": (lambda t: t | {ALPHA: torch.tensor(torch.nan)}, f"{ALPHA} has 1 numbers"),
    "alpha of many": (lambda t: t | {ALPHA: torch.ones(3)}, rf"{ALPHA} differs in rank or kind, of shape \[3\]"),
    "whole numbers": (lambda t: t | {DOWN: t[DOWN].to(torch.int8)}, f"{DOWN} is of I8; expected fp32, fp16 or bf16"),
    "truths": (lambda t: t | {DOWN: t[DOWN] > 0}, f"{DOWN} is of BOOL; expected"),
    "another shape": (lambda t: t | {DOWN: t[DOWN].T.contiguous()}, f"{DOWN} differs in rank or kind, of shape"),
    "a name of 10,000 letters": (lambda t: t | {"x" * 10_000 + "\n": torch.ones(1)}, "1 names differ"),
    "10,000 names": (lambda t: t | {f"x{n}": torch.ones(1) for n in range(10_000)}, "10000 names differ"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_a_file_that_does_not_fit_is_refused_on_one_line(tmp_path, found, whole, layout):
    change, expected = REFUSED[layout]
    save_file(change(dict(whole)), tmp_path / "lora.safetensors")
    refused(tmp_path / "lora.safetensors", expected, found)


@pytest.mark.parametrize("data", NO_SAFETENSORS.values(), ids=NO_SAFETENSORS)
def test_what_is_no_safetensors_file_is_refused_on_one_line(tmp_path, found, data):
    (tmp_path / "lora.safetensors").write_bytes(data)
    refused(tmp_path / "lora.safetensors", "damaged, or no safetensors file", found)


def refused(file: Path, expected: str, found: dict[str, adapters.Network]) -> None:
    before = tensors_of(found)
    with pytest.raises(LikenessError, match=f"^network_weights .*lora.safetensors: .*{expected}") as error:
        adapters.load_weights(found, file)
    assert "\n" not in str(error.value) and len(str(error.value)) < 800
    assert all(torch.equal(value, before[key]) for key, value in tensors_of(found).items()), "nothing is changed"


def test_training_goes_on_from_a_files_weights(tmp_path, base_manifest):
    first = trained(tmp_path / "first", base_manifest, learning_rate=0.01, save_precision="fp32")
    second = trained(
        tmp_path / "second", base_manifest, weights=first.lora(2), learning_rate=1e-9, save_precision="fp32"
    )
    before, after = (safetensors.torch.load_file(run.lora(2)) for run in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-7) for key in before)
    for wrong in ({"rank": 8}, {"alpha": 4}, {"network": "loha"}, {"layers": "attention"}):
        with pytest.raises(LikenessError, match="network_weights .*must be those that it was trained with"):
            trained(tmp_path / "wrong", base_manifest, weights=first.lora(2), **wrong)
    (tmp_path / "half.safetensors").write_bytes(first.lora(2).read_bytes()[:1000])
    with pytest.raises(LikenessError, match="network_weights .*damaged"):
        trained(tmp_path / "half", base_manifest, weights=tmp_path / "half.safetensors")


@pytest.mark.parametrize("kind", ["lora", "locon", "dora", "loha", "lokr"])
def test_every_kind_goes_on_from_its_own_file(tmp_path, base_manifest, kind):
    options = {"network": kind, "save_precision": "fp32"}
    first = trained(tmp_path / "first", base_manifest, learning_rate=0.01, **options)
    second = trained(tmp_path / "second", base_manifest, weights=first.lora(2), learning_rate=1e-9, **options)
    before, after = (safetensors.torch.load_file(run.lora(2)) for run in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
