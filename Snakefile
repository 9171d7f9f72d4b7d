# Turns a folder of photos of one person into the LoRA that looks most like them: snakemake --cores all
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.27")
# The folder of this Snakefile. If another workflow uses this one as a module, workflow.basedir is the other's folder.
HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=False))
sys.path.insert(0, str(HERE / "scripts"))

from likeness.config.yaml_file import check_config_file, config_file
from likeness.core.errors import LikenessError

# A module reads no configuration file. The workflow that uses the module passes `config`.
IS_MODULE = not workflow.modifier.is_main_snakefile()
try:
    CONFIG_FILE = HERE / "config.yaml" if IS_MODULE else config_file(Path("."), HERE)
    # The jobs of a cluster read files that the main process has checked.
    if workflow.is_main_process and not IS_MODULE:
        for file in (CONFIG_FILE, *workflow.config_settings.configfiles):
            check_config_file(Path(file))
except (LikenessError, OSError) as mistake:
    raise WorkflowError(str(mistake)) from None


configfile: CONFIG_FILE


report: "rules/captions/workflow.rst"


# Used with --sdm apptainer only (docs/containers.md).
container: "likeness.sif"


include: "rules/workarounds.smk"
include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/models.smk"
include: "rules/dataset.smk"
include: "rules/train.smk"
include: "rules/evaluate.smk"
include: "rules/portraits.smk"
include: "rules/report.smk"


# A Snakemake within a cluster's job does not take the lock: it may live longer than the Snakemake that submitted it.
if workflow.is_main_process and Path(".snakemake").is_dir():
    process_lock = shared_process_lock()


onstart:
    remove_rate_limiter(workflow)


onsuccess:
    say_at_the_end({})


onerror:
    errors = errors_of_runs()
    write_partial_index(errors)
    say_at_the_end(errors)


localrules:
    all,
    fetch_models,
    fetch_base,
    fetch_captioner,
    fetch_clip,
    curate_photos,
    build_dataset,
    choose_checkpoint,
    install_lora,
    plot_grid,
    plot_sheets,
    build_dataset_page,
    build_report,
    compare_runs,
    build_gallery,
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
        galleries,
        installed,
