"""DICOM files of every kind that is read or refused, made for the tests; each has a patient in its header.

READ: how to write the file, the frames that must come out, and how far these may be off.
REFUSED, BAD_LOOPS: how to write the file, and words of the message.
"""

import io
import logging
import os
import struct
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from segmentation.pictures.picture_files import forget_frames, list_pages, read_picture

ROWS, COLUMNS = 40, 56
LITTLE, BIG, DEFLATED = uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian
PRIVATE = {  # what a header says of a patient; none of it may come out
    "PatientName": "Grimaldi^Ottavia",
    "PatientID": "PID-774193",
    "PatientBirthDate": "19630217",
    "PatientAddress": "Hexengasse 12",
    "AccessionNumber": "ACC5580217",
    "StudyDate": "20240911",
    "InstitutionName": "Klinik am Weiher",
    "ReferringPhysicianName": "Querelle^Bastien",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.4711",
    "ImageComments": "Zystenwand links",
}
SECRETS = [part for text in PRIVATE.values() for part in text.split("^")] + ["Zahnarzt", "Ludmila"]


def read_frames(path: Path) -> tuple[list[np.ndarray], tuple[float, float] | None]:
    """Every frame, (H, W) uint8, and the size of a pixel, as pictures of one's own are read."""
    forget_frames()  # a test may write another file of the same name
    found = [read_picture(page) for page in list_pages(path)]
    return [picture for picture, _ in found], found[0][1]


@contextmanager
def silence_about_the_patient(capfd):
    """Fails if anything that is printed, logged or warned of inside, or put into the list, names the patient."""
    said, log = [], io.StringIO()
    handler, root = logging.StreamHandler(log), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    capfd.readouterr()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    printed, errors = capfd.readouterr()
    text = "\n".join([*said, printed, errors, log.getvalue(), *(str(w.message) for w in caught)])
    assert [secret for secret in SECRETS if secret in text] == [] and errors == ""


# ---------------------------------------------------------------- pictures


def speckle(*shape: int, white: int = 255) -> np.ndarray:
    """A smooth picture of all values, which JPEG hardly changes."""
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


GREY, RGB, LOOP = speckle(), coloured(), speckle(4)
DEEP, TWELVE = speckle(white=65535), speckle(white=4095)
SCALED = (TWELVE.astype(np.int64) * 65535 + 2047) // 4095  # what 12 bits are as 16
YBR = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
YBR_422 = np.stack([YBR[:, ::2, 0], YBR[:, 1::2, 0], *np.moveaxis(YBR[:, ::2, 1:], 2, 0)], 2)


# ---------------------------------------------------------------- files


