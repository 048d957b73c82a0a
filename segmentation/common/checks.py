"""Checked values: pydantic knows what a setting or a file may hold, and one line names what is wrong.

Numbers are finite and bounded, text is text, sizes are capped: what a stranger's file holds can fill no memory.
"""

import re
import reprlib
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from segmentation.common.errors import RunError

MAX_TEXT, MAX_LIST, MAX_NUMBER = 4096, 100, 3.5e38  # the largest float32 is 3.4e38
STRICT = ConfigDict(strict=True, allow_inf_nan=False)  # "3" is no number, True is not 1


def _without_null(path: Path) -> Path:
    if "\0" in str(path) or len(str(path)) > MAX_TEXT:
        raise ValueError("is no path of a file")
    return path


def _folder_name(value: str) -> str:
    if Path(value).name != value or not value.isprintable() or not value.strip(". "):
        raise ValueError(f"is the name of a folder in models/, got {value!r}")
    return value


def _plain(value: object) -> object:
    if isinstance(value, list) and len(value) <= MAX_LIST and not any(isinstance(item, list) for item in value):
        return [_plain(item) for item in value]
    long = isinstance(value, str) and len(value) > MAX_TEXT
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(value, (str, int, float, type(None))) or long or (number and not abs(value) <= MAX_NUMBER):
        raise ValueError(f"must be a short text, a finite number, true, false or null, got {reprlib.repr(value)}")
    return value


# ---------------------------------------------------------------- what a value may be


class Whole:
    """`Whole[1, 8]` is an int from 1 to 8, both included."""

    def __class_getitem__(cls, bounds: tuple[int, int]):
        return Annotated[int, Field(ge=bounds[0], le=bounds[1])]


class Real:
    """`Real[0, 1]` is a float from 0 to 1, both included; never NaN."""

    def __class_getitem__(cls, bounds: tuple[float, float]):
        return Annotated[float, Field(ge=bounds[0], le=bounds[1])]


Seed = Whole[0, 2**32 - 1]  # what NumPy's generators take
Number = Real[-MAX_NUMBER, MAX_NUMBER]
AnyPath = Annotated[Path, Field(strict=False), AfterValidator(_without_null)]  # a file holds it as text
Folders = Annotated[tuple[AnyPath, ...], Field(strict=False, max_length=MAX_LIST)]  # JSON has no tuples
GreyValues = Annotated[tuple[Number, ...], Field(strict=False, max_length=MAX_LIST)]
FolderName = Annotated[str, Field(max_length=200), AfterValidator(_folder_name)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Plain = Annotated[Any, AfterValidator(_plain)]  # what a table can show


@dataclass_transform(frozen_default=True)
def checked(settings: type) -> type:
    """Decorate a class of settings: a frozen dataclass that refuses wrong values, by the name of their flag.

    tyro reads such a class as any dataclass; a wrong value is a ValueError of one line.
    """
    config = STRICT | ConfigDict(extra="forbid")
    settings = pydantic.dataclasses.dataclass(settings, frozen=True, config=config)
    validate = settings.__init__

    @wraps(validate)
    def __init__(self, *arguments, **values):
        try:
            validate(self, *arguments, **values)
        except ValidationError as error:
            raise ValueError(explain(error, flags=True)) from error

    settings.__init__ = __init__
    return settings


# ---------------------------------------------------------------- check and explain


@cache
def _adapter(schema: object) -> TypeAdapter:
    return TypeAdapter(schema)


def check(schema: Any, values: object, path: Path, *inside: str) -> Any:
    """Check what a file holds.

    Args:
        schema: a class decorated with `checked`, or any type that pydantic understands.
        values: what was read from the file.
        path: the file, for the message.
        inside: keys of the file's object under which the values stand, for the message.

    Returns:
        An object of the class, or the values without keys that the schema does not have.

    Raises:
        RunError: one line that names the file, the key and what is wrong with it.
    """
    place = f'{path}: "{".".join(inside)}"' if inside else f"{path}:"
    if is_dataclass(schema) and not isinstance(values, Mapping):
        raise RunError(f"{place} holds no JSON object.")
    try:
        return schema(**values) if is_dataclass(schema) else _adapter(schema).validate_python(values)
    except ValidationError as error:
        raise RunError(f"{path}: {explain(error, inside)}.") from None
    except ValueError as error:  # of a class decorated with `checked`
        raise RunError(f"{path}: {explain(error.__cause__, inside)}.") from None


def explain(error: ValidationError, inside: tuple[str, ...] = (), flags: bool = False) -> str:
    """The first thing that is wrong, in one line.

    Args:
        error: what pydantic raised.
        inside: keys that stand in front of those of the error.
        flags: name a setting as the command line does, `--batch-size`, and not as a file does, "batch_size".
    """
    first = error.errors(include_url=False)[0]
    branch = re.compile(r"(literal|function-\w+|tuple|union|lax-or-strict)\[")  # of what may be one thing or another
    keys = [str(key)[:200] for key in (*inside, *first["loc"]) if not branch.match(str(key))]
    name = f"--{keys[0].replace('_', '-')}" if flags and keys else f'"{".".join(keys)}"' if keys else ""
    match first["type"]:
        case "missing":
            text = "is missing"
        case "extra_forbidden" | "unexpected_keyword_argument":
            text = "is not known here. Was it made by a newer version?"
        case "value_error":
            text, name = str(first["ctx"]["error"]), name if first["loc"] else ""
        case _:
            wanted = re.sub(r"^(\w+) should", "must", first["msg"]).replace("Input is not", "is not")
            wanted = wanted.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
            text = f"{wanted}, got {reprlib.repr(first['input'])}"
    return f"{name} {text}".strip().removesuffix(".")
