"""A table beside the data: patient, class, fold and part of each image, as a meta.csv or as BUS-BRA's bus_data.csv."""

import csv
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

from dataset import CLASSES, LABELS, DataError

TABLES = ("meta.csv", "metadata.csv", "bus_data.csv", "info.csv")  # in any capitals
COLUMN_NAMES = {  # ours, and patterns of what published tables call it, in small letters without what is between them
    "image": "image|imagefilename|imagename|imagepath|imageid|filename|file|id|name|img",
    "mask": "mask(filename|name|path|file)?",
    "patient": "(anon|pseudo)?patients?{id}|pid|subjects?{id}|cases?{id}|persons?{id}|mrn",
    "class": "class|pathology|classification|label|diagnosis",
    "split": "split|part|subset|partition|set",
    "fold": "fold5?|kfold",
    "hospital": "hospital|site|center|centre|institution",
}
_NUMBER = "(id|uid|no|nr|num|number|code|name|key|index)*(anon\\w*|pseudo\\w*|hash\\w*)?"  # of a patient
_VAGUE = ("imageid", "id", "name")  # of a file, or of a line, a person, a class
NOBODY = ("", "na", "nan", "none", "null", "unknown", "unk", "missing", "notavailable", "anonymous", "anon")
SHORT = {"b": "benign", "m": "malignant", "n": "normal"}  # as some tables write the classes


class Row(NamedTuple):
    """What a table says of one image; "" where it has no such column, or nothing there."""

    patient: str = ""
    label: str = ""  # one of CLASSES
    fold: str = ""
    split: str = ""
    hospital: str = ""


class Table(NamedTuple):
    """A table as it stands in a file."""

    path: Path
    columns: dict[str, str]  # of ours, what the file calls it
    rows: list[dict[str, str]]  # of ours, the cell; "line" is its number
    others: tuple[str, ...] = ()  # further columns


def bare_word(text: str) -> str:
    """ "Patient ID", "patient_id" and "Patient-ID" are one word."""
    return re.sub(r"[\W_]+", "", text.casefold())


def trim_patient(text: str) -> str:
    """A patient as it is written; "" for NA and the like, which are nobody."""
    return "" if bare_word(text) in NOBODY else unicodedata.normalize("NFC", " ".join(text.split()))


def one_patient(text: str) -> str:
    """A patient as tables have it in common: 7, 007 and 7.0 are one, P1 and p1 too."""
    number = re.fullmatch(r"0*(\d+)(?:[.,]0+)?", text)
    return number[1] if number else text.casefold()


def parse_table(path: Path, patient_column: str = "", known: Container[str] = ()) -> Table:
    """A table of images; their column is told by its name, or by naming files whose `key` is known.

    Raises:
        DataError: no table, no column of images, or not the one that was named.
    """
    header, rows = _read_cells(path)
    names = [bare_word(cell) for cell in header]
    places = {ours: _find_column(names, theirs) for ours, theirs in COLUMN_NAMES.items()}
    if patient_column:
        if bare_word(patient_column) not in names:
            raise DataError(f"{path}: has no column {patient_column!r} (--patient-column); it has {', '.join(header)}.")
        places["patient"] = names.index(bare_word(patient_column))
    if places["image"] is None or names[places["image"]] in _VAGUE:
        free = [k for k in range(len(header)) if k == places["image"] or k not in places.values()]
        files = _find_images(rows, free, known, places["image"])
        places["image"] = places["image"] if files is None else files
    if places["image"] is None:
        theirs = COLUMN_NAMES["image"].replace("|", ", ").removeprefix("image, ")
        raise DataError(f"{path}: has no column image (or {theirs}); it has {', '.join(header)}.")
    found = []
    for number, row in enumerate(rows, start=2):
        cells = {o: row[at].strip() if at is not None and at < len(row) else "" for o, at in places.items()}
        if cells["image"]:
            found.append({**cells, "line": str(number)})
    used = {ours: at for ours, at in places.items() if at is not None}
    others = tuple(name.strip() for k, name in enumerate(header) if k not in used.values())
    return Table(path, {ours: header[at].strip() for ours, at in used.items()}, found, others)


