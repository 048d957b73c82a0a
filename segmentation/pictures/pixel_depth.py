"""What is white in a folder's pictures of more than 8 bits: the range is that of the folder, not of each picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm.contrib.concurrent import thread_map

from dataset import READERS, read_values, try_reading
from segmentation.pictures.dicom import count_frames

DARK = 8  # a picture whose brightest pixel is so many times below white was made with another range


class Depth(NamedTuple):
    """What one picture of more than 8 bits holds."""

    path: Path
    top: float  # the brightest pixel
    bright: float  # the brightest but one in a thousand
    whole: bool  # no fractions


def _look(path: Path) -> tuple[int, Depth | None]:
    """How many pictures a file holds, and the range of the first if it has more than 8 bits."""
    if path.suffix.lower() in READERS:
        pages = try_reading(count_frames, path)
        return 1 if isinstance(pages, str) else pages, None
    try:
        with Image.open(path) as picture:
            pages, deep = getattr(picture, "n_frames", 1), picture.mode.startswith(("I", "F"))
    except Exception:  # whoever reads it says what is wrong
        return 1, None
    values = try_reading(read_values, path) if deep else ""
    if isinstance(values, str):
        return pages, None
    whole = np.issubdtype(values.dtype, np.integer)
    return pages, Depth(path, float(values.max()), float(np.quantile(values, 0.999, method="higher")), whole)


def _white(top: float, whole: bool) -> float:
    """The end of the range that holds `top`: 255, 1023, 4095, ...; 1 where there are fractions up to about 1."""
    if not whole and top <= 2:  # a filter may overshoot
        return 1.0
    return 2.0 ** max(8, int(np.ceil(np.log2(max(top, 1) + 1)))) - 1


def understand_depth(
    images: Sequence[Path], masks: Sequence[Path] = (), several_are_read: bool = False
) -> float | None:
    """The value that is white in a folder's pictures of more than 8 bits, said in one line; None without such.

    Says too which files hold several pictures, of which the first alone is read, unless `several_are_read`.
    """
    files = [*images, *(path for path in masks if path.suffix.lower() in (".tif", ".tiff"))]
    looked = thread_map(_look, files, max_workers=os.cpu_count(), desc="pictures", leave=False)
    several = [path.name for path, (pages, _) in zip(files, looked, strict=True) if pages > 1]
    if several and not several_are_read:
        print(f"note: {len(several)} files hold several pictures, {several[0]} first; only the first of each is read")
    found = [depth for _, depth in looked[: len(images)] if depth]
    if not found:
        return None
    top, whole = max(depth.top for depth in found), all(depth.whole for depth in found)
    white = _white(top, whole)
    print(f"{len(found)} pictures of more than 8 bits hold values up to {top:g}; ", end="")
    if (usual := _white(max(depth.bright for depth in found), whole)) * DARK <= white:  # a few pixels beyond the range
        white = usual
    print(f"{white:g} is white")
    if dark := [depth.path.name for depth in found if depth.top * DARK < white]:
        print(f"note: {len(dark)} of them hold nothing brighter than an eighth of that, {dark[0]} first. "
              "Were they saved with another range?")  # fmt: skip
    return white
