"""One picture after the other out of a file: an ordinary one, the pages of a TIFF, the frames of a DICOM cine loop."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dataset import FORMATS, READERS, DataError, read_gray
from segmentation.pictures.dicom import Frames, count_frames, is_dicom, read_frames

MAX_PAGES = 10_000


class Picture(NamedTuple):
    """Where a picture lies."""

    path: Path
    page: int | None = None  # from 0, in a file of several


def list_pages(path: Path) -> list[Picture]:
    """The pictures in a file; one that cannot be opened is listed too, and reading it says why."""
    try:
        if _is_dicom(path):
            pages = count_frames(path)
        else:
            with Image.open(path, formats=FORMATS) as picture:
                pages = getattr(picture, "n_frames", 1)
    except Exception:  # a damaged header makes Pillow raise many kinds
        pages = 1
    if pages > MAX_PAGES:
        raise DataError(f"{path}: holds {pages} pictures, more than {MAX_PAGES}. Cut it into shorter files.")
    return [Picture(path, page) for page in range(pages)] if pages > 1 else [Picture(path)]


def read_picture(picture: Picture, white: float | None = None) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Grey picture, (H, W) uint8, and mm from row to row and from column to column, None where the file does not say.

    Args:
        white: value that is white in pictures of more than 8 bits, but for DICOM, whose header says.

    Raises:
        DataError: the file cannot be read.
    """
    if not _is_dicom(picture.path):
        return read_gray(picture.path, white, picture.page or 0), None
    frames = _frames(picture.path)
    grey = frames.pictures[picture.page or 0]
    return (grey if grey.dtype == np.uint8 else np.round(grey / 257).astype(np.uint8)), frames.spacing


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in READERS or is_dicom(path)


@lru_cache(maxsize=2)  # the frames of one file are asked for one after the other
def _frames(path: Path) -> Frames:
    return read_frames(path)


def forget_frames() -> None:
    """Free the frames of the files that were read last."""
    _frames.cache_clear()
