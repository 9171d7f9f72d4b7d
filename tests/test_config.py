"""A mistake in config.yaml is one readable line with the key's path, before any job starts."""

import copy
import re
import shutil

import pytest
import yaml
from snakemake.utils import update_config

from likeness.config import RESERVED_RUNS, RESERVED_SUBJECTS, checked_config, json_schema
from likeness.errors import LikenessError
from project import CONFIG, ROOT

ENDLESS: list = []
ENDLESS.append(ENDLESS)
MISTAKES = {
    "unknown key": (["train", "rnak"], 8, "train.rnak: unknown key"),
    "unknown section": (["trian"], {}, "trian: unknown key"),
    "wrong type": (["train", "rank"], "many", "train.rank: found 'many'; expected a valid integer"),
    "alpha above rank": (["train", "alpha"], 64, "train: alpha 64 is larger than rank 8; expected at most rank"),
    "no epochs": (["train", "epochs"], 0, "train.epochs: found 0; expected greater than 0"),
    "weight not a number": (
        ["sample", "weights"],
        ["strong"],
        "sample.weights.0: found 'strong'; expected a valid number",
    ),
    "missing consent": (["subjects", "ava", "consent"], None, "subjects.ava.consent: missing; a LoRA is a likeness"),
    "unknown consent": (["subjects", "ava", "consent"], "sure", "subjects.ava.consent: found 'sure'; expected 'self'"),
    "no photo folder": (["subjects", "ava", "photos"], "nowhere", "subjects.ava.photos: no folder 'nowhere'"),
    "empty photo folder": (["subjects", "ava", "photos"], "empty", "subjects.ava.photos: no photo in 'empty'"),
    "no regularisation folder": (
        ["subjects", "ava", "regularisation"],
        "nowhere",
        "subjects.ava.regularisation: no folder 'nowhere'; expected a folder of photos of other people of the class",
    ),
    "empty regularisation folder": (
        ["subjects", "ava", "regularisation"],
        "empty",
        "subjects.ava.regularisation: no photo in 'empty'",
    ),
    "no class pictures": (
        ["subjects", "ava", "regularisation_images"],
        0,
        "subjects.ava.regularisation_images: found 0; expected greater than 0",
    ),
    "slash in trigger": (["subjects", "ava", "trigger"], "oh/wx", "subjects.ava.trigger: found 'oh/wx'"),
    "prompt without subject": (["sample", "prompts"], ["a dog"], "sample: prompt 'a dog' lacks {subject}"),
    "far prompt without subject": (["sample", "far_prompts"], ["a dog"], "sample: prompt 'a dog' lacks {subject}"),
    "two people without subject": (
        ["sample", "two_people_prompt"],
        "a pair",
        "sample: prompt 'a pair' lacks {subject}",
    ),
    "untrained prompt with the subject": (
        ["sample", "untrained_prompts"],
        ["photo of {subject}, portrait"],
        "sample: untrained prompt 'photo of {subject}, portrait' has {subject}, which calls the person; "
        "write {class_noun}",
    ),
    "no untrained prompt": (["sample", "untrained_prompts"], [], "sample.untrained_prompts: found []; expected"),
    "the one untrained prompt of before": (
        ["sample", "untrained_prompt"],
        "photo of a {class_noun}",
        'sample.untrained_prompt: is a list now; write untrained_prompts: ["photo of a {class_noun}"]',
    ),
    "the one untrained prompt of before, of a run": (
        ["runs", "portrait"],
        {"sample": {"untrained_prompt": "a {class_noun}"}},
        'runs.portrait.sample.untrained_prompt: is a list now; write untrained_prompts: ["a {class_noun}"]',
    ),
    "canary with another brace": (
        ["sample", "canary_prompts"],
        ["{subject} {x}"],
        "sample: prompt '{subject} {x}' has a brace",
    ),
    "a prompt of two kinds": (
        ["sample", "canary_prompts"],
        ["photo of {subject}"],
        "sample: prompt 'photo of {subject}' stands there twice; expected each prompt once",
    ),
    "unknown sampler": (
        ["sample", "sampler"],
        "Euler b",
        "sample.sampler: found 'Euler b'; expected 'DPM++ 2M Karras'",
    ),
    "override of a run": (["runs", "portrait"], {"train": {"rank": 0}}, "runs.portrait.train.rank: found 0"),
    "three where two decide": (
        ["train", "repeats"],
        5,
        "train: max_train_steps, epochs and repeats: two of them give the third; set one of them to null",
    ),
    "no weights to go on from": (
        ["runs", "portrait"],
        {"train": {"network_weights": "gone.safetensors"}},
        "runs.portrait.train.network_weights: no file 'gone.safetensors'",
    ),
    "answers to photos that nobody has": (
        ["runs", "portrait"],
        {"train": {"prior_prediction": True}},
        "runs.portrait.train.prior_prediction: no subject has regularisation photos",
    ),
    "rate of AdamW with Prodigy": (
        ["runs", "portrait"],
        {"train": {"optimizer": "Prodigy"}},
        "runs.portrait.train: learning_rate: 0.0001 with Prodigy, which finds the step size itself",
    ),
    "argument of another optimizer": (
        ["runs", "portrait"],
        {"train": {"optimizer_args": {"relative_step": True}}},
        "runs.portrait.train: optimizer_args.relative_step: AdamW has no such argument; it takes betas",
    ),
    "two weights of the loss": (
        ["runs", "portrait"],
        {"train": {"min_snr_gamma": 5, "debiased_estimation": True}},
        "runs.portrait.train: debiased_estimation and min_snr_gamma are two weights for one thing",
    ),
    "unknown key of a run": (
        ["runs", "portrait"],
        {"train": {"rnak": 4}},
        "runs.portrait.train.rnak: unknown key; did you mean rank?",
    ),
    "misspelt section": (["smaple"], {}, "smaple: unknown key; did you mean sample?"),
    "misspelt key of a section": (
        ["select"],
        {"laek_limit": 0.4},
        "select.laek_limit: unknown key; did you mean leak_",
    ),
    "misspelt key of a subject": (["subjects", "ava", "tigger"], "x", "subjects.ava.tigger: unknown key; did you mean"),
    "key that is like no other": (["sample", "xyz"], 1, "sample.xyz: unknown key; see docs/config.md"),
    "attribute of the subject": (["sample", "prompts"], ["{subject.x}"], "sample: prompt '{subject.x}' has a brace"),
    "item of the subject": (["sample", "prompts"], ["{subject[a]}"], "sample: prompt '{subject[a]}' has a brace"),
    "padded subject": (["sample", "prompts"], ["{subject:>99999999999}"], "sample: prompt '{subject:>"),
    "doubled braces": (["sample", "prompts"], ["{{subject}}"], "sample: prompt '{{subject}}' has a brace"),
    "braces around the subject": (
        ["sample", "prompts"],
        ["{{{subject}}}"],
        "sample: prompt '{{{subject}}}' has a brace",
    ),
    "doubled braces where nobody is called": (
        ["sample", "untrained_prompts"],
        ["a {{class_noun}}"],
        "sample: prompt 'a {{class_noun}}' has a brace",
    ),
    "regularisation by the subject": (
        ["subjects", "ava", "regularisation"],
        "./photos/../photos",
        "subjects.ava.regularisation: is the folder of ava's own photos; expected one of other people",
    ),
    "a base model of no owner": (["base_model"], "sd15", "base_model: nothing at 'sd15'; expected a diffusers"),
    "a hub id that the hub cannot have": (["base_model"], "o/" + "n" * 200, "base_model: nothing at 'o/nnn"),
    "another LoRA": (
        ["sample", "prompts"],
        ["{subject} <lora:a:1>"],
        "sample: prompt '{subject} <lora:a:1>' calls another",
    ),
    "half a LoRA": (["sample", "negative_prompt"], "bad <lora:a", "sample: prompt 'bad <lora:a' calls another file"),
    "open brace": (["sample", "prompts"], ["{subject} {"], "sample: prompt '{subject} {' has a brace"),
    "seed that no table holds": (["sample", "seeds"], [2**64], "sample.seeds.0: found 18446744073709551616; expected"),
    "seed of a training": (["train", "seed"], 2**63, "train.seed: found 9223372036854775808; expected less than"),
    "the same seed twice": (["sample", "seeds"], [7, 7], "sample: seed 7 stands there twice"),
    "the same weight twice": (["sample", "weights"], [1, 1.0], "sample: weight 1.0 stands there twice"),
    "no number at all": (["train", "learning_rate"], float("nan"), "train.learning_rate: found nan; expected a finite"),
    "endless weight": (["train", "preserve_class"], float("inf"), "train.preserve_class: found inf; expected a finite"),
    "rate of another world": (["train", "learning_rate"], 1e308, "train.learning_rate: found 1e+308; expected less"),
    "rank beyond the layers": (["train", "rank"], 4096, "train.rank: found 4096; expected less than or equal to 1280"),
    "more steps than there is time": (["train", "max_train_steps"], 10**12, "train.max_train_steps: found"),
    "trigger with NUL": (["subjects", "ava", "trigger"], "oh\0wx", "subjects.ava.trigger: has the sign '\\x00', which"),
    "half a sign": (["sample", "prompts"], ["{subject} \ud800"], "sample.prompts.0: has the sign '\\ud800', which is"),
    "half a sign in a key": (["run\ud800"], 1, "'run\\ud800': has the sign '\\ud800', which is no text"),
    "trigger with a brace": (["subjects", "ava", "trigger"], "{x}", "subjects.ava.trigger: found '{x}'"),
    "endless path": (["subjects", "ava", "photos"], "x" * 300, "subjects.ava.photos: no folder 'xxx"),
    "endless text": (["base_model"], "x" * 5000, "base_model: has 5000 letters; expected at most 4000"),
    "run in a folder of the workflow": (["runs"], {"Crops": {}}, "runs.Crops: results/{subject}/crops is a folder of"),
    "subject in a folder of the workflow": (
        ["subjects"],
        {"clip": CONFIG["subjects"]["ava"]},
        "subjects.clip: results/clip is a folder of the workflow's own; choose another name",
    ),
    "no base model at a path": (["base_model"], "./models/sd15", "base_model: nothing at './models/sd15'; expected a"),
    "no base model's file": (["base_model"], "sd15.safetensors", "base_model: nothing at 'sd15.safetensors'"),
    "no base model in a folder that is here": (["base_model"], "photos/sd15", "base_model: nothing at 'photos/sd15'"),
    "no model at home": (["base_model"], "~/sd15", "base_model: nothing at '~/sd15'; expected a diffusers folder"),
    "no VAE": (["vae"], "stabilityai/sd-vae-ft-mse", "vae: nothing at 'stabilityai/sd-vae-ft-mse'; expected a"),
    "no CLIP": (
        ["select"],
        {"clip": "/models/clip"},
        "runs.portrait.select.clip: nothing at '/models/clip'; expected a folder, or a hub id",
    ),
    "no captioner": (["caption"], {"model": "../blip"}, "caption.model: nothing at '../blip'; expected a folder, or"),
    "null is a default, and there is none": (["runs"], None, "runs: missing; expected a value"),
    "no run": (["runs"], {}, "runs: found {}; expected at least 1 item"),
    "no path": (["subjects", "ava", "photos"], "", "subjects.ava.photos: found ''; expected at least 1 character"),
    "a word that YAML reads as another thing": (
        ["subjects", "ava", "trigger"],
        True,
        "subjects.ava.trigger: found True, which is no text; write it between quotes",
    ),
    "untrained prompt with the trigger": (
        ["sample", "untrained_prompts"],
        ["photo of OHWX, smiling"],
        "runs.portrait.sample.untrained_prompts: 'photo of OHWX, smiling' has 'ohwx', which calls ava; leave it out",
    ),
    "untrained prompt with the trigger in pieces": (
        ["sample", "untrained_prompts"],
        ["photo of oh(wx:1.2), smiling"],
        "runs.portrait.sample.untrained_prompts: 'photo of oh(wx:1.2), smiling' has 'ohwx', which calls ava",
    ),
    "negative prompt with the trigger": (
        ["sample", "negative_prompt"],
        "blurry ohwx",
        "runs.portrait.sample.negative_prompt: 'blurry ohwx' has 'ohwx', which calls ava",
    ),
    "negative prompt with a place": (
        ["sample", "negative_prompt"],
        "{subject}",
        "sample: negative_prompt '{subject}' has a brace",
    ),
    "the same prompt in other words": (
        ["sample", "far_prompts"],
        ["photo of ohwx {class_noun}, {subject}", "photo of {subject}, ohwx woman"],
        "runs.portrait.sample.prompts: 'photo of ohwx woman, ohwx woman' stands there twice for ava",
    ),
    "trigger that is the class": (
        ["subjects", "ava", "trigger"],
        "Woman",
        "subjects.ava.trigger: 'Woman' is in class_noun too",
    ),
    "trigger that A1111 reads as a weight": (
        ["subjects", "ava", "trigger"],
        "(ohwx:1.2)",
        "subjects.ava.trigger: found '(ohwx:1.2)'; expected one word, without any of",
    ),
    "trigger that nobody sees": (
        ["subjects", "ava", "trigger"],
        "oh\u200bwx",
        "subjects.ava.trigger: has the sign '\\u200b', which nobody sees",
    ),
    "class noun of signs": (["subjects", "ava", "class_noun"], " _ ", "subjects.ava.class_noun: found '_'; expected"),
    "folder's name of 400 bytes": (["subjects", "ava", "class_noun"], "ж" * 100, "subjects.ava.class_noun: has 200 b"),
    "run of 300 letters": (["runs"], {"r" * 300: {}}, "runs.rrr"),
    "run of two lines": (
        ["runs"],
        {"a\n": {}},
        "runs.'a\\n': found 'a\\n'; expected letters from A to Z, digits and _",
    ),
    "section of a run": (["runs"], {"a": {"trian": {}}}, "runs.a.trian: found 'trian'; expected 'train', 'sample' or"),
    "a number as a section": (["select"], 3, "select: found 3; expected keys with their values"),
    "nested without an end": (["vae"], ENDLESS, "vae.0.0.0.0.0.0.0.0.0.0.0.0: is nested deeper than any setting"),
    "a list that fills the screen": (["vae"], ["x" * 99] * 99, "vae: found ['xx"),
    "no list of words": (["caption"], {"identity_words": "x.txt"}, "caption.identity_words: no file 'x.txt'"),
    "alpha that vanishes": (["train", "alpha"], 1e-320, "train.alpha: found 1e-320; expected greater than or equal to"),
    "rate that vanishes": (["train", "learning_rate"], 1e-12, "train.learning_rate: found 1e-12; expected greater"),
    "weight that vanishes": (["sample", "weights"], [1e-9], "sample.weights.0: found 1e-09; expected greater than"),
    "nothing left to learn": (["train", "dropout"], 0.9999, "train.dropout: found 0.9999; expected less than or"),
    "GPUs without a picture": (["train", "gpus"], 4, "train: gpus: 4, and a step has 2 pictures"),
    "attention that the device has not": (
        ["train"],
        {"device": "cpu", "attention": "xformers"},
        "train: attention: xformers needs a GPU, and device is cpu",
    ),
    "text as an optimizer's argument": (
        ["train", "optimizer_args"],
        {"betas": "0.9,0.99"},
        "train.optimizer_args.betas: found '0.9,0.99'; expected true, false, a number or a list of numbers",
    ),
    "memory that never changes": (
        ["train", "optimizer_args"],
        {"betas": [0.9, 1]},
        "train: optimizer_args.betas: found [0.9, 1.0]; expected a list of 2 numbers, of 0 to 0.999999, 0 to 0.999999",
    ),
    "yes for a number": (
        ["train", "optimizer_args"],
        {"weight_decay": True},
        "train: optimizer_args.weight_decay: found True; expected a number of 0 to 10",
    ),
    "warm-up of a constant rate": (
        ["train"],
        {"lr_scheduler": "constant", "lr_warmup_steps": 5},
        "train: lr_warmup_steps: constant has no warm-up; write lr_scheduler: constant_with_warmup",
    ),
    "warm-up without an end": (
        ["train"],
        {"max_train_steps": 50, "lr_warmup_steps": 50},
        "train: lr_warmup_steps: 50 of 50 steps, so the full rate is never reached",
    ),
}


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "small_base").mkdir()
    shutil.copytree(
        ROOT / "resources", tmp_path / "resources", ignore=lambda folder, names: {n for n in names if "." not in n}
    )
    return [tmp_path]


