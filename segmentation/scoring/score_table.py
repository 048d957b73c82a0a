"""Per-image scores as a CSV file, safe for spreadsheets, which is read back without loss.

To keep the file small, tn, precision, recall and the image's diagonal are not written; they follow from the other
columns and are computed when the file is read. A further score is a further column.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from dataset import LABELS, MAX_PIXELS
from segmentation.common.checks import STRICT, Plain, Real, Sha256, Text, Whole, explain
from segmentation.common.errors import RunError
from segmentation.common.files import check_file, read_json, write_atomic
from segmentation.scoring.scores import overlap_scores

MAX_CSV_BYTES, MAX_IMAGES = 20_000_000, 50_000
Pixels, Count, Group = Whole[0, MAX_PIXELS], Whole[0, 10**9], Whole[0, MAX_IMAGES]
Share, Length = Real[0, 1], Real[0, MAX_PIXELS]

TEXT_COLUMNS = ("run", "name", "label", "folder", "sha256")
FIRST_COLUMNS = ("run", "name", "label", "group", "height", "width", "tp", "fp", "fn")
FIRST_COLUMNS += ("dice", "iou", "hd95", "assd", "dice_lesion_given", "iou_lesion_given")
DERIVED = ("tn", "precision", "recall", "diagonal")


def _adds_up(score: dict) -> dict:
    pixels, counted = (score["height"] * score["width"], sum(score[key] for key in ("tp", "fp", "fn", "tn")))
    if counted != pixels or not pixels:
        raise ValueError(f"tp, fp, fn and tn are {counted} pixels, but the image has {pixels}")
    return score


@with_config(STRICT)
class Scores(TypedDict, extra_items=Plain):
    """The scores of one test image; None is undefined, by the rule for empty masks in `segmentation.scoring.scores`."""

    name: Text
    label: Literal[LABELS]
    run: NotRequired[Text | None]  # in a table of several runs
    folder: NotRequired[Text | None]  # the data folder, if there are several
    sha256: NotRequired[Sha256 | None]  # of the image's pixels, by which two tables know that they are of one image
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
    lesion_score: NotRequired[Share | None]


ImageScore = Annotated[Scores, AfterValidator(_adds_up)]


# ---------------------------------------------------------------- write


def write_scores(path: Path, scores: Sequence[Mapping]) -> None:
    """Write per-image scores as CSV, atomically, real numbers with 5 significant digits.

    Args:
        path: the file.
        scores: one mapping per image, from `segmentation.scoring.prediction.score_samples`, with the key `run` added if
            there are several runs. None and missing keys become empty cells.

    Raises:
        ValueError: a score is NaN or infinite. OSError: the file cannot be written.
    """
    keys = dict.fromkeys(key for score in scores for key, value in score.items() if value not in (None, ""))
    columns = [*FIRST_COLUMNS, *(key for key in keys if key not in (*FIRST_COLUMNS, *DERIVED))]
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    table.writerows([_cell(score.get(column)) for column in columns] for score in scores)
    # Bytes of an image's name that are not UTF-8 are written as text, such as \udcff.
    write_atomic(path, lambda temporary: temporary.write_bytes(text.getvalue().encode("utf-8", "backslashreplace")))


def _cell(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return text_to_cell(value or "")
    if not math.isfinite(value):
        raise ValueError(f"a score is {value}")
    return f"{value:d}" if isinstance(value, int) else f"{value:.5g}"


def text_to_cell(text: str) -> str:
    """Prefix a text that looks like a formula with an apostrophe, so that a spreadsheet does not run it."""
    return f"'{text}" if re.match(r"'*[=+\-@\t\r\n]", text) else text


def cell_to_text(cell: str) -> str:
    """Inverse of `text_to_cell`."""
    return cell[1:] if re.match(r"''*[=+\-@\t\r\n]", cell) else cell


def is_score_table(path: Path) -> bool:
    """Whether a file begins with the columns that `write_scores` writes."""
    first = ",".join(FIRST_COLUMNS).encode()
    try:
        check_file(path, MAX_CSV_BYTES)
        with path.open("rb") as content:
            return content.read(len(first)) == first
    except (OSError, RunError):
        return False


# ---------------------------------------------------------------- read


def read_scores(path: Path) -> list[dict]:
    """Read a table of `write_scores`.

    Returns:
        One dict per image with all columns, None for an empty cell, and tn and diagonal (of the image) in pixels,
        precision and recall (0 to 1, None if undefined). Scores that follow from the pixel counts are computed from
        these, so rounding does not change them.

    Raises:
        RunError: the file is missing, too large, or not a table of scores.
    """
    check_file(path, MAX_CSV_BYTES)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, strict=True)
            rows = []
            for row in table:
                if None in row or None in row.values():
                    raise ValueError(f"line {table.line_num} has another number of cells than there are columns")
                rows.append(_read_row(row))
        if tuple(table.fieldnames or ())[: len(FIRST_COLUMNS)] != FIRST_COLUMNS or not rows:
            raise ValueError(f"the columns must begin with {','.join(FIRST_COLUMNS)}, and scores follow")
        scores = TypeAdapter(list[ImageScore]).validate_python(rows, strict=False)
    except ValidationError as error:
        raise RunError(f"{path}, line {error.errors()[0]['loc'][0] + 2}: {explain(error)}.") from None
    except (csv.Error, OSError, ValueError) as error:
        raise RunError(f"{path}: is not a table of scores ({error}).") from None
    for number, (row, score) in enumerate(zip(rows, scores, strict=True), start=2):
        exact = overlap_scores(score["tp"], score["fp"], score["fn"])
        if any(not math.isclose(float(row[key]), exact[key], rel_tol=1e-4) for key in ("dice", "iou")):
            raise RunError(f"{path}, line {number}: dice and iou do not follow from tp, fp and fn.")
        score |= exact
    return scores


def _read_row(row: dict[str | None, str | None]) -> dict:
    """A row with tn, diagonal, precision and recall added; the numbers of known columns are still text."""
    score = {key: _value(key, cell) for key, cell in row.items()}
    try:
        height, width, *counts = (int(row[key]) for key in ("height", "width", "tp", "fp", "fn"))
    except (KeyError, TypeError, ValueError):
        return score  # validation will name the problem
    diagonal = {"tn": height * width - sum(counts), "diagonal": math.hypot(height, width)}
    return score | diagonal | {"precision": None, "recall": None}


def _value(key: str | None, cell: str | None) -> str | float | None:
    if not cell:
        return None
    if key in Scores.__annotations__ and key not in TEXT_COLUMNS:
        return cell
    if key not in TEXT_COLUMNS and re.fullmatch(r"-?\d{1,15}(\.\d{1,20})?([eE][+-]?\d{1,3})?", cell):
        return float(cell)
    return cell_to_text(cell)


def find_scores(path: Path) -> list[dict]:
    """Read per-image scores from any of the files that hold them.

    Args:
        path: folder of a run or of cross_validate.py, or a file: a CSV table, or JSON with "images".

    Returns:
        One dict per image; those of a JSON file are not validated.

    Raises:
        RunError: there is no such file, or it holds no per-image scores.
    """
    if path.is_dir() or path.suffix not in (".csv", ".json"):
        files = [path / name for name in ("cross_validation.csv", "metrics.json")]
        path = next((file for file in files if file.exists()), files[-1])
    if path.suffix == ".csv":
        return read_scores(path)
    images = read_json(path).get("images")
    if not isinstance(images, list) or not all(isinstance(score, dict) for score in images):
        table = path.with_suffix(".csv")
        raise RunError(f"{path}: holds no per-image scores.{f' They are in {table}.' if table.exists() else ''}")
    return images
