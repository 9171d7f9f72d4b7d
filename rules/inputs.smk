# Input functions. They give the files that a rule reads, if the configuration or the user's folders decide that. Most
# are functions of the wildcards.
def under_roots(path):
    """A path of the configuration in the first of ROOTS that contains it; None if none does or `path` is empty."""
    return next(
        (root / path for root in ROOTS if path and (root / path).exists()), None
    )


def optional_file(path):
    """A path of the configuration as a list of inputs; empty if the file is missing or `path` is empty."""
    file = under_roots(path)
    return source_files([file] if file else [])


def photos(wildcards):
    """Every photo of a subject, listed when the workflow is parsed."""
    return source_files(
        photo_files(Path(config["subjects"][wildcards.subject]["photos"]))
    )


def no_photos(wildcards):
    """Entries of the photo folder that have a photo's name and are not files."""
    return unreadable_entries(Path(config["subjects"][wildcards.subject]["photos"]))


def captions_beside_photos(wildcards):
    """The captions that the user wrote beside photos."""
    return source_files(
        caption_files(Path(config["subjects"][wildcards.subject]["photos"]))
    )


def no_captions_beside_photos(wildcards):
    """Entries of the photo folder that have a caption's name and are not captions."""
    return no_captions(Path(config["subjects"][wildcards.subject]["photos"]))


def draws_class_pictures(wildcards):
    """True if the base model draws the regularisation pictures of a subject."""
    return config["subjects"][wildcards.subject]["regularisation"] == GENERATE


def class_pictures(wildcards):
    """The table of the pictures that the base model drew of other people of the class; [] if it draws none."""
    return (
        f"results/{wildcards.subject}/class_pictures.tsv"
        if draws_class_pictures(wildcards)
        else []
    )


def regularisation_folder(wildcards):
    """The folder with a subject's regularisation photos; None if it has none or the base model draws them."""
    if draws_class_pictures(wildcards):
        return None
    return under_roots(config["subjects"][wildcards.subject]["regularisation"])


def regularisation_photos(wildcards):
    """The regularisation photos of a subject: photos of other people of the class."""
    folder = regularisation_folder(wildcards)
    return source_files(photo_files(folder)) if folder else []


def captions_beside_regularisation(wildcards):
    """The captions that the user wrote beside the regularisation photos."""
    folder = regularisation_folder(wildcards)
    return source_files(caption_files(folder)) if folder else []


def unread_of_regularisation(wildcards):
    """Entries of that folder that have the name of a photo or a caption and cannot be read as one."""
    folder = regularisation_folder(wildcards)
    return [*unreadable_entries(folder), *no_captions(folder)] if folder else []


def upscale_weights(wildcards):
    """The user's own weights for Real-ESRGAN; [] if there are none."""
    return optional_file(config["upscale"]["weights"])


def network_weights(wildcards):
    """The LoRA file from which a run starts; [] if it starts from new weights."""
    return optional_file(config["runs"][wildcards.run]["train"]["network_weights"])


def gpu_count(wildcards):
    """The number of GPUs of one training. It is at most the number on this machine, so that the job starts and itself
    reports the missing GPUs."""
    count = config["runs"][wildcards.run]["train"]["gpus"]
    return min(count, GPUS) if CORES else count


def base_model_files(wildcards):
    """The files of a local base model and of the user's own VAE. A hub id has no files here."""
    base = config["bases"][wildcards.base]
    return [f for key in ("base_model", "vae") for f in local_model_files(base[key])]


def bases_of_its_family(wildcards):
    """The manifests of base models that exchange a LoRA with this one, if only a job can tell their families."""
    return [
        f"results/base{name}.json"
        for name in config["bases"][wildcards.base]["same_family"]
    ]


def trained_base(wildcards):
    """The manifest of the base model that a run is trained on."""
    return f"results/base{config['runs'][wildcards.run]['base']}.json"


def drawing_base(wildcards):
    """The manifest of the base model that draws a run. It may be another one than the run is trained on."""
    return f"results/base{config['runs'][wildcards.run]['drawing_base']}.json"


def portrait_base(wildcards):
    """The manifest of the base model that draws a run's portraits."""
    return f"results/base{config['runs'][wildcards.run]['portrait_base']}.json"


def latents(wildcards):
    """The latents that a run is trained on, which depend on its base model and its clip_skip."""
    name = config["runs"][wildcards.run]["latents"]
    return f"results/{wildcards.subject}/latents{name}.safetensors"


def installed(wildcards):
    """The tables of the installed LoRAs; [] if none is installed.

    If an installed file was deleted, its table is deleted too, so that the rule makes both again.
    """
    if not config["install"]["folders"]:
        return []
    tables = expand(
        "results/{subject}/{run}/installed.tsv",
        subject=config["subjects"],
        run=config["runs"],
    )
    for table in map(Path, tables if workflow.is_main_process else []):
        if table.is_file() and missing(read_table(table).to_dict("records")):
            remove(table)
    return tables


def captioner(wildcards):
    """The manifest of the captioner; [] for captions by template, or if the user wrote a caption for every photo."""
    if config["caption"]["backend"] == "template":
        return []
    folder = Path(config["subjects"][wildcards.subject]["photos"])
    files = photo_files(folder)
    captions = by_photo(files, caption_files(folder))
    is_complete = all(photo in captions for photo in files)
    return [] if is_complete else "results/captioner.json"


