"""Pictures and millimetres from ultrasound DICOM files. Patient data is not even read, but by inference/dicom_seg.py.

Of a file only the elements that this module and dicom_pixels.py name are taken, and what pydicom and the decoders say
of it is never repeated: every failure is one `DataError` in words of our own.
"""

import logging
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import DataError
from segmentation.pictures.dicom_pixels import DEFLATED, FORMAT, Format, check_format, read_pictures

DICOM_ENDINGS = (".dcm", ".dicom")
BARE_ENDINGS = (*DICOM_ENDINGS, ".ima", ".dic")  # with these a file may lack the mark of DICOM
MAX_ALL_PIXELS = 500_000_000  # of all frames of a file
MAX_DICOM_BYTES = 2_000_000_000  # of a file
MAX_INFLATED, MAX_GROWTH, SMALL_INFLATED = 500_000_000, 100, 20_000_000  # a deflated one may hold so much
DEEPEST, SHALLOWEST = 300.0, 5.0  # mm: no ultrasound picture shows more, or less

_SPACING = ["SequenceOfUltrasoundRegions", "SharedFunctionalGroupsSequence", "PixelSpacing", "ImagerPixelSpacing"]
_SEGMENTS = ["Modality", "SegmentationType", "SegmentSequence", "PerFrameFunctionalGroupsSequence"]
_ONE_AT_A_TIME = threading.Lock()  # Python has one filter of warnings for all threads


class Stored(NamedTuple):
    """What a DICOM file holds, more than 8 bits as they are stored."""

    pictures: list[np.ndarray]  # each (H, W): uint8 of full range, or uint16
    form: Format
    spacing: tuple[float, float] | None  # mm from row to row and from column to column
    doubt: str  # why there is no spacing, if the header has one


def read_stored(path: Path, count: int | None = None) -> Stored:
    """The first `count` frames of a file, or all, and what the header says of them.

    Raises:
        DataError: the file is missing, damaged, no DICOM picture, too large, or of a kind that is not read.
    """
    with one_line(path):
        header, form = _read_header(path)
        count = min(count or form.frames, form.frames)
        if count * form.rows * form.columns > MAX_ALL_PIXELS:
            size, limit = f"{form.frames} frames of {form.columns}x{form.rows}", f"{MAX_ALL_PIXELS // 1_000_000}"
            raise DataError(f"{path}: {size} pixels are more than {limit} million. Cut it into shorter files.")
        spacing, doubt = _check_spacing(*_read_spacing(header, form), form)
        return Stored(list(read_pictures(path, form, count)), form, spacing, doubt)


def read_format(path: Path) -> Format:
    """How the pixels are stored. Raises as `read_stored` does, but for the pixels' own faults."""
    with one_line(path):
        return _read_header(path)[1]


def read_segments(path: Path, wanted: Sequence[str] = ()) -> np.ndarray | None:
    """A DICOM segmentation, (H, W) uint8 of 0 and 255: the segments of these labels or numbers; None for other files.

    Raises:
        DataError: as `read_stored`; it holds several segments and none is wanted, or not the wanted one.
    """
    with one_line(path):
        header, form = _read_header(path, _SEGMENTS)
        if header.get("Modality") != "SEG":
            return None
        if header.get("SegmentationType") == "FRACTIONAL":
            raise DataError(f"{path}: holds probabilities of its segments, and no areas. Export it as BINARY.")
        named = {str(s.SegmentNumber): str(s.get("SegmentLabel") or "") for s in header.get("SegmentSequence") or []}
        groups = header.get("PerFrameFunctionalGroupsSequence") or []
        of_frame = [str(g.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for g in groups]
        of_frame = of_frame or [str(number) for number in range(1, form.frames + 1)]
        words = {word.strip().casefold() for word in wanted}
        chosen = {n for n in of_frame if {n, named.get(n, "").strip().casefold()} & words} if words else set(of_frame)
        if len(chosen) != 1 and not (words and chosen):
            held = ", ".join(f"{n} {named[n]!r}"[:60] if named.get(n) else n for n in dict.fromkeys(of_frame))
            raise DataError(f"{path}: holds the segments {held}. Say which is the lesion: --segment LABEL.")
        frames = [
            frame for n, frame in zip(of_frame, read_pictures(path, form, form.frames), strict=True) if n in chosen
        ]
        if len(frames) > len(chosen):
            raise DataError(f"{path}: holds {len(frames)} frames of its segment. Export a file for each picture.")
        return np.max(frames, axis=0).astype(bool) * np.uint8(255)


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


def _read_header(path: Path, more: Sequence[str] = ()):
    """The elements of `FORMAT`, `_SPACING` and more, in a pydicom Dataset, and the `Format`."""
    import pydicom

    marked = _is_marked(path)
    if path.stat().st_size > MAX_DICOM_BYTES:
        raise DataError(f"{path}: is larger than {MAX_DICOM_BYTES // 10**9} GB. Cut it into shorter files.")
    syntax = str(pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "")) if marked else ""
    if syntax == DEFLATED:
        _check_inflated(path)
    header = None
    if marked or (path.suffix.lower() in BARE_ENDINGS and path.is_file()):  # a pipe would be waited for, for ever
        tags = [*FORMAT, *_SPACING, *more]
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
    if header is None or not (marked or header.get("Rows")):
        raise DataError(f"{path}: is no DICOM file. Replace it, or give it the ending of what it is.")
    if not syntax:  # pydicom has seen how the elements are written
        syntax = str(
            pydicom.uid.ImplicitVRLittleEndian if header.is_implicit_VR else pydicom.uid.ExplicitVRLittleEndian
        )
    return header, check_format(path, header, syntax)


def _check_inflated(path: Path) -> None:
    """Refuse a small file that holds a huge one, before pydicom inflates it; from where pydicom does, whatever length
    the header gives for its first group."""
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    most = min(max(SMALL_INFLATED, MAX_GROWTH * path.stat().st_size), MAX_INFLATED, MAX_DICOM_BYTES)
    with path.open("rb") as file:
        file.seek(132)
        while (element := file.read(8))[:2] == b"\2\0":
            long = element[4:6] in (b"OB", b"OW", b"UN", b"SQ", b"UT")
            length = struct.unpack("<I", file.read(4))[0] if long else struct.unpack("<H", element[6:])[0]
            file.seek(length, 1)
        file.seek(-len(element), 1)
        while block := inflate.unconsumed_tail or file.read(1 << 16):
            size += len(inflate.decompress(block, 1 << 20))
            if size > most:
                raise DataError(f"{path}: inflates to more than {most // 10**6} MB. Refused.")


def _check_spacing(spacing: tuple | None, doubt: str, form: Format) -> tuple[tuple[float, float] | None, str]:
    """As given, but without what can be no size of an ultrasound picture: a placeholder, or another unit."""
    if spacing and (spacing == (1, 1) or not SHALLOWEST < form.rows * spacing[0] < DEEPEST):
        return None, f"a pixel of {spacing[0]:g} mm, as its header says, is a placeholder or in another unit"
    return spacing, doubt


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
