"""snakemake, asking SLURM every second how its jobs are.

The plugin asks ever more rarely, up to every three minutes, without an option against that; a test's jobs take seconds.
"""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)
main()
