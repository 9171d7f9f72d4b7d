# From a folder of photos of one person to the LoRA that looks most like them: snakemake --cores all
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version
from snakemake_executor_plugin_slurm_jobstep import Executor as SlurmStep
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

min_version("9.27")
sys.path.insert(0, str(Path(workflow.basedir, "scripts")))

from likeness.config_file import check_config_file
from likeness.errors import LikenessError

# The working directory's config.yaml, or the demonstration's where there is none.
CONFIG_FILE = (
    Path("config.yaml")
    if Path("config.yaml").exists()
    else Path(workflow.basedir, "config.yaml")
)
try:
    if workflow.is_main_process:  # the jobs of a cluster read what it has checked
        for file in (CONFIG_FILE, *workflow.config_settings.configfiles):
            check_config_file(Path(file))
except (LikenessError, OSError) as mistake:
    raise WorkflowError(str(mistake)) from None


configfile: CONFIG_FILE


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/dataset.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"


# Snakemake 9.27.1 writes Python's path without quotes into a job's command, and the SLURM plugin into that of the job's
# step. In a folder with a space in its name that would be two words.
for executor in (RemoteExecutor, SlurmStep):
    executor.get_python_executable = lambda self: shlex.quote(sys.executable)


# Snakemake 9.27.1 plans another round of its scheduler a second after every round, for its limit of submissions per
# second. Where jobs wait for a GPU, the head soon makes as many rounds in a second as jobs have ended (docs/scale.md).
# A hundred submissions in a second are never reached here; who asks for another limit has it.
onstart:
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        workflow.scheduler.job_rate_limiter = None


localrules:
    all,
    fetch_models,
    fetch_base,
    fetch_captioner,
    fetch_clip,
    curate_photos,
    build_dataset,
    choose_checkpoint,
    plot_grid,
    plot_sheets,
    build_dataset_page,
    build_report,
    compare_runs,
    build_index,


rule all:
    default_target: True
    input:
        "results/index.html",
        expand("results/{subject}/dataset.html", subject=config["subjects"]),
        expand(
            "results/{subject}/runs.html",
            subject=config["subjects"] if len(config["runs"]) > 1 else [],
        ),
        expand(
            "results/{subject}/{run}/{product}",
            subject=config["subjects"],
            run=config["runs"],
            product=["best/choice.json", "grid.png", "grids", "report.html"],
        ),
