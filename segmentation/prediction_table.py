"""predictions.csv: what was found in each picture, and whose results lie beside it.

A folder of results may hold files of the user's, and results of other pictures of the same name. So each row says
which picture it is of (path and content) and what its three files held when they were written. A result is replaced
only if it is of the same picture and nobody has changed it since; any other file with its name stays, and the new
result is called name-2.
"""

import csv
import hashlib
import io
import os
import unicodedata
from collections.abc import Container
from pathlib import Path

from segmentation.errors import RunError
from segmentation.files import check_file, content_hash, file_hash, write_atomic
from segmentation.score_table import cell_to_text, text_to_cell

TABLE = "predictions.csv"
ENDINGS = ("overlay.jpg", "mask.png", "probability.png")
MEASURES = ("width", "height", "lesions", "area_px", "area_percent", "box_x", "box_y", "box_width", "box_height")
# Of the largest lesion its longest axis and the one across it; the area is of all. In mm where a pixel's size is given.
SIZES = ("longest_px", "across_px", "area_mm2", "longest_mm", "across_mm")
FOUND = ("mean_probability", "lesion_score", "warning")  # the score only of a network that has one
COLUMNS = ("file", "page", "name", *MEASURES, *SIZES, *FOUND, "picture_hash", "result_hashes")
MAX_TABLE_BYTES = 200_000_000


def hash_picture(path: Path, page: int | None = None) -> str:
    """Which picture this is: other content, or the same in another place or on another page, is another one.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as picture:
        content = hashlib.file_digest(picture, "sha256").digest()
    place = os.fsencode(os.path.abspath(path)) + (b"" if page is None else f"\0{page}".encode())
    return content_hash(place, b"\0", content)


def read_table(folder: Path) -> dict[str, dict[str, str]] | None:
    """Rows of the folder's predictions.csv by their name; None if there is no such file, or one that is not ours."""
    path = folder / TABLE
    try:
        check_file(path, MAX_TABLE_BYTES)
        with path.open(newline="", encoding="utf-8") as lines:
            table = csv.DictReader(lines, strict=True)
            if tuple(table.fieldnames or ()) != COLUMNS:
                return None
            rows = {cell_to_text(row["name"] or ""): row for row in table}
    except (OSError, RunError, UnicodeError, csv.Error):
        return None
    damaged = any(None in row or None in row.values() for row in rows.values())
    return None if damaged or any(name in ("", "..") or Path(name).name != name for name in rows) else rows


def is_result(path: Path, rows: Container[str]) -> bool:
    """Whether a file has the name of a result in these rows, which are those of its folder."""
    return any(path.name.endswith(f"_{e}") and path.name.removesuffix(f"_{e}") in rows for e in ENDINGS)


class PredictionTable:
    """The results in a folder: gives out names, remembers rows.

    Args:
        folder: it must exist.

    Raises:
        RunError: its predictions.csv was not written by this class.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        rows = None if (folder / TABLE).is_symlink() else read_table(folder)
        if rows is None and os.path.lexists(folder / TABLE):
            raise RunError(f"{folder / TABLE}: is no table of this version. Move it, or choose another --output.")
        self.rows = rows or {}
        self._of_picture: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            self._of_picture.setdefault(row["picture_hash"], []).append(name)
        self._taken = {comparable(name) for name in self.rows}
        self._there = {comparable(name) for name in os.listdir(folder)}
        self._number: dict[str, int] = {}  # of the last result of a name
        self.renamed = 0  # results whose name was taken

    def claim(self, path: Path, page: int | None = None) -> tuple[str, bool]:
        """A name for the results of a picture, and whether they replace earlier ones of the same picture.

        Raises:
            OSError: the picture cannot be read.
        """
        picture = hash_picture(path, page)
        own = next(filter(self._is_unchanged, self._of_picture.get(picture, ())), None)
        name = own or self._free_name(path, page)
        self._taken.add(comparable(name))
        # As long as nothing was predicted, so after a kill too, whatever has this name is ours.
        texts = {
            "file": text_to_cell(str(path)),
            "page": "" if page is None else str(page + 1),
            "name": text_to_cell(name),
            "picture_hash": picture,
        }
        self.rows[name] = dict.fromkeys(COLUMNS, "") | texts
        return name, own is not None

    def _free_name(self, path: Path, page: int | None) -> str:
        # Bytes that are no text are left out, and what would be too long for a file name with an ending.
        stem = os.fsencode(path.stem)[:200].decode(errors="ignore") or "picture"
        name = stem = stem if page is None else f"{stem}_page{page + 1}"
        number = self._number.get(stem, 1)
        while self._is_taken(name):
            number += 1
            name = f"{stem}-{number}"
        self._number[stem] = number
        self.renamed += number > 1
        return name

    def _is_taken(self, name: str) -> bool:
        return comparable(name) in self._taken or any(comparable(f"{name}_{e}") in self._there for e in ENDINGS)

    def _is_unchanged(self, name: str) -> bool:
        """Whether the three files are as they were written; one that was removed may be written again."""
        hashes = self.rows[name]["result_hashes"].split()
        expected = dict(zip(ENDINGS, hashes, strict=False))
        for ending in ENDINGS:
            path = self.folder / f"{name}_{ending}"
            if not os.path.lexists(path):
                continue
            if path.is_symlink() or not path.is_file():
                return False
            if hashes and file_hash(path) != expected.get(ending):
                return False
        return True

    def write(self) -> None:
        """Write predictions.csv, whole or not at all."""
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows(self.rows.values())
        # backslashreplace: a file may be named by bytes that are no text.
        content = text.getvalue().encode("utf-8", "backslashreplace")
        write_atomic(self.folder / TABLE, lambda temporary: temporary.write_bytes(content))


def comparable(name: str) -> str:
    """A name as disks compare it: to some, A and a are one, and so are two ways of writing an umlaut."""
    return unicodedata.normalize("NFC", name).casefold()
