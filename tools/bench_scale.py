"""Measure the time and memory that Snakemake needs for many subjects: to plan, to run, and to submit to a cluster.

    python tools/bench_scale.py [--subjects 30 300] [--run 10 30 100] [--cluster 10 100 300] [--beside FOLDER]

A project has the given number of subjects with two runs each. It has the Snakefile, rules, profile and settings of the
demonstration; its subjects use the photos of the two people in turn. The jobs compute nothing: the programs of the
project begin with lines that write the outputs of their rule and exit. Their imports stay, because rules list them as
inputs. The measurements:

    plan     a dry run before any job has run: jobs, seconds, CPU seconds, peak memory, and the seconds of parsing
             (--list-rules)
    job      one of the two Snakemakes that a cluster starts within each job, here of a train_lora: CPU seconds, and the
             number of system calls with a file name
    run      all jobs on this machine: seconds, CPU seconds of the main Snakemake, size of .snakemake/metadata, and a
             dry run after all jobs
    cluster  all jobs by profiles/slurm on the cluster of tests/slurm, if it can be started, each with one core: seconds
             and CPU seconds of the main Snakemake, time between submissions, number of queries for the states of jobs,
             and the time of an answer. The two Snakemakes within each job are not run: nodes/sitecustomize.py writes
             the outputs of the job instead. On the nodes, add twice `job` for each job

With --beside, all but the cluster is also measured, in turns, with the code of another checkout. The last line is a
ratio: CPU seconds of Snakemake per job, start included, in the largest run over the smallest run.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from bench_faces import hardware

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/slurm")]

from cluster import started_cluster, why_not  # noqa: E402
from cluster_project import ACCOUNT, write_profile  # noqa: E402

SNAKEMAKE = Path(sys.executable).parent / "snakemake"
RUNS = {"portrait": {}, "prodigy": {"train": {"optimizer": "Prodigy", "learning_rate": 1}}}
# The jobs only start Python and write a file; eight at once keep two cores busy.
AT_ONCE = ["--cores", "8", "--resources", "gpu=8"]
WRITE = """\
import pathlib
import sys


def write(output):
    path = pathlib.Path(output)
    (path.parent if path.suffix else path).mkdir(parents=True, exist_ok=True)
    if path.suffix:
        path.write_text("{}")


"""
STAND_IN = """\
for option, value in zip(sys.argv, sys.argv[1:]):
    if option in {outputs}:
        write(value)
sys.exit()
"""
# sitecustomize.py, which Python runs first. In a job of the cluster it replaces Snakemake, `python -m snakemake ...`.
STAND_IN_JOB = """\
if "--target-jobs" in sys.orig_argv and "slurm-jobstep" in " ".join(sys.orig_argv):
    import json
    import os
    import traceback

    try:
        outputs = json.loads(pathlib.Path(__file__).with_name("outputs.json").read_text())
        rule, _, wildcards = sys.orig_argv[sys.orig_argv.index("--target-jobs") + 1].partition(":")
        values = dict(pair.split("=") for pair in wildcards.split(","))
        for output in outputs[rule]:
            write(output.format(**values))
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # otherwise Python would run the real Snakemake
    os._exit(0)
"""
# The options with which Snakemake is called within a job of a cluster (RealExecutor.format_job_exec), without those
# about waiting.
IN_JOB = [
    *("--target-jobs", "train_lora:subject=s000,run=portrait", "--allowed-rules", "train_lora", "--cores", "all"),
    *("--force", "--target-files-omit-workdir-adjustment", "--nolock", "--ignore-incomplete", "--mode", "remote"),
    *("--executor", "local"),
]


class Call(NamedTuple):
    """A call of Snakemake: seconds, CPU seconds without its jobs, peak memory in MB, and its output."""

    seconds: float
    cpu: float
    memory: float
    said: list[tuple[float, str]]
    """The lines of the output, each with the second at which it came."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--run", type=int, nargs="+", default=[10, 30, 100])
    parser.add_argument("--cluster", type=int, nargs="*", default=[10, 100, 300])
    parser.add_argument("--beside", type=Path)
    args = parser.parse_args()
    codes = {"beside": args.beside.resolve(), "here": ROOT} if args.beside else {"here": ROOT}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{hardware()}; two runs of each subject; s CPU is of Snakemake alone\n", flush=True)
        print("plan     code    subjects   jobs  parse s CPU      s  s CPU    MB  job s CPU  job files")
        for subjects in args.subjects:
            for name, code in codes.items():
                print_plan(name, made_project(folder / f"plan {name} {subjects}", code, subjects), subjects)
        print("\nrun      code    subjects   jobs       s  s CPU  ms CPU per job  metadata MB   files  done: s CPU")
        costs = {}
        for subjects in args.run:
            for name, code in codes.items():
                project = made_project(folder / f"run {name} {subjects}", code, subjects)
                costs[subjects] = print_run(name, project, subjects)
        if args.cluster and not (reason := why_not()):
            print_cluster(folder, args.cluster)
        elif args.cluster:
            print(f"\nno cluster: {reason}")
    print(f"\ncpu_per_job_{max(costs)}_over_{min(costs)}: {costs[max(costs)] / costs[min(costs)]:.2f}")


