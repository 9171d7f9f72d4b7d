"""A section of the settings: its base, and what the values of its keys may be."""

import re
import reprlib
import unicodedata
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _number(written: Any) -> Any:
    """A text such as 1e-4 as a number: YAML 1.1 reads only 1.0e-4 as one."""
    is_number = isinstance(written, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", written)
    return float(written) if is_number else written


Number = Annotated[float, BeforeValidator(_number)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
# Larger values are mistakes: they would cost hours, fill the memory, or overflow.
Count = Annotated[int, Field(gt=0, le=10_000)]
Steps = Annotated[int, Field(gt=0, le=10_000_000)]
Pixels = Annotated[int, Field(gt=0, le=8192)]
Weight = Annotated[Number, Field(ge=0, le=10_000)]
# In one line and in Unicode's composed form, as captions are read.
Prompt = Annotated[str, AfterValidator(lambda text: unicodedata.normalize("NFC", " ".join(text.split())))]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # the range of a table's column

# The keys that tell a base model: of the top level, of a run, and of a section that draws. With clip_skip they tell how
# it is read.
MODEL_KEYS = ("base_model", "base_revision", "vae", "prediction_type")
BASE_KEYS = (*MODEL_KEYS, "clip_skip")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def drop_empty(cls, written: Any) -> Any:
        """Keys without a value (`train:` alone, which YAML reads as null) get their defaults."""
        return cls.without_empty(written) if isinstance(written, Mapping) else written

    @classmethod
    def without_empty(cls, written: Mapping[str, Any]) -> dict[str, Any]:
        """The keys with a value. null is a value only of a key that may be empty."""
        return {key: value for key, value in written.items() if value is not None or cls._may_be_empty(key)}

    @classmethod
    def _may_be_empty(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        return field is None or type(None) in get_args(field.annotation)


def quote(value: Any) -> str:
    """A value as text for a message: short, printable, in one line."""
    if isinstance(value, date):
        return str(value)
    text = reprlib.repr(value) if isinstance(value, dict | list | set | tuple) else repr(value)
    short = text if len(text) <= 320 else f"{text[:300]}..."
    return short if short.isprintable() else ascii(short)
