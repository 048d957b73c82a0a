"""What is white in a folder's pictures of more than 8 bits: the range is that of the folder, not of each picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from dataset import DataError, try_reading
from segmentation.pictures.picture_files import DARK, count_pages, end_of_range, read_raw


class Depth(NamedTuple):
    """What one picture of more than 8 bits holds."""

    path: Path
    top: float  # the brightest pixel
    bright: float  # the brightest but one in a thousand
    whole: bool  # no fractions
    white: float  # what its header says; 0 if nothing


def _look(path: Path) -> tuple[int, Depth | None]:
    """How many pictures a file holds, and the range of the first if it has more than 8 bits."""
    pages, deep = count_pages(path)
    raw = try_reading(read_raw, path) if deep else ""
    if isinstance(raw, str) or raw.values.dtype == np.uint8:  # whoever reads it says what is wrong
        return pages, None
    values, whole = raw.values, np.issubdtype(raw.values.dtype, np.integer)
    bright = float(np.quantile(values, 0.999, method="higher"))
    return pages, Depth(path, float(values.max()), bright, whole, raw.white)


def find_range(images: Sequence[Path], several_are_read: bool = False) -> tuple[float | None, list[str]]:
    """What is white in a folder's pictures of more than 8 bits that do not say; and lines that a person should know.

    Raises:
        DataError: a file holds several pictures, of which a mask can mean any, unless `several_are_read`.
    """
    looked = thread_map(_look, images, max_workers=os.cpu_count(), desc="pictures", leave=False)
    several = [(path, pages) for path, (pages, _) in zip(images, looked, strict=True) if pages > 1]
    if several and not several_are_read:
        path, pages = several[0]
        raise DataError(f"{path}: holds {pages} pictures; which was outlined is not known. Export that one.")
    deep, white = [depth for _, depth in looked if depth], None
    lines = [f"{len(deep)} pictures of more than 8 bits; their headers say what is white"] if deep else []
    # If every picture is dark for the bits that its header names, no header is believed.
    believed = any(depth.white and depth.top * DARK >= depth.white for depth in deep)
    if found := [depth for depth in deep if not (believed and depth.white)]:
        top, whole = max(depth.top for depth in found), all(depth.whole for depth in found)
        white, usual = end_of_range(top, whole), end_of_range(max(depth.bright for depth in found), whole)
        white = usual if usual * DARK <= white else white  # a few pixels beyond it
        lines = [f"{len(found)} pictures of more than 8 bits hold values up to {top:g}; {white:g} is white"]
    if dark := [
        depth.path.name for depth in deep if depth.top * DARK < (depth.white if believed and depth.white else white)
    ]:
        lines.append(f"note: {len(dark)} of them hold nothing brighter than an eighth of that, {dark[0]} first. "
                     "Were they saved with another range?")  # fmt: skip
    return white, lines
