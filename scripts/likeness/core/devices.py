"""The device of a job. A GPU is reserved by a file lock before torch is imported, and is held until the process ends.
Checks whether the device works, supports the configured attention, and has enough memory. A GB is 10^9 bytes."""

import contextlib
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from likeness.core.errors import LikenessError
from likeness.core.files import lock
from likeness.core.provenance import SCRIPTS

if TYPE_CHECKING:
    import torch

# The lock files of this process's GPUs, open as long as it runs: closing one would release its GPU.
_open_locks: list[TextIO] = []


def gpu_ids() -> list[str]:
    """The GPUs that this process may use: those of CUDA_VISIBLE_DEVICES if it is set, else those that nvidia-smi
    lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [i.strip() for i in visible.split(",") if i.strip() not in ("", "-1")]
    return _listed_gpus()


def _listed_gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    return answer.stdout.split() if answer.returncode == 0 else []


def claim_gpu(say: Callable[[str], None] = print, count: int = 1) -> None:
    """Wait until `count` GPUs are free, lock them, and hide the others from CUDA. Call this before torch is imported.

    The locks are necessary, because Snakemake only counts GPUs: it does not assign them to jobs, and does not know of
    jobs that outlived their Snakemake or belong to another. Nothing is locked on a machine without a GPU, nor in a
    SLURM job with exactly `count` GPUs, which has them to itself. Raises LikenessError if there are fewer than `count`.
    """
    ids = gpu_ids()
    if not ids:
        return
    if count > len(ids):
        raise LikenessError(f"train.gpus: {count}, and there are {len(ids)} here ({', '.join(ids)}); lower it")
    job = os.environ.get("SLURM_JOB_ID", "")
    if job and count == len(ids):
        return
    # Several machines may share a TMPDIR, and each machine and each SLURM job has a GPU 0: the name says whose it is.
    folder = Path(tempfile.gettempdir()) / f"likeness-gpus-{socket.gethostname()}-{os.getuid()}{job and f'-{job}'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while not (locked_gpus := _lock_gpus(folder, ids, count)):
        if not waited:
            say(f"waiting for {'a free GPU' if count == 1 else f'{count} free GPUs'} among {', '.join(ids)}")
            waited = True
        time.sleep(0.5)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(locked_gpus)
    say(f"device: GPU {', '.join(locked_gpus)}")


def _lock_gpus(folder: Path, ids: list[str], count: int) -> list[str]:
    """Lock `count` GPUs and return them, or lock none: two processes that hold one GPU each and need two would wait for
    each other for ever."""
    locks: dict[str, TextIO] = {}
    for gpu in ids:
        file = open(folder / f"{gpu.replace('/', '_')}.lock", "w")  # noqa: SIM115 - stays open
        if not lock(file, wait=False, otherwise="set TMPDIR to a folder on a disk of this machine"):
            file.close()
            continue
        locks[gpu] = file
        if len(locks) == count:
            _open_locks.extend(locks.values())
            return list(locks)
    for held in locks.values():
        held.close()
    return []


def torch_device(setting: str = "auto") -> "torch.device":
    """The device to compute on. "cpu" never touches CUDA; "auto" is the claimed GPU, or the CPU on a machine without a
    GPU.

    Raises LikenessError if the setting is "cuda" and CUDA does not work. With "auto" the same holds where there is a
    GPU, or where a SLURM job was allocated one: otherwise a training would run for days on the CPU without a reason.
    """
    import torch

    if setting == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    listed = _listed_gpus()
    if setting == "cuda":
        raise LikenessError(
            f"device cuda: no GPU can be used, because {_why_unusable(listed)}; "
            "or set train.device: cpu and have much patience"
        )
    gpu_was_allocated = "SLURM_JOB_ID" in os.environ and {"SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"} & set(os.environ)
    if gpu_was_allocated or (listed and gpu_ids()):
        whose = "this SLURM job was given a GPU" if gpu_was_allocated else "there is a GPU here"
        advice = "do not ask SLURM for a GPU" if gpu_was_allocated else "run with CUDA_VISIBLE_DEVICES= (empty)"
        raise LikenessError(
            f"{whose} and it cannot be used, because {_why_unusable(listed)}; to use the CPU all the same, {advice}"
        )
    return torch.device("cpu")


def _why_unusable(listed: list[str]) -> str:
    """Why torch finds no GPU, and what to do about it."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not gpu_ids():
        return "CUDA_VISIBLE_DEVICES is empty, which hides every GPU: unset it"
    if not listed:
        if "SLURM_JOB_ID" in os.environ:
            return "nvidia-smi lists no GPU in this SLURM job: ask for one (--gres=gpu:1), on a partition that has them"
        return "nvidia-smi lists no GPU: install NVIDIA's driver, or use a machine with a GPU"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install envs/gpu.txt, or envs/likeness-gpu.yaml"
    try:
        torch.cuda.init()
        reason = "torch counts no device"
    except (RuntimeError, AssertionError) as error:
        reason = _first_line(error)
    if "driver" in reason and "too old" in reason:
        return (
            f"NVIDIA's driver is too old for torch {torch.__version__} (CUDA {torch.version.cuda}): update the driver"
        )
    chosen = "" if visible is None else f", with CUDA_VISIBLE_DEVICES={visible} of the GPUs {', '.join(listed)}"
    return f"CUDA does not start ({reason}{chosen}): look whether nvidia-smi works and the GPU is there"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def check_attention(attention: str, device: "torch.device") -> None:
    """Raises LikenessError if `attention` ("sdpa" or "xformers") does not run on the device. Call it before models are
    loaded.

    xformers is tested with one small attention, because its metadata only says which torch it can be installed with. A
    build for another torch or CUDA loads with a warning and fails at the first step.
    """
    if attention != "xformers":
        return
    otherwise = "or set train.attention: sdpa, PyTorch's own"
    if device.type != "cuda":
        raise LikenessError(f"attention xformers: it needs a GPU and this is the {device.type}; use one, {otherwise}")
    import torch

    try:
        installed = metadata.version("xformers")
    except metadata.PackageNotFoundError:
        raise LikenessError(
            f"attention xformers: it is not installed; install the pair that fits ({_pinned_pair()}, "
            f"envs/gpu.txt; here is torch {torch.__version__}), {otherwise}"
        ) from None
    try:
        from xformers.ops import memory_efficient_attention

        # (batch, tokens, heads, channels): the smallest size of a head that all its kernels take.
        query = torch.zeros(1, 8, 1, 32, dtype=torch.float16, device=device)
        memory_efficient_attention(query, query, query)
    except Exception as error:  # ImportError, OSError, NotImplementedError, RuntimeError: it depends on the mismatch
        asked = next((r for r in metadata.requires("xformers") or () if re.match(r"torch\b", r)), "any torch")
        raise LikenessError(
            f"attention xformers: xformers {installed}, made for {asked}, does not run with torch {torch.__version__} "
            f"({_first_line(error)}); install the pair that fits ({_pinned_pair()}, envs/gpu.txt), {otherwise}"
        ) from None


