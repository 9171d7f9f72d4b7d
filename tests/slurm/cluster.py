"""A real SLURM cluster on one machine, for tests. Only root can start it.

    c1      8 cores                       partition batch
    g1, g2  8 cores, 2 simulated GPUs     partition accel; and urgent, whose jobs preempt accel's

The nodes are three slurmd processes on this machine. A GPU is an empty file: SLURM counts and allocates it like a real
one, but nothing can compute on it. Every daemon runs in the foreground and is identified by its process. If this
process is killed, the kernel ends the daemons.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from waiting import wait_for

# The configuration folder of Debian's SLURM. SLURM_CONF cannot point elsewhere, because the executor plugin removes it
# from the environment of a job.
CONFIG = Path("/etc/slurm")
OURS = "# written by tests/slurm/cluster.py\n"
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "setpriv")
NODES = ("c1", "g1", "g2")
DATABASE_PORT = 17010

# The waiting times are short for the tests. Each comment has the usual value of a cluster.
SLURM_CONF = """
ClusterName=likeness
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=17000
SlurmUser=root
AuthType=auth/munge
# Time that a requeued job waits: 120 s.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
ReturnToService=2
# Time for which ended jobs are known: 300 s.
MinJobAge=3600
EnforcePartLimits=ALL
MailProg=/bin/true
SchedulerParameters=batch_sched_delay=1,bf_interval=5,sched_min_interval=500000
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# From SIGTERM to SIGKILL: 30 s.
KillWait=15
# Time until a silent node counts as down: 300 s.
SlurmdTimeout=15
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=17001
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
ProctrackType={proctrack}
TaskPlugin={task}
NodeName=c1     NodeHostname=localhost NodeAddr=127.0.0.1 Port=17002         CPUs=8 RealMemory=200000
NodeName=g[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[17003-17004] CPUs=8 RealMemory=200000 Gres=gpu:toy:2
PartitionName=batch  Nodes=c1     MaxTime=INFINITE Default=YES
PartitionName=accel  Nodes=g[1-2] MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=g[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""
SLURMDBD_CONF = """
AuthType=auth/munge
DbdHost=localhost
DbdPort=17001
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port}
StorageUser=root
"""


def why_not() -> str:
    """The reason why no cluster can be started here; empty if one can."""
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"{', '.join(missing)} not found; run tools/system_libraries.sh slurm"
    if os.getuid():
        return "a SLURM cluster can be started by root only"
    config = CONFIG / "slurm.conf"
    if config.exists() and not config.read_text().startswith(OURS):
        return f"{config} is there: this machine belongs to a cluster, which these tests must not touch"
    return ""


class Cluster:
    """Started by `start`, stopped by `stop`; `folder` holds everything that the daemons write."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, {}
        self.lock = open("/run/likeness-test-cluster", "w")  # noqa: SIM115 - held until `stop`

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle. Only one cluster can run, because names and ports are
        fixed."""
        wait_for("the end of another cluster of these tests", self.is_only_one, seconds=1800)
        self.configure()
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            subprocess.run(["install", "-d", "-o", "munge", "-g", "munge", "/run/munge"], check=True)
            self.daemon("munged", "munged", "--foreground", user="munge")
        wait_for("munge", lambda: answers("munge", "-n"))
        self.daemon(
            "mariadbd", "mariadbd", "--no-defaults", "--user=root", f"--datadir={self.folder}/database",
            f"--socket={self.folder}/database.sock", f"--pid-file={self.folder}/database.pid",
            # Every user of this machine can connect; the jobs of the tests are not secret.
            "--skip-grant-tables", "--bind-address=127.0.0.1", f"--port={DATABASE_PORT}",
            # A small database without safe writes, because it lives for minutes.
            "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0",
        )  # fmt: skip
        wait_for("MariaDB", lambda: answers("mariadb-admin", f"--socket={self.folder}/database.sock", "ping"))
        self.daemon("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: answers("sacctmgr", "--noheader", "show", "cluster"))
        self.start_slurmctld()
        for node in NODES:
            self.start_slurmd(node)
        wait_for("idle nodes", lambda: states() == ["idle"])

    def is_only_one(self) -> bool:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def configure(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir()
        for gpu in range(2):
            (self.folder / f"gpu{gpu}").touch()
        # With control groups a signal reaches only the first process of a job's step; without them, all processes.
        groups = os.access("/sys/fs/cgroup/freezer", os.W_OK)
        names = {
            "folder": self.folder,
            "port": DATABASE_PORT,
            "proctrack": "proctrack/cgroup" if groups else "proctrack/linuxproc",
            "task": "task/cgroup" if groups else "task/none",
        }
        CONFIG.mkdir(exist_ok=True)
        for name, text in {
            "slurm.conf": SLURM_CONF,
            "slurmdbd.conf": SLURMDBD_CONF,
            "gres.conf": "NodeName=g[1-2] Name=gpu Type=toy File={folder}/gpu[0-1]\n",
            "cgroup.conf": "CgroupAutomount=no\n",
        }.items():
            (CONFIG / name).write_text(OURS + text.format(**names))
            (CONFIG / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)  # slurmdbd requires it
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={self.folder}/database",
             "--skip-test-db", "--skip-name-resolve"],
            check=True, capture_output=True,
        )  # fmt: skip

    def daemon(self, name: str, *command: str, user: str = "root") -> None:
        """Start a daemon that ends with this process and writes its output into a file of its name."""
        rights = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        with open(self.folder / f"{name}.out", "a") as output:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", *rights, "--pdeathsig=TERM", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def start_slurmctld(self) -> None:
        self.daemon("slurmctld", "slurmctld", "-D")
        wait_for("slurmctld", lambda: answers("scontrol", "ping"))

    def start_slurmd(self, node: str) -> None:
        self.daemon(f"slurmd.{node}", "slurmd", "-D", "-N", node)

    def kill(self, daemon: str) -> None:
        """Send SIGKILL to a daemon, as if its machine failed; the jobs that it started continue."""
        self.daemons[daemon].kill()
        self.daemons.pop(daemon).wait()

    def stop(self) -> None:
        """Cancel every job and end every daemon, the last started first."""
        if answers("scancel", "--user=root"):
            wait_for("the end of all jobs", lambda: not output("squeue", "--noheader"))
        for name in reversed(list(self.daemons)):
            daemon = self.daemons.pop(name)
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=60)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder / "database", ignore_errors=True)  # pytest would keep its 150 MB for three runs
        for config in CONFIG.glob("*.conf"):
            if config.read_text().startswith(OURS):
                config.unlink()
        self.lock.close()


