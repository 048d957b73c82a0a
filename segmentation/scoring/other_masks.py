"""Masks that another program drew: nnU-Net, SAM, a colleague. Each is paired with an image by name, and scored."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm.contrib.concurrent import thread_map

from dataset import DataError, Sample, try_reading
from segmentation.common.files import comparable
from segmentation.importing.data_table import stem_of
from segmentation.pictures.picture_files import PICTURES, ending_of, read_raw


def pair_masks(folder: Path, samples: Sequence[Sample]) -> list[Path]:
    """The mask file of each sample: that of its name, with any ending of `PICTURES`.

    Raises:
        DataError: there is no such folder; masks are missing, of no image, or two of one name; all are counted.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: is no folder.")
    files = sorted(p for p in folder.iterdir() if ending_of(p) in PICTURES and not p.name.startswith("."))
    masks: dict[str, Path] = {}
    twice = [path.name for path in files if masks.setdefault(comparable(stem_of(path.name)), path) != path]
    names = {comparable(sample.name): sample.name for sample in samples}
    missing = [names[name] for name in names if name not in masks]
    unknown = [path.name for name, path in masks.items() if name not in names]
    wrong = {f"of {len(names)} images have no mask": missing, "masks are of no image": unknown, "masks too many": twice}
    for what, found in wrong.items():
        if found:
            rule = "Each image needs one mask of its name, such as 'benign (1).png'."
            raise DataError(f"{folder}: {len(found)} {what}, {found[0]!r} first. {rule}")
    return [masks[comparable(sample.name)] for sample in samples]


def read_masks(paths: Sequence[Path], shapes: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The masks, each (H, W) uint8 in {0, 1}; what is above half of their range is lesion, and a line says so.

    All are checked at once, and then read again, one after the other.

    Args:
        paths: of the masks.
        shapes: (H, W) of each image.

    Raises:
        DataError: one cannot be read or is of another size, or it cannot be told what is lesion.
    """

    def find_top(pair: tuple[Path, tuple[int, int]]) -> float:
        return float(_read(*pair).max(initial=0))

    tops = _each(find_top, list(zip(paths, shapes, strict=True)))
    top = max(tops)
    white = next((white for white in (1, 255, 65535) if top <= white), top)
    if 1 < top <= white / 2:
        raise DataError(f"{paths[tops.index(top)]}: no mask holds more than {top:g}. Lesion must be 255, or 1.")
    empty = sum(value <= white / 2 for value in tops)
    print(f"masks in {paths[0].parent}: 0 to {top:g}, above {white / 2:g} is lesion; {empty} of {len(tops)} are empty")
    if white > 1 and (small := [path for path, value in zip(paths, tops, strict=True) if value == 1]):
        print(f"note: {len(small)} of the empty masks hold 1, {small[0].name} first. Is that lesion? Export all alike.")
    return ((_read(path, shape) > white / 2).astype(np.uint8) for path, shape in zip(paths, shapes, strict=True))


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray:
    values = read_raw(path, as_mask=True).values
    if values.shape[:2] != shape:
        sizes = f"mask is {values.shape[1]}x{values.shape[0]}, its image {shape[1]}x{shape[0]}"
        raise DataError(f"{path}: {sizes}. Export the mask again at the image's size.")
    return values.reshape(*shape, -1).max(axis=2)


def _each(read, items: Sequence) -> list:
    results = list(thread_map(partial(try_reading, read), items, max_workers=os.cpu_count(), leave=False))
    if problems := [item for item in results if isinstance(item, str)]:
        raise DataError(problems[0] + (f" {len(problems) - 1} other masks are wrong too." if problems[1:] else ""))
    return results
