rule sample_checkpoint:
    input:
        code=code("sample_checkpoint.py"),
        models=trained_models,
        base=drawing_base,
    output:
        samples="results/{subject}/{run}/samples/{epoch}.tsv",
        folder=directory("results/{subject}/{run}/samples/{epoch}"),
    log:
        "results/logs/{subject}/{run}/sample_checkpoint-{epoch}.log",
    benchmark:
        "results/logs/{subject}/{run}/sample_checkpoint-{epoch}.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(16000),
    params:
        contents=contents("sample_checkpoint.py"),
        config=section(
            "sample",
            "resolution",
            "subject.trigger",
            "subject.class_noun",
            "epoch",
        ),
    message:
        "{wildcards.subject}/{wildcards.run}: draw the pictures of epoch {wildcards.epoch}"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --models {input.models:q}"
        " --base {input.base:q} --cache results/.cache/sample_checkpoint"
        " --samples {output.samples:q} --folder {output.folder:q}"


rule score_checkpoint:
    input:
        code=code("score_checkpoint.py"),
        models="results/models/models.json",
        samples=sampled_epochs,
        crops="results/{subject}/crops.tsv",
        strangers=strangers,
        clip=clip,
    output:
        "results/{subject}/{run}/scores.tsv",
    log:
        "results/logs/{subject}/{run}/score_checkpoint.log",
    benchmark:
        "results/logs/{subject}/{run}/score_checkpoint.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    resources:
        gpu=lambda wildcards: int(
            config["runs"][wildcards.run]["select"]["clip"] is not None
        ),
    params:
        models=folder_of("models"),
        contents=contents("score_checkpoint.py", strangers),
        config=section(
            "select.copy_limit",
            "select.leak_limit",
            "subject.trigger",
            "subject.class_noun",
        ),
        sample_list=input_list("samples"),
    message:
        "{wildcards.subject}/{wildcards.run}: measure every picture"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --samples @{params.sample_list:q}"
        " --crops {input.crops:q} --strangers {input.strangers:q} --models {params.models:q}"
        " --clip {input.clip:q} --cache results/.cache/score_checkpoint --scores {output:q}"


rule choose_checkpoint:
    input:
        code=code("choose_checkpoint.py"),
        scores="results/{subject}/{run}/scores.tsv",
        models="results/{subject}/{run}/models.json",
        base=trained_base,
        drawing_base=drawing_base,
        dataset="results/{subject}/dataset.json",
        crops="results/{subject}/crops.tsv",
        measured_by="results/models/models.json",
    output:
        choice=report(
            "results/{subject}/{run}/best/choice.json",
            caption="captions/choice.rst",
            category="The choice",
            labels={"subject": "{subject}", "run": "{run}", "shows": "choice"},
        ),
        lora="results/{subject}/{run}/best/{subject}_{run}.safetensors",
        sidecar="results/{subject}/{run}/best/{subject}_{run}.json",
        preview=report(
            "results/{subject}/{run}/best/{subject}_{run}.png",
            caption="captions/preview.rst",
            category="The choice",
            labels={"subject": "{subject}", "run": "{run}", "shows": "picture"},
        ),
        card=report(
            "results/{subject}/{run}/best/README.md",
            caption="captions/card.rst",
            category="The choice",
            labels={"subject": "{subject}", "run": "{run}", "shows": "model card"},
        ),
    log:
        "results/logs/{subject}/{run}/choose_checkpoint.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("choose_checkpoint.py"),
        config=section(
            "select",
            "by_hand",
            "train",
            "sample",
            "subject.trigger",
            "subject.class_noun",
            "subject.consent",
            "subject_name",
            "run_name",
        ),
    message:
        "{wildcards.subject}/{wildcards.run}: choose checkpoint and weight"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --scores {input.scores:q}"
        " --models {input.models:q} --base {input.base:q} --drawing-base {input.drawing_base:q} --dataset {input.dataset:q} --crops {input.crops:q}"
        " --measured-by {input.measured_by:q} --choice {output.choice:q}"
        " --lora {output.lora:q} --sidecar {output.sidecar:q} --preview {output.preview:q} --card {output.card:q}"


rule install_lora:
    input:
        code=code("install_lora.py"),
        lora="results/{subject}/{run}/best/{subject}_{run}.safetensors",
        sidecar="results/{subject}/{run}/best/{subject}_{run}.json",
        preview="results/{subject}/{run}/best/{subject}_{run}.png",
        models="results/{subject}/{run}/models.json",
    output:
        "results/{subject}/{run}/installed.tsv",
    log:
        "results/logs/{subject}/{run}/install_lora.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("install_lora.py"),
        config=section("folders", "every_epoch", "project"),
    message:
        "{wildcards.subject}/{wildcards.run}: copy the LoRA to where it is used"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --lora {input.lora:q}"
        " --sidecar {input.sidecar:q} --preview {input.preview:q} --models {input.models:q} --installed {output:q}"


rule plot_sheets:
    input:
        code=code("plot_sheets.py"),
        samples=sampled_epochs,
        scores="results/{subject}/{run}/scores.tsv",
        choice="results/{subject}/{run}/best/choice.json",
    output:
        directory("results/{subject}/{run}/grids"),
    log:
        "results/logs/{subject}/{run}/plot_sheets.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("plot_sheets.py"),
        sample_list=input_list("samples"),
    message:
        "{wildcards.subject}/{wildcards.run}: plot each prompt's sheet"
    shell:
        "exec python {input.code[0]:q} --log {log:q} --samples @{params.sample_list:q} --scores {input.scores:q}"
        " --choice {input.choice:q} --folder {output:q}"
