"""rules/workarounds.smk: what Snakemake does by itself. A test that fails here says that a work-around can go."""

import os
import shlex
import signal
import site
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLAIN = {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/")}


class Workflow:
    """A Snakefile of a few lines, without any work-around."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, snakefile: str, **files: str) -> None:
        (self.folder / "Snakefile").write_text(snakefile)
        for name, text in files.items():
            (self.folder / f"{name}.yaml").write_text(text)

    def run(
        self, *arguments: str, place: tuple = ("--cores", "2"), python: Path = Path(sys.executable), **environment: str
    ) -> tuple[int, str]:
        """Exit status and output."""
        command = [python, "-m", "snakemake", *place, *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=PLAIN | environment, capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def workflow(tmp_path) -> Workflow:
    return Workflow(tmp_path)


def test_pythons_path_stands_without_quotes_in_a_jobs_command(workflow, tmp_path):
    python = tmp_path / "a folder/python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    workflow.write("rule:\n    output: 'made'\n    run: open('made', 'w').close()\n")
    status, text = workflow.run(python=python, PYTHONPATH=site.getsitepackages()[0])
    assert status != 0 and f"{tmp_path}/a: not found" in text


def test_an_input_from_the_future_ends_a_job(workflow):
    workflow.write("rule:\n    input: 'photo'\n    output: 'made'\n    shell: 'cp {input} {output}'\n")
    photo, tomorrow = workflow.folder / "photo", time.time() + 86_400
    photo.touch()
    os.utime(photo, (tomorrow, tomorrow))
    status, text = workflow.run()
    assert status != 0 and "older modification time" in text


def test_a_photos_name_is_taken_for_a_variable(workflow):
    (workflow.folder / "<results>.jpg").touch()
    workflow.write("rule:\n    input: lambda wildcards: '<results>.jpg'\n    output: 'made'\n    shell: 'touch made'\n")
    status, text = workflow.run()
    assert status != 0 and "results.jpg" in text


def test_a_configuration_file_is_merged(workflow):
    workflow.write(
        "configfile: 'config.yaml'\nprint('subjects:', *sorted(config['subjects']))\nrule:\n    output: 'made'\n",
        config="subjects: {ava: 1}",
        mine="subjects: {mia: 1}",
    )
    assert "subjects: ava mia" in workflow.run("-n", "--configfile", "mine.yaml")[1]


FULL_DISK = """
from snakemake.logging import logger
rule:
    output: "made"
    shell: "touch made"
onstart:
    (log,) = [handler for handler in logger.handlers if handler.name == "DefaultLogFileHandler"]
    log.setStream(open("/dev/full", "w"))
"""


def test_each_line_that_a_full_disk_does_not_take_brings_pythons_call_stack(workflow):
    workflow.write(FULL_DISK)
    assert "--- Logging error ---" in workflow.run()[1]


ROUNDS = """
rule all:
    input: [f"quick{n}" for n in range(20)], "slow0", "slow1"
rule quick:
    output: "quick{n}"
    shell: "touch {output}"
rule slow:
    output: "slow{n}"
    resources: gpu=1
    shell: "sleep 4; touch {output}"
"""


def test_a_scheduler_with_a_waiting_job_makes_a_round_for_each_that_ended(workflow):
    workflow.write(ROUNDS)
    status, text = workflow.run("--resources", "gpu=1", "--verbose", "--scheduler", "greedy")
    assert status == 0 and text.count("Ready jobs: ") > 40, "22 jobs begin in 22 rounds at most, or end in as many"


def test_a_file_that_something_else_wrote_is_not_made_again(workflow):
    workflow.write("rule:\n    input: 'photo'\n    output: 'made'\n    shell: 'cp {input} {output}'\n")
    photo, made = workflow.folder / "photo", workflow.folder / "made"
    photo.write_text("a photo")
    assert workflow.run()[0] == 0
    made.write_text("another text")
    os.utime(made, (photo.stat().st_mtime - 1,) * 2)
    assert workflow.run()[0] == 0 and made.read_text() == "another text"


def test_a_killed_snakemake_leaves_its_lock(workflow):
    workflow.write("rule:\n    output: 'made'\n    shell: 'kill -9 $(cat pid)'\n")
    with open(workflow.folder / "out", "w") as output:
        command = ["bash", "-c", f"echo $$ > pid; exec {shlex.quote(sys.executable)} -m snakemake --cores 1"]
        first = subprocess.run(command, cwd=workflow.folder, env=PLAIN, stdout=output, stderr=output)
    assert first.returncode == -signal.SIGKILL
    status, text = workflow.run("--rerun-incomplete")
    assert status != 0 and "--unlock" in text


def test_a_workflow_cannot_ask_for_the_number_of_cores_that_a_call_may_not_have(workflow):
    workflow.write("print('cores:', workflow.cores)\nrule:\n    output: 'made'\n    shell: 'touch {output}'\n")
    assert "cores: 2" in workflow.run()[1]
    status, text = workflow.run("--report", "report.html", place=())
    assert status != 0 and "Workflow requires a total number of cores to be defined" in text
