"""The scores of every image as a table: a CSV file that a spreadsheet opens and that comes back as it was.

What follows from the counts of pixels and is seldom looked at (tn, precision, recall, the diagonal of the image) is not
in the file, which keeps it small; it is there again after reading.
"""

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset import LABELS
from segmentation.errors import RunError
from segmentation.files import check_file, read_json, write_atomic
from segmentation.scores import overlap_scores

MAX_CSV_BYTES = 20_000_000
TEXT = ("run", "name", "label")
COUNTS = ("group", "height", "width", "tp", "fp", "fn")
SCORES = ("dice", "iou", "hd95", "assd", "dice_lesion_given", "iou_lesion_given")
COLUMNS = TEXT + COUNTS + SCORES
FOLDER = "folder"  # where several folders were used together
OPTIONAL = ("lesion_score", FOLDER)  # last columns, where any score has them
MAY_BE_EMPTY = {"run", *OPTIONAL, *SCORES} - {"dice", "iou"}  # not part of several runs; undefined, or not scored
OLD_KEYS = {"dice_known": "dice_lesion_given", "iou_known": "iou_lesion_given"}  # of JSON files of earlier versions


def write_scores(path: Path, scores: Sequence[Mapping]) -> None:
    """Write the scores of images as CSV, whole or not at all, real numbers with 5 significant digits.

    Args:
        path: the file.
        scores: what `segmentation.predict.score_samples` returns, one mapping an image: name, label and group;
            height, width, tp, fp and fn in pixels; dice and iou from 0 to 1; hd95 and assd in pixels and
            dice_lesion_given, iou_lesion_given and lesion_score from 0 to 1, None or left out where undefined; `run`,
            of several.

    Raises:
        KeyError, TypeError, ValueError: a score is missing, or no finite number.
        OSError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text)
    columns = COLUMNS + tuple(column for column in OPTIONAL if any(score.get(column) for score in scores))
    table.writerow(columns)
    table.writerows([_cell(column, score) for column in columns] for score in scores)
    # A file may be named by bytes that are no text; they are written as they are.
    write_atomic(path, lambda temporary: temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape")))


def _cell(column: str, score: Mapping) -> str:
    value = score.get(column) if column in MAY_BE_EMPTY else score[column]
    if value is None and column in MAY_BE_EMPTY:
        return ""
    if column in (*TEXT, FOLDER):
        return text_to_cell(value)
    if column in COUNTS:
        return f"{value:d}"
    if not math.isfinite(value):
        raise ValueError(f"{column} of {score['name']!r} is {value}")
    return f"{value:.5g}"


def text_to_cell(text: str) -> str:
    """The text as a spreadsheet shows it, and never runs it: behind an apostrophe where it begins like a formula."""
    return f"'{text}" if re.match(r"'*[=+\-@\t\r\n]", text) else text


def cell_to_text(cell: str) -> str:
    """The text that `text_to_cell` was given."""
    return cell[1:] if re.match(r"''*[=+\-@\t\r\n]", cell) else cell


def is_score_table(path: Path) -> bool:
    """Whether a file begins as one that `write_scores` wrote."""
    first = ",".join(COLUMNS).encode()
    try:
        check_file(path, MAX_CSV_BYTES)
        with path.open("rb") as content:
            return content.read(len(first)) == first
    except (OSError, RunError):
        return False


def read_scores(path: Path) -> list[dict]:
    """Read what `write_scores` wrote.

    Returns:
        One dict an image, with all keys of `write_scores`, tn and diagonal (of the image) in pixels, precision and
        recall (0 to 1, or None where undefined). What is empty in the file is None, but "" for `run`. Scores that
        follow from the counts of pixels are as exact as before they were written.

    Raises:
        RunError: the file is missing, too large, or holds anything but a table of scores.
    """
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise RunError(f"{path}: larger than {MAX_CSV_BYTES // 10**6} MB. Refused.")
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
            return _read_rows(csv.reader(lines, strict=True), path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _read_rows(rows, path: Path) -> list[dict]:
    try:
        header = tuple(next(rows, ()))
        if header != COLUMNS + tuple(column for column in OPTIONAL if column in header):
            raise ValueError(f"the columns must be {','.join(COLUMNS)}")
        scores = [_read_row(row, header) for row in rows]
        if not scores:
            raise ValueError("no scores follow")
    except (csv.Error, ValueError) as error:
        raise RunError(f"{path}, line {max(rows.line_num, 1)}: {error}.") from None
    return scores


def _read_row(row: list[str], header: tuple[str, ...]) -> dict:
    if len(row) != len(header):
        raise ValueError(f"{len(row)} cells in place of {len(header)}")
    score = {column: _value(column, text) for column, text in zip(header, row, strict=True)}
    tp, fp, fn = (score[key] for key in ("tp", "fp", "fn"))
    score["tn"] = score["height"] * score["width"] - tp - fp - fn
    if score["tn"] < 0 or not score["height"] * score["width"]:
        raise ValueError(f"tp, fp and fn are more pixels than {score['height']} x {score['width']}, or there are none")
    exact = overlap_scores(tp, fp, fn)
    for key in ("dice", "iou"):
        if not math.isclose(score[key], exact[key], rel_tol=1e-4):
            raise ValueError(f"{key} does not follow from tp, fp and fn, got {score[key]} in place of {exact[key]:.5g}")
    return score | exact | {"diagonal": math.hypot(score["height"], score["width"])}


def _value(column: str, text: str) -> str | int | float | None:
    if not text:
        if column not in MAY_BE_EMPTY:
            raise ValueError(f"{column} is empty")
        return "" if column in ("run", FOLDER) else None
    if column == "label" and text not in LABELS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}, got {text[:40]!r}")
    if column in (*TEXT, FOLDER):
        return cell_to_text(text)
    if column in COUNTS:
        if not re.fullmatch("[0-9]{1,15}", text):
            raise ValueError(f"{column} must be a whole number, 0 or more, got {text[:40]!r}")
        return int(text)
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", text) or math.isinf(float(text)):
        raise ValueError(f"{column} must be a finite number, 0 or more, got {text[:40]!r}")
    return float(text)


def find_scores(path: Path) -> list[dict]:
    """The scores of every image, wherever they were left.

    Args:
        path: folder of a run or of cross_validate.py, or a file: CSV as above, or JSON with "images".

    Returns:
        One dict an image; of JSON as it is in the file, unchecked, but for the renamed keys of earlier versions.

    Raises:
        RunError: there is no such file, or it holds no scores of images.
    """
    if path.is_dir() or path.suffix not in (".csv", ".json"):
        files = [path / name for name in ("cross_validation.csv", "cross_validation.json", "metrics.json")]
        path = next((file for file in files if file.exists()), files[-1])
    if path.suffix == ".csv":
        return read_scores(path)
    images = read_json(path).get("images")
    if not isinstance(images, list) or not all(isinstance(score, dict) for score in images):
        table = path.with_suffix(".csv")
        raise RunError(f"{path}: holds no scores of images.{f' They are in {table}.' if table.exists() else ''}")
    return [{OLD_KEYS.get(key, key): value for key, value in score.items()} for score in images]