def mistaken(path: list[str], value) -> dict:
    config = copy.deepcopy(CONFIG)
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return config


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_its_path(roots, name):
    path, value, expected = MISTAKES[name]
    with pytest.raises(LikenessError) as error:
        checked_config(mistaken(path, value), roots)
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == 1 and lines[0].strip().startswith(expected), lines


def test_every_mistake_is_named_at_once(roots):
    config = mistaken(["train", "rank"], 0)
    config["subjects"]["ava"].pop("consent")
    config["sample"]["steps"] = -1
    with pytest.raises(LikenessError) as error:
        checked_config(config, roots)
    assert len(str(error.value).splitlines()) == 4


def test_within_a_job_nobodys_photos_are_listed(roots):
    """The Snakemake that started the job has listed all; each of its jobs would list those of every subject."""
    config = mistaken(["subjects", "ava", "reference"], ["gone.jpg"])
    with pytest.raises(LikenessError, match="no photo 'gone.jpg'"):
        checked_config(config, roots)
    job = checked_config(config, roots, within_job=True)
    assert job["subjects"]["ava"]["photos"] == str(roots[0] / "photos")


def test_a_table_of_subjects_says_what_config_yaml_would(roots):
    (roots[0] / "photos" / "1.jpg").touch()
    (roots[0] / "people.tsv").write_text(
        "subject\tphotos\ttrigger\tclass_noun\tconsent\treference\n"
        "ava\tphotos\tohwx\twoman\tsynthetic\t\n"
        "otto\tphotos\tsks\tman\twritten\t1.jpg, 1.jpg\n"
    )
    otto = {"photos": "photos", "trigger": "sks", "class_noun": "man", "consent": "written"}
    written = CONFIG | {"subjects": CONFIG["subjects"] | {"otto": otto | {"reference": ["1.jpg", "1.jpg"]}}}
    assert checked_config(CONFIG | {"subjects": "people.tsv"}, roots) == checked_config(written, roots)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "no file 'people.tsv'; expected a tab-separated table"),
        ("", "people.tsv is not a tab-separated table"),
        ("photos\nphotos\n", "a row without a name or two of one name; expected the column subject"),
        ("subject\tphotos\nava\tphotos\nava\tphotos\n", "a row without a name or two of one name"),
        (
            "subject\tphotos\ttrigger\tclass_noun\tconsent\nava\tphotos\tohwx\twoman\t\n",
            r"subjects\.ava\.consent: missing; a LoRA is",
        ),
    ],
)
def test_a_mistake_in_the_table_is_told_like_one_in_config_yaml(roots, text, expected):
    if text is not None:
        (roots[0] / "people.tsv").write_text(text)
    with pytest.raises(LikenessError, match=expected):
        checked_config(CONFIG | {"subjects": "people.tsv"}, roots)


