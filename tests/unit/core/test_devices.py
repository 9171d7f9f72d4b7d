"""What can be wrong with a device is said before hours are lost, with what to do about it."""

import importlib.metadata
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable

import pytest
import torch

from likeness.core import devices
from likeness.core.errors import LikenessError
from likeness.core.provenance import SCRIPTS
from likeness.training.settings import Train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SLURM = ("SLURM_JOB_ID", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE")


@pytest.fixture
def machine(monkeypatch) -> Callable:
    """Make this a machine whose nvidia-smi lists some GPUs, with a torch for some CUDA that starts, or says why not."""

    def pretended(gpus: str = "", cuda: str | None = None, error: str = "", **environment: str) -> None:
        for name in ("CUDA_VISIBLE_DEVICES", *SLURM):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

        def init():
            raise RuntimeError(error)

        monkeypatch.setattr(devices, "_listed_gpus", gpus.split)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        usable = gpus and cuda and not error and environment.get("CUDA_VISIBLE_DEVICES") != ""
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(usable))
        monkeypatch.setattr(torch.cuda, "init", init)

    return pretended


def test_a_gpu_that_works_is_used(machine):
    machine("0 1", cuda="12.8")
    assert devices.torch_device() == devices.torch_device("cuda") == CUDA
    assert devices.torch_device("cpu") == CPU


def test_without_a_gpu_auto_is_the_cpu(machine):
    machine()
    assert devices.torch_device() == CPU
    machine("0 1", cuda=None, CUDA_VISIBLE_DEVICES="")
    assert devices.torch_device() == CPU, "the user hid the GPUs"


def test_cpu_never_touches_cuda(machine, monkeypatch):
    machine("0", cuda="12.8")
    monkeypatch.setattr(torch, "cuda", None)
    assert devices.torch_device("cpu") == CPU


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.mark.parametrize(
    ("pretended", "expected"),
    [
        ({}, "nvidia-smi lists no GPU: install NVIDIA's driver"),
        ({"gpus": "0 1", "cuda": "12.8", "CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES is empty.*unset it"),
        ({"gpus": "0"}, r"torch .* is built without CUDA: install envs/gpu\.txt"),
        ({"gpus": "0", "cuda": "12.8", "error": TOO_OLD}, r"driver is too old .*CUDA 12\.8\): update the driver"),
        (
            {"gpus": "0", "cuda": "12.8", "error": "No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES": "5"},
            "No CUDA GPUs are available, with CUDA_VISIBLE_DEVICES=5 of the GPUs 0",
        ),
        ({"SLURM_JOB_ID": "7"}, r"no GPU in this SLURM job: ask for one \(--gres=gpu:1\)"),
    ],
)
def test_a_gpu_that_is_wanted_and_cannot_be_used_is_an_error_that_says_why(machine, pretended, expected):
    machine(**pretended)
    with pytest.raises(LikenessError, match=f"^device cuda: no GPU can be used, because .*{expected}"):
        devices.torch_device("cuda")


@pytest.mark.parametrize(
    ("pretended", "expected"),
    [
        (
            {"gpus": "0"},
            r"there is a GPU here .*built without CUDA.*or run|there is a GPU here .*CUDA_VISIBLE_DEVICES= ",
        ),
        ({"gpus": "0", "cuda": "12.8", "error": TOO_OLD}, "there is a GPU here .*update the driver"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "3"}, "this SLURM job was given a GPU"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": "0"},
            "this SLURM job was given a GPU",
        ),
    ],
)
def test_nobody_waits_for_days_on_the_cpu_beside_a_gpu(machine, pretended, expected):
    machine(**pretended)
    with pytest.raises(LikenessError, match=expected):
        devices.torch_device("auto")


def test_a_slurm_job_without_a_gpu_computes_on_the_cpu(machine):
    machine(SLURM_JOB_ID="7")
    assert devices.torch_device() == CPU


def test_within_one_slurm_job_each_takes_a_gpu_of_its_own(machine, tmp_path, monkeypatch):
    """As where `snakemake --cores all` is run in an allocation of two GPUs; another job has its own GPU 0."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def taken(job: str, gpus: str) -> str:
        machine(gpus, SLURM_JOB_ID=job)
        devices.claim_gpu()
        return os.environ.pop("CUDA_VISIBLE_DEVICES", "all that were given")

    assert [taken("7", "0 1"), taken("7", "0 1"), taken("8", "0 1")] == ["0", "1", "0"]
    assert taken("9", "0") == taken("9", "0") == "all that were given"


def test_gpus_come_from_nvidia_smi(tmp_path, monkeypatch):
    """As it prints them, and none when it fails, as it does after a driver's update without a reboot."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for script, expected in (("echo 0; echo 1", ["0", "1"]), ("echo Driver/library version mismatch; exit 18", [])):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert devices.gpu_ids() == expected


def test_a_precision_that_a_cpu_only_emulates_is_known(monkeypatch):
    def emulated(precision: str, device=CPU, **able: bool) -> bool:
        none = dict.fromkeys(("avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16"), False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: none | {"architecture": "x86_64"} | able)
        return devices.is_emulated(precision, device)

    assert emulated("bf16") and emulated("fp16")
    assert not emulated("fp32")
    assert not emulated("bf16", amx_bf16=True) and not emulated("bf16", avx512_bf16=True)
    assert emulated("fp16", avx512_bf16=True)
    assert not emulated("bf16", torch.device("cuda"))


