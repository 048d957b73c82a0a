"""DICOM files of every kind that is read, made for the tests; each has a patient in its header."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

ROWS, COLUMNS = 40, 56
PRIVATE = {  # what a header says of a patient; none of it may come out
    "PatientName": "Grimaldi^Ottavia",
    "PatientID": "PID-774193",
    "PatientBirthDate": "19630217",
    "PatientAddress": "Hexengasse 12",
    "AccessionNumber": "ACC5580217",
    "StudyDate": "20240911",
    "StudyTime": "134501",
    "InstitutionName": "Klinik am Weiher",
    "ReferringPhysicianName": "Querelle^Bastien",
    "StudyID": "ST90817",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.4711",
    "ImageComments": "Zystenwand links",
}
SECRETS = [part for text in PRIVATE.values() for part in text.split("^")] + ["Zahnarzt", "Ludmila"]


def speckle(*shape: int, white: int = 255) -> np.ndarray:
    """A smooth picture, which JPEG hardly changes, of all values."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    frame = (np.sin(y / 7) + np.cos(x / 9) + 2) / 4
    frames = np.stack([np.roll(frame, 5 * i, axis=1) for i in range(shape[0])]) if shape else frame
    return (frames * white).round().astype(np.uint8 if white < 256 else np.uint16)


def coloured() -> np.ndarray:
    """(ROWS, COLUMNS, 3) red, green and blue, none like another."""
    grey = speckle().astype(float)
    return np.stack([grey * 0.9, 255 - grey * 0.7, np.roll(grey, 9, axis=0) * 0.5], axis=2).round().astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))


def to_ybr(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("YCbCr"))


def header(pixels: np.ndarray, colours: str, syntax: str, *, bits: int = 0, frames: int = 1, **elements) -> Dataset:
    """A dataset with everything but its pixels, and a patient."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = PRIVATE["StudyInstanceUID"] + ".9"
    data.SpecificCharacterSet, data.Modality = "ISO_IR 100", "US"
    for name, value in PRIVATE.items():
        setattr(data, name, value)
    data.add_new(0x00091001, "LO", "Zahnarzt")  # a private element
    other = Dataset()
    other.PatientID = "Ludmila"
    data.OtherPatientIDsSequence = Sequence([other])
    data.Rows, data.Columns = ROWS, COLUMNS
    data.SamplesPerPixel = 1 if colours in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR") else 3
    data.PhotometricInterpretation = colours
    data.BitsAllocated = 8 * pixels.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    if frames != 1:
        data.NumberOfFrames = frames
    for name, value in elements.items():
        setattr(data, name, value)
    return data


def save(path: Path, data: Dataset) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is wrong on purpose
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def stored(path: Path, pixels: np.ndarray, colours: str = "MONOCHROME2", syntax=uid.ExplicitVRLittleEndian, **elements):
    """Write a file of uncompressed pixels."""
    data = header(pixels, colours, syntax, **elements)
    swapped = pixels.astype(pixels.dtype.newbyteorder(">")) if syntax == uid.ExplicitVRBigEndian else pixels
    raw = swapped.tobytes()
    data.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    return save(path, data)


def encapsulated(path: Path, frames: list[bytes], pixels, colours: str, syntax, *, offsets: bool = True, **elements):
    """Write a file of frames that are compressed already."""
    data = header(pixels, colours, syntax, frames=len(frames), **elements)
    data.PixelData = encapsulate(frames, has_bot=offsets)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return save(path, data)


def compressed(path: Path, pixels: np.ndarray, syntax, colours: str = "MONOCHROME2", **elements) -> Path:
    """Write a file that pydicom compresses: RLE and JPEG-LS."""
    options = {"jls_error": elements.pop("jls_error")} if "jls_error" in elements else {}
    data = header(pixels, colours, uid.ExplicitVRLittleEndian, **elements)
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    data.compress(syntax, generate_instance_uid=False, **options)
    return save(path, data)


def pillow(pixels: np.ndarray, form: str, mode: str | None = None, **options) -> bytes:
    """A frame as Pillow writes it; without the JFIF marker where Pillow would give it the wrong meaning."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels) if mode is None else Image.merge(mode, [Image.fromarray(p) for p in pixels])
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(pixels: np.ndarray, **options) -> bytes:
    return pillow(pixels, "JPEG", quality=98, **options)


def without_jfif(frame: bytes) -> bytes:
    assert frame[2:4] == b"\xff\xe0"
    return frame[:2] + frame[4 + struct.unpack(">H", frame[4:6])[0] :]


def jpeg_of_rgb(pixels: np.ndarray) -> bytes:
    """A JPEG of red, green and blue that were never made YBR, and no marker that says so."""
    planes = [pixels[..., i] for i in range(3)]
    return without_jfif(pillow(planes, "JPEG", "YCbCr", quality=98, subsampling=0))


def jpeg_2000(pixels: np.ndarray, **options) -> bytes:
    return pillow(pixels, "JPEG2000", no_jp2=True, **options)