def made_project(folder: Path, code: Path, subjects: int) -> Path:
    """Make a project with `subjects` subjects whose programs compute nothing, from the code of a checkout."""
    for name in ("rules", "scripts", "envs", "profiles"):
        shutil.copytree(code / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(code / "Snakefile", folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    (folder / "photos").mkdir()
    names = [f"s{number:03d}" for number in range(subjects)]
    for number, name in enumerate(names):
        (folder / "photos" / name).symlink_to(ROOT / "resources/people" / ("ava", "otto")[number % 2])
    about = {"trigger": "ohwx", "class_noun": "person", "consent": "synthetic"}
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config |= {"subjects": {name: {"photos": f"photos/{name}"} | about for name in names}, "runs": RUNS}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rules = "".join(file.read_text() for file in sorted((folder / "rules").glob("*.smk")))
    declared = {}
    for rule, body in re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n|\n)+)", rules, re.M):
        outputs = re.findall(r"(--[\w-]+) \{output[.\w]*:q\}", body)
        program = folder / f"scripts/{rule}.py"
        program.write_text(WRITE + STAND_IN.format(outputs=outputs) + program.read_text())
        declared[rule] = re.findall(r'"(results/[^"]+)"', re.search(r"^    output:\n((?:     .*\n)+)", body, re.M)[1])
    (folder / "nodes").mkdir()
    (folder / "nodes/outputs.json").write_text(json.dumps(declared))
    (folder / "nodes/sitecustomize.py").write_text(WRITE + STAND_IN_JOB)
    return folder


def print_plan(name: str, project: Path, subjects: int) -> None:
    parsed, planned = snakemake(project, "--list-rules"), snakemake(project, "--dry-run", "--cores", "2")
    results = project / "results/s000"
    results.mkdir(parents=True)
    for file in (results / "dataset.json", results / "latents.safetensors", results.parent / "base.json"):
        file.touch()
    job, files = snakemake(project, *IN_JOB), files_asked_for(project, *IN_JOB)
    jobs = next(int(line.split()[1]) for _, line in planned.said if re.match(r"total +\d", line))
    print(
        f"         {name:6} {subjects:9} {jobs:6} {parsed.cpu:12.1f} {planned.seconds:6.0f} {planned.cpu:6.1f} "
        f"{planned.memory:5.0f} {job.cpu:10.2f} {files:10}",
        flush=True,
    )


def print_run(name: str, project: Path, subjects: int) -> float:
    """Print the row; return the CPU seconds per job."""
    done = snakemake(project, *AT_ONCE)
    records = list((project / ".snakemake/metadata").iterdir())
    again = snakemake(project, "--dry-run", "--cores", "2")
    jobs = finished(done)
    print(
        f"         {name:6} {subjects:9} {jobs:6} {done.seconds:7.0f} {done.cpu:6.1f} {1000 * done.cpu / jobs:15.1f} "
        f"{sum(record.stat().st_size for record in records) / 1e6:12.1f} {len(records):7} {again.cpu:12.1f}",
        flush=True,
    )
    return done.cpu / jobs


def print_cluster(folder: Path, sizes: Sequence[int]) -> None:
    print(
        "\ncluster          subjects   jobs  submitted       s  s CPU  ms CPU per job  ms between submissions  asked"
        "  ms per answer"
    )
    (folder / "cluster").mkdir()
    with started_cluster(folder / "cluster", ACCOUNT):
        for subjects in sizes:
            project = made_project(folder / f"cluster {subjects}", ROOT, subjects)
            write_profile(project / "profiles/slurm")
            threads = [f"{rule}=1" for rule in json.loads((project / "nodes/outputs.json").read_text())]
            # Only with --verbose does the plugin print a summary of its queries.
            done = snakemake(
                project, "--workflow-profile", "profiles/slurm", "--verbose", "--set-threads", *threads,
                PYTHONPATH=str(project / "nodes"),
            )  # fmt: skip
            submitted = [second for second, line in done.said if "has been submitted with SLURM jobid" in line]
            gaps = [after - before for before, after in zip(submitted, submitted[1:], strict=False)]
            asked, average = re.search(
                r"timing summary at shutdown: calls=(\d+), .*?avg=([\d.]+)s", "\n".join(line for _, line in done.said)
            ).groups()
            jobs = finished(done)
            print(
                f"                {subjects:9} {jobs:6} {len(submitted):10} {done.seconds:7.0f} {done.cpu:6.1f} "
                f"{1000 * done.cpu / jobs:15.1f} {1000 * statistics.median(gaps):23.0f} {asked:>6} "
                f"{1000 * float(average):14.0f}",
                flush=True,
            )


def snakemake(project: Path, *arguments: str, **environment: str) -> Call:
    """Run a call to its end. If it fails, end the program with its output."""
    started, said = time.monotonic(), []
    process = subprocess.Popen(
        [SNAKEMAKE, *arguments], cwd=project, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    for line in process.stdout:
        said.append((time.monotonic() - started, line.rstrip()))
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    # Its own CPU seconds (proc(5): utime and stime), without its jobs; readable until the process is waited for.
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("\n".join(line for _, line in said))
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return Call(time.monotonic() - started, cpu, usage.ru_maxrss / 1024, said)


def files_asked_for(project: Path, *arguments: str) -> str:
    """The number of system calls with a file name that a call of Snakemake makes; empty without strace."""
    if not shutil.which("strace"):
        return ""
    command = ["strace", "-qc", "-e", "trace=%file", "-o", "calls", SNAKEMAKE, *arguments]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    return re.search(r"(\d+) +\d* *total", (project / "calls").read_text())[1]


def finished(call: Call) -> int:
    """The number of jobs that a call of Snakemake ran."""
    return sum(line.startswith("Finished jobid") for _, line in call.said)


if __name__ == "__main__":
    main()
