"""The pixels of a DICOM file as grey pictures, whatever compression and colours they are stored in.

Up to 8 bits, grey is the full range of the bits that the header names; more bits come as they are stored, and
pixel_depth.py says what is white, to which picture_files.py scales. No window, no rescale slope. Colours become luma,
which is what YBR holds already. Pillow decodes JPEG and JPEG 2000, also the lossless JPEG of 8 bits that pydicom has no
free decoder for; pydicom and pyjpegls decode the rest. dicom.py turns what fails into one line.
"""

import io
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from dataset import MAX_PIXELS, DataError

FORMAT = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
]
_LOOKUP = ("PaletteColorLookupTableDescriptor", "PaletteColorLookupTableData")
_PALETTE = [f"{colour}{part}" for colour in ("Red", "Green", "Blue") for part in _LOOKUP]
_PALETTE += [f"Segmented{colour}{_LOOKUP[1]}" for colour in ("Red", "Green", "Blue")]

_SYNTAX = "1.2.840.10008.1.2"
_BIG_ENDIAN, DEFLATED, _RLE = f"{_SYNTAX}.2", f"{_SYNTAX}.1.99", f"{_SYNTAX}.5"
_STORED = (_SYNTAX, f"{_SYNTAX}.1", _BIG_ENDIAN, DEFLATED)  # pixels as they are
_JPEG, _JPEG_EXTENDED = f"{_SYNTAX}.4.50", f"{_SYNTAX}.4.51"
_JPEG_LOSSLESS = (f"{_SYNTAX}.4.57", f"{_SYNTAX}.4.70")
_JPEG_LS = (f"{_SYNTAX}.4.80", f"{_SYNTAX}.4.81")
_JPEG_2000 = (f"{_SYNTAX}.4.90", f"{_SYNTAX}.4.91")
_HIGH_THROUGHPUT = tuple(f"{_SYNTAX}.4.{number}" for number in (201, 202, 203))
# What Pillow does not decode: pydicom's plugins for it, the first that is there, and what to install for them.
_PLUGINS = {
    _RLE: (("pydicom",), ""),
    _JPEG_EXTENDED: (("pylibjpeg",), "pylibjpeg pylibjpeg-libjpeg (the latter under the GPL)"),
    **dict.fromkeys(_JPEG_LOSSLESS, (("gdcm", "pylibjpeg"), "python-gdcm")),
    **dict.fromkeys(_JPEG_LS, (("pyjpegls", "gdcm", "pylibjpeg"), "pyjpegls (or python-gdcm)")),
    **dict.fromkeys(_HIGH_THROUGHPUT, (("pylibjpeg",), "pylibjpeg pylibjpeg-openjpeg")),
}
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # the last two are RGB once decoded


class Format(NamedTuple):
    """How the pixels are stored, checked."""

    syntax: str
    rows: int
    columns: int
    frames: int
    allocated: int
    bits: int
    colours: str  # one of _GREY or _COLOURS


def check_format(path: Path, header, syntax: str) -> Format:
    """What the header says of the pixels.

    Raises:
        DataError: it is no picture, or none that an ultrasound machine makes. The header's own texts are not repeated.
    """
    needed = ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
    if not syntax or any(header.get(name) is None for name in needed):
        raise DataError(f"{path}: holds no picture (a report, say), or is cut off in its header. Leave it out.")
    colours, allocated = str(header.PhotometricInterpretation), int(header.BitsAllocated)
    rows, columns, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
    bits = int(header.get("BitsStored") or allocated)
    if rows * columns > MAX_PIXELS:
        size, limit = f"{columns}x{rows}", f"{MAX_PIXELS // 1_000_000} million"
        raise DataError(f"{path}: {size} pixels are more than {limit}. Shrink it first.")
    if min(rows, columns, frames) < 1:
        raise DataError(f"{path}: has no pixels by its header. Export it again.")
    if colours not in (*_GREY, *_COLOURS):
        raise DataError(f"{path}: has a colour model that is not read. Export it as MONOCHROME2 or RGB.")
    if int(header.get("SamplesPerPixel") or 1) != (1 if colours in _GREY else 3):
        raise DataError(f"{path}: has another number of colours than its colour model. Export it again.")
    if allocated not in (1, 8, 16) or not 1 <= bits <= allocated:
        raise DataError(f"{path}: has {allocated} bits for a pixel, and {bits} of them used. Export it with 8 bits.")
    if int(header.get("PixelRepresentation") or 0) or int(header.get("HighBit") or 0) not in (0, bits - 1):
        raise DataError(f"{path}: has signed or shifted values, as no ultrasound has. Leave it out.")
    return Format(syntax, rows, columns, frames, allocated, bits, colours)


