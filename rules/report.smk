rule build_dataset_page:
    input:
        code=code("build_dataset_page.py"),
        photos="results/{subject}/photos.tsv",
        crops="results/{subject}/crops.tsv",
        upscaled="results/{subject}/upscaled.tsv",
        captions="results/{subject}/captions.tsv",
        dataset="results/{subject}/dataset.json",
    output:
        report(
            "results/{subject}/dataset.html",
            caption="captions/dataset.rst",
            category="Data set",
            labels={"subject": "{subject}", "shows": "photos"},
        ),
    log:
        "results/logs/{subject}/build_dataset_page.log",
    # Runs before the training, which takes hours. Uses half of the cores, because a job for all cores would wait until
    # all are free.
    priority: 1
    conda:
        "../envs/likeness.yaml"
    threads: max(1, ALL_CORES // 2)
    params:
        contents=contents("build_dataset_page.py"),
        config=section("subject_name"),
    message:
        "{wildcards.subject}: write the page of the data set (look at it before training)"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --threads {threads}"
        " --photos {input.photos:q} --crops {input.crops:q} --upscaled {input.upscaled:q}"
        " --captions {input.captions:q} --dataset {input.dataset:q}"
        " --cache results/.cache/thumbnails --page {output:q}"


rule plot_grid:
    input:
        code=code("plot_grid.py"),
        samples=sampled_epochs,
        scores="results/{subject}/{run}/scores.tsv",
        choice="results/{subject}/{run}/best/choice.json",
    output:
        report(
            "results/{subject}/{run}/grid.png",
            caption="captions/grid.rst",
            category="Evidence",
            labels={"subject": "{subject}", "run": "{run}", "shows": "grid"},
        ),
    log:
        "results/logs/{subject}/{run}/plot_grid.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("plot_grid.py"),
        sample_list=input_list("samples"),
    message:
        "{wildcards.subject}/{wildcards.run}: plot the grid"
    shell:
        "exec python {input.code[0]:q} --log {log:q} --samples @{params.sample_list:q} --scores {input.scores:q}"
        " --choice {input.choice:q} --grid {output:q}"


rule build_report:
    input:
        code=code("build_report.py"),
        photos="results/{subject}/photos.tsv",
        crops="results/{subject}/crops.tsv",
        upscaled="results/{subject}/upscaled.tsv",
        captions="results/{subject}/captions.tsv",
        dataset="results/{subject}/dataset.json",
        metrics="results/{subject}/{run}/log/metrics.tsv",
        samples=sampled_epochs,
        scores="results/{subject}/{run}/scores.tsv",
        choice="results/{subject}/{run}/best/choice.json",
    output:
        report=report(
            "results/{subject}/{run}/report.html",
            caption="captions/report.rst",
            category="Evidence",
            labels={"subject": "{subject}", "run": "{run}", "shows": "report"},
        ),
        folder=directory("results/{subject}/{run}/report"),
    log:
        "results/logs/{subject}/{run}/build_report.log",
    conda:
        "../envs/likeness.yaml"
    threads: ALL_CORES
    params:
        contents=contents("build_report.py"),
        config=section(
            "base_model",
            "resolution",
            "train",
            "sample",
            "select",
            "subject",
            "subject_name",
            "run_name",
        ),
        sample_list=input_list("samples"),
        # A link, not an input: the report is there before the portraits, which take long.
        gallery=lambda wildcards: (
            ["portraits.html"] if has_portraits(wildcards.subject) else []
        ),
    message:
        "{wildcards.subject}/{wildcards.run}: write the report"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --threads {threads}"
        " --photos {input.photos:q} --crops {input.crops:q} --upscaled {input.upscaled:q} --captions {input.captions:q}"
        " --dataset {input.dataset:q} --metrics {input.metrics:q} --samples @{params.sample_list:q}"
        " --scores {input.scores:q} --choice {input.choice:q} --gallery {params.gallery:q}"
        " --cache results/.cache/thumbnails --report {output.report:q}"
        " --folder {output.folder:q}"


rule compare_runs:
    input:
        code=code("compare_runs.py"),
        samples=sampled_epochs_of_all_runs,
        scores=expand("results/{{subject}}/{run}/scores.tsv", run=config["runs"]),
        choices=expand("results/{{subject}}/{run}/best/choice.json", run=config["runs"]),
    output:
        report(
            "results/{subject}/runs.html",
            caption="captions/runs.rst",
            category="Evidence",
            labels={"subject": "{subject}", "run": "all", "shows": "comparison"},
        ),
    log:
        "results/logs/{subject}/compare_runs.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("compare_runs.py"),
        config=section("runs", "subject_name"),
        config_file=text_file_param(settings("runs", "subject_name")),
        choice_list=input_list("choices"),
        score_list=input_list("scores"),
        sample_list=input_list("samples"),
    message:
        "{wildcards.subject}: compare the runs"
    shell:
        "exec python {input.code[0]:q} --config @{params.config_file:q} --log {log:q} --choices @{params.choice_list:q}"
        " --scores @{params.score_list:q} --samples @{params.sample_list:q} --page {output:q}"


rule build_index:
    input:
        code=code("build_index.py"),
        choices=expand(
            "results/{subject}/{run}/best/choice.json",
            subject=config["subjects"],
            run=config["runs"],
        ),
        previews=expand(
            "results/{subject}/{run}/best/{subject}_{run}.png",
            subject=config["subjects"],
            run=config["runs"],
        ),
    output:
        "results/index.html",
    log:
        "results/logs/build_index.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("build_index.py"),
        config=section("subjects"),
        config_file=text_file_param(settings("subjects")),
        choice_list=input_list("choices"),
        preview_list=input_list("previews"),
        # Links, not inputs: the page need not wait for the portraits.
        galleries=galleries,
        gallery_list=path_list(galleries),
    message:
        "Write the first page of the results"
    shell:
        "exec python {input.code[0]:q} --config @{params.config_file:q} --log {log:q} --choices @{params.choice_list:q}"
        " --previews @{params.preview_list:q} --galleries @{params.gallery_list:q} --page {output:q}"
