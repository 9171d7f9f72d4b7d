"""The further processes of a training on several GPUs: this program again, with the same arguments.

Imports no torch: what is set here has to be there before it.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

from likeness import cli

INTERRUPTED = 75  # EX_TEMPFAIL: the work is saved, run the same command again
_DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def start_others(count: int) -> None:
    """Make this process the first of `count` on this machine, and start the others.

    What they say comes where this one's output goes. None outlives this process; if one fails, this one ends, for it
    would wait for the other's gradients. accelerate reads from the environment who is who. Its own launcher would stand
    between: SIGURG, by which SLURM tells of a job's end, does not come through it.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())) // count)
    together = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    os.environ.update({name: str(value) for name, value in together.items()} | _place(0))
    arguments = sys.argv.copy()
    if "--log" in arguments:  # this process has opened it, and to open it again would empty it
        place = arguments.index("--log")
        del arguments[place : place + 2]
    for number in range(1, count):
        other = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | _place(number), preexec_fn=_die_with_parent
        )
        threading.Thread(target=_end_with, args=(other,), daemon=True).start()


def _place(number: int) -> dict[str, str]:
    return {"RANK": str(number), "LOCAL_RANK": str(number)}


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _end_with(other: subprocess.Popen) -> None:
    status = other.wait()
    if status not in (0, INTERRUPTED):
        cli.say(f"error: a process of this training ended with status {status}; the last saved state is safe")
        os._exit(1)
