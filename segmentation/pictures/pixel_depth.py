"""What is white in a folder's pictures of more than 8 bits: the range is that of the folder, not of each picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.contrib.concurrent import thread_map

from dataset import DataError, try_reading
from segmentation.pictures.picture_files import Raw, count_pages, read_raw

DARK = 8  # a picture whose brightest pixel is so many times below white was made with another range


class Depth(NamedTuple):
    """What one picture of more than 8 bits holds."""

    path: Path
    top: float  # the brightest pixel
    bright: float  # the brightest but one in a thousand
    whole: bool  # no fractions
    bits: bool  # its header names its bits
    says: bool  # and its pixels agree, or it has a window


class Range(NamedTuple):
    """What `find_range` found."""

    white: float | None  # in files of more than 8 bits that do not say
    lines: list[str]  # what a person should know


def end_of_range(top: float, whole: bool = True) -> float:
    """The end of the range that holds `top`: 255, 1023, 4095, ...; 1 where there are fractions up to about 1."""
    if not whole and top <= 2:  # a filter may overshoot
        return 1.0
    return 2.0 ** max(8, int(np.ceil(np.log2(max(top, 1) + 1)))) - 1


def said_white(raw: Raw, white: float | None = None) -> float:
    """What a file itself says is white: its window if that holds its pixels, or the bits that it names, but for a
    picture that is dark for them where the folder's range is known; 0 if it does not say."""
    top = float(raw.values.max(initial=0))
    if raw.window and top <= (window := end_of_range(raw.window - 1)):
        return window
    return raw.white if raw.white and (top * DARK >= raw.white or not white) else 0.0


def to_grey(path: Path, raw: Raw, white: float | None = None) -> np.ndarray:
    """A picture of any depth with 8 bits, (H, W) uint8; `white` is that of the folder, for files that do not say."""
    values = raw.values
    if values.dtype == np.uint8:
        return values
    white = said_white(raw, white) or white or (65535 if values.max(initial=0) > 255 else 255)
    if values.min(initial=0) < -0.05 * white:  # a filter may overshoot a little
        raise DataError(f"{path}: holds values down to {values.min():g}. Export it with black as 0.")
    grey = (values.astype(np.float32) / white * 255).round().clip(0, 255).astype(np.uint8)
    return 255 - grey if raw.negative else grey


def _look(path: Path) -> tuple[int, Depth | None]:
    """How many pictures a file holds, and the range of the first if it has more than 8 bits."""
    pages, deep = count_pages(path)
    raw = try_reading(read_raw, path) if deep else ""
    if isinstance(raw, str) or raw.values.dtype == np.uint8:  # whoever reads it says what is wrong
        return pages, None
    values, whole = raw.values, np.issubdtype(raw.values.dtype, np.integer)
    bright = float(np.quantile(values, 0.999, method="higher"))
    return pages, Depth(path, float(values.max()), bright, whole, raw.white > 0, said_white(raw, white=1.0) > 0)


def find_range(images: Sequence[Path], masks: Sequence[Path] = (), several_are_read: bool = False) -> Range:
    """The value that is white in a folder's pictures of more than 8 bits.

    Its lines say too which files hold several pictures, of which the first alone is read, unless `several_are_read`.
    """
    files = [*images, *(path for path in masks if path.suffix.lower() in (".tif", ".tiff", ".gif"))]
    looked = thread_map(_look, files, max_workers=os.cpu_count(), desc="pictures", leave=False)
    several = [path.name for path, (pages, _) in zip(files, looked, strict=True) if pages > 1]
    lines = []
    if several and not several_are_read:
        lines = [
            f"note: {len(several)} files hold several pictures, {several[0]} first; only the first of each is read"
        ]
    deep = [depth for _, depth in looked[: len(images)] if depth]
    honest = any(depth.says for depth in deep)
    # A picture that is dark for its bits is believed where others of its folder are not.
    found = [depth for depth in deep if not depth.says and not (depth.bits and honest)]
    if not found:
        said = [f"{len(deep)} pictures of more than 8 bits; their headers say what is white"] if deep else []
        return Range(None, lines + said)
    top, whole = max(depth.top for depth in found), all(depth.whole for depth in found)
    white = end_of_range(top, whole)
    line = f"{len(found)} pictures of more than 8 bits hold values up to {top:g}; "
    if (usual := end_of_range(max(depth.bright for depth in found), whole)) * DARK <= white:  # a few pixels beyond it
        white = usual
    lines.append(f"{line}{white:g} is white")
    if dark := [depth.path.name for depth in found if depth.top * DARK < white]:
        lines.append(f"note: {len(dark)} of them hold nothing brighter than an eighth of that, {dark[0]} first. "
                     "Were they saved with another range?")  # fmt: skip
    return Range(white, lines)


def understand_depth(images: Sequence[Path], masks: Sequence[Path] = (), several_are_read: bool = False):
    """As `find_range`; prints its lines and returns the white value alone."""
    white, lines = find_range(images, masks, several_are_read)
    for line in lines:
        print(line)
    return white
