"""The one room in which picture files are opened: PNG, JPEG, BMP, TIFF, GIF, WebP, DICOM by its content, and NRRD,
NIfTI and MHA; one picture after the other out of a TIFF's pages or a DICOM cine loop."""

import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from dataset import MAX_PIXELS, DataError
from segmentation.pictures.dicom import BARE_ENDINGS, Stored, is_dicom, read_format, read_segments, read_stored

PILLOW = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".mha")  # read by SimpleITK
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", *VOLUMES, *BARE_ENDINGS)
MAX_PAGES = 10_000
DARK = 8  # a picture whose brightest pixel is so many times below white was made with another range
_ONE_AT_A_TIME = threading.Lock()  # else every thread that waits for a frame would decode its whole file
_ORIENTATION, _MEANING_OF_0 = 274, 262  # tags of a TIFF
_BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of an orientation to Pillow's transposition that undoes it


class Picture(NamedTuple):
    """Where a picture lies."""

    path: Path
    page: int | None = None  # from 0, in a file of several


class Raw(NamedTuple):
    """What a file holds, upright."""

    values: np.ndarray  # (H, W) of any number format, or of a mask (H, W, 3) where it has colours
    white: float = 0.0  # of more than 8 bits: what the file's header says; 0 if nothing
    negative: bool = False  # of more than 8 bits: 0 is white
    spacing: tuple[float, float] | None = None  # mm from row to row and from column to column
    doubt: str = ""  # why there is no spacing, if the header has one
    turned: bool = False  # by EXIF


class How(NamedTuple):
    """How a person wants files to be read."""

    exif: bool = True  # turned as EXIF says
    segments: tuple[str, ...] = ()  # of a DICOM segmentation


AS_IT_SAYS = How()


def is_picture(path: Path) -> bool:
    """Whether a file may be a picture by its ending, or is DICOM by what it holds; a CD's list of files is none."""
    if (ending := ending_of(path)) in PICTURES and ending not in BARE_ENDINGS:
        return True
    return (is_dicom(path) and path.name.upper() != "DICOMDIR") or ending in BARE_ENDINGS


def ending_of(path: Path) -> str:
    """The ending in small letters, two parts of it in .nii.gz."""
    name = path.name.casefold()
    return next((ending for ending in (".nii.gz", ".tar.gz") if name.endswith(ending)), path.suffix.casefold())


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in BARE_ENDINGS or is_dicom(path)


def count_pages(path: Path) -> tuple[int, bool]:
    """How many pictures a file holds, and whether of more than 8 bits; one that cannot be opened is 1 and False."""
    try:
        if _is_dicom(path):
            form = read_format(path)
            return form.frames, form.bits > 8
        if ending_of(path) in VOLUMES:
            return 1, True
        with path.open("rb") as file, Image.open(file, formats=PILLOW) as picture:
            return getattr(picture, "n_frames", 1), picture.mode.startswith(("I", "F"))
    except Exception:  # a damaged header makes Pillow raise many kinds; whoever reads it says what is wrong
        return 1, False


def list_pages(path: Path) -> list[Picture]:
    """The pictures in a file; one that cannot be opened is listed too, and reading it says why."""
    pages = count_pages(path)[0]
    if pages > MAX_PAGES:
        raise DataError(f"{path}: holds {pages} pictures, more than {MAX_PAGES}. Cut it into shorter files.")
    return [Picture(path, page) for page in range(pages)] if pages > 1 else [Picture(path)]


def read_raw(path: Path, as_mask: bool = False, page: int | None = None, how: How = AS_IT_SAYS) -> Raw:
    """What a picture file holds; of several pictures the first, or the page from 0.

    Raises:
        DataError: the file is missing, no picture, damaged, holds NaN, or is larger than MAX_PIXELS.
    """
    try:
        if _is_dicom(path):
            return _read_dicom(path, as_mask, page, how)
        return _read_volume(path) if ending_of(path) in VOLUMES else _read_with_pillow(path, as_mask, page or 0, how)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, struct.error, ...
        reason = str(error).split("'")[0].strip() or type(error).__name__
        raise DataError(f"{path}: cannot be read as {', '.join(PILLOW)} ({reason}). Replace the file.") from error


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million"
        raise DataError(f"{path}: {width}x{height} pixels are more than {limit}. Shrink it first.")


def _check_one(path: Path, count: int, as_mask: bool) -> None:
    if as_mask and count > 1:  # the first alone may be half of the lesion, or of another picture
        raise DataError(f"{path}: holds {count} masks. Export a file for each.")


def _read_with_pillow(path: Path, as_mask: bool, page: int, how: How) -> Raw:
    # From a stream: Pillow maps a file that it knows by name into memory, and scrambles a turned TIFF's rows.
    with path.open("rb") as file, Image.open(file, formats=PILLOW) as picture:
        _check_pixels(path, *picture.size)
        _check_one(path, getattr(picture, "n_frames", 1), as_mask)
        picture.seek(page)
        deep = picture.mode.startswith(("I", "F"))
        if not deep and any(";16" in str(tile[3]) for tile in picture.tile):  # Pillow would drop the lower 8
            raise DataError(f"{path}: holds colours of 16 bits. Save it as grey, or with 8 bits.")
        turn, tiff = picture.getexif().get(_ORIENTATION, 1), picture.format == "TIFF"
        negative = deep and tiff and picture.tag_v2.get(_MEANING_OF_0) == 0
        picture.load()  # which turns a TIFF, but nothing else
        if how.exif and not tiff:
            picture = ImageOps.exif_transpose(picture)
        elif not how.exif and tiff and turn in _BACK:
            picture = picture.transpose(_BACK[turn])
        if deep:  # Pillow's own conversion clips at 255
            values = np.asarray(picture)
            if not np.isfinite(values).all():
                raise DataError(f"{path}: holds pixels that are NaN or infinite.")
        elif as_mask and picture.mode not in ("1", "L"):
            values = merge_alpha(np.asarray(picture.convert("RGBA")))
        else:
            values = np.asarray(picture.convert("L"))
        return Raw(values, negative=negative, turned=turn in _BACK and not tiff)