def _read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    """The first line and the others."""
    try:
        content = path.read_bytes()
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        try:
            text = content.decode("utf-16" if wide else "utf-8-sig")
        except UnicodeDecodeError:  # as a spreadsheet in Europe saves it, or no text at all
            if sum(byte > 127 for byte in content) > len(content) / 10:
                raise
            text = content.decode("cp1252")
        lines = csv.reader(text.splitlines(), delimiter=max(",;\t", key=text.partition("\n")[0].count))
        header, *rows = list(lines) or [[]]
        return header, rows
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({type(error).__name__}).") from None


def _find_images(
    rows: Sequence[Sequence[str]], columns: Sequence[int], known: Container[str], called: int | None
) -> int | None:
    """The column that names known files in more than half of the lines; if several do, the one with their endings, then
    the one that is called so: a rank or a BI-RADS category may be a file's number too."""

    def judge(column: int) -> tuple[bool, int, bool, int]:
        names = [re.split(r"[\\/]", row[column].strip())[-1] for row in rows if column < len(row)]
        named = [name for name in names if image_key(name) in known]
        endings = sum(stem_of(name) != name for name in named)
        return len(named) > len(rows) / 2, endings, column == called, len(named)

    best = max(columns, key=judge, default=None)
    return best if best is not None and judge(best)[0] else None


def _find_column(names: Sequence[str], pattern: str) -> int | None:
    """The first column that the first of several words fits that fits any."""
    fits = (re.compile(word.replace("{id}", _NUMBER)) for word in re.split(r"\|(?![^(]*\))", pattern))
    return next((k for word in fits for k, name in enumerate(names) if word.fullmatch(name)), None)


def stem_of(name: str) -> str:
    """A file's name without its ending, which .nii.gz is and the last number of a DICOM file's is not."""
    stem, dot, ending = name.removesuffix(".gz").rpartition(".")
    # An accent is one character to some systems and two to others.
    return unicodedata.normalize("NFC", stem if dot and ending.isalpha() else name)


def image_key(name: str) -> str:
    """A file's name as tables and folders have it in common: no ending, and no capitals."""
    return stem_of(name).casefold()


def beside(table: Path, cell: str) -> Path:
    """The file that a cell names, from the table's folder on; without "..", but where that follows a link."""
    there = table.parent / cell
    plain = Path(os.path.normpath(there))
    return there if there.is_file() and not (plain.exists() and plain.samefile(there)) else plain


def find_file(cell: str, index: dict[str, list[Path]]) -> list[Path]:
    """The files that a cell names, with as many folders as it has; `index` holds files by their `image_key`."""
    parts = [unicodedata.normalize("NFC", part).casefold() for part in re.split(r"[\\/]", cell)]
    found = index.get(image_key(parts[-1]), [])
    folders = [part for part in parts[:-1] if part not in (".", "..")]
    for count in range(len(folders), 0, -1):  # a table may have been written higher up
        if exact := [p for p in found if [x.casefold() for x in p.parts[-count - 1 : -1]] == folders[-count:]]:
            return exact
    return found


def index_files(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the `image_key` of their names."""
    index = defaultdict(list)
    for path in paths:
        index[image_key(path.name)].append(path)
    return index


def match_rows(table: Table, images: Sequence[Path]) -> dict[Path, Row]:
    """The rows of images below the table's folder, or below the nearest folder around it that holds any.

    Raises:
        DataError: a class is none, a name fits several images, or an image has two different rows.
    """
    around = ([path for path in images if folder in path.parents] for folder in table.path.parents)
    there, index, found = set(images), index_files(next(filter(None, around), images)), {}
    for cells in table.rows:
        exact, line = beside(table.path, cells["image"]), f"{table.path}, line {cells['line']}"
        paths = [exact] if exact in there else find_file(cells["image"], index)
        if len(paths) > 1:
            raise DataError(f"{line}: {cells['image']} may be {paths[0]} or {paths[1]}. Write their folders into the "
                            "table, or give each folder its own.")  # fmt: skip
        label = SHORT.get(cells["class"].casefold(), cells["class"].casefold())
        if label not in ("", *LABELS):
            raise DataError(f"{line}: class {cells['class']!r} is none of {', '.join(CLASSES)}.")
        label = "" if label == "lesion" else label
        row = Row(trim_patient(cells["patient"]), label, cells["fold"], cells["split"], cells["hospital"])
        if paths and found.setdefault(paths[0], row) != row:
            raise DataError(f"{line}: {cells['image']} stands here twice, and not alike.")
    return found