@contextmanager
def started_cluster(folder: Path, account: str) -> Iterator[Cluster]:
    """A cluster with an account for root. It is stopped at the end, also if this process is terminated; otherwise it
    would stay with its jobs running."""
    cluster = Cluster(folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cluster.start()
        output("sacctmgr", "--immediate", "add", "account", account)
        output("sacctmgr", "--immediate", "add", "user", "root", f"account={account}")
        yield cluster
    finally:
        cluster.stop()


class Job(NamedTuple):
    """A job as in SLURM's accounting. `rule` is the Snakemake rule of the job."""

    number: str
    rule: str
    state: str
    account: str
    partition: str
    node: str
    minutes: int
    requested: dict[str, str]
    """The requested resources: cpu, mem, gres/gpu."""


def jobs(folder: Path) -> list[Job]:
    """All jobs that the workflow in a folder has submitted and that ended, in the order of submission."""
    columns = "WorkDir,JobIDRaw,Comment,State,Account,Partition,NodeList,TimelimitRaw,ReqTRES"

    def accounted() -> list[list[list[str]]] | None:
        """The rows of the jobs. The database gets a job's comment at its end, on a busy machine seconds later."""
        rows = output("sacct", "--allocations", "--parsable2", "--noheader", "--format", columns).splitlines()
        own = [cells for cells in (row.split("|") for row in rows) if cells[0] == str(folder)]
        return [own] if all(cells[2] for cells in own) else None

    (rows,) = wait_for("the comments of all jobs in SLURM's database", accounted, seconds=60)
    found = []
    for _, number, comment, state, account, partition, node, minutes, requested in rows:
        rule = re.match(r"rule_(\w+?)(_wildcards_|$)", comment)[1]
        asked = dict(part.split("=") for part in requested.split(","))
        found.append(Job(number, rule, state.split()[0], account, partition, node, int(minutes), asked))
    return found


def running(rule: str) -> tuple[str, str]:
    """The number and the node of the running job of a rule."""
    rows = output("squeue", "--noheader", "--states=RUNNING", "--format=%A %N %k").splitlines()
    (found,) = [row.split()[:2] for row in rows if f"rule_{rule}_" in row]
    return tuple(found)


def output(*command: str) -> str:
    """The output of a program. Raises CalledProcessError if it fails, TimeoutExpired if it does not end."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()


def answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def states() -> list[str]:
    """The states of the nodes."""
    return sorted(set(output("sinfo", "--noheader", "--format=%T").split()))
