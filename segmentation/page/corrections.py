"""Exchange masks with the browser's mask editor, and save corrected masks as training data.

The folder of corrections is in the plain form: images/ and masks/ with PNG files of the same names, and meta.csv.
"""

import base64
import csv
import io
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from dataset import DataError, hash_pixels
from segmentation.common.files import comparable, lock_folder, numbered, write_picture, write_text
from segmentation.reports.overlays import data_uri, jpeg
from segmentation.runs.finished import SHIPPED
from segmentation.runs.schemas import read_config

EDITOR_SIDE = 1600  # pixels; a larger picture is reduced for the editor, and its mask is enlarged afterwards
MAX_MASK_TEXT = 20_000_000  # characters of the PNG data URI that the browser sends

# ---------------------------------------------------------------- to mask_editor.js and back


def to_editor(image: np.ndarray, mask: np.ndarray) -> dict[str, str]:
    """Encode a picture and its mask for the editor, both as data URIs; the mask is opaque where there is lesion.

    Args:
        image: (H, W) uint8.
        mask: (H, W) bool.
    """
    scale = min(EDITOR_SIDE / max(mask.shape), 1)
    size = max(round(mask.shape[1] * scale), 1), max(round(mask.shape[0] * scale), 1)
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    orange = np.zeros((*size[::-1], 4), np.uint8)
    orange[_resize(mask, size[::-1])] = 0, 159, 230, 255
    drawn = data_uri(cv2.imencode(".png", orange)[1].tobytes(), "png")
    return {"picture": jpeg(np.dstack([shown] * 3)), "mask": drawn}


def from_editor(value: object, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Decode the mask from the editor; pixels that were neither painted nor erased keep their value in `mask`.

    Args:
        value: what the browser sent; not trusted.
        image, mask: the arguments of `to_editor`.

    Returns:
        (H, W) bool.

    Raises:
        DataError: the value is not a mask of this picture.
    """
    before = _read_mask(to_editor(image, mask)["mask"])
    after = _read_mask(value.get("mask") if isinstance(value, dict) else None)
    if after is None or after.shape != before.shape:
        raise DataError("The mask did not arrive. Drop the picture again.")
    return np.where(_resize(before != after, mask.shape), _resize(after, mask.shape), mask)


def _read_mask(uri: object) -> np.ndarray | None:
    """Where a PNG picture is opaque, (h, w) bool; None if the data URI is not valid or the picture is too large."""
    if not isinstance(uri, str) or len(uri) > MAX_MASK_TEXT:
        return None
    try:
        content = base64.b64decode(uri.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGBA"))[..., 3] > 127 if max(picture.size) <= EDITOR_SIDE else None
    except Exception:  # Pillow raises many kinds of errors for a damaged file
        return None


def _resize(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0


# ---------------------------------------------------------------- save and train


def save_correction(folder: Path, name: str, image: np.ndarray, mask: np.ndarray) -> str:
    """Write a picture and its mask, losslessly, at the picture's own size and under a new name.

    Args:
        folder: gets images/ and masks/.
        name: of the picture's file; characters that are not allowed in file names are left out.
        image: (H, W) uint8.
        mask: (H, W), lesion where not zero; all zero for a picture without a lesion.

    Returns:
        The name of the two files, without ".png".

    Raises:
        RunError: another process has locked the folder; OSError, DataError: the files cannot be written.
    """
    images, masks = folder / "images", folder / "masks"
    for part in (images, masks):
        part.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder, "correction"):
        name = _free_name(name, {comparable(Path(file).stem) for part in (images, masks) for file in os.listdir(part)})
        written = [images / f"{name}.png", masks / f"{name}.png"]
        try:
            for path, pixels in zip(written, (image, (mask != 0).astype(np.uint8) * 255), strict=True):
                write_picture(path, pixels)
            label = "lesion" if mask.any() else "normal"
            _add_row(folder / "meta.csv", {"image": f"{name}.png", "class": label, "sha256": hash_pixels(image)})
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
    return name


def _add_row(table: Path, row: dict[str, str]) -> None:
    """Add a row to meta.csv, which may have other columns and be edited by hand.

    Raises:
        DataError: it is no such table any more.
    """
    columns, rows = list(row), []
    if table.exists():
        try:
            with table.open(newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines)
                columns, rows = reader.fieldnames or columns, list(reader)
        except (UnicodeError, csv.Error):
            columns = []
        if not {"image", "class"} <= set(columns):
            raise DataError(f"{table}: is no table of image and class with commas and UTF-8. Save it as such.")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    write_text(table, text.getvalue())


def _free_name(name: str, taken: set[str]) -> str:
    kept = "".join(c for c in Path(name.replace("\\", "/")).stem if c.isprintable() and c not in '<>:"|?*')
    # Room for a number and an ending: a file name has at most 255 bytes.
    stem = os.fsencode(kept)[:200].decode(errors="ignore").strip(". ") or "picture"
    return next(path.name for path in numbered(Path(stem)) if comparable(path.name) not in taken)


def count_corrections(folder: Path) -> int:
    """Number of corrected pictures in a folder; 0 if there is no such folder."""
    return len(list((folder / "images").glob("*.png")))


def training_commands(folder: Path, run: Path, stored: dict) -> Iterator[str]:
    """Commands to train from the run's weights on the corrections; and, if the run's data are here, anew on both.

    The second command does not start from the run: images that it was trained on would become test images.

    Args:
        folder: the folder of corrections.
        run: the run's folder.
        stored: the run's config.json.
    """
    flags = _network_flags(stored["network"])
    root = stored.get("root", ())
    data = [root] if isinstance(root, Path) else list(root)
    yield shlex.join(map(str, ["python", "train_model.py", "--data-dir", folder, "--start-from", run, *flags]))
    if data and all(path.is_dir() for path in data):
        start = "random" if stored["network"]["encoder"] == "none" else "imagenet"
        command = ["python", "train_model.py", "--data-dir", folder, *data, "--start-from", start, *flags]
        yield shlex.join(map(str, command))


def _network_flags(network: dict) -> list[str]:
    """Flags of train_model.py for this network; none for settings that are those of the repository's own network."""

    def settings(network: dict) -> dict:
        return {"--image-size": network["input_shape"][0]} | {
            f"--{name.replace('_', '-')}": network[name] for name in ("encoder", "base_filters", "depth", "gates")
        }

    default = settings(read_config(SHIPPED)["network"]) if (SHIPPED / "config.json").exists() else {}
    return [str(w) for name, value in settings(network).items() if value != default.get(name) for w in (name, value)]