# ---------------------------------------------------------------- decode


def read_pictures(path: Path, form: Format, count: int) -> Iterator[np.ndarray]:
    """The first `count` frames as grey pictures."""
    import pydicom

    data = pydicom.dcmread(path, force=True, specific_tags=[*FORMAT, *_PALETTE, "PixelData"])
    if not data.get("PixelData"):
        raise DataError(f"{path}: its pixels are missing or cut off. Copy it again.")
    with_pillow = form.syntax == _JPEG or (form.syntax == _JPEG_EXTENDED and form.bits <= 8)
    if form.syntax in _JPEG_LOSSLESS:  # a libjpeg-turbo before version 3 does not know it
        with_pillow = form.bits <= 8 and int((features.version("libjpeg_turbo") or "0").split(".")[0]) >= 3
    decode = _decode_with_pillow if with_pillow or form.syntax in _JPEG_2000 else _decode_with_pydicom
    found = 0
    for samples in islice(decode(path, data, form, count), count):
        if samples.shape[:2] != (form.rows, form.columns):
            raise _misfit(path, "size")
        yield _to_grey(path, samples, data, form)
        found += 1
    if found < count:
        raise DataError(f"{path}: holds {found} of the {count} frames that its header counts. Copy it again.")


def _misfit(path: Path, what: str) -> DataError:
    return DataError(f"{path}: a frame has another {what} than its header says. Export it again.")


def _encoded_frames(data, form: Format, count: int) -> Iterator[bytes]:
    from pydicom.encaps import generate_frames, get_frame

    if count == 1:
        return iter([get_frame(data.PixelData, 0, number_of_frames=form.frames)])
    return generate_frames(data.PixelData, number_of_frames=form.frames)


def _decode_with_pillow(path: Path, data, form: Format, count: int) -> Iterator[np.ndarray]:
    """Frames of JPEG or JPEG 2000, each (H, W) or (H, W, 3)."""
    for frame in _encoded_frames(data, form, count):
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            if picture.size != (form.columns, form.rows):  # before it is decoded: it may be huge
                raise _misfit(path, "size")
            if len(picture.getbands()) != (1 if form.colours in _GREY else 3):
                raise _misfit(path, "number of colours")
            if form.syntax in _JPEG_2000:
                yield _unspread(np.asarray(picture), frame)
            else:
                yield _grey_of_jpeg(picture, form) if form.colours in _COLOURS else np.asarray(picture)


def _unspread(values: np.ndarray, frame: bytes) -> np.ndarray:
    """JPEG 2000 as it was stored: Pillow spreads its bits over 8 or 16."""
    from pydicom.pixels.utils import get_j2k_parameters

    coding = get_j2k_parameters(frame)
    if coding["is_signed"]:
        raise ValueError("signed")
    return values >> (8 * values.itemsize - coding["precision"])  # a negative shift is an error of numpy's


def _grey_of_jpeg(picture: Image.Image, form: Format) -> np.ndarray:
    """Luma of a JPEG of three colours. They are what the JPEG itself says, RGB or YBR, or else what the header says."""
    named = bytes(layer[0] for layer in picture.layer)
    if "jfif" in picture.info or "adobe_transform" in picture.info:
        ybr = taken_for_ybr = "jfif" in picture.info or picture.info["adobe_transform"] != 0
    else:  # libjpeg then guesses
        ybr = named not in (b"RGB", b"rgb") and form.colours != "RGB"
        taken_for_ybr = named != b"RGB" and form.syntax not in _JPEG_LOSSLESS
    if taken_for_ybr:
        picture.draft("YCbCr", picture.size)  # with this the samples stay as they are
    samples = np.asarray(picture)
    return samples[..., 0] if ybr else _luma(samples)


