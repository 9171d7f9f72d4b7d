"""Mistakes in config.yaml, each with the message that reports it."""

import copy
import datetime

from portrait_mistakes import PORTRAIT_MISTAKES
from project import CONFIG

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
    **PORTRAIT_MISTAKES,
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
    "kohya's name": (["train", "network_dim"], 8, "train.network_dim: unknown key; did you mean rank?"),
    "kohya's name that is nearer to another key": (
        ["train", "max_train_epochs"],
        8,
        "train.max_train_epochs: unknown key; did you mean epochs?",
    ),
    "kohya's name at the top": (["unet_lr"], 8, "unet_lr: unknown key; did you mean train.learning_rate?"),
    "ai-toolkit's name of a subject's key": (
        ["subjects", "ava", "trigger_word"],
        "x",
        "subjects.ava.trigger_word: unknown key; did you mean trigger?",
    ),
    "OneTrainer's list of people": (["concepts"], [], "concepts: unknown key; did you mean subjects?"),
    "key of a section at the top": (["batch_size"], 2, "batch_size: unknown key; did you mean train.batch_size or sam"),
    "key of the top in a section": (
        ["sample", "resolution"],
        64,
        "sample.resolution: unknown key; did you mean resolution at the top?",
    ),
    "key of a section in a run": (["runs"], {"a": {"rank": 4}}, "runs.a.rank: unknown key; did you mean train.rank?"),
    "kohya's name in a run": (["runs"], {"a": {"lr": 1}}, "runs.a.lr: unknown key; did you mean train.learning_rate?"),
    "what no run overrides": (
        ["runs"],
        {"a": {"resolution": 64}},
        "runs.a.resolution: unknown key; a run overrides train, sample, select and the base model",
    ),
    "misspelt key of a subject that is called as a section": (
        ["subjects"],
        {"train": CONFIG["subjects"]["ava"] | {"tigger": 1}},
        "subjects.train.tigger: unknown key; did you mean trigger?",
    ),
    "a subject without a name": (
        ["subjects"],
        CONFIG["subjects"]["ava"],
        "subjects: photos, trigger, class_noun, consent without the name of a subject above; write subjects: {mia: {",
    ),
    "ai-toolkit's section": (["model"], {}, "model: unknown key; did you mean base_model or caption.model?"),
    "a date": (["subjects", "ava", "trigger"], datetime.date(2024, 1, 1), "subjects.ava.trigger: found 2024-01-01, wh"),
    "no regularisation": (
        ["subjects", "ava", "regularisation"],
        False,
        "subjects.ava.regularisation: found False, which is no text; write it between quotes, or nothing where you mea",
    ),
    "quotes of a word processor": (
        ["subjects", "ava", "trigger"],
        "“ohwx”",
        "subjects.ava.trigger: has “” around it, which are letters; write straight quotes",
    ),
    "a number that YAML reads as text": (["train", "rank"], "08", "train.rank: found '08'; expected a valid integer"),
    "two weights that nobody can tell apart": (
        ["sample", "weights"],
        [0.8, 0.80000001],
        "sample: weight 0.8 stands there twice",
    ),
    "brackets without an end": (["sample", "prompts"], ["{subject} " + "[|" * 9000], "sample: prompt '{subj"),
    "brackets in brackets": (["sample", "prompts"], ["[" * 9000 + "{subject}" + "]" * 9000], "sample: prompt '[[[["),
    "a number between quotes": (["train", "rank"], "16", "train.rank: found '16', which is text; write it without quo"),
    "a truth between quotes": (["buckets"], "true", "buckets: found 'true', which is text; write it without quotes"),
    "a prompt that YAML reads as a mapping": (
        ["sample", "prompts"],
        [{"subject": None}],
        "sample.prompts.0: found {'subject': None}; expected a text, between quotes where it begins with {",
    ),
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
    "more steps than samplers have": (
        ["sample", "steps"],
        1000,
        "sample.steps: found 1000; expected less than or equal",
    ),
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
    "endless text": (["base_model"], "x" * 20001, "base_model: has 20001 letters; expected at most 20000"),
    "path of 5,000 letters": (["base_model"], "x" * 5000, "base_model: nothing at 'xxx"),
    "long prompt with a mistake": (["sample", "prompts"], ["{subject} " + "x " * 2000 + "#"], "sample: prompt '{subj"),
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
    "no model that draws": (
        ["sample", "base_model"],
        "./finetune",
        "runs.portrait.sample.base_model: nothing at './finetune'; expected a diffusers folder",
    ),
    "no base model of a run": (["runs", "portrait"], {"base_model": "xl"}, "runs.portrait.base_model: nothing at 'xl'"),
    "no VAE of a run": (["runs", "portrait"], {"vae": "o/vae"}, "runs.portrait.vae: nothing at 'o/vae'; expected a"),
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
    "section of a run": (["runs"], {"a": {"trian": {}}}, "runs.a.trian: unknown key; did you mean train?"),
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
    "warm-up longer than the steps that nobody set": (
        ["train"],
        {"lr_warmup_steps": 2500},
        "runs.portrait.train: lr_warmup_steps: 2500 of 2000 steps, so the full rate is never reached",
    ),
    "warm-up without an end": (
        ["train"],
        {"max_train_steps": 50, "lr_warmup_steps": 50},
        "train: lr_warmup_steps: 50 of 50 steps, so the full rate is never reached",
    ),
}


def mistaken(path: list[str], value) -> dict:
    """The tests' configuration with `value` at this path; without the key if the value is None."""
    config = copy.deepcopy(CONFIG)
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return config