def header(pixels: np.ndarray, colours: str, syntax: str, *, bits: int = 0, frames: int = 1, **elements) -> Dataset:
    """A dataset with everything but its pixels, and a patient."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = PRIVATE["StudyInstanceUID"] + ".9"
    data.SpecificCharacterSet, data.Modality = "ISO_IR 100", "US"
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
    for name, value in {**PRIVATE, **elements}.items():
        setattr(data, name, value)
    return data


def save(path: Path, data: Dataset) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a file is wrong on purpose
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def stored(path: Path, pixels: np.ndarray, colours: str = "MONOCHROME2", syntax=LITTLE, **elements) -> Path:
    """Write a file of uncompressed pixels."""
    data = header(pixels, colours, syntax, **elements)
    raw = (pixels.astype(pixels.dtype.newbyteorder(">")) if syntax == BIG else pixels).tobytes()
    data.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    return save(path, data)


def encapsulated(path: Path, frames: list[bytes], pixels: np.ndarray, colours: str, syntax, **elements) -> Path:
    """Write a file of frames that are compressed already; of the pixels only their type counts."""
    data = header(pixels, colours, syntax, frames=len(frames), **elements)
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    return save(path, data)


def compressed(path: Path, pixels: np.ndarray, syntax, colours: str = "MONOCHROME2", **elements) -> Path:
    """Write a file that pydicom compresses: RLE and JPEG-LS."""
    options = {"jls_error": elements.pop("jls_error")} if "jls_error" in elements else {}
    data = header(pixels, colours, LITTLE, **elements)
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    data.compress(syntax, generate_instance_uid=False, **options)
    return save(path, data)


def real(name: str) -> Path:
    """A file that comes with pydicom."""
    return Path(get_testdata_file(f"{name}.dcm", download=False))


def relabelled(path: Path, syntax) -> Path:
    """Write the lossless JPEG that comes with pydicom, which both transfer syntaxes allow."""
    data = pydicom.dcmread(real("SC_rgb_jpeg_gdcm"))
    data.file_meta.TransferSyntaxUID = syntax
    for name, value in PRIVATE.items():
        setattr(data, name, value)
    return save(path, data)


def palette(path: Path, syntax=LITTLE, *, bits: int = 16, filled: bool = True) -> Path:
    """Write a picture of values that a table of colours, `PALETTE`, gives a meaning; not `filled`: 8 bits in 16."""
    data = header(GREY, "PALETTE COLOR", syntax)
    for i, name in enumerate(("Red", "Green", "Blue")):
        table = PALETTE[:, i].astype(int) * 256 + 7 if bits == 16 and filled else PALETTE[:, i]
        entries = table.astype(f"{'>' if syntax == BIG else '<'}u{bits // 8}").tobytes()
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(data, f"{name}PaletteColorLookupTableData", entries)
        data[f"{name}PaletteColorLookupTableData"].VR = "OW"
    data.add_new("PixelData", "OB", GREY.tobytes())
    return save(path, data)


PALETTE = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], 1).astype(np.uint8)


def black_and_white(path: Path) -> Path:
    """Write a picture of one bit a pixel."""
    data = header(GREY, "MONOCHROME2", LITTLE, bits=1, BitsAllocated=1)
    data.add_new("PixelData", "OB", np.packbits(GREY > 128, bitorder="little").tobytes())
    return save(path, data)


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


# ---------------------------------------------------------------- frames


def jpeg(pixels: np.ndarray, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **{"quality": 98, **options})
    return buffer.getvalue()


def jpeg_2000(pixels: np.ndarray, **options) -> bytes:
    return jpeg(pixels, "JPEG2000", no_jp2=True, **options)


def lossy_jpeg_2000(pixels: np.ndarray) -> bytes:
    return jpeg_2000(pixels, irreversible=True, quality_layers=[4], mct=1)


def j2k_of_12_bits(pixels: np.ndarray) -> bytes:
    """What Pillow cannot write. Values are stored as differences from the middle of the range."""
    frame = bytearray(jpeg_2000(pixels + np.uint16(2**15 - 2**11)))
    assert frame[42] == 16 - 1
    frame[42] = 12 - 1
    return bytes(frame)


# ---------------------------------------------------------------- every kind that is read

MONO, JPEG, J2K = "MONOCHROME2", uid.JPEGBaseline8Bit, uid.JPEG2000Lossless
BARS = luma(pydicom.dcmread(real("SC_rgb_rle")).pixel_array)  # the same picture as in SC_rgb_jpeg_gdcm
JPEGS, FRAMES, J2K_12 = list(map(jpeg, LOOP)), list(map(jpeg_2000, LOOP)), j2k_of_12_bits(TWELVE)
READ = {  # each transfer syntax, mostly with a loop of four frames; then colours and bits
    "implicit little endian": (lambda p: stored(p, LOOP, syntax=uid.ImplicitVRLittleEndian, frames=4), LOOP, 0),
    "explicit little endian": (lambda p: stored(p, LOOP, frames=4), LOOP, 0),
    "explicit big endian": (lambda p: stored(p, LOOP, syntax=BIG, frames=4), LOOP, 0),
    "deflated": (lambda p: stored(p, LOOP, syntax=DEFLATED, frames=4), LOOP, 0),
    "RLE": (lambda p: compressed(p, LOOP, uid.RLELossless, frames=4), LOOP, 0),
    "JPEG": (lambda p: encapsulated(p, JPEGS, LOOP, MONO, JPEG), LOOP, 4),
    "JPEG, extended": (lambda p: encapsulated(p, JPEGS, LOOP, MONO, uid.JPEGExtended12Bit), LOOP, 4),
    "lossless JPEG": (lambda p: relabelled(p, uid.JPEGLossless), BARS, 0),
    "lossless JPEG, first order": (lambda p: relabelled(p, uid.JPEGLosslessSV1), BARS, 0),
    "JPEG-LS": (lambda p: compressed(p, LOOP, uid.JPEGLSLossless, frames=4), LOOP, 0),
    "JPEG-LS, near lossless": (lambda p: compressed(p, LOOP, uid.JPEGLSNearLossless, frames=4, jls_error=2), LOOP, 4),
    "JPEG 2000 lossless": (lambda p: encapsulated(p, FRAMES, LOOP, MONO, J2K), LOOP, 0),
    "JPEG 2000": (lambda p: encapsulated(p, [lossy_jpeg_2000(RGB)], RGB, "YBR_ICT", uid.JPEG2000), luma(RGB), 4),
    "RGB": (lambda p: stored(p, RGB, "RGB"), luma(RGB), 0),
    "RGB in planes": (lambda p: stored(p, np.moveaxis(RGB, 2, 0).copy(), "RGB", PlanarConfiguration=1), luma(RGB), 0),
    "YBR": (lambda p: stored(p, YBR, "YBR_FULL"), YBR[..., 0], 0),
    "YBR of half the width": (lambda p: stored(p, YBR_422, "YBR_FULL_422"), YBR[..., 0], 0),
    "palette of 8 bits": (lambda p: palette(p, bits=8), luma(PALETTE[GREY]), 0),
    "palette of 16 bits": (palette, luma(PALETTE[GREY]), 0),
    "palette of 8 bits in 16": (lambda p: palette(p, filled=False), luma(PALETTE[GREY]), 0),
    "palette, big endian": (lambda p: palette(p, BIG), luma(PALETTE[GREY]), 0),
    "black is white, 12 bits": (lambda p: stored(p, 4095 - TWELVE, "MONOCHROME1", bits=12), SCALED, 0),
    "12 bits": (lambda p: stored(p, TWELVE, bits=12), SCALED, 0),
    "12 bits, JPEG 2000": (lambda p: encapsulated(p, [J2K_12], DEEP, MONO, J2K, bits=12), SCALED, 0),
    "16 bits": (lambda p: stored(p, DEEP, syntax=BIG), DEEP, 0),
    "8 bits in 16": (lambda p: stored(p, GREY.astype(np.uint16), bits=8), GREY, 0),
    "1 bit": (black_and_white, (GREY > 128) * np.uint8(255), 0),
}


# ---------------------------------------------------------------- every kind that is refused

TOO_MANY = 10_000_000  # bytes, in place of 2 GB: the tests set it as the limit


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def report(path: Path) -> Path:
    """A file without a picture."""
    data = header(GREY, MONO, LITTLE, Modality="SR")
    del data.Rows, data.Columns, data.BitsAllocated, data.PhotometricInterpretation
    return save(path, data)


def bomb(path: Path) -> Path:
    """A small file that inflates to more than is allowed here."""
    stored(path, GREY, syntax=DEFLATED)
    meta = pydicom.filereader.read_file_meta_info(path)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = deflate.compress(bytes(2 * TOO_MANY)) + deflate.flush()
    return written(path, path.read_bytes()[: 144 + meta.FileMetaInformationGroupLength] + zeros)


def large(path: Path) -> Path:
    with stored(path, GREY).open("rb+") as file:
        file.truncate(TOO_MANY + 1)
    return path


def huge(path: Path, syntax, frame: bytes) -> Path:
    """A frame that says of itself that it is 9000 x 9000."""
    at = next(i for i in range(len(frame)) if frame[i] == 0xFF and frame[i + 1] in (0xC0, 0xC3, 0xF7))
    frame = frame[: at + 5] + struct.pack(">HH", 9000, 9000) + frame[at + 9 :]
    return encapsulated(path, [frame], GREY, MONO, syntax)


def jpeg_ls(pixels: np.ndarray) -> bytes:
    import jpeg_ls as coder

    return bytes(coder.encode_array(pixels))


def of_unknown_syntax(path: Path) -> Path:
    content = stored(path, GREY).read_bytes()
    return written(path, content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.0.1.3680043\0", 1))


REFUSED = {
    "no such file": (lambda p: p, "no such file"),
    "a pipe": (lambda p: os.mkfifo(p) or p, "no DICOM file"),
    "a JPEG": (lambda p: written(p, jpeg(GREY)), "no DICOM file"),
    "a report": (report, "holds no picture"),
    "a file too large": (large, "is larger than"),
    "a deflated bomb": (bomb, "inflates to more"),
    "too many pixels": (lambda p: stored(p, GREY, Rows=20_000, Columns=20_000), "20000x20000 pixels are more than 50"),
    "no rows": (lambda p: stored(p, GREY, Rows=0), "no pixels by its header"),
    "a name for a colour model": (lambda p: stored(p, GREY, PhotometricInterpretation="OTTAVIA"), "colour model"),
    "RGB of one colour": (lambda p: stored(p, RGB, "RGB", SamplesPerPixel=1), "number of colours"),
    "32 bits": (lambda p: stored(p, DEEP.astype(np.uint32)), "32 bits"),
    "signed": (lambda p: stored(p, DEEP, PixelRepresentation=1), "signed or shifted"),
    "a video": (lambda p: encapsulated(p, [b"video"], GREY, MONO, uid.MPEG4HP41), "MPEG-4 AVC/H.264 .* is not read"),
    "an unknown transfer syntax": (of_unknown_syntax, "in a way that is not known"),
    "no pixels": (lambda p: save(p, header(GREY, MONO, LITTLE)), "missing or cut off"),
    "more pixels than its size": (lambda p: stored(p, speckle(3)), "more pixels"),
    "a palette without a table": (lambda p: stored(p, GREY, "PALETTE COLOR"), "damaged"),
    "text in place of a JPEG": (lambda p: encapsulated(p, [b"Grimaldi^Ottavia" * 20], GREY, MONO, JPEG), "damaged"),
    "a huge JPEG": (lambda p: huge(p, JPEG, jpeg(GREY)), "another size"),
    "a huge JPEG-LS": (lambda p: huge(p, uid.JPEGLSLossless, jpeg_ls(GREY)), "another size"),
    "a JPEG 2000 of another size": (lambda p: encapsulated(p, [jpeg_2000(GREY[:-8])], GREY, MONO, J2K), "another size"),
    "a JPEG of other colours": (lambda p: encapsulated(p, [jpeg(RGB)], GREY, MONO, JPEG), "another number of colours"),
    "8 bits in place of 12": (lambda p: encapsulated(p, [jpeg_2000(GREY)], DEEP, MONO, J2K, bits=12), "number of bits"),
}
BAD_LOOPS = {  # the first frame can be read
    "a loop too long": (lambda p: stored(p, GREY, NumberOfFrames=10**6), "holds 1000000 pictures, more than 10000"),
    "fewer frames than it says": (lambda p: encapsulated(p, FRAMES, LOOP, MONO, J2K, NumberOfFrames=5), "4 of the 5"),
    "fewer uncompressed frames": (lambda p: stored(p, speckle(3), frames=5), "missing or cut off"),
}
