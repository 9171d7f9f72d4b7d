"""Print the resources that each rule would request from SLURM, and SLURM's answer. No job is submitted.

    python tools/check_slurm.py [OPTIONS OF SNAKEMAKE]

The jobs are those of a dry run of the whole workflow. The functions of the executor plugin choose the partition and
write the command. Memory (MB) and minutes are those of the first and of the last attempt. For both attempts, the
cluster's sbatch gets the command with --test-only. It answers when and where the job would start, or why it cannot.
"""

import contextlib
import io
import logging
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

from snakemake.cli import ExecutorPluginRegistry, args_to_api, parse_args
from snakemake.executors import dryrun
from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.partitions import read_partition_file
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

# A dry run has one core by default and would limit every job to it; a cluster has no such limit.
OPTIONS = ["--workflow-profile", "profiles/slurm", "--dry-run", "--forceall", "--cores", str(10**6)]
COLUMNS = ("rule", "jobs", "partition", "gpus", "cores", "mem_mb", "minutes")


def main() -> None:
    parser, args = parse_args([*OPTIONS, *sys.argv[1:]])
    settings = ExecutorPluginRegistry().get_plugin("slurm").get_settings(args)
    jobs = planned_jobs(parser, args)
    local = [rule for rule, (job, *_) in jobs.items() if rule in job.dag.workflow._localrules]
    submitted = {rule: of_rule for rule, of_rule in jobs.items() if rule not in local}
    last = 1 + args.retries
    commands = {rule: command(job, settings) for rule, (job, *_) in submitted.items()}
    print_table([COLUMNS, *(row(of_rule, commands[rule], last) for rule, of_rule in submitted.items())])
    print(f"\nwhere snakemake runs: {', '.join(rule for rule in local if rule != 'all')}")
    if shutil.which("scontrol") and subprocess.run(["scontrol", "ping"], capture_output=True).returncode == 0:
        print("\nthe cluster's answers")
        for rule, (job, *_) in submitted.items():
            print(f"{rule}: {answer(commands[rule])}")
            if last > 1:
                with attempt(job, last):
                    print(f"{rule}, attempt {last}: {answer(command(job, settings))}")
    else:
        print("\nno cluster answers here (scontrol ping); run this where one does to hear what it says")


def planned_jobs(parser, args) -> dict[str, list]:
    """{rule: its jobs} of a dry run. If there is no job, end the program with Snakemake's output."""
    jobs, report = defaultdict(list), dryrun.Executor.run_job

    def note(executor, job) -> None:
        jobs[job.rule.name].append(job)
        report(executor, job)

    dryrun.Executor.run_job = note
    with contextlib.redirect_stdout(io.StringIO()) as output:
        planned = args_to_api(args, parser)
    if not planned:
        sys.exit(output.getvalue())
    return dict(jobs)


def command(job, settings) -> str:
    """The sbatch command of a job as the plugin writes it, without the log, the name and the job's own command."""
    account = job.resources.get("slurm_account")
    chooser = SimpleNamespace(
        _partitions=read_partition_file(settings.partition_config),
        _fallback_partition="",
        logger=logging.getLogger("partitions"),
    )
    about = {
        "run_uuid": job.name,
        "slurm_logfile": "/dev/null",
        "comment_str": job.name,
        "account": f"-A {account}" if account else "",
        "partition": Executor.get_partition_arg(chooser, job),
        "workdir": "",
    }
    return get_submit_command(job, about, settings) + set_gres_string(job)


@contextlib.contextmanager
def attempt(job, number: int) -> Iterator[None]:
    """Within this context a job has the resources of attempt `number`."""
    job.attempt = number
    try:
        yield
    finally:
        job.attempt = 1


def row(jobs: Sequence, text: str, last: int) -> tuple[str, ...]:
    """The values of COLUMNS for the jobs of a rule. `text` is the command of the first job."""
    job = jobs[0]
    partition, gpus = (re.search(option, text) for option in (r" -p (\S+)", r" --gpus=(\S+)"))
    with attempt(job, last):
        grown = job.resources
    return (
        job.rule.name,
        str(len(jobs)),
        partition[1] if partition else "the default",
        gpus[1] if gpus else "",
        str(job.threads),
        f"{job.resources.mem_mb} {grown.mem_mb}",
        f"{job.resources.runtime} {grown.runtime}",
    )


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def answer(text: str) -> str:
    """The cluster's answer to a command, without the leading word sbatch."""
    tried = text.replace("sbatch --parsable", "sbatch --test-only", 1) + " --wrap true"
    result = subprocess.run(tried, shell=True, capture_output=True, text=True)
    return (result.stderr or result.stdout).strip().replace("sbatch: ", "")


if __name__ == "__main__":
    main()
