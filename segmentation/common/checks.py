"""Validation of settings and file contents with pydantic; an error is one line that names the wrong value.

Numbers are finite and bounded, and texts and lists have a maximum length: no file can fill the memory.
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
STRICT = ConfigDict(strict=True, allow_inf_nan=False)  # neither "3" nor True is accepted as a number


def _without_null(path: Path) -> Path:
    if "\0" in str(path) or len(str(path)) > MAX_TEXT:
        raise ValueError("is not a valid path")
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


# ---------------------------------------------------------------- types of values

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Whole:
    """`Whole[1, 8]` is an int from 1 to 8, inclusive."""

    def __class_getitem__(cls, bounds: tuple[int, int]):
        return Annotated[int, Field(ge=bounds[0], le=bounds[1])]


class Real:
    """`Real[0, 1]` is a float from 0 to 1, inclusive; never NaN."""

    def __class_getitem__(cls, bounds: tuple[float, float]):
        return Annotated[float, Field(ge=bounds[0], le=bounds[1])]


Seed = Whole[0, 2**32 - 1]  # the seeds that NumPy accepts
Number = Real[-MAX_NUMBER, MAX_NUMBER]
AnyPath = Annotated[Path, Field(strict=False), AfterValidator(_without_null)]  # JSON stores it as text
Folders = Annotated[tuple[AnyPath, ...], Field(strict=False, max_length=MAX_LIST)]  # JSON has no tuples
FolderName = Annotated[str, Field(max_length=200), AfterValidator(_folder_name)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Plain = Annotated[Any, AfterValidator(_plain)]  # a value that fits a table cell


@dataclass_transform(frozen_default=True)
def checked(settings: type) -> type:
    """Class decorator for settings: a frozen dataclass that validates its values, and that tyro can read.

    A wrong value raises a ValueError of one line, which names the setting's flag.
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


# ---------------------------------------------------------------- validate and explain


@cache
def _adapter(schema: object) -> TypeAdapter:
    return TypeAdapter(schema)


def check(schema: Any, values: object, path: Path, *inside: str) -> Any:
    """Validate the content of a file.

    Args:
        schema: a class decorated with `checked`, or any type that pydantic understands.
        values: the content, as read from the file.
        path: the file, for the message.
        inside: keys that lead to the values in the file's JSON object, for the message.

    Returns:
        An object of the class, or the validated values.

    Raises:
        RunError: the content is not valid; the message names the file, the key and the problem.
    """
    place = f'{path}: "{".".join(inside)}"' if inside else f"{path}:"
    if is_dataclass(schema) and not isinstance(values, Mapping):
        raise RunError(f"{place} holds no JSON object.")
    try:
        return schema(**values) if is_dataclass(schema) else _adapter(schema).validate_python(values)
    except ValidationError as error:
        raise RunError(f"{path}: {explain(error, inside)}.") from None
    except ValueError as error:  # raised by a class decorated with `checked`
        raise RunError(f"{path}: {explain(error.__cause__, inside)}.") from None


def explain(error: ValidationError, inside: tuple[str, ...] = (), flags: bool = False) -> str:
    """The first problem of a ValidationError, in one line.

    Args:
        error: the error.
        inside: keys to put in front of those of the error.
        flags: write a name as a flag, `--batch-size`, instead of as a key, "batch_size".
    """
    first = error.errors(include_url=False)[0]
    branch = re.compile(r"(literal|function-\w+|tuple|union|lax-or-strict)\[")  # a member of a union
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
