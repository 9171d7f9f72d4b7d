rule detect_faces:
    input:
        code=code("detect_faces.py"),
        models="results/models/models.json",
        photos=photos,
    output:
        "results/{subject}/faces.tsv",
    log:
        "results/logs/{subject}/detect_faces.log",
    benchmark:
        "results/logs/{subject}/detect_faces.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: ALL_CORES
    params:
        models=folder_of("models"),
        contents=contents("detect_faces.py", photos),
        no_photos=no_photos,
        photo_list=input_list("photos"),
        no_photo_list=path_list(no_photos),
    message:
        "{wildcards.subject}: find the faces in every photo"
    shell:
        "exec python {input.code[0]:q} --log {log:q} --photos @{params.photo_list:q} --no-photos @{params.no_photo_list:q}"
        " --models {params.models:q} --cache results/.cache/detect_faces --faces {output:q} --threads {threads}"


rule curate_photos:
    input:
        code=code("curate_photos.py"),
        faces="results/{subject}/faces.tsv",
    output:
        "results/{subject}/photos.tsv",
    log:
        "results/logs/{subject}/curate_photos.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents("curate_photos.py"),
        config=section("curate", "subject.reference", "decisions.photos"),
    message:
        "{wildcards.subject}: keep or drop each photo, set some apart for judging"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --faces {input.faces:q} --photos {output:q}"


rule crop_faces:
    input:
        code=code("crop_faces.py"),
        photos="results/{subject}/photos.tsv",
    output:
        crops="results/{subject}/crops.tsv",
        folder=directory("results/{subject}/crops"),
    log:
        "results/logs/{subject}/crop_faces.log",
    benchmark:
        "results/logs/{subject}/crop_faces.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: ALL_CORES
    params:
        contents=contents("crop_faces.py"),
        config=section("crop", "resolution", "buckets"),
    message:
        "{wildcards.subject}: crop the faces"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --photos {input.photos:q}"
        " --cache results/.cache/crop_faces --crops {output.crops:q} --folder {output.folder:q}"
        " --threads {threads}"


rule upscale_faces:
    input:
        code=code("upscale_faces.py"),
        models="results/models/models.json",
        crops="results/{subject}/crops.tsv",
        weights=upscale_weights,
    output:
        upscaled="results/{subject}/upscaled.tsv",
        folder=directory("results/{subject}/upscaled"),
    log:
        "results/logs/{subject}/upscale_faces.log",
    benchmark:
        "results/logs/{subject}/upscale_faces.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(8000),
    params:
        models=folder_of("models"),
        contents=contents("upscale_faces.py", upscale_weights),
        config=section("upscale", "resolution"),
    message:
        "{wildcards.subject}: bring the crops to the training resolution"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --crops {input.crops:q}"
        " --models {params.models:q} --weights {input.weights:q} --cache results/.cache/upscale_faces"
        " --upscaled {output.upscaled:q} --folder {output.folder:q}"


rule caption_faces:
    input:
        code=code("caption_faces.py"),
        base="results/base.json",
        upscaled="results/{subject}/upscaled.tsv",
        texts=captions_beside_photos,
        words=captioners_identity_words,
        captioner=captioner,
    output:
        captions="results/{subject}/captions.tsv",
        folder=directory("results/{subject}/captions"),
    log:
        "results/logs/{subject}/caption_faces.log",
    benchmark:
        "results/logs/{subject}/caption_faces.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    resources:
        gpu=int(config["caption"]["backend"] != "template"),
        mem_mb=scaled_by_attempt(8000),
    params:
        contents=contents(
            "caption_faces.py", captions_beside_photos, captioners_identity_words
        ),
        config=section(
            "subject.trigger",
            "subject.class_noun",
            "decisions.captions",
            "caption.backend",
            "token_lengths",
        ),
        no_texts=no_captions_beside_photos,
        text_list=input_list("texts"),
        no_text_list=path_list(no_captions_beside_photos),
    message:
        "{wildcards.subject}: caption the crops"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --upscaled {input.upscaled:q}"
        " --base {input.base:q} --texts @{params.text_list:q} --no-texts @{params.no_text_list:q} --words {input.words:q} --captioner {input.captioner:q}"
        " --cache results/.cache/caption_faces --captions {output.captions:q} --folder {output.folder:q}"


# Only for subjects with `regularisation: generate`. The rule uses the settings of the top level, not the overrides of a
# run, because all runs share one data set.
rule draw_class_pictures:
    input:
        code=code("draw_class_pictures.py"),
        models="results/models/models.json",
        base="results/base.json",
        captions="results/{subject}/captions.tsv",
        words=identity_words,
    output:
        pictures="results/{subject}/class_pictures.tsv",
        folder=directory("results/{subject}/class_pictures"),
    log:
        "results/logs/{subject}/draw_class_pictures.log",
    benchmark:
        "results/logs/{subject}/draw_class_pictures.benchmark.tsv"
    conda:
        "../envs/likeness.yaml"
    threads: CORES_PER_GPU
    resources:
        gpu=1,
        mem_mb=scaled_by_attempt(16000),
    params:
        models=folder_of("models"),
        contents=contents("draw_class_pictures.py", identity_words),
        config=section(
            "subject.trigger",
            "subject.class_noun",
            "subject.regularisation_images",
            "resolution",
            "clip_skip",
            "sample.sampler",
            "sample.steps",
            "sample.guidance_scale",
            "sample.negative_prompt",
            "sample.batch_size",
        ),
    message:
        "{wildcards.subject}: draw other people of the class"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q} --captions {input.captions:q}"
        " --words {input.words:q} --base {input.base:q} --models {params.models:q} --cache results/.cache/draw_class_pictures"
        " --pictures {output.pictures:q} --folder {output.folder:q}"


# This is a checkpoint for two reasons. If a run sets repeats and max_train_steps, its number of epochs follows from the
# photos. And if the data set is built again with the same content, Snakemake knows that no training needs to run again.
checkpoint build_dataset:
    input:
        code=code("build_dataset.py"),
        photos="results/{subject}/photos.tsv",
        captions="results/{subject}/captions.tsv",
        words=identity_words,
        regularisation=regularisation_photos,
        texts=captions_beside_regularisation,
        class_pictures=class_pictures,
    output:
        dataset="results/{subject}/dataset.json",
        folder=directory("results/{subject}/image"),
        reg_folder=directory("results/{subject}/reg"),
    log:
        "results/logs/{subject}/build_dataset.log",
    conda:
        "../envs/likeness.yaml"
    params:
        contents=contents(
            "build_dataset.py",
            identity_words,
            regularisation_photos,
            captions_beside_regularisation,
        ),
        config=section(
            "subject.trigger",
            "subject.class_noun",
            "resolution",
            "train.max_train_steps",
            "train.epochs",
            "train.repeats",
            "train.batch_size",
            "train.gradient_accumulation_steps",
        ),
        not_read=unread_of_regularisation,
        regularisation_list=input_list("regularisation"),
        text_list=input_list("texts"),
        not_read_list=path_list(unread_of_regularisation),
    message:
        "{wildcards.subject}: lay out the training set"
    shell:
        "exec python {input.code[0]:q} --config {params.config:q} --log {log:q}"
        " --photos {input.photos:q} --captions {input.captions:q} --words {input.words:q}"
        " --regularisation @{params.regularisation_list:q} --texts @{params.text_list:q}"
        " --not-read @{params.not_read_list:q}"
        " --class-pictures {input.class_pictures:q} --cache results/.cache/build_dataset --dataset {output.dataset:q}"
        " --folder {output.folder:q} --reg-folder {output.reg_folder:q}"