# --- attention -----------------------------------------------------------------------------------------------------


@pytest.fixture
def xformers(monkeypatch) -> Callable:
    """Install an xformers that asks for some torch, and whose attention fails with an error or works."""

    def installed(version: str, requires: str, error: Exception | None) -> None:
        def attention(query, key, value):
            if error:
                raise error
            return query

        ops = types.ModuleType("xformers.ops")
        ops.memory_efficient_attention = attention
        monkeypatch.setitem(sys.modules, "xformers", types.ModuleType("xformers"))
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)
        monkeypatch.setattr(importlib.metadata, "version", {"xformers": version}.__getitem__)
        monkeypatch.setattr(importlib.metadata, "requires", {"xformers": ["numpy", requires]}.__getitem__)
        # There is no GPU to put the trial on.
        zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda *size, dtype, device: zeros(*size, dtype=dtype))

    return installed


def test_sdpa_runs_everywhere():
    devices.check_attention("sdpa", CPU)
    devices.check_attention("sdpa", CUDA)


def test_xformers_on_the_cpu_is_an_error():
    with pytest.raises(LikenessError, match=r"needs a GPU and this is the cpu.*train\.attention: sdpa"):
        devices.check_attention("xformers", CPU)


def test_xformers_that_works_is_taken(xformers):
    xformers("0.0.35", "torch>=2.10", None)
    devices.check_attention("xformers", CUDA)


def test_xformers_for_another_torch_names_the_pair_that_fits(xformers, root):
    xformers(
        "0.0.28", "torch==2.4.1", NotImplementedError("No operator found for `memory_efficient_attention_forward`\n")
    )
    with pytest.raises(LikenessError) as found:
        devices.check_attention("xformers", CUDA)
    message = str(found.value)
    assert "xformers 0.0.28, made for torch==2.4.1, does not run with torch " + torch.__version__ in message
    assert "No operator found" in message and "\n" not in message
    pins = (root / "envs/gpu.txt").read_text().split()
    pair = [pin for pin in pins if pin.startswith(("torch==", "xformers=="))]
    assert len(pair) == 2 and " with ".join(pair) in message


def test_no_xformers_says_what_to_install(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(LikenessError, match=r"not installed; install .*torch==.* with xformers==.*envs/gpu\.txt"):
        devices.check_attention("xformers", CUDA)


# --- memory --------------------------------------------------------------------------------------------------------


def test_what_the_compiler_needs_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch, "__file__", "/home/me/my photos/torch/__init__.py")
    devices.check_compile(False)
    with pytest.raises(LikenessError, match="a folder with a space in its name .*/my photos/.* train.compile: false"):
        devices.check_compile(True)
    monkeypatch.setattr(torch, "__file__", "/home/me/torch/__init__.py")
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    with pytest.raises(LikenessError, match=r"install g\+\+, or set train.compile: false"):
        devices.check_compile(True)


def test_peak_memory_of_the_process_grows_with_what_it_held():
    """In a process of its own, whose peak is not the one of this process, as the kernel's ru_maxrss would be."""
    program = """
import torch
from likeness.core.devices import peak_memory
cpu = torch.device("cpu")
before = peak_memory(cpu)
assert 10**8 < before < 10**9, "bytes of a process that has torch loaded"
held = torch.ones(before // 4 + 100_000_000)  # four bytes each
assert peak_memory(cpu) >= held.nbytes
"""
    held = b"1" * 10**9
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS)})
    assert len(held) == 10**9, "held until now"


def settings(**values) -> dict:
    return Train(**values).model_dump()


def cpu_error() -> RuntimeError:
    """torch's own, of a tensor that no machine can hold."""
    with pytest.raises(RuntimeError) as found:
        torch.empty(10**14)
    return found.value


def test_the_cpus_error_names_what_would_help_in_order():
    values = settings(batch_size=4, gradient_accumulation_steps=3, precision="fp32", rank=128) | {"resolution": 768}
    message = str(devices.out_of_memory(cpu_error(), values))
    assert message.startswith("out of memory, at a peak of ") and " GB of this process, with " in message
    wanted = [
        "gradient_checkpointing: true",
        "batch_size: 2 with gradient_accumulation_steps: 6",
        "precision: bf16",
        "rank below 128",
        "resolution below 768",
    ]
    places = [message.index(words) for words in wanted]
    assert places == sorted(places)


def test_a_gpus_error_names_only_what_is_not_used_already(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7_500_000_000)
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    values = settings(gradient_checkpointing=True, batch_size=3, precision="bf16", rank=8, alpha=8)
    message = str(devices.out_of_memory(error, values | {"resolution": 512}))
    assert message == (
        "out of memory, at a peak of 7.5 GB of the GPU's 8.0 GB; set one after the other, until it fits: "
        "batch_size: 1 with gradient_accumulation_steps: 3 (the same training)"
    )
    nothing = str(devices.out_of_memory(error, values | {"batch_size": 1}))
    assert "every setting that saves memory is in use already" in nothing


def test_another_error_is_not_about_memory():
    assert devices.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), settings()) is None
