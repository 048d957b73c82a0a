"""Schemas of the files of a run, and the functions that read them.

The keys and columns that the project needs are checked. Others, such as a metric or a score of your own, are kept.
"""

import csv
from pathlib import Path
from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from segmentation.common.checks import STRICT, AnyPath, Folders, Number, Plain, Real, Seed, Sha256, Text, Whole, check
from segmentation.common.errors import RunError
from segmentation.common.files import check_file, content_hash, read_json
from segmentation.scoring.score_table import MAX_IMAGES, Count, Group, ImageScore

MAX_EPOCHS = 100_000
Hash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Limits = Annotated[tuple[Number, Number], Field(strict=False)]  # JSON has no tuples
Table = Annotated[dict[Text, Plain], Field(max_length=200)]


# ---------------------------------------------------------------- config.json


@with_config(STRICT | {"extra": "forbid"})
class Arguments(TypedDict):
    """The arguments of `build_network`, which checks the names of encoder and gates; no others are allowed."""

    input_shape: Annotated[tuple[Whole[1, 4096], Whole[1, 4096], Literal[1]], Field(strict=False)]
    base_filters: Whole[1, 256]
    depth: Whole[1, 8]
    gates: Text
    encoder: Text
    lesion_score: NotRequired[bool]


@with_config(STRICT | {"extra": "allow"})
class RunConfig(TypedDict):
    """config.json."""

    network: Arguments
    data: NotRequired[Text]
    root: NotRequired[AnyPath | Folders]  # the data's folder, or folders
    config: NotRequired[Table]  # the settings of the training
    convolutions: NotRequired[Text]
    appearance: NotRequired[Annotated[dict[Text, Limits], Field(max_length=20)]]
    split_sha256: NotRequired[Hash]  # of split.json


def read_config(run: Path) -> dict:
    """Read a run's config.json.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = run / "config.json"
    return check(RunConfig, read_json(path), path)


# ---------------------------------------------------------------- split.json


@with_config(STRICT | {"extra": "allow"})
class SplitImage(TypedDict):
    """One image of split.json."""

    part: Literal["train", "val", "test"]
    group: Group  # of near-copies and images of the same patient
    sha256: Sha256  # of the pixels of image and merged mask
    image_sha256: Sha256


def _tests_and_trains(images: dict[str, dict]) -> dict[str, dict]:
    if missing := {"train", "test"} - {image["part"] for image in images.values()}:
        raise ValueError(f"has no image in the part {min(missing)!r}")
    return images


@with_config(STRICT | {"extra": "allow"})
class SplitRecord(TypedDict):
    """split.json."""

    images: Annotated[dict[Text, SplitImage], Field(max_length=MAX_IMAGES), AfterValidator(_tests_and_trains)]
    split: NotRequired[Text]
    fold: NotRequired[Count]
    seed: NotRequired[Seed]
    normals: NotRequired[Text]
    choose_on: NotRequired[Literal["validation", "decision", "nothing", "test"]]
    data_sha256: NotRequired[Hash]  # of all that the split was made from, images that it leaves out too
    seen_before: NotRequired[Annotated[list[Sha256], Field(max_length=10 * MAX_IMAGES)]]


def read_split(run: Path) -> dict:
    """Read a run's split.json.

    Raises:
        RunError: the file is missing or damaged, or its hash is not the one in config.json.
    """
    path = run / "split.json"
    split = check(SplitRecord, read_json(path), path)
    if read_config(run).get("split_sha256", ...) not in (..., content_hash(path.read_bytes())):
        raise RunError(f"{path}: belongs to another config.json than the one beside it. Copy the run again.")
    return split


# ---------------------------------------------------------------- history.csv


@with_config(STRICT | {"strict": False})
class HistoryRow(TypedDict, extra_items=Number):
    """One epoch of history.csv, whose cells are text.

    The other columns are the training metrics of `network/losses.py`, and Keras' losses and AUC of the lesion score.
    """

    epoch: Whole[0, MAX_EPOCHS]
    learning_rate: Number
    loss: Number
    val_loss: NotRequired[Number]  # missing without a validation set


def read_history(path: Path) -> list[dict[str, float]]:
    """Read history.csv, one row per epoch; an empty list if there is no file yet.

    Raises:
        RunError: the file is not a history as training writes it.
    """
    if not path.exists():
        return []
    check_file(path)
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines, restkey="a column without a name"))
    except (csv.Error, OSError, ValueError) as error:
        raise RunError(f"{path}: is damaged ({error}).") from None
    rows = check(Annotated[list[HistoryRow], Field(max_length=MAX_EPOCHS)], rows, path)
    if wrong := next((number for number, row in enumerate(rows) if row["epoch"] != number), None):
        raise RunError(f"{path}: row {wrong + 1} is of epoch {rows[wrong]['epoch']} instead of {wrong}.")
    return rows


# ---------------------------------------------------------------- metrics.json


def _can_be_summarised(images: list[dict]) -> list[dict]:
    if not any(score["label"] != "normal" for score in images):
        raise ValueError("holds no scored image with a lesion")
    if len({score["name"] for score in images}) < len(images):
        raise ValueError("holds two images with the same name")
    return images


@with_config(STRICT | {"extra": "allow"})
class Metrics(TypedDict):
    """metrics.json; its summary is not read, since it is computed from the images."""

    data: Text
    split: Text
    near_copies_in_training: Count
    parameters: Count
    best_epoch: Whole[0, MAX_EPOCHS]
    minutes: NotRequired[Real[0, 10**9] | None]  # None if the run was resumed
    environment: Table
    images: Annotated[list[ImageScore], Field(max_length=MAX_IMAGES), AfterValidator(_can_be_summarised)]
    choose_on: NotRequired[Text]
    gmac: NotRequired[Number | None]


def read_metrics(path: Path) -> dict:
    """Read metrics.json.

    Raises:
        RunError: the file is missing or damaged, or holds an impossible score.
    """
    return check(Metrics, read_json(path), path)
