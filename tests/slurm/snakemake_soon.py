"""Runs snakemake so that it checks the state of its jobs every second.

The plugin increases the time between checks up to three minutes, without an option against it. The jobs of tests take
seconds.
"""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
main()
