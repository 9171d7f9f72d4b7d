"""One cluster for all tests of this folder, and the table of faults of a training."""

import os
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from cluster import Cluster, output, started_cluster, why_not
from cluster_project import ACCOUNT

TESTED_ON, ROWS = pytest.StashKey[str](), pytest.StashKey[list[str]]()
# The table stands between these two lines of a page.
BEGIN, END = "<!-- made by make fault-table -->\n", "<!-- to here -->\n"
TABLE = re.compile(f"{BEGIN}.*{END}", re.S)
HEAD = "| what happens | what becomes of the training | what you do | what the test saw |\n|---|---|---|---|\n"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory, pytestconfig) -> Iterator[Cluster]:
    if reason := why_not():
        # If all tests run or the table is written, a fault that was not tested counts as failed.
        wanted = "CI" in os.environ or pytestconfig.getoption("--fault-table")
        (pytest.fail if wanted else pytest.skip)(reason)
    with started_cluster(tmp_path_factory.mktemp("cluster"), ACCOUNT) as cluster:
        settings = dict(re.findall(r"^(\w+) += (.*)", output("scontrol", "show", "config"), re.M))
        pytestconfig.stash[TESTED_ON] = f"SLURM {settings['SLURM_VERSION']}, {settings['ProctrackType']}"
        yield cluster


def pytest_addoption(parser) -> None:
    parser.addoption("--fault-table", type=Path, help="the page to write the table into, if all tests pass")


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "fault(happens, becomes, do): a row of docs/slurm.md's table")
    config.stash[ROWS] = []
    page = config.getoption("--fault-table")
    if page and not TABLE.search(page.read_text()):
        raise pytest.UsageError(f"{page}: expected the lines {BEGIN.strip()} and {END.strip()}, between which it goes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.passed and (fault := item.get_closest_marker("fault")):
        cells = (*fault.args, dict(report.user_properties)["seen"])
        item.config.stash[ROWS].append(f"| {' | '.join(cells)} |\n")
    return report


def pytest_terminal_summary(terminalreporter, exitstatus, config) -> None:
    """A note about the tested system: without control groups, a signal reaches more processes than with them."""
    if TESTED_ON not in config.stash:
        return
    terminalreporter.write_line(config.stash[TESTED_ON])
    page = config.getoption("--fault-table")
    if page and exitstatus == 0 and not terminalreporter.stats.get("deselected"):
        table = f"{date.today():%-d %B %Y}, {config.stash[TESTED_ON]}:\n\n{HEAD}{''.join(config.stash[ROWS])}"
        page.write_text(TABLE.sub(lambda old: BEGIN + table + END, page.read_text()))
        terminalreporter.write_line(f"wrote {len(config.stash[ROWS])} faults into {page}")