def jpeg_2000_of_12_bits(pixels: np.ndarray) -> bytes:
    """As above, of what Pillow cannot write. Values are stored as differences from the middle of the range."""
    frame = bytearray(jpeg_2000(pixels + np.uint16(2**15 - 2**11)))
    assert frame[42] == 16 - 1
    frame[42] = 12 - 1
    return bytes(frame)


def lossless_jpeg(pixels: np.ndarray, bits: int = 8) -> bytes:
    """Lossless JPEG, predicted from the left, of (H, W) or (H, W, 3); each category has a code of 5 bits."""
    planes = pixels.reshape(*pixels.shape[:2], -1).astype(int)
    rows, columns, count = planes.shape
    predicted = np.empty_like(planes)
    predicted[:, 1:], predicted[1:, 0], predicted[0, 0] = planes[:, :-1], planes[:-1, 0], 2 ** (bits - 1)
    text = []
    for difference in (planes - predicted).ravel().tolist():
        size = abs(difference).bit_length()
        low = difference if difference > 0 else difference + (1 << size) - 1
        text.append(f"{size:05b}" + (f"{low:0{size}b}" if size else ""))
    text = "".join(text)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    ids = range(1, count + 1)
    frame = struct.pack(">BHHB", bits, rows, columns, count) + b"".join(bytes([i, 0x11, 0]) for i in ids)
    table = bytes([0, 0, 0, 0, 0, bits + 1]) + bytes(11) + bytes(range(bits + 1))
    order = bytes([count]) + b"".join(bytes([i, 0]) for i in ids) + bytes([1, 0, 0])
    segments = [(0xC3, frame), (0xC4, table), (0xDA, order)]
    head = b"".join(bytes([0xFF, mark]) + struct.pack(">H", len(body) + 2) + body for mark, body in segments)
    return b"\xff\xd8" + head + scan + b"\xff\xd9"


def spaced(x: float, y: float, **elements) -> Dataset:
    """A region of tissue over the whole picture, x and y in cm."""
    region = Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = COLUMNS - 1, ROWS - 1
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX, region.PhysicalDeltaY = x, y
    for name, value in elements.items():
        setattr(region, name, value)
    return region


LITTLE, GREY = uid.ExplicitVRLittleEndian, "MONOCHROME2"
RGB = coloured()
DEEP, TWELVE = speckle(white=65535), speckle(white=4095)
FULL_422 = np.stack([to_ybr(RGB)[:, ::2, 0], to_ybr(RGB)[:, 1::2, 0], *np.moveaxis(to_ybr(RGB)[:, ::2, 1:], 2, 0)], 2)
SCALED = (TWELVE.astype(np.int64) * 65535 + 2047) // 4095