def test_a_table_of_subjects_may_ask_for_class_pictures(roots):
    (roots[0] / "people.tsv").write_text(
        "subject\tphotos\ttrigger\tclass_noun\tconsent\tregularisation\tregularisation_images\n"
        "ava\tphotos\tohwx\twoman\tsynthetic\tgenerate\t40\n"
        "mia\tphotos\tohwx\twoman\tsynthetic\tgenerate\t\n"
    )
    ava, mia = checked_config(CONFIG | {"subjects": "people.tsv"}, roots)["subjects"].values()
    assert (ava["regularisation"], ava["regularisation_images"]) == ("generate", 40)
    assert (mia["regularisation"], mia["regularisation_images"]) == ("generate", 100)
    (roots[0] / "people.tsv").write_text((roots[0] / "people.tsv").read_text().replace("40", "many"))
    with pytest.raises(
        LikenessError, match=r"subjects\.ava\.regularisation_images: found 'many'; expected a valid int"
    ):
        checked_config(CONFIG | {"subjects": "people.tsv"}, roots)


def test_generate_is_a_folder_only_by_its_path(roots):
    (roots[0] / "generate").mkdir()
    drawn, folder = (mistaken(["subjects", "ava", "regularisation"], name) for name in ("generate", "./generate"))
    checked_config(drawn, roots)  # a folder without photos was never meant
    shutil.copy(roots[0] / "photos/a.jpg", roots[0] / "generate")
    with pytest.raises(
        LikenessError, match=r"ava\.regularisation: generate has .* write \./generate to use its photos"
    ):
        checked_config(drawn, roots)
    assert checked_config(folder, roots)["subjects"]["ava"]["regularisation"] == "./generate"


