"""A table beside the data: patient, class and fold of each image, as a meta.csv or as BUS-BRA's bus_data.csv."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset import CLASSES, DataError, Sample

TABLES = ("meta.csv", "metadata.csv", "bus_data.csv", "info.csv")  # in any capitals
COLUMN_NAMES = {  # ours, and what published tables call it
    "image": ("image", "id", "image_filename", "filename", "file", "name"),
    "patient": ("patient", "case", "patient_id", "patientid", "caseid", "case_id"),
    "class": ("class", "pathology", "classification", "label", "diagnosis"),
    "fold": ("fold", "fold5", "kfold"),
}
SHORT = {"b": "benign", "m": "malignant", "n": "normal"}  # as some tables write the classes
MAX_ROWS, MAX_TABLE_BYTES = 1_000_000, 100_000_000


class Row(NamedTuple):
    """What a table says of one image; "" where it has no such column, or nothing there."""

    patient: str = ""
    label: str = ""  # one of CLASSES
    fold: str = ""


def find_table(root: Path) -> Path | None:
    """The table in a folder, or in the one folder of it that has one.

    Raises:
        DataError: there are several.
    """
    for pattern in ("*", "*/*"):
        found = [path for path in sorted(root.glob(pattern)) if path.name.casefold() in TABLES and path.is_file()]
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]}: two tables of one data set. Keep one.")
        if found:
            return found[0]
    return None


def read_table(path: Path) -> dict[str, Row]:
    """Rows by the image's name, without its ending.

    Raises:
        DataError: no table, no column of images, an image twice, or a class that is none; the line is named.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path}: larger than {MAX_TABLE_BYTES // 10**6} MB. Refused.")
        text = path.read_text(encoding="utf-8-sig")
        lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=text.partition("\n")[0].count))
        header, *rows = list(lines) or [[]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({type(error).__name__}).") from None
    places = {}
    for ours, theirs in COLUMN_NAMES.items():
        names = [cell.strip().casefold() for cell in header]
        places[ours] = next((names.index(name) for name in theirs if name in names), None)
    if places["image"] is None:
        raise DataError(
            f"{path}: has no column image (or {', '.join(COLUMN_NAMES['image'][1:])}); it has {', '.join(header)}."
        )
    table = {}
    for number, row in enumerate(rows[:MAX_ROWS], start=2):
        cells = {ours: row[at].strip() if at is not None and at < len(row) else "" for ours, at in places.items()}
        if not cells["image"]:
            continue
        name, label = key(cells["image"]), cells["class"].casefold()
        label = SHORT.get(label, label)
        if label not in ("", *CLASSES):
            raise DataError(f"{path}, line {number}: class {cells['class']!r} is none of {', '.join(CLASSES)}.")
        if name in table:
            raise DataError(f"{path}, line {number}: {cells['image']} stands here twice.")
        table[name] = Row(cells["patient"], label, cells["fold"])
    return table


def key(name: str) -> str:
    """An image's name as tables and folders have it in common: no ending, one way to write an accent."""
    stem, dot, ending = name.rpartition(".")
    return unicodedata.normalize("NFC", stem if dot and ending.isalpha() else name).casefold()


def add_table(samples: Sequence[Sample], root: Path) -> list[Sample]:
    """The samples with patient, fold and class of the table beside them; as they are where there is none.

    Raises:
        DataError: as `read_table`; the table names images that are not there, or contradicts the folders' classes.
    """
    path = find_table(root)
    if path is None:
        return list(samples)
    table = read_table(path)
    index = {key(sample.image.name): sample for sample in samples}
    if unknown := [name for name in table if name not in index]:
        raise DataError(f"{path}: names {len(unknown)} images that are not here: {', '.join(unknown[:5])}.")
    if missing := [sample.name for name, sample in index.items() if name not in table]:
        print(f"note: {len(missing)} images are not in {path.name}: {', '.join(missing)}")
    return [_with_row(sample, table.get(key(sample.image.name), Row()), path) for sample in samples]


def _with_row(sample: Sample, row: Row, path: Path) -> Sample:
    label = row.label or sample.label
    if "normal" in (label, sample.label) and label != sample.label and sample.label != "lesion":
        raise DataError(f"{path}: {sample.name} is {label} here, and {sample.label} by its folder or its empty mask.")
    if sample.label in CLASSES and label != sample.label and "normal" not in (label, sample.label):
        raise DataError(f"{path}: {sample.name} is {label} here, and {sample.label} by its folder.")
    if label == "normal" and sample.label == "lesion":
        raise DataError(f"{path}: {sample.name} is normal here, but its mask holds a lesion.")
    return sample._replace(label=label, patient=row.patient, fold=row.fold)
