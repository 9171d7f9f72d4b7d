"""The conversion of kohya's settings, one after another, so that none is forgotten: what is not taken is reported."""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from likeness.config.sections import Config, Sample
from likeness.core.errors import LikenessError
from likeness.core.section import Section, quote
from likeness.kohya.mapping import NO_PLACE, NOT_READ, OF_REGULARISATION, PLACES, is_of_another_family
from likeness.training.settings import Train

SECTIONS: dict[str, type[Section]] = {"": Config, "train": Train, "sample": Sample}
# A number is taken for the number that it is; a text of digits too, because the GUI saves many numbers as texts.
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


class Conversion:
    """Kohya's settings under sd-scripts' names, and what became of them.

    `config` has the converted values by path ("train.rank"), `inexact` a sentence for each conversion that changes
    something, `without_place` a reason for each setting that is not converted.
    """

    def __init__(self, settings: Mapping[str, Any]):
        # sd-scripts takes an empty text for nothing, too.
        self.left = {key: value for key, value in settings.items() if not is_empty(value)}
        self.config: dict[str, Any] = {}
        self.inexact: list[str] = []
        self.without_place: dict[str, str] = {}

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a setting, which then counts as looked at."""
        return self.left.pop(key, default)

    def number(self, key: str, default: float = 0.0) -> float:
        """The number of a setting. Raises LikenessError if it is none."""
        return number(key, self.take(key, default))

    def switch(self, key: str) -> bool:
        """Whether a setting is on."""
        return is_on(self.take(key))

    def put(self, path: str, value: Any, key: str) -> None:
        """Write a value of kohya's `key` to a key of ours, if it may have it; otherwise the reason is kept."""
        try:
            self.config[path] = fitted(path, value)
        except ValueError as error:
            self.without_place[key] = f"{path} cannot have {quote(value)}: {error}"

    def convert_rest(self) -> None:
        """Convert what is left: settings with a place, settings without, and unknown ones."""
        others = [key for key in self.left if key not in {*PLACES, *NO_PLACE} and is_of_another_family(key)]
        for key in others:
            self.take(key)
        for key in list(self.left):
            value = self.take(key)
            if key in NOT_READ:
                self.without_place[key] = "sd-scripts does not read it here"
            elif key.endswith(OF_REGULARISATION):
                self.without_place[key] = "they have the settings of the subject's photos"
            elif key in PLACES:
                self.put(PLACES[key], value, key)
            elif key not in NO_PLACE:
                self.without_place[key] = f"unknown; found {quote(value)}"
            elif has_effect(value, NO_PLACE[key].without_effect):
                self.without_place[key] = NO_PLACE[key].reason
        if others:
            self.without_place[f"{others[0]} and {len(others) - 1} more"] = (
                "keys of other model families, without effect in kohya too"
            )


def is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def is_on(value: Any) -> bool:
    return value is True or value == 1 or (isinstance(value, str) and value.strip().lower() in ("true", "1", "yes"))


def number(key: str, value: Any) -> float:
    """A value as a number. Raises LikenessError if it is none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise LikenessError(f"{key}: found {quote(value)}; expected a number")
    return found


def named_arguments(key: str, written: Any) -> dict[str, str]:
    """Arguments name=value in a list or a text, by name. Raises LikenessError for anything else."""
    if not isinstance(written, str | list | None):
        raise LikenessError(f"{key}: found {quote(written)}; expected a list of name=value")
    texts = written.split() if isinstance(written, str) else map(str, written or ())
    pairs = (text.replace('"', "").partition("=") for text in texts)  # the GUI removes quotes, too
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}


def has_effect(value: Any, without_effect: tuple[Any, ...]) -> bool:
    value = plain(value)
    return bool(value) and value not in ("None", *without_effect) and not (isinstance(value, str) and not value.strip())


def plain(value: Any) -> Any:
    """A text that is a number or a switch as what it is; other values as they are."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if not NUMBER.fullmatch(value):
        return value
    return int(float(value)) if float(value).is_integer() else float(value)


def fitted(path: str, value: Any) -> Any:
    """A value in the type of a key of ours ("12" as 12). Raises ValueError with a reason if the key cannot have it."""
    section, _, key = path.rpartition(".")
    field = SECTIONS[section].model_fields[key]
    kind: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError:
        pass
    try:
        return adapter.validate_python(plain(value))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ValueError(reason[:1].lower() + reason[1:]) from None