def test_a_run_overrides_what_it_names_and_nothing_else(roots):
    config = copy.deepcopy(CONFIG) | {"runs": {"plain": {}, "wide": {"train": {"rank": 32}}}}
    runs = checked_config(config, roots)["runs"]
    assert runs["wide"]["train"] == runs["plain"]["train"] | {"rank": 32}
    assert runs["wide"]["sample"] == runs["plain"]["sample"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({}, (2000, 10, None)),
        ({"max_train_steps": 500}, (500, 10, None)),
        ({"epochs": 4}, (2000, 4, None)),
        ({"repeats": 20}, (None, 10, 20)),
        ({"repeats": 20, "max_train_steps": 500}, (500, None, 20)),
        ({"repeats": 20, "epochs": 3}, (None, 3, 20)),
    ],
)
def test_two_of_steps_epochs_and_repeats_are_always_there(roots, written, meant):
    config = copy.deepcopy(CONFIG)
    config["train"] = written | {"rank": 8, "alpha": 8}
    train = checked_config(config, roots)["runs"]["portrait"]["train"]
    assert (train["max_train_steps"], train["epochs"], train["repeats"]) == meant


def test_numbers_may_be_written_as_kohyas_users_write_them(roots):
    config = mistaken(["train", "learning_rate"], yaml.safe_load("1e-4"))
    config["train"] |= yaml.safe_load("optimizer_args: {eps: 1e-8, betas: [9e-1, 0.99]}")
    train = checked_config(config, roots)["train"]
    assert train["learning_rate"] == 0.0001
    assert train["optimizer_args"] == {"eps": 1e-8, "betas": [0.9, 0.99]}


