rule cache_latents:
    input:
        code=code("cache_latents.py"),
        dataset="results/{subject}/dataset.json",
        base="results/base{base}.json",
    output:
        "results/{subject}/latents{base}{skip}.safetensors",
    log:
        "results/logs/{subject}/cache_latents{base}{skip}.log",
    benchmark:
        "results/logs/{subject}/cache_latents{base}{skip}.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(8000),
    params:
        contents=contents("cache_latents.py"),
        config=section("clip_skip", "flips", "token_lengths"),
    message:
        "{wildcards.subject}: encode pictures and captions into {output}"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --dataset {input.dataset:q} --base {input.base:q}"
        " --cache results/.cache/cache_latents --latents {output:q}"


# The outputs are a manifest and a folder, not one file per epoch: outputs cannot depend on a wildcard, and each run may
# have its own number of epochs. The epochs are kept in the run store (results/.cache/runs), which Snakemake never
# deletes.
rule train_lora:
    input:
        code=code("train_lora.py"),
        dataset="results/{subject}/dataset.json",
        latents=latents,
        base=trained_base,
        weights=network_weights,
    output:
        models="results/{subject}/{run}/models.json",
        folder=directory("results/{subject}/{run}/models"),
        metrics="results/{subject}/{run}/log/metrics.tsv",
        settings="results/{subject}/{run}/log/config.json",
    log:
        "results/logs/{subject}/{run}/train_lora.log",
    benchmark:
        "results/logs/{subject}/{run}/train_lora.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: lambda wildcards: CORES_PER_GPU * gpu_count(wildcards)
    resources:
        gpu=gpu_count,
        mem_mb=scaled_by_attempt(16000, per=gpu_count),
        runtime=scaled_by_attempt(120),
    params:
        contents=contents("train_lora.py", network_weights),
        config=section("train", "clip_skip", "subject_name", "run_name"),
    message:
        "{wildcards.subject}/{wildcards.run}: train the LoRA"
    # In a SLURM job, srun starts the trainer as a step of its own, because SLURM sends its signal only to the first
    # process of a step.
    shell:
        "exec ${{SLURM_JOB_ID:+srun --overlap --ntasks=1 --cpus-per-task={threads}}} python {input.code[0]:q} --config {params.config:q} --log {log:q} --dataset {input.dataset:q}"
        " --latents {input.latents:q} --base {input.base:q} --weights {input.weights:q} --cache results/.cache/runs --models {output.models:q}"
        " --folder {output.folder:q} --metrics {output.metrics:q} --settings {output.settings:q}"
