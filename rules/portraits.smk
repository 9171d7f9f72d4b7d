# Finished pictures with the chosen LoRA at the chosen weight. They take no part in the choice.
rule draw_scene:
    input:
        code=code("draw_scene.py"),
        choice="results/{subject}/{run}/best/choice.json",
        lora="results/{subject}/{run}/best/{subject}_{run}.safetensors",
        base=portrait_base,
        photos="results/{subject}/photos.tsv",
        crops="results/{subject}/crops.tsv",
        models="results/models/models.json",
        weights=upscale_weights,
    output:
        scene="results/{subject}/{run}/portraits/{scene}.tsv",
        folder=directory("results/{subject}/{run}/portraits/{scene}"),
    log:
        "results/logs/{subject}/{run}/draw_scene-{scene}.log",
    benchmark:
        "results/logs/{subject}/{run}/draw_scene-{scene}.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(16000),
    params:
        models=folder_of("models"),
        contents=contents("draw_scene.py", upscale_weights),
        config=section(
            "scene",
            "scene_name",
            "portraits.clip_skip",
            "resolution",
            "upscale.tile",
            "subject.trigger",
            "subject.class_noun",
            "subject_name",
        ),
    message:
        "{wildcards.subject}/{wildcards.run}: draw the scene {wildcards.scene}"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --choice {input.choice:q}"
        " --lora {input.lora:q} --base {input.base:q} --photos {input.photos:q} --crops {input.crops:q}"
        " --models {params.models:q}"
        " --weights {input.weights:q} --cache results/.cache/draw_scene --scene {output.scene:q} --folder {output.folder:q}"


rule place_face:
    input:
        code=code("place_face.py"),
        pictures=place_pictures,
        choices=choices_of_place,
        loras=loras_of_place,
        crops=crops_of_place,
        base=portrait_base,
        models="results/models/models.json",
        weights=upscale_weights,
    output:
        place="results/{subject}/{run}/places/{place}.tsv",
        folder=directory("results/{subject}/{run}/places/{place}"),
    log:
        "results/logs/{subject}/{run}/place_face-{place}.log",
    benchmark:
        "results/logs/{subject}/{run}/place_face-{place}.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(16000),
    params:
        models=folder_of("models"),
        contents=contents("place_face.py", place_pictures, upscale_weights),
        config=section(
            "place",
            "place_name",
            "people",
            "portraits.clip_skip",
            "resolution",
            "upscale.tile",
            "subject_name",
        ),
        no_pictures=no_place_pictures,
        picture_list=input_list("pictures"),
        no_picture_list=path_list(no_place_pictures),
    message:
        "{wildcards.subject}/{wildcards.run}: put the face into the pictures of {wildcards.place}"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --pictures @{params.picture_list:q}"
        " --no-pictures @{params.no_picture_list:q}"
        " --choices {input.choices:q} --loras {input.loras:q} --crops {input.crops:q} --base {input.base:q} --models {params.models:q}"
        " --weights {input.weights:q} --cache results/.cache/place_face --place {output.place:q} --folder {output.folder:q}"


rule score_portraits:
    input:
        code=code("score_portraits.py"),
        scenes=drawn_scenes,
        places=drawn_places,
        crops="results/{subject}/crops.tsv",
        scores="results/{subject}/{run}/scores.tsv",
        models="results/models/models.json",
    output:
        "results/{subject}/{run}/portraits.tsv",
    log:
        "results/logs/{subject}/{run}/score_portraits.log",
    benchmark:
        "results/logs/{subject}/{run}/score_portraits.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    params:
        models=folder_of("models"),
        contents=contents("score_portraits.py"),
        config=section("keep", "select.copy_limit"),
        scene_list=input_list("scenes"),
        place_list=input_list("places"),
    message:
        "{wildcards.subject}/{wildcards.run}: measure the portraits"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --scenes @{params.scene_list:q}"
        " --places @{params.place_list:q} --crops {input.crops:q} --scores {input.scores:q} --models {params.models:q}"
        " --cache results/.cache/score_portraits --portraits {output:q}"


rule build_gallery:
    input:
        code=code("build_gallery.py"),
        portraits="results/{subject}/{run}/portraits.tsv",
    output:
        page="results/{subject}/{run}/portraits.html",
        folder=directory("results/{subject}/{run}/gallery"),
    log:
        "results/logs/{subject}/{run}/build_gallery.log",
    conda:
        "../envs/likeness.yaml"
    threads: ALL_CORES
    params:
        contents=contents("build_gallery.py"),
        config=section("subject_name", "run_name"),
    message:
        "{wildcards.subject}/{wildcards.run}: write the gallery"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --threads {threads}"
        " --portraits {input.portraits:q} --cache results/.cache/thumbnails"
        " --page {output.page:q} --folder {output.folder:q}"
