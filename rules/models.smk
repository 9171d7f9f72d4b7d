rule fetch_models:
    input:
        code=code("fetch_models.py"),
    output:
        "results/models/models.json",
    log:
        "results/logs/fetch_models.log",
    conda:
        "../envs/likeness.yaml"
    params:
        models=folder_of_output,
        contents=contents("fetch_models.py"),
    message:
        "Fetch the pinned model files (once)"
    shell:
        "exec python {input.code[0]:q} --log {log:q} --models {params.models:q} --manifest {output:q}"


rule fetch_base:
    input:
        code=code("fetch_base.py"),
        models="results/models/models.json",
        files=base_model_files,
        same_family=bases_of_its_family,
    output:
        "results/base{base}.json",
    log:
        "results/logs/fetch_base{base}.log",
    # Runs first, so that a base model that cannot be used is reported before the photos are read.
    priority: 1
    conda:
        "../envs/likeness.yaml"
    params:
        models=folder_of("models"),
        contents=contents("fetch_base.py", base_model_files),
        config=section("base_model", "base_revision", "vae", "prediction_type"),
        roots=[str(root) for root in ROOTS],
    message:
        "Find and hash the base model of {output}"
    shell:
        "HF_HUB_OFFLINE=$HUB_OFFLINE exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --models {params.models:q} --roots {params.roots:q} --same-family {input.same_family:q}"
        " --cache results/.cache/fetch_base --base {output:q}"


rule fetch_captioner:
    input:
        code=code("fetch_captioner.py"),
        files=captioner_files,
    output:
        "results/captioner.json",
    log:
        "results/logs/fetch_captioner.log",
    priority: 1
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("fetch_captioner.py", captioner_files),
        config=section("caption.backend", "caption.model"),
        roots=[str(root) for root in ROOTS],
    message:
        "Find and hash the captioner"
    shell:
        "HF_HUB_OFFLINE=$HUB_OFFLINE exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --roots {params.roots:q} --captioner {output:q}"


rule fetch_clip:
    input:
        code=code("fetch_clip.py"),
        files=clip_files,
    output:
        "results/clip/{run}.json",
    log:
        "results/logs/{run}/fetch_clip.log",
    priority: 1
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("fetch_clip.py", clip_files),
        config=section("select.clip"),
        roots=[str(root) for root in ROOTS],
    message:
        "{wildcards.run}: find and hash the CLIP model"
    shell:
        "HF_HUB_OFFLINE=$HUB_OFFLINE exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --roots {params.roots:q} --clip {output:q}"
