"""What the files of a run may hold. Everything that reads one goes through here, whoever made the run."""

import csv
from pathlib import Path
from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from dataset import LABELS, MAX_PIXELS
from segmentation.checks import STRICT, AnyPath, Folders, Number, Plain, Real, Seed, Text, Whole, check
from segmentation.earlier_runs import RENAMED_METRICS, RENAMED_SCORES, rename, upgrade_network, upgrade_split
from segmentation.errors import RunError
from segmentation.files import check_file, file_hash, read_json

MAX_CHANNELS, MAX_EPOCHS, MAX_IMAGES = 2048, 100_000, 50_000
Hash = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Pixels, Count, Group = Whole[0, MAX_PIXELS], Whole[0, 10**9], Whole[0, MAX_IMAGES]
Share, Length = Real[0, 1], Real[0, MAX_PIXELS]
Limits = Annotated[tuple[Number, Number], Field(strict=False)]  # JSON has no tuples
Table = Annotated[dict[Text, Plain], Field(max_length=200)]


# ---------------------------------------------------------------- config.json

# The names of what a network is built from stand here, and not beside the code that builds it: reading a run's files
# must not import Keras.
Gates = Literal["paper", "full", "none"]
Encoder = Literal[
    "none", "efficientnet_lite0", "efficientnet_lite2", "densenet121", "efficientnet_v2_b0", "resnet50_v2"
]
ENCODER_DEPTH = 5  # poolings of all of these but "none"


def check_channels(encoder: Encoder, base_filters: int, depth: int) -> int:
    """Refuse a network that would be refused when it is loaded. Returns how often its encoder halves the image.

    Raises:
        ValueError: it has more than MAX_CHANNELS channels somewhere.
    """
    depth = depth if encoder == "none" else ENCODER_DEPTH
    if (channels := base_filters * 2**depth) > MAX_CHANNELS:
        raise ValueError(
            f"base_filters {base_filters}, doubled {depth} times, are {channels} channels, and no more than "
            f"{MAX_CHANNELS} are loaded"
        )
    return depth


def _fits(network: dict) -> dict:
    check_channels(network["encoder"], network["base_filters"], network["depth"])
    return network


@with_config(STRICT | {"extra": "forbid"})
class Arguments(TypedDict):
    """The arguments of `build_network`: nothing else can reach the builder."""

    input_shape: Annotated[tuple[Whole[1, 4096], Whole[1, 4096], Literal[1]], Field(strict=False)]
    base_filters: Whole[1, 256]
    depth: Whole[1, 8]
    gates: Gates
    encoder: Encoder
    lesion_score: NotRequired[bool]


Network = Annotated[Arguments, AfterValidator(_fits)]


@with_config(STRICT)
class RunConfig(TypedDict):
    """config.json."""

    network: Network
    data: NotRequired[Text]
    root: NotRequired[AnyPath | Folders]  # several where several were trained on
    white: NotRequired[Real[1e-6, 1e10]]  # in pictures of more than 8 bits, if there were any
    config: NotRequired[Table]  # the settings of the training
    convolutions: NotRequired[Text]
    appearance: NotRequired[
        Annotated[dict[Text, Annotated[tuple[Number, Number], Field(strict=False)]], Field(max_length=20)]
    ]
    split_sha256: NotRequired[Hash]  # of split.json; earlier versions kept none


def read_config(run: Path) -> dict:
    """config.json of a run.

    Raises:
        RunError: the file is missing or damaged, or was made by a newer version.
    """
    path = run / "config.json"
    stored = read_json(path)
    if isinstance(stored.get("network"), dict):
        stored["network"] = upgrade_network(stored["network"], path)
    return check(RunConfig, stored, path)


def check_min_score(run: Path, stored: dict, min_score: float | None) -> None:
    """Refuse a minimum lesion score for a network that gives none, `stored` being its config.json.

    Raises:
        RunError: it would be ignored.
    """
    if min_score is not None and not stored["network"].get("lesion_score"):
        raise RunError(f"{run}: its network has no lesion score, so there is nothing to compare with --min-score.")


# ---------------------------------------------------------------- split.json


@with_config(STRICT)
class SplitImage(TypedDict):
    """One image of split.json."""

    part: Literal["train", "val", "test"]
    group: Group  # of near-copies and of one patient's pictures
    sha256: Hash  # of image and masks together
    image_sha256: Hash


def _tests_and_trains(images: dict[str, dict]) -> dict[str, dict]:
    if missing := {"train", "test"} - {image["part"] for image in images.values()}:
        raise ValueError(f"has no image in the part {min(missing)!r}")
    return images