def _decode_with_pydicom(path: Path, data, form: Format, count: int) -> Iterator[np.ndarray]:
    """Frames of every other transfer syntax, each (H, W) or (H, W, 3)."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    plugin = ""
    if form.syntax in _STORED:
        _check_length(path, data, form)
    elif form.syntax not in _PLUGINS:
        name = UID(form.syntax).name
        name = "in a way that is not known" if name == form.syntax else f"as {name}"  # never the header's own text
        raise DataError(f"{path}: is stored {name}, which is not read. Export it uncompressed, or as JPEG.")
    else:
        plugins, packages = _PLUGINS[form.syntax]
        plugin = next((p for p in plugins if p in get_decoder(form.syntax).available_plugins), None)
        if plugin is None:
            name = f"{UID(form.syntax).name}, {form.bits} bits"
            raise DataError(f"{path}: is compressed as {name}, which needs a decoder: pip install {packages}")
        if form.syntax in (_JPEG_EXTENDED, *_JPEG_LOSSLESS, *_JPEG_LS):
            for frame in _encoded_frames(data, form, count):
                if _jpeg_size(frame) != (form.rows, form.columns):
                    raise _misfit(path, "size")
                if b"\xff\xd9" not in frame[-10:]:  # pyjpegls looks for the end of some for many seconds
                    raise DataError(f"{path}: its pixels are missing or cut off. Copy it again.")
    decoder = get_decoder(form.syntax)
    if count == 1:
        yield decoder.as_array(data, index=0, raw=True, decoding_plugin=plugin)[0]
    else:
        yield from (samples for samples, _ in decoder.iter_array(data, raw=True, decoding_plugin=plugin))


def _check_length(path: Path, data, form: Format) -> None:
    """Whether there are as many bytes of uncompressed pixels as the header promises, and not a frame more."""
    samples = 1 if form.colours in _GREY else 2 if form.colours == "YBR_FULL_422" else 3
    frame = form.rows * form.columns * samples * form.allocated / 8
    if len(data.PixelData) < frame * form.frames:
        raise DataError(f"{path}: its pixels are missing or cut off. Copy it again.")
    if len(data.PixelData) >= frame * (form.frames + 1) + 2:
        raise DataError(f"{path}: holds more pixels than its header says. Export it again.")


def _jpeg_size(frame: bytes) -> tuple[int, int]:
    """Rows and columns of JPEG or JPEG-LS, without decoding it; struct.error if it does not say."""
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", frame, at)
        if marker == 0xFFF7 or (0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC)):
            return struct.unpack_from(">HH", frame, at + 5)
        at += 2 + length


# ---------------------------------------------------------------- grey


def _to_grey(path: Path, samples: np.ndarray, data, form: Format) -> np.ndarray:
    """A frame as a grey picture, (H, W): uint8 of full range or, for more than 8 bits, uint16 as stored."""
    if form.colours == "PALETTE COLOR":
        return _luma(_palette(data, form)[samples])
    if samples.ndim == 3:
        samples = samples[..., 0] if form.colours.startswith("YBR_FULL") else _luma(samples)
    if samples.max() > 2**form.bits - 1 or 8 * samples.itemsize < form.bits:
        raise _misfit(path, "number of bits")
    return samples.astype(np.uint16) if form.bits > 8 else _spread(samples, form)


def _spread(samples: np.ndarray, form: Format) -> np.ndarray:
    """Samples of at most 8 bits over the full range of 8, (H, W) uint8, black as 0."""
    white = 2**form.bits - 1
    if form.colours == "MONOCHROME1":
        samples = white - samples
    return ((samples.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)


def _palette(data, form: Format) -> np.ndarray:
    """Red, green and blue of each value that a pixel can have, (2**bits, 3) uint8."""
    from pydicom.pixels import apply_color_lut

    values = np.arange(2**form.bits, dtype=np.uint8 if form.bits <= 8 else np.uint16)
    table = apply_color_lut(values, data)[:, :3]
    if table.dtype == np.uint8:
        return table
    if form.syntax == _BIG_ENDIAN and _PALETTE[1] in data:
        table = table.byteswap()
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8)  # some write 8 bits into 16


def _luma(colours: np.ndarray) -> np.ndarray:
    """Grey of (..., 3) red, green and blue, as Pillow computes it."""
    red, green, blue = (colours[..., i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(colours.dtype)