def is_emulated(precision: str, device: "torch.device") -> bool:
    """Whether the device has no instructions for "fp16" or "bf16". On a CPU with AVX2 but without AVX-512, a step of a
    small U-Net took 24 s with bf16 and 1.7 s with fp32. A matrix product in fp16 was 11 times slower than in fp32 on
    every x86 CPU that was measured."""
    if device.type != "cpu" or precision == "fp32":
        return False
    import torch

    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not any(able[f"{unit}_{precision}"] for unit in ("avx512", "amx"))


def check_compile(enabled: bool) -> None:
    """Raises LikenessError if torch.compile is enabled and its C++ compiler would fail at the first step."""
    if not enabled:
        return
    import torch

    if " " in torch.__file__:  # torch passes its own folder to the linker without quotes
        raise LikenessError(
            f"compile: torch's compiler cannot work below a folder with a space in its name ({torch.__file__}); "
            "make the environment elsewhere, or set train.compile: false"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise LikenessError("compile: no C++ compiler is here; install g++, or set train.compile: false")


def _pinned_pair() -> str:
    pins = (SCRIPTS.parent / "envs/gpu.txt").read_text().split()
    return " with ".join(pin for pin in pins if pin.startswith(("torch==", "xformers==")))


def peak_memory(device: "torch.device") -> int:
    """Most bytes that this process has held at once: on a GPU those of tensors, on a CPU all memory."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_resident()


def peak_resident(process: int | str = "self") -> int:
    """Most bytes that a process on Linux has had in memory at once. Raises OSError if the process has ended.

    This is not ru_maxrss, which starts at the size of the parent process.
    """
    status = Path(f"/proc/{process}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) * 1024 if peak else 0  # a process that is exiting has no such line


@contextlib.contextmanager
def memory_explained(settings: Mapping[str, Any]) -> Iterator[None]:
    """Raises LikenessError if memory runs out in the `with` block; it says which `settings` to change, see
    `out_of_memory`."""
    try:
        yield
    except RuntimeError as error:
        if explained := out_of_memory(error, settings):
            raise explained from None
        raise


def out_of_memory(error: RuntimeError, settings: Mapping[str, Any]) -> LikenessError | None:
    """The message for the user if torch's error means that memory ran out, else None.

    `settings` are those that the job's memory depends on: `resolution`, and for a training the section train. The
    message names only the changes that would still save memory.
    """
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        device = torch.device("cuda")
        room = f"of the GPU's {torch.cuda.mem_get_info(device)[1] / 1e9:.1f} GB"
    elif "DefaultCPUAllocator: can't allocate memory" in str(error):
        import psutil

        device = torch.device("cpu")
        room = f"of this process, with {psutil.virtual_memory().available / 1e9:.1f} GB of the machine's left"
    else:
        return None
    savings = _savings(settings)
    if savings:
        todo = f"set one after the other, until it fits: {', '.join(savings)}"
    else:
        todo = "every setting that saves memory is in use already, so close other programs or use a larger machine"
    return LikenessError(f"out of memory, at a peak of {peak_memory(device) / 1e9:.1f} GB {room}; {todo}")


def _savings(settings: Mapping[str, Any]) -> list[str]:
    """Changes of settings that would save memory, those with the smallest disadvantage first."""
    savings = []
    if not settings.get("gradient_checkpointing", True):
        savings.append("gradient_checkpointing: true (slower)")
    if (batch := settings.get("batch_size", 1)) > 1:
        part = next(n for n in range(2, batch + 1) if batch % n == 0)
        accumulation = settings["gradient_accumulation_steps"] * part
        savings.append(
            f"batch_size: {batch // part} with gradient_accumulation_steps: {accumulation} (the same training)"
        )
    if settings.get("precision") == "fp32":
        savings.append("precision: bf16")
    # A LoRA of rank 16 on SD 1.5 has 9.4 million parameters: 150 MB with gradients and Adam's two moments. A lower rank
    # saves nothing that matters.
    if settings.get("rank", 0) > 16:
        savings.append(f"a rank below {settings['rank']}")
    # SD 1.5 was trained at 512 px; below that no model family draws well.
    if settings.get("resolution", 0) > 512:
        savings.append(f"a resolution below {settings['resolution']}")
    return savings
