rule fetch_models:
    input:
        code=code("fetch_models.py"),
    output:
        "results/models/models.json",
    log:
        "results/logs/fetch_models.log",
    conda:
        "../envs/likeness.yaml"
    message:
        "Fetch the pinned model files (once)"
    shell:
        "exec python {input.code[0]:q} --log {log:q} --models results/models --manifest {output:q}"


rule fetch_base:
    input:
        code=code("fetch_base.py"),
        models="results/models/models.json",
        files=base_model_files,
    output:
        "results/base.json",
    log:
        "results/logs/fetch_base.log",
    # A base model that cannot be used is an error before any photo is read.
    priority: 1
    conda:
        "../envs/likeness.yaml"
    params:
        config=section("base_model", "base_revision", "vae", "prediction_type"),
        roots=[str(root) for root in ROOTS],
    message:
        "Find and hash the base model"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --models results/models --roots {params.roots:q} --cache results/.cache/fetch_base --base {output:q}"