@with_config(STRICT)
class SplitRecord(TypedDict):
    """split.json."""

    images: Annotated[dict[Text, SplitImage], Field(max_length=MAX_IMAGES), AfterValidator(_tests_and_trains)]
    split: NotRequired[Text]
    fold: NotRequired[Count]
    seed: NotRequired[Seed]
    normals: NotRequired[Text]
    choose_on: NotRequired[Literal["validation", "decision", "nothing", "test"]]
    seen_before: NotRequired[Annotated[list[Hash], Field(max_length=10 * MAX_IMAGES)]]


def read_split(run: Path) -> dict:
    """split.json of a run.

    Raises:
        RunError: the file is missing or damaged, or not the one that the run's config.json belongs to.
    """
    path = run / "split.json"
    split = check(SplitRecord, upgrade_split(read_json(path)), path)
    if read_config(run).get("split_sha256", ...) not in (..., file_hash(path)):
        raise RunError(f"{path}: belongs to another config.json than the one beside it. Copy the run again.")
    return split


# ---------------------------------------------------------------- history.csv


@with_config(STRICT | {"strict": False, "extra": "forbid"})
class HistoryRow(TypedDict):
    """One epoch of history.csv, where everything is text; a run that chooses on nothing has no validation."""

    epoch: Whole[0, MAX_EPOCHS]
    learning_rate: Number
    loss: Number
    dice: Number
    iou: Number
    accuracy: Number
    val_loss: NotRequired[Number]
    val_dice: NotRequired[Number]
    val_iou: NotRequired[Number]
    val_accuracy: NotRequired[Number]
    lesion_loss: NotRequired[Number]  # these of a network with a lesion score
    lesion_score_loss: NotRequired[Number]
    lesion_score_auc: NotRequired[Number]
    val_lesion_loss: NotRequired[Number]
    val_lesion_score_loss: NotRequired[Number]
    val_lesion_score_auc: NotRequired[Number]


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of history.csv, one an epoch; none if there is no file yet.

    Raises:
        RunError: it holds anything but what training writes.
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
        raise RunError(f"{path}: row {wrong + 1} is of epoch {rows[wrong]['epoch']} in place of {wrong}.")
    return rows


# ---------------------------------------------------------------- metrics.json


def _adds_up(score: dict) -> dict:
    pixels, counted = (score["height"] * score["width"], sum(score[key] for key in ("tp", "fp", "fn", "tn")))
    if counted != pixels or not pixels:
        raise ValueError(f"tp, fp, fn and tn are {counted} pixels, but the image has {pixels}")
    return score


@with_config(STRICT)
class ImageScore(TypedDict):
    """The scores of one test image, by the rule for empty masks in `segmentation.scores`; None is undefined."""

    name: Text
    label: Literal[LABELS]
    folder: NotRequired[Text]  # of several that were used together
    group: Group
    height: Pixels
    width: Pixels
    diagonal: Real[1, MAX_PIXELS]
    tp: Pixels
    fp: Pixels
    fn: Pixels
    tn: Pixels
    dice: Share
    iou: Share
    precision: Share | None
    recall: Share | None
    hd95: Length | None
    assd: Length | None
    dice_lesion_given: NotRequired[Share | None]
    iou_lesion_given: NotRequired[Share | None]
    lesion_score: NotRequired[Share]


def _can_be_summarised(images: list[dict]) -> list[dict]:
    if not any(score["label"] != "normal" for score in images):
        raise ValueError("holds no scored image with a lesion")
    if len({score["name"] for score in images}) < len(images):
        raise ValueError("holds two images of one name")
    return images


@with_config(STRICT)
class Metrics(TypedDict):
    """metrics.json, but for the summary, which follows from the images."""

    data: Text
    split: Text
    near_copies_in_training: Count
    parameters: Count
    best_epoch: Whole[0, MAX_EPOCHS]
    minutes: NotRequired[Real[0, 10**9] | None]  # not known of a run that was resumed
    environment: Table
    images: Annotated[
        list[Annotated[ImageScore, AfterValidator(_adds_up)]],
        Field(max_length=MAX_IMAGES),
        AfterValidator(_can_be_summarised),
    ]
    choose_on: NotRequired[Text]
    gmac: NotRequired[Number | None]


def read_metrics(path: Path) -> dict:
    """metrics.json with everything that a report reads of it.

    Raises:
        RunError: the file is missing or damaged, or a score in it cannot come from training.
    """
    metrics = rename(read_json(path), RENAMED_METRICS)
    if isinstance(images := metrics.get("images"), list):
        metrics["images"] = [rename(score, RENAMED_SCORES) if isinstance(score, dict) else score for score in images]
    return check(Metrics, metrics, path)
