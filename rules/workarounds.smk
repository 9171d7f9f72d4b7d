# Workarounds for behaviour of Snakemake 9.27.1 that would harm users of this workflow. Only this file uses private parts
# of Snakemake. For each workaround tests/workflow/test_workarounds.py has a test, which fails as soon as Snakemake no
# longer needs it.
import fcntl
import logging
import shlex
import shutil
import socket
from contextlib import suppress

from snakemake.dag import DAG
from snakemake.io import IOFile
from snakemake_executor_plugin_slurm_jobstep import Executor as SlurmStep
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

# snakemake/snakemake#3211, #2981: Snakemake writes the path of Python without quotes into a job's command, and the SLURM
# plugin does the same for the job's step. If the path contains a space, the shell would read two words.
for executor in (RemoteExecutor, SlurmStep):
    executor.get_python_executable = lambda self: shlex.quote(sys.executable)


# snakemake/snakemake#3254, #3261: if an input is dated in the future, Snakemake fails the job and deletes its outputs.
# Photos can have such dates: the clock of a camera is wrong, or an archive comes from another time zone. The check is
# meant for clusters whose clocks differ. This workflow compares files by content and does not need it.
async def skip_date_check(dag, job, outputs):
    """Replaces DAG.check_output_mtime and checks nothing."""


DAG.check_output_mtime = skip_date_check


# snakemake/snakemake#3760: Snakemake replaces <temp> in every path by a variable, also in the name of a user's photo, and
# would read another photo instead of `<temp>.jpg`. The rules here use no such variables.
workflow.pathvars.apply = lambda path: path


# By design of Snakemake, without an issue: a --configfile is merged into config.yaml. A user who names subjects or runs
# does not want those of the demonstration too, so the subjects and runs of the --configfile replace the others.
# A module gets its whole configuration from the workflow that uses it.
if not IS_MODULE:
    config |= {
        key: value
        for key, value in workflow.config_settings.overwrite_config.items()
        if key in ("subjects", "runs")
    }


# Without an issue: if the disk becomes full, Snakemake cannot write its log. Python would print a call stack for every
# line that it cannot write, and the user would not see the job's message about the full disk.
logging.raiseExceptions = False


def limit(resource, default=None):
    """The limit of a resource in this call of Snakemake, or None. The default becomes the limit if the user set none.

    Without an issue: Snakemake has no public name for the number of nodes; workflow.cores raises an error on a cluster,
    which counts nodes, and with --report; a rule can neither read nor set how many GPUs all jobs together may use.
    """
    if default is not None:
        workflow.global_resources.setdefault(resource, default)
    return workflow.global_resources[resource].value


def remove_rate_limiter(workflow):
    """Remove Snakemake's default limit of 100 submissions per second. A limit that the user sets stays.

    snakemake/snakemake#3744: because of the limit, the scheduler plans a further round one second after each round. If
    jobs wait for a GPU, it soon makes as many rounds per second as jobs have ended (docs/scale.md). This workflow never
    reaches 100 submissions per second.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


def forget_job(path):
    """Remove Snakemake's record of the job that made a file. Then the job runs again if an input is newer than the file.

    Without an issue: as long as there is a record, Snakemake makes a file again only if the contents of its inputs
    changed. It does not see that something else wrote the file.
    """
    workflow.persistence.cleanup_metadata(IOFile(str(path)))


def shared_process_lock():
    """Take a lock that all running Snakemakes of this folder share until they end, also in a dry run; return its file.

    By design of Snakemake, without an issue: a killed Snakemake leaves its own lock behind, and the next one asks for
    --unlock. If this process first gets the shared lock exclusively, on the machine that last had it exclusively, then
    no other Snakemake is running here, and the process deletes the lock that was left behind.
    """
    lock = None
    try:
        lock = open(".snakemake/likeness.lock", "a+")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.seek(0)
        if lock.read() == socket.gethostname():
            shutil.rmtree(".snakemake/locks", ignore_errors=True)
        # A lock that is still there belongs to another machine, whose Snakemake may be running: on some mounts a lock
        # counts on one machine only.
        if not any(Path(".snakemake/locks").glob("*")):
            lock.truncate(0)
            lock.write(socket.gethostname())
            lock.flush()
    except OSError:
        # Another Snakemake is running here, or this user may not write here, or the file system has no locks. In these
        # cases Snakemake's own lock decides.
        pass
    with suppress(OSError):
        if lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    return lock