def merge_alpha(picture: np.ndarray) -> np.ndarray:
    """Flatten a mask (H, W, 4) onto a black background: grey values (H, W), or colours (H, W, 3)."""
    colours, alpha = picture[..., :3], picture[..., 3]
    if np.ptp(alpha):
        frame = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        if not colours[alpha > 0].any() and np.median(frame) == 0:  # black on transparent: alpha is the mask
            return alpha
        colours = (colours * (alpha[..., None] / 255)).round().astype(np.uint8)
    elif not alpha.any() and (colours == colours[0, 0]).all():  # nothing was drawn
        return alpha
    return colours[..., 0] if (colours[..., :1] == colours[..., 1:]).all() else colours


def _read_dicom(path: Path, as_mask: bool, page: int | None, how: How) -> Raw:
    if as_mask and (values := read_segments(path, how.segments)) is not None:
        return Raw(values)
    if page:
        with _ONE_AT_A_TIME:
            stored = _all_frames(path)
    else:
        stored = read_stored(path, 1)
    form, values = stored.form, stored.pictures[page or 0]
    _check_one(path, form.frames, as_mask)
    if values.dtype == np.uint8:
        return Raw(values, spacing=stored.spacing, doubt=stored.doubt)
    white = float(2**form.bits - 1) if form.bits < form.allocated else 0.0  # 16 of 16 says nothing
    return Raw(values, white, form.colours == "MONOCHROME1", stored.spacing, stored.doubt)


@lru_cache(maxsize=2)  # the frames of one file are asked for one after the other
def _all_frames(path: Path) -> Stored:
    return read_stored(path)


def _read_volume(path: Path) -> Raw:
    """NRRD, NIfTI or MHA of one plane."""
    try:
        import SimpleITK
    except Exception:
        raise DataError(f"{path}: is read with SimpleITK: pip install -r requirements-import.txt") from None
    with path.open("rb") as file:
        if b"data file" in file.read(4096).lower() or not path.stat().st_size:
            raise DataError(f"{path}: its pixels are in another file. Export it as one file.")
    SimpleITK.ProcessObject.GlobalWarningDisplayOff()
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = [side for side in reader.GetSize() if side > 1]
        if len(size) != 2 or reader.GetNumberOfComponents() != 1:
            held = "x".join(map(str, reader.GetSize()))
            raise DataError(f"{path}: holds {held} values of {reader.GetNumberOfComponents()} parts, and no one grey "
                            "picture. Export the picture alone.")  # fmt: skip
        _check_pixels(path, *size)
        volume = reader.Execute()
    except RuntimeError:
        raise DataError(f"{path}: is damaged, or not what its ending says. Replace the file.") from None
    straight = np.array(volume.GetDirection()).reshape(volume.GetDimension(), -1)[:2, :2]
    if ".nii" in path.name.lower() and (straight != np.eye(2)).any():
        raise DataError(f"{path}: may be stored with rows and columns exchanged, as nibabel does. Export it as PNG.")
    values = SimpleITK.GetArrayFromImage(volume).reshape(size[1], size[0])
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path}: holds pixels that are NaN or infinite.")
    across, down = volume.GetSpacing()[:2]
    known = (across, down) != (1, 1) and 5 < down * size[1] < 300
    return Raw(values, spacing=(down, across) if known else None)


def end_of_range(top: float, whole: bool = True) -> float:
    """The end of the range that holds `top`: 255, 1023, 4095, ...; 1 where there are fractions up to about 1."""
    if not whole and top <= 2:  # a filter may overshoot
        return 1.0
    return 2.0 ** max(8, int(np.ceil(np.log2(max(top, 1) + 1)))) - 1


def to_grey(path: Path, raw: Raw, white: float | None = None) -> np.ndarray:
    """A picture of any depth with 8 bits, (H, W) uint8; `white` is that of the folder, for files that do not say, or
    that are dark for what they say."""
    values, top = raw.values, float(raw.values.max(initial=0))
    if values.dtype == np.uint8:
        return values
    said = raw.white if not white or top * DARK >= raw.white else 0
    white = said or white or (65535 if top > 255 else 255)
    if values.min(initial=0) < -0.05 * white:  # a filter may overshoot a little
        raise DataError(f"{path}: holds values down to {values.min():g}. Export it with black as 0.")
    grey = (values.astype(np.float32) / white * 255).round().clip(0, 255).astype(np.uint8)
    return 255 - grey if raw.negative else grey


def read_picture(picture: Picture, white: float | None = None) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Grey picture, (H, W) uint8, and mm from row to row and from column to column, None where the file does not say.

    Args:
        white: value that is white in pictures of more than 8 bits whose file does not say.

    Raises:
        DataError: the file cannot be read.
    """
    raw = read_raw(picture.path, page=picture.page)
    if raw.doubt:
        print(f"note: {picture.path}: {raw.doubt}; its sizes are in pixels alone")
    return to_grey(picture.path, raw, white), raw.spacing


def forget_frames() -> None:
    """Free the frames of the files that were read last."""
    _all_frames.cache_clear()
