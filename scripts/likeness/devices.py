"""The device of a job: one GPU, taken by a file lock before torch is imported and held until the process ends, and
whether it can be used, has the attention that is wanted, and has memory enough. Memory is in bytes, GB are 10^9."""

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
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from likeness.errors import LikenessError
from likeness.files import locked
from likeness.provenance import SCRIPTS

# Held for the life of the process: closing the file would give the device back.
_held = []


def gpu_ids() -> list[str]:
    """The GPUs that this user may take: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
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


def claim_gpu(say=print, count: int = 1) -> None:
    """Wait for a free GPU, or for so many, and let CUDA see no other. Call before torch is imported.

    Snakemake counts GPUs but does not deal them out, and knows nothing of orphans or of a second Snakemake; the locks
    do. A SLURM job that was given as many as are needed has them to itself; without a GPU there is nothing to take.
    Raises LikenessError if there are never so many.
    """
    ids = gpu_ids()
    if not ids:
        return
    if count > len(ids):
        raise LikenessError(f"train.gpus: {count}, and there are {len(ids)} here ({', '.join(ids)}); lower it")
    job = os.environ.get("SLURM_JOB_ID", "")
    if job and count == len(ids):
        return
    # With the machine's name, for a TMPDIR that several machines share: each has a GPU 0. So has each SLURM job.
    folder = Path(tempfile.gettempdir()) / f"likeness-gpus-{socket.gethostname()}-{os.getuid()}{job and f'-{job}'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    waited = False
    while not (taken := _locked(folder, ids, count)):
        if not waited:
            say(f"waiting for {'a free GPU' if count == 1 else f'{count} free GPUs'} among {', '.join(ids)}")
            waited = True
        time.sleep(0.5)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    say(f"device: GPU {', '.join(taken)}")


def _locked(folder: Path, ids: list[str], count: int) -> list[str]:
    """The GPUs that were taken: `count` of them or none, for two that hold one each would wait for each other."""
    taken = {}
    for gpu in ids:
        file = open(folder / f"{gpu.replace('/', '_')}.lock", "w")  # noqa: SIM115 - stays open
        if not locked(file, wait=False, otherwise="set TMPDIR to a folder on a disk of this machine"):
            file.close()
            continue
        taken[gpu] = file
        if len(taken) == count:
            _held.extend(taken.values())
            return list(taken)
    for file in taken.values():
        file.close()
    return []


def torch_device(wanted: str = "auto"):
    """The device to compute on. "cpu" never touches CUDA; "auto" is the claimed GPU, or the CPU where there is no GPU.

    Raises LikenessError if "cuda" is wanted and cannot be used, and for "auto" if there is a GPU, or a SLURM job was
    given one, that torch cannot use: a training would otherwise go on for days on the CPU, and nobody know why.
    """
    import torch

    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    listed = _listed_gpus()
    if wanted == "cuda":
        raise LikenessError(
            f"device cuda: no GPU can be used, because {_why_unusable(listed)}; "
            "or set train.device: cpu and have much patience"
        )
    given = "SLURM_JOB_ID" in os.environ and {"SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE"} & set(os.environ)
    if given or (listed and gpu_ids()):
        whose = "this SLURM job was given a GPU" if given else "there is a GPU here"
        advice = "do not ask SLURM for a GPU" if given else "run with CUDA_VISIBLE_DEVICES= (empty)"
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


def check_attention(attention: str, device) -> None:
    """Raises LikenessError if `attention` ("sdpa" or "xformers") does not run on the device, before anything is loaded.

    xformers is tried on one small attention: its own metadata says only which torch it can be installed with, and a
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
    except Exception as error:  # an ImportError, OSError, NotImplementedError or RuntimeError, as the mismatch may be
        asked = next((r for r in metadata.requires("xformers") or () if re.match(r"torch\b", r)), "any torch")
        raise LikenessError(
            f"attention xformers: xformers {installed}, made for {asked}, does not run with torch {torch.__version__} "
            f"({_first_line(error)}); install the pair that fits ({_pinned_pair()}, envs/gpu.txt), {otherwise}"
        ) from None


def is_emulated(precision: str, device) -> bool:
    """Whether the device has no instructions for "fp16" or "bf16". On a CPU with AVX2 alone a step of a small U-Net
    took 24 s with bf16 and 1.7 s with fp32; a matrix product in fp16 is 11 times slower on every x86 CPU seen."""
    if device.type != "cpu" or precision == "fp32":
        return False
    import torch

    able = torch.cpu.get_capabilities()
    return able["architecture"] == "x86_64" and not any(able[f"{unit}_{precision}"] for unit in ("avx512", "amx"))


def check_compile(wanted: bool) -> None:
    """Raises LikenessError if torch.compile is wanted and its C++ compiler would fail at the first step."""
    if not wanted:
        return
    import torch

    if " " in torch.__file__:  # torch hands its own folder to the linker without quotes
        raise LikenessError(
            f"compile: torch's compiler cannot work below a folder with a space in its name ({torch.__file__}); "
            "make the environment elsewhere, or set train.compile: false"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise LikenessError("compile: no C++ compiler is here; install g++, or set train.compile: false")


def _pinned_pair() -> str:
    pins = (SCRIPTS.parent / "envs/gpu.txt").read_text().split()
    return " with ".join(pin for pin in pins if pin.startswith(("torch==", "xformers==")))


def peak_memory(device) -> int:
    """Bytes that this process held at most: tensors on a GPU, else everything."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_resident()


def peak_resident(process: int | str = "self") -> int:
    """Bytes that a process on Linux had in memory at most. Raises OSError if it has ended.

    Not ru_maxrss: that of a new program begins at the size of the process that started it.
    """
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0  # none is left of a process that is just ending


@contextlib.contextmanager
def memory_explained(settings: Mapping) -> Iterator[None]:
    """Raises LikenessError if memory runs out, with what to change of `settings`, as `out_of_memory` takes them."""
    try:
        yield
    except RuntimeError as error:
        if explained := out_of_memory(error, settings):
            raise explained from None
        raise


def out_of_memory(error: RuntimeError, settings: Mapping) -> LikenessError | None:
    """What to tell a user of an error of torch's: None if it is not about memory.

    `settings` are those that the job's memory depends on: `resolution`, and in training the train section. Only what
    would still help is named.
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


def _savings(settings: Mapping) -> list[str]:
    """The settings that would take less memory, what costs the least first."""
    found = []
    if not settings.get("gradient_checkpointing", True):
        found.append("gradient_checkpointing: true (slower)")
    if (batch := settings.get("batch_size", 1)) > 1:
        part = next(n for n in range(2, batch + 1) if batch % n == 0)
        accumulation = settings["gradient_accumulation_steps"] * part
        found.append(
            f"batch_size: {batch // part} with gradient_accumulation_steps: {accumulation} (the same training)"
        )
    if settings.get("precision") == "fp32":
        found.append("precision: bf16")
    # A LoRA of rank 16 on SD 1.5 is 9.4 million numbers: with gradient and Adam's two means 150 MB, so no more to gain.
    if settings.get("rank", 0) > 16:
        found.append(f"a rank below {settings['rank']}")
    # SD 1.5 was trained at 512 px; below that no family draws well.
    if settings.get("resolution", 0) > 512:
        found.append(f"a resolution below {settings['resolution']}")
    return found