def test_an_empty_section_has_its_defaults(roots):
    empty = CONFIG | {"train": None, "select": None, "runs": {"portrait": None, "other": {"train": None}}}
    full = CONFIG | {"train": {}, "select": {}, "runs": {"portrait": {}, "other": {}}}
    assert checked_config(copy.deepcopy(empty), roots) == checked_config(copy.deepcopy(full), roots)


def test_an_empty_key_has_its_default_and_overrides_nothing(roots):
    """Unless it is one that may be empty, where empty is a value."""
    config = CONFIG | {"train": {"rank": 64, "alpha": None, "epochs": 5, "repeats": 2}}
    config["runs"] = {"portrait": {"train": {"rank": None, "epochs": None}}}
    train = checked_config(config, roots)["runs"]["portrait"]["train"]
    assert (train["rank"], train["alpha"], train["epochs"], train["repeats"]) == (64, 64, 10, 2)


def test_a_thousand_mistakes_fill_one_screen(roots):
    config = mistaken(["sample", "seeds"], ["x"] * 1000)
    with pytest.raises(LikenessError) as error:
        checked_config(config, roots)
    lines = str(error.value).splitlines()
    assert len(lines) == 52 and lines[-1] == "  and 950 more"


def test_a_prompt_of_several_lines_is_one(roots):
    config = mistaken(["sample", "prompts"], ["photo of\n  {subject}\n"])
    assert checked_config(config, roots)["sample"]["prompts"] == ["photo of {subject}"]