def captioner_files(wildcards):
    """The files of a local captioner. A hub id has no files here."""
    return local_model_files(config["caption"]["model"])


def clip(wildcards):
    """The manifest of a run's CLIP model; [] if the run uses none."""
    model = config["runs"][wildcards.run]["select"]["clip"]
    return f"results/clip/{wildcards.run}.json" if model else []


def clip_files(wildcards):
    """The files of a local CLIP model. A hub id has no files here."""
    return local_model_files(config["runs"][wildcards.run]["select"]["clip"])


def local_model_files(model):
    """The files of a model that is a local folder or a local file; [] if it is neither."""
    path = under_roots(model)
    if path and path.is_dir():
        return source_files(
            sorted(
                p
                for p in path.rglob("*")
                if p.suffix in (".json", ".txt", ".safetensors") and p.is_file()
            )
        )
    return source_files([path] if path else [])


def identity_words(wildcards):
    """The file with the words that describe what a person is (caption.identity_words)."""
    words = config["caption"]["identity_words"]
    return local(str(under_roots(words) or words))


def captioners_identity_words(wildcards):
    """The same file if a captioner is used, whose sentences lose these words; [] for the template, which has none."""
    return (
        [] if config["caption"]["backend"] == "template" else identity_words(wildcards)
    )


def sampled_epochs(wildcards):
    """The sample tables of a run: of the base model (epoch 0) and of every saved checkpoint."""
    return sample_tables(wildcards.subject, wildcards.run)


def sampled_epochs_of_all_runs(wildcards):
    """The sample tables of all runs of a subject."""
    return [
        table
        for run in config["runs"]
        for table in sample_tables(wildcards.subject, run)
    ]


def sample_tables(subject, run):
    """The sample tables of one run. If its number of epochs is not set, the data set must be built first."""
    train = config["runs"][run]["train"]
    epochs = train["epochs"]
    if epochs is None:
        # The number of epochs follows from the number of photos, which is known once the data set is built.
        dataset_job = checkpoints.build_dataset.get(subject=subject)
        dataset = read_json(Path(dataset_job.output.dataset))
        epochs = schedule(SimpleNamespace(**train), *sizes(dataset)).epochs
    return [
        f"results/{subject}/{run}/samples/{epoch:06d}.tsv"
        for epoch in [0, *saved_epochs(epochs, train["save_every_n_epochs"])]
    ]


def trained_models(wildcards):
    """models.json of a run; [] for epoch 0, the base model without a LoRA, which can be drawn before the training."""
    return (
        []
        if int(wildcards.epoch) == 0
        else f"results/{wildcards.subject}/{wildcards.run}/models.json"
    )


def has_portraits(subject):
    """Whether there are scenes, or places for this subject."""
    return bool(config["portraits"]["scenes"] or places_of(subject))


def places_of(subject):
    """The names of the places into which a subject's face is put."""
    return [
        name
        for name, place in config["places"].items()
        if not place["faces"] or subject in place["faces"]
    ]


def people_of_place(wildcards):
    """The subjects of a place's pictures, each with its words and the face that becomes theirs."""
    faces = config["places"][wildcards.place]["faces"] or {wildcards.subject: "largest"}
    words = ("trigger", "class_noun")
    return [
        {"name": name, "face": face}
        | {word: config["subjects"][name][word] for word in words}
        for name, face in faces.items()
    ]


def place_pictures(wildcards):
    """The user's pictures of a place."""
    return source_files(
        photo_files(Path(config["places"][wildcards.place]["pictures"]))
    )


def no_place_pictures(wildcards):
    """Entries of that folder that have the name of a picture and are no readable files."""
    return unreadable_entries(Path(config["places"][wildcards.place]["pictures"]))


def choices_of_place(wildcards):
    """The choices of the run for all subjects of a place."""
    return [
        f"results/{who['name']}/{wildcards.run}/best/choice.json"
        for who in people_of_place(wildcards)
    ]


def loras_of_place(wildcards):
    """The chosen LoRAs of all subjects of a place."""
    return [
        f"results/{who['name']}/{wildcards.run}/best/{who['name']}_{wildcards.run}.safetensors"
        for who in people_of_place(wildcards)
    ]


def crops_of_place(wildcards):
    """The tables of crops of all subjects of a place."""
    return [f"results/{who['name']}/crops.tsv" for who in people_of_place(wildcards)]


def drawn_scenes(wildcards):
    """The tables of all scenes."""
    return [
        f"results/{wildcards.subject}/{wildcards.run}/portraits/{scene}.tsv"
        for scene in config["portraits"]["scenes"]
    ]


def drawn_places(wildcards):
    """The tables of all places of a subject."""
    return [
        f"results/{wildcards.subject}/{wildcards.run}/places/{place}.tsv"
        for place in places_of(wildcards.subject)
    ]


def galleries(wildcards):
    """The galleries of all subjects and runs; [] if the configuration asks for no portraits."""
    return expand(
        "results/{subject}/{run}/portraits.html",
        subject=list(filter(has_portraits, config["subjects"])),
        run=config["runs"],
    )


def strangers(wildcards):
    """Faces of people who do not exist. They give the identity that counts as 0."""
    return source_files(sorted((ROOTS[1] / "resources/strangers").glob("*.jpg")))
