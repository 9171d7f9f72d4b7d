"""Starts the further processes of a training on several GPUs. Each runs this program with the same arguments."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

from likeness.core import cli

INTERRUPTED = 75  # exit status EX_TEMPFAIL: the state is saved, and the same command resumes the training
_DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def start_others(count: int) -> None:
    """Make this process the first of `count` on this machine, and start the others.

    Their output goes to the output of this process. They end if this process ends. If one of them fails, this process
    ends too, because it would wait for the gradients of the other for ever. accelerate reads the rank of each process
    from the environment. Its own launcher is not used, because it does not pass on SIGURG, by which SLURM announces
    the end of a job.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // count)
    group = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    os.environ.update({name: str(value) for name, value in group.items()} | _rank_variables(0))
    arguments = sys.argv.copy()
    if "--log" in arguments:  # this process has opened the log; opening it again would empty it
        position = arguments.index("--log")
        del arguments[position : position + 2]
    for rank in range(1, count):
        process = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | _rank_variables(rank), preexec_fn=_die_with_parent
        )
        threading.Thread(target=_end_with, args=(process,), daemon=True).start()


def _rank_variables(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _end_with(process: subprocess.Popen[bytes]) -> None:
    """Wait for a further process, and end this one if that one failed."""
    status = process.wait()
    if status not in (0, INTERRUPTED):
        cli.say(f"error: a process of this training ended with status {status}; the last saved state is safe")
        os._exit(1)