def test_no_name_is_free_that_a_rule_writes_to():
    rules = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    of_results = set(re.findall(r"results/([a-z_]+)/", rules))
    assert of_results == RESERVED_SUBJECTS
    of_subjects = set(re.findall(r'directory\("results/{subject}/([a-z_]+)"\)', rules))
    assert of_subjects == RESERVED_RUNS


def test_the_shipped_configuration_is_right():
    config = checked_config(yaml.safe_load((ROOT / "config.yaml").read_text()), [ROOT])
    assert config["subjects"]["ava"]["consent"] == "synthetic"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_right_over_the_shipped_configuration(example):
    """As --configfile takes them: subjects and runs are theirs alone, what they do not say is the shipped one's."""
    shipped, own = (yaml.safe_load(path.read_text()) for path in (ROOT / "config.yaml", example))
    config = copy.deepcopy(shipped)
    update_config(config, own)
    checked = checked_config(config | {key: own[key] for key in ("subjects", "runs") if key in own}, [ROOT])
    assert set(checked["subjects"]) == set(own.get("subjects", shipped["subjects"]))


def test_every_key_is_in_the_documentation():
    documented = (ROOT / "docs/config.md").read_text()
    for name, section in json_schema()["$defs"].items():
        for key in section["properties"]:
            assert f"`{key}`" in documented, f"{name}.{key}"


def test_every_key_is_one_whole_row_of_a_table():
    rows = [line for line in (ROOT / "docs/config.md").read_text().splitlines() if line.startswith("| `")]
    keys = [key for section in json_schema()["$defs"].values() for key in section["properties"]]
    assert len(rows) == len(keys) + len(json_schema()["properties"])
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}, "four cells"
    assert all(row.endswith(" |") for row in rows), "a line's end within a cell ends the table"
