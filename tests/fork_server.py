"""Starts the jobs of tests quickly: a server that has imported the libraries forks a process for each job.

A small job spends most of its time on imports, and the tests run hundreds of jobs. With `environment`, the `python` of
rules asks the server, which all tests of this process share. The code of a job is read again each time. Tests of how a
job starts, is killed or finds its Python do not use the server.
"""

import atexit
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from importlib import import_module
from pathlib import Path

LIBRARIES = {
    **dict.fromkeys(
        ("cv2", "mediapipe", "pandas", "pillow_heif", "scipy.cluster.hierarchy", "scipy.optimize", "torch", "tqdm"), ()
    ),
    "diffusers": ("AutoencoderKL", "DDPMScheduler", "UNet2DConditionModel"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer"),
    "peft": ("LoraConfig",),
}


@cache
def environment() -> dict[str, str]:
    """The environment variables for Snakemake with which its jobs are forked."""
    folder = Path(tempfile.mkdtemp(prefix="fork-server-"))  # a socket's path has at most 100 bytes
    python, address = folder / "bin/python", folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, "serve", address],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    assert server.stdout.readline() == b"ready\n"
    python.parent.mkdir()
    ask = shlex.join(map(str, [sys.executable, "-I", "-S", __file__, "ask", address]))
    python.write_text(f'#!/bin/sh\nexec {ask} "$@"\n')
    python.chmod(0o755)
    # The rules put the Python of Snakemake first into PATH. The shell of a job reads this file after that.
    (folder / "job.sh").write_text(f"PATH={shlex.quote(str(python.parent))}:$PATH\n")
    return {"BASH_ENV": str(folder / "job.sh")}


def ask(address: str, *command: str) -> int:
    """Let the server run a script with the folder, environment and open files of this process; return its exit
    status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        umask = os.umask(0o077)
        job = json.dumps({"command": command, "folder": os.getcwd(), "umask": umask, "environment": dict(os.environ)})
        socket.send_fds(server, [b"\n"], [0, 1, 2])
        server.sendall(job.encode() + b"\n")
        return int.from_bytes(server.recv(1) or b"\1")  # a killed job sends no status


class Job(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        _, files, _, _ = socket.recv_fds(self.request, 1, 3)
        job = json.loads(self.request.makefile().readline())
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(job["folder"])
        os.umask(job["umask"])
        os.environ.clear()
        os.environ.update(job["environment"])
        threading.Thread(target=self.end_with_who_asked, daemon=True).start()
        self.request.send(bytes([exit_status(job["command"])]))

    def end_with_who_asked(self) -> None:
        if not self.request.recv(1):
            os.kill(os.getpid(), signal.SIGTERM)


def exit_status(command: list[str]) -> int:
    """Run a script as `python script` would."""
    sys.argv, status = command, 0
    sys.path.insert(0, str(Path(command[0]).parent))
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    return status


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    pass


def serve(address: str) -> None:
    scripts = str(Path(__file__).resolve().parent.parent / "scripts")
    sys.path[0] = scripts
    import_module("likeness.core.imports").start_sooner()
    for library, names in LIBRARIES.items():
        for name in names or ["__name__"]:
            getattr(import_module(library), name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "likeness"]:
        del sys.modules[name]  # each job imports this module from its own project
    sys.path.remove(scripts)
    with Server(address, Job) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit({"ask": ask, "serve": serve}[sys.argv[1]](*sys.argv[2:]))
