"""Pictures and millimetres from ultrasound DICOM files. Patient data is not even read, but by inference/dicom_seg.py.

Of a file only the elements named in `FORMAT`, `_SPACING` and dicom_pixels.py are taken, and what pydicom and the
decoders say of it is never repeated: every failure is one `DataError` in words of our own. Importing this module adds
`DICOM_ENDINGS` to `dataset.READERS`.
"""

import logging
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import READERS, DataError
from segmentation.pictures.dicom_pixels import DEFLATED, FORMAT, Format, check_format, read_pictures

DICOM_ENDINGS = (".dcm", ".dicom")
MAX_ALL_PIXELS = 500_000_000  # of all frames of a file
MAX_DICOM_BYTES = 2_000_000_000  # of a file, and of what a deflated one holds

_SPACING = ["SequenceOfUltrasoundRegions", "SharedFunctionalGroupsSequence", "PixelSpacing", "ImagerPixelSpacing"]
_ONE_AT_A_TIME = threading.Lock()  # Python has one filter of warnings for all threads


class Frames(NamedTuple):
    """What a DICOM file holds."""

    pictures: list[np.ndarray]  # each (H, W) uint8 or uint16, of full range
    spacing: tuple[float, float] | None  # mm from row to row and from column to column


def read_frames(path: Path) -> Frames:
    """Every frame of a file as a grey picture, and the size of a pixel; where that cannot be trusted, a line says why.

    Raises:
        DataError: the file is missing, damaged, no DICOM picture, too large, or of a kind that is not read.
    """
    with one_line(path):
        header, form = _read_header(path)
        if form.frames * form.rows * form.columns > MAX_ALL_PIXELS:
            size, limit = f"{form.frames} frames of {form.columns}x{form.rows}", f"{MAX_ALL_PIXELS // 1_000_000}"
            raise DataError(f"{path}: {size} pixels are more than {limit} million. Cut it into shorter files.")
        spacing, doubt = _read_spacing(header, form)
        pictures = list(read_pictures(path, form, form.frames))
    if doubt:
        print(f"note: {path}: {doubt}; its sizes are in pixels alone")
    return Frames(pictures, spacing)


def read_dicom(path: Path) -> np.ndarray:
    """The first frame, (H, W) uint8 or uint16 of full range. Raises as `read_frames` does."""
    with one_line(path):
        return next(read_pictures(path, _read_header(path)[1], 1))


def count_frames(path: Path) -> int:
    """How many pictures a file holds by its header. Raises as `read_frames` does, but for the pixels' own faults."""
    with one_line(path):
        return _read_header(path)[1].frames


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by what it holds, whatever its name; False for what cannot be opened."""
    try:
        return _is_marked(path)
    except OSError:
        return False


def _is_marked(path: Path) -> bool:
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, for ever
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Make one DataError of whatever goes wrong: the words of other libraries may quote the header."""
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _load_pydicom(path)
            yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into the memory. Cut it into shorter files.") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not a decoder's
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from None
        raise DataError(f"{path}: is damaged, or not what its header says. Export it again.") from None


def _load_pydicom(path: Path) -> None:
    try:
        import pydicom  # late: it takes 0.2 s, and few have DICOM files
    except Exception:
        raise DataError(f"{path}: is read with pydicom, which cannot be loaded: pip install pydicom") from None
    logging.getLogger(pydicom.__name__).setLevel(logging.CRITICAL + 1)


def _read_header(path: Path):
    """The elements of `FORMAT` and `_SPACING`, in a pydicom Dataset, and the `Format`."""
    import pydicom

    if not _is_marked(path):
        raise DataError(f"{path}: is no DICOM file. Replace it, or give it the ending of what it is.")
    if path.stat().st_size > MAX_DICOM_BYTES:
        raise DataError(f"{path}: is larger than {MAX_DICOM_BYTES // 10**9} GB. Cut it into shorter files.")
    meta = pydicom.filereader.read_file_meta_info(path)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax == DEFLATED:
        _check_inflated(path, 144 + meta.FileMetaInformationGroupLength)
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*FORMAT, *_SPACING])
    return header, check_format(path, header, syntax)


def _check_inflated(path: Path, start: int) -> None:
    """Refuse a small file that holds a huge one, before pydicom inflates it."""
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(1 << 16):
            size += len(inflate.decompress(block))
            if size > MAX_DICOM_BYTES:
                raise DataError(f"{path}: inflates to more than {MAX_DICOM_BYTES // 10**9} GB. Refused.")


def _read_spacing(header, form: Format) -> tuple[tuple[float, float] | None, str]:
    """Millimetres from row to row and from column to column; without them None and, if there is one, the doubt."""
    try:
        flat = [r for r in header.get("SequenceOfUltrasoundRegions") or [] if r.get("RegionSpatialFormat") == 1]  # 2D
        flat = [r for r in flat if r.get("PhysicalUnitsXDirection") == r.get("PhysicalUnitsYDirection") == 3]  # cm
        if flat:
            return _spacing_of_regions([r for r in flat if r.get("RegionDataType") == 1] or flat, form)  # 1: tissue
        shared = header.get("SharedFunctionalGroupsSequence") or []
        measures = [item for group in shared for item in group.get("PixelMeasuresSequence") or []]
        found = [item.get("PixelSpacing") for item in (header, *measures)] + [header.get("ImagerPixelSpacing")]
        for spacing in (np.array(value, float) for value in found if value is not None):
            if spacing.shape == (2,) and np.isfinite(spacing).all() and (spacing > 0).all():
                return (float(spacing[0]), float(spacing[1])), ""
        return None, ""
    except Exception:  # a picture is a picture without it
        return None, "its header holds a size of pixels that cannot be read"


def _spacing_of_regions(regions: list, form: Format) -> tuple[tuple[float, float] | None, str]:
    sizes = np.array([[region.PhysicalDeltaY, region.PhysicalDeltaX] for region in regions], float)
    sizes = np.abs(sizes) * 10  # negative where an axis points up or left; from cm
    ends = np.array([[region.RegionLocationMaxY1, region.RegionLocationMaxX1] for region in regions])
    if (ends > (form.rows, form.columns)).any():
        return None, "its regions reach beyond the picture, which was shrunk or cropped after it was measured"
    if not (np.isfinite(sizes).all() and sizes.all()):
        return None, "its regions give pixels of no size"
    if (np.ptp(sizes, axis=0) > 0.01 * sizes.min(axis=0)).any():
        return None, "its regions have pixels of different sizes"
    return (float(sizes[0, 0]), float(sizes[0, 1])), ""


READERS.update(dict.fromkeys(DICOM_ENDINGS, read_dicom))