EXACT = {
    "implicit little endian": lambda p: (stored(p, speckle(), syntax=uid.ImplicitVRLittleEndian), speckle()),
    "explicit little endian": lambda p: (stored(p, speckle()), speckle()),
    "explicit big endian": lambda p: (stored(p, speckle(), syntax=uid.ExplicitVRBigEndian), speckle()),
    "big endian, 16 bits": lambda p: (stored(p, DEEP, syntax=uid.ExplicitVRBigEndian), DEEP),
    "deflated": lambda p: (stored(p, speckle(), syntax=uid.DeflatedExplicitVRLittleEndian), speckle()),
    "RLE": lambda p: (compressed(p, speckle(), uid.RLELossless), speckle()),
    "RLE, RGB": lambda p: (compressed(p, RGB, uid.RLELossless, "RGB"), luma(RGB)),
    "RLE, 16 bits": lambda p: (compressed(p, DEEP, uid.RLELossless), DEEP),
    "JPEG-LS": lambda p: (compressed(p, speckle(), uid.JPEGLSLossless), speckle()),
    "JPEG-LS, RGB": lambda p: (compressed(p, RGB, uid.JPEGLSLossless, "RGB"), luma(RGB)),
    "JPEG-LS, 12 bits": lambda p: (compressed(p, TWELVE, uid.JPEGLSLossless, bits=12), SCALED),
    "lossless JPEG": lambda p: (encapsulated(p, [lossless_jpeg(speckle())], RGB, GREY, uid.JPEGLosslessSV1), speckle()),
    "lossless JPEG, RGB": lambda p: (encapsulated(p, [lossless_jpeg(RGB)], RGB, "RGB", uid.JPEGLosslessSV1), luma(RGB)),
    "lossless JPEG, YBR": lambda p: (
        encapsulated(p, [lossless_jpeg(to_ybr(RGB))], RGB, "YBR_FULL", uid.JPEGLossless),
        to_ybr(RGB)[..., 0],
    ),
    "JPEG 2000 lossless": lambda p: (
        encapsulated(p, [jpeg_2000(speckle())], RGB, GREY, uid.JPEG2000Lossless),
        speckle(),
    ),
    "JPEG 2000, YBR_RCT": lambda p: (
        encapsulated(p, [jpeg_2000(RGB, mct=1)], RGB, "YBR_RCT", uid.JPEG2000Lossless),
        luma(RGB),
    ),
    "JPEG 2000, 16 bits": lambda p: (encapsulated(p, [jpeg_2000(DEEP)], DEEP, GREY, uid.JPEG2000Lossless), DEEP),
    "JPEG 2000, 12 bits": lambda p: (
        encapsulated(p, [jpeg_2000_of_12_bits(TWELVE)], DEEP, GREY, uid.JPEG2000Lossless, bits=12),
        SCALED,
    ),
    "RGB": lambda p: (stored(p, RGB, "RGB"), luma(RGB)),
    "RGB in planes": lambda p: (stored(p, np.moveaxis(RGB, 2, 0).copy(), "RGB", PlanarConfiguration=1), luma(RGB)),
    "YBR_FULL": lambda p: (stored(p, to_ybr(RGB), "YBR_FULL"), to_ybr(RGB)[..., 0]),
    "YBR_FULL_422": lambda p: (stored(p, FULL_422, "YBR_FULL_422"), to_ybr(RGB)[..., 0]),
    "MONOCHROME1": lambda p: (stored(p, 255 - speckle(), "MONOCHROME1"), speckle()),
    "MONOCHROME1, 12 bits": lambda p: (stored(p, 4095 - TWELVE, "MONOCHROME1", bits=12), SCALED),
    "12 bits in 16": lambda p: (stored(p, TWELVE, bits=12), SCALED),
    "16 bits": lambda p: (stored(p, DEEP), DEEP),
    "8 bits in 16": lambda p: (stored(p, speckle().astype(np.uint16), bits=8), speckle()),
    "other things in the unused bits": lambda p: (stored(p, TWELVE | 0x7000, bits=12), SCALED),
}
NEARLY = {
    "JPEG": lambda p: (encapsulated(p, [jpeg(speckle())], RGB, GREY, uid.JPEGBaseline8Bit), speckle()),
    "JPEG, extended": lambda p: (encapsulated(p, [jpeg(speckle())], RGB, GREY, uid.JPEGExtended12Bit), speckle()),
    "JPEG, YBR_FULL_422": lambda p: (
        encapsulated(p, [jpeg(RGB, subsampling=1)], RGB, "YBR_FULL_422", uid.JPEGBaseline8Bit),
        luma(RGB),
    ),
    "JPEG, YBR_FULL without a marker": lambda p: (
        encapsulated(p, [without_jfif(jpeg(RGB, subsampling=0))], RGB, "YBR_FULL", uid.JPEGBaseline8Bit),
        luma(RGB),
    ),
    "JPEG, RGB without a marker": lambda p: (
        encapsulated(p, [jpeg_of_rgb(RGB)], RGB, "RGB", uid.JPEGBaseline8Bit),
        luma(RGB),
    ),
    "JPEG, its header wrongly RGB": lambda p: (
        encapsulated(p, [jpeg(RGB)], RGB, "RGB", uid.JPEGBaseline8Bit),
        luma(RGB),
    ),
    "JPEG, MONOCHROME1": lambda p: (
        encapsulated(p, [jpeg(255 - speckle())], RGB, "MONOCHROME1", uid.JPEGBaseline8Bit),
        speckle(),
    ),
    "JPEG-LS, near lossless": lambda p: (compressed(p, speckle(), uid.JPEGLSNearLossless, jls_error=2), speckle()),
    "JPEG 2000": lambda p: (
        encapsulated(p, [jpeg_2000(RGB, irreversible=True, quality_layers=[4], mct=1)], RGB, "YBR_ICT", uid.JPEG2000),
        luma(RGB),
    ),
}


def lossless_frames() -> list[bytes]:
    return [lossless_jpeg(frame) for frame in speckle(4)]


LOOPS = {
    "uncompressed": lambda p: stored(p, speckle(4), frames=4),
    "uncompressed RGB": lambda p: stored(p, np.stack([speckle(4)] * 3, 3), "RGB", frames=4),
    "big endian": lambda p: stored(p, speckle(4), syntax=uid.ExplicitVRBigEndian, frames=4),
    "deflated": lambda p: stored(p, speckle(4), syntax=uid.DeflatedExplicitVRLittleEndian, frames=4),
    "RLE": lambda p: compressed(p, speckle(4), uid.RLELossless, frames=4),
    "JPEG-LS": lambda p: compressed(p, speckle(4), uid.JPEGLSLossless, frames=4),
    "lossless JPEG": lambda p: encapsulated(p, lossless_frames(), RGB, GREY, uid.JPEGLosslessSV1),
    "without a table of offsets": lambda p: encapsulated(
        p, lossless_frames(), RGB, GREY, uid.JPEGLosslessSV1, offsets=False
    ),
    "JPEG 2000": lambda p: encapsulated(p, list(map(jpeg_2000, speckle(4))), RGB, GREY, uid.JPEG2000Lossless),
}
