"""DICOM files that cannot be read are one line, and nothing of a patient comes out of any."""

import io
import logging
import os
import struct
import time
import traceback
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import (
    DEEP,
    EXACT,
    GREY,
    LITTLE,
    LOOPS,
    NEARLY,
    PRIVATE,
    RGB,
    ROWS,
    SECRETS,
    TWELVE,
    compressed,
    encapsulated,
    header,
    jpeg,
    jpeg_2000,
    lossless_frames,
    lossless_jpeg,
    save,
    spaced,
    speckle,
    stored,
    to_ybr,
)
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate

import dataset
from dataset import DataError
from segmentation.pictures import dicom
from segmentation.pictures.dicom import count_frames, is_dicom, read_dicom, read_frames


def deep_copy_of(path: Path, **elements) -> Path:
    """The file again, with other elements; None deletes one."""
    data = pydicom.dcmread(path)
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        elif name == "TransferSyntaxUID":
            data.file_meta.TransferSyntaxUID = value
        else:
            setattr(data, name, value)
    return save(path, data)


def report(path: Path) -> Path:
    data = header(speckle(), GREY, LITTLE)
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation", "SamplesPerPixel"):
        delattr(data, name)
    data.SOPClassUID, data.Modality = uid.BasicTextSRStorage, "SR"
    return save(path, data)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bomb(path: Path) -> Path:
    """A small file that inflates to more than is allowed here."""
    stored(path, speckle(), syntax=uid.DeflatedExplicitVRLittleEndian)
    meta = pydicom.filereader.read_file_meta_info(path)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = deflate.compress(bytes(2 * dicom.MAX_BYTES)) + deflate.flush()
    return written(path, path.read_bytes()[: 144 + meta.FileMetaInformationGroupLength] + zeros)


def large(path: Path) -> Path:
    with stored(path, speckle()).open("rb+") as file:
        file.truncate(dicom.MAX_BYTES + 1)
    return path


@pytest.fixture(autouse=True)
def less_is_too_much(monkeypatch):
    """Files of more than 10 MB, in place of 2 GB, are refused."""
    monkeypatch.setattr(dicom, "MAX_BYTES", 10_000_000)


def huge_jpeg(path: Path, syntax, patch) -> Path:
    """A frame that says of itself that it is 9000 x 9000."""
    frame = bytearray(patch(speckle()))
    at = next(i for i in range(len(frame)) if frame[i] == 0xFF and frame[i + 1] in (0xC0, 0xC3, 0xF7))
    frame[at + 5 : at + 9] = struct.pack(">HH", 9000, 9000)
    return encapsulated(path, [bytes(frame)], RGB, GREY, syntax)


def jpeg_ls(pixels: np.ndarray) -> bytes:
    import jpeg_ls as coder

    return bytes(coder.encode_array(pixels))


SIDE = 20_000
MONOCHROME = {"SamplesPerPixel": 1}
REFUSED = {
    "no such file": (lambda p: p, "no such file"),
    "a folder": (lambda p: p.mkdir() or p, "no DICOM file"),
    "a pipe": (lambda p: os.mkfifo(p) or p, "no DICOM file"),
    "an empty file": (lambda p: written(p, b""), "no DICOM file"),
    "a web page": (lambda p: written(p, b"<html>not found</html>" * 100), "no DICOM file"),
    "a JPEG": (lambda p: written(p, jpeg(speckle())), "no DICOM file"),
    "letters and noise": (
        lambda p: written(p, bytes(128) + b"DICM" + np.random.default_rng(0).bytes(900)),
        "damaged|holds no picture",
    ),
    "a report": (report, "holds no picture"),
    "no pixels": (lambda p: deep_copy_of(stored(p, speckle()), PixelData=None), "missing or cut off"),
    "empty pixels": (lambda p: deep_copy_of(stored(p, speckle()), PixelData=b""), "missing or cut off"),
    "half of the pixels": (lambda p: stored(p, speckle()[: ROWS // 2]), "missing or cut off"),
    "more pixels than its size": (lambda p: stored(p, speckle(3)), "more pixels"),
    "fewer frames than it says": (
        lambda p: deep_copy_of(compressed(p, speckle(3), uid.RLELossless, frames=3), NumberOfFrames=5),
        "damaged|frames",
    ),
    "fewer uncompressed frames": (lambda p: stored(p, speckle(3), frames=5), "missing or cut off"),
    "no transfer syntax": (
        lambda p: written(p, bytes(128) + b"DICM" + stored(p, speckle()).read_bytes()[-3000:]),
        "holds no picture|damaged",
    ),
    "too many pixels": (lambda p: stored(p, speckle(), Rows=SIDE, Columns=SIDE), "20000x20000 pixels are more than 50"),
    "no rows": (lambda p: stored(p, speckle(), Rows=0), "no pixels by its header"),
    "a loop too long": (lambda p: stored(p, speckle(), NumberOfFrames=10**6), "1000000 frames of 56x40 pixels"),
    "a deflated bomb": (bomb, "inflates to more"),
    "a file too large": (large, "is larger than"),
    "a huge JPEG": (lambda p: huge_jpeg(p, uid.JPEGBaseline8Bit, jpeg), "another size"),
    "a huge lossless JPEG": (lambda p: huge_jpeg(p, uid.JPEGLosslessSV1, lossless_jpeg), "another size"),
    "a huge JPEG-LS": (lambda p: huge_jpeg(p, uid.JPEGLSLossless, jpeg_ls), "another size"),
    "a JPEG of another size": (
        lambda p: encapsulated(p, [jpeg(speckle()[:-8])], RGB, GREY, uid.JPEGBaseline8Bit),
        "another size",
    ),
    "a JPEG 2000 of another size": (
        lambda p: encapsulated(p, [jpeg_2000(speckle()[:-8])], RGB, GREY, uid.JPEG2000),
        "another size",
    ),
    "a JPEG of other colours": (
        lambda p: encapsulated(p, [jpeg(RGB)], RGB, GREY, uid.JPEGBaseline8Bit),
        "another number of colours",
    ),
    "8 bits in place of 12": (
        lambda p: encapsulated(p, [jpeg_2000(speckle())], TWELVE, GREY, uid.JPEG2000Lossless, bits=12),
        "another number of bits",
    ),
    "16 bits in place of 12": (
        lambda p: encapsulated(p, [jpeg_2000(DEEP)], DEEP, GREY, uid.JPEG2000Lossless, bits=12),
        "another number of bits",
    ),
    "text in place of a JPEG": (
        lambda p: encapsulated(p, [b"Grimaldi^Ottavia" * 20], RGB, GREY, uid.JPEGBaseline8Bit),
        "damaged",
    ),
    "signed": (lambda p: stored(p, DEEP, PixelRepresentation=1), "signed"),
    "bits at the top": (lambda p: stored(p, TWELVE, bits=12, HighBit=15), "signed or shifted"),
    "32 bits": (lambda p: stored(p, DEEP.astype(np.uint32)), "32 bits"),
    "more bits than there are": (lambda p: stored(p, speckle(), BitsStored=12), "8 bits for a pixel, and 12"),
    "a colour model of old": (lambda p: stored(p, RGB, "HSV"), "colour model"),
    "a name for a colour model": (lambda p: stored(p, speckle(), PhotometricInterpretation="OTTAVIA"), "colour model"),
    "RGB of one colour": (lambda p: stored(p, RGB, "RGB", **MONOCHROME), "number of colours"),
    "a palette without a table": (lambda p: stored(p, speckle(), "PALETTE COLOR"), "damaged"),
    "YBR_FULL_422 that is not": (lambda p: stored(p, to_ybr(RGB), "YBR_FULL_422"), "damaged"),
    "frames that are no number": (
        lambda p: written(p, stored(p, speckle(2), frames=22).read_bytes().replace(b"IS\x02\x0022", b"IS\x02\x002A")),
        "damaged",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_one_line_that_names_the_file(tmp_path, kind):
    make, words = REFUSED[kind]
    path = make(tmp_path / "odd.dcm")
    with pytest.raises(DataError, match=words) as caught:
        read_frames(path)
    assert "odd.dcm: " in str(caught.value)
    assert "\n" not in str(caught.value)
    if "loop" not in kind and "fewer" not in kind:
        with pytest.raises(DataError, match="odd.dcm: "):
            read_dicom(path)


@pytest.mark.parametrize("kind", ["a huge JPEG", "a huge lossless JPEG", "a JPEG 2000 of another size"])
def test_a_frame_of_another_size_is_not_even_decoded(tmp_path, monkeypatch, kind):
    path = REFUSED[kind][0](tmp_path / "odd.dcm")
    monkeypatch.setattr(Image.Image, "__array_interface__", property(lambda _: pytest.fail("decoded")))
    with pytest.raises(DataError, match="another size"):
        read_frames(path)


@pytest.mark.parametrize(
    ("syntax", "bits", "words"),
    [
        (uid.JPEGExtended12Bit, 12, "JPEG Extended .*12 bits.* pip install pylibjpeg pylibjpeg-libjpeg"),
        (uid.JPEGLosslessSV1, 12, "JPEG Lossless, .*pip install python-gdcm"),
        (uid.JPEGLossless, 16, "JPEG Lossless, .*pip install python-gdcm"),
        (uid.HTJ2KLossless, 8, "High-Throughput JPEG 2000.* pip install pylibjpeg pylibjpeg-openjpeg"),
        (uid.JPEGLSLossless, 8, "JPEG-LS Lossless.* pip install pyjpegls"),
    ],
)
def test_a_missing_decoder_is_named(tmp_path, monkeypatch, syntax, bits, words):
    monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    pixels = DEEP if bits > 8 else speckle()
    path = encapsulated(tmp_path / "a.dcm", [jpeg(speckle())], pixels, GREY, syntax, bits=bits)
    with pytest.raises(DataError, match=f"a.dcm: is compressed as {words}"):
        read_frames(path)


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (uid.MPEG4HP41, "as MPEG-4 AVC/H.264 High Profile / Level 4.1, which is not read"),
        ("1.2.826.0.1.3680043.8.498.4711", "in a way that is not known"),
        ("1.2.840.113619.5.2", "which is not read|in a way that is not known|damaged"),
    ],
)
def test_other_transfer_syntaxes_are_refused_by_name(tmp_path, syntax, words):
    path = stored(tmp_path / "a.dcm", speckle())
    raw, old, new = path.read_bytes(), uid.ExplicitVRLittleEndian, str(syntax)
    new += "\0" * (len(new) % 2)
    old += "\0" * (len(old) % 2)
    changed = raw.replace(
        b"UI" + struct.pack("<H", len(old)) + old.encode(), b"UI" + struct.pack("<H", len(new)) + new.encode(), 1
    )
    longer = struct.unpack("<I", raw[140:144])[0] + len(new) - len(old)
    path.write_bytes(changed[:140] + struct.pack("<I", longer) + changed[144:])
    with pytest.raises(DataError, match=words):
        read_frames(path)


def test_12_bits_where_the_decoder_is_installed():
    pytest.importorskip("libjpeg")
    picture = read_dicom(Path(get_testdata_file("JPGExtended.dcm", download=False)))
    assert (picture.shape, picture.dtype, picture.max()) == ((1024, 256), np.uint16, round(264 * 65535 / 4095))


def test_lossless_jpeg_of_16_bits_where_the_decoder_is_installed(tmp_path):
    pytest.importorskip("gdcm")
    path = encapsulated(tmp_path / "a.dcm", [lossless_jpeg(DEEP, 16)], DEEP, GREY, uid.JPEGLosslessSV1)
    np.testing.assert_array_equal(read_dicom(path), DEEP)


CUT = {
    "uncompressed": lambda p: stored(p, speckle(2), frames=2),
    "RLE": lambda p: compressed(p, speckle(2), uid.RLELossless, frames=2),
    "JPEG": lambda p: encapsulated(p, [jpeg(f) for f in speckle(2)], RGB, GREY, uid.JPEGBaseline8Bit),
    "lossless JPEG": lambda p: encapsulated(p, lossless_frames(), RGB, GREY, uid.JPEGLosslessSV1),
    "JPEG-LS": lambda p: compressed(p, speckle(2), uid.JPEGLSLossless, frames=2),
    "JPEG 2000": lambda p: encapsulated(p, list(map(jpeg_2000, speckle(2))), RGB, GREY, uid.JPEG2000Lossless),
    "deflated": lambda p: stored(p, speckle(2), syntax=uid.DeflatedExplicitVRLittleEndian, frames=2),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, kind):
    whole = CUT[kind](tmp_path / "whole.dcm").read_bytes()
    path = tmp_path / "cut.dcm"
    for length in [*range(0, len(whole) - 16, max(1, len(whole) // 40)), len(whole) - 16]:
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut.dcm: "):
            read_frames(path)


@pytest.mark.parametrize("kind", sorted(set(CUT) - {"uncompressed", "deflated"}))  # these have no frames of their own
def test_a_compressed_frame_cut_off_inside_a_whole_file_is_refused(tmp_path, kind):
    data = pydicom.dcmread(CUT[kind](tmp_path / "whole.dcm"))
    frames = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=int(data.NumberOfFrames)))
    for share in (0.1, 0.5, 0.9):
        half = [*frames[:-1], frames[-1][: int(len(frames[-1]) * share) // 2 * 2]]
        data.PixelData = encapsulate(half)
        began = time.monotonic()
        with pytest.raises(DataError, match="cut.dcm: "):
            read_frames(save(tmp_path / "cut.dcm", data))
        assert time.monotonic() - began < 3  # a decoder that looks for the end beyond the end needs more


# ---------------------------------------------------------------- nothing of the patient comes out


def assert_silent_about_the_patient(*texts: str) -> None:
    for text in texts:
        for secret in SECRETS:
            assert secret not in text, secret


@pytest.fixture
def everything_said(capfd):
    """A function that returns all that was printed, logged by any logger, and warned of, since the test began."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [*capfd.readouterr(), log.getvalue(), *(str(w.message) for w in caught)]
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.mark.parametrize("kind", [*REFUSED, *EXACT, *NEARLY, *LOOPS])
def test_nothing_of_the_patient_comes_out(tmp_path, everything_said, kind):
    make = REFUSED[kind][0] if kind in REFUSED else {**EXACT, **NEARLY, **LOOPS}[kind]
    made = make(tmp_path / "odd.dcm")
    path = made[0] if isinstance(made, tuple) else made
    everything_said()
    said = []
    for read in (read_frames, read_dicom, count_frames, dataset.read_values):
        try:
            said.append(repr(read(path)))
        except DataError:
            said.append(traceback.format_exc())
    printed, errors, *others = everything_said()
    assert_silent_about_the_patient(*said, printed, errors, *others)
    assert errors == ""


SPOILT = {  # elements that pydicom warns of, quoting them
    "number": (b"00000022", b"Grimaldi"),
    "character set": (b"ISO_IR 100", b"Grimaldi^O"),
    "colours": (b"MONOCHROME2", b"Grimaldi^Ot"),
    "spacing": (b"0.3\\0.2 ", b"Grimaldi"),
    "spacing of two": (b"0.3\\0.2 ", b"Ott\\avia"),
    "length": (b"OB\0\0", b"Ot\0\0"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_names_where_numbers_belong_do_not_come_out(tmp_path, everything_said, kind):
    path = stored(tmp_path / "a.dcm", speckle(22), NumberOfFrames="00000022", PixelSpacing=[0.3, 0.2])
    before, after = SPOILT[kind]
    raw = path.read_bytes()
    assert before in raw
    path.write_bytes(raw.replace(before, after))
    said = []
    for read in (read_frames, read_dicom, count_frames):
        try:
            said.append(repr(read(path)))
        except DataError:
            said.append(traceback.format_exc())
    assert_silent_about_the_patient(*said, *everything_said())
    assert "Grimaldi" not in "".join(said) and "Ott" not in "".join(said)


def test_bytes_changed_at_random_are_read_or_refused_in_silence(tmp_path, everything_said):
    rng = np.random.default_rng(5)
    kinds = [*CUT.values(), EXACT["YBR_FULL_422"], EXACT["implicit little endian"], NEARLY["JPEG, YBR_FULL_422"]]
    for number, make in enumerate(kinds):
        made = make(tmp_path / f"{number}.dcm")
        path = made[0] if isinstance(made, tuple) else made
        raw = path.read_bytes()
        for _ in range(40):
            changed = bytearray(raw)
            for at in rng.integers(128, len(raw), rng.integers(1, 4)):
                changed[at] = rng.integers(256)
            path.write_bytes(changed)
            try:
                pictures = read_frames(path).pictures
            except DataError as error:
                assert_silent_about_the_patient(traceback.format_exc())
                assert f"{number}.dcm: " in str(error)
            else:
                assert all(p.ndim == 2 and p.dtype in (np.uint8, np.uint16) for p in pictures)
    printed, errors, *others = everything_said()
    assert errors == ""
    assert_silent_about_the_patient(printed, *others)


def test_threads_do_not_leave_warnings_switched_off(tmp_path):
    padded = np.concatenate([speckle(), speckle()[:3]])  # of more pixels than needed pydicom warns
    paths = [stored(tmp_path / f"{i}.dcm", padded) for i in range(24)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(read_dicom, paths))
    assert len(pictures) == 24
    assert warnings.filters == before
    assert not dicom._ONE_AT_A_TIME.locked()


def test_reading_does_not_even_load_the_patient(tmp_path, monkeypatch):
    loaded = []
    read = pydicom.dcmread

    def watched(*arguments, **options):
        data = read(*arguments, **options)
        loaded.extend(element.keyword or str(element.tag) for element in data.iterall())
        return data

    monkeypatch.setattr(pydicom, "dcmread", watched)
    read_frames(stored(tmp_path / "a.dcm", speckle(), SequenceOfUltrasoundRegions=[spaced(0.02, 0.03)]))
    assert "PixelData" in loaded and "PhysicalDeltaX" in loaded
    assert not {*PRIVATE, "SOPInstanceUID", "OtherPatientIDsSequence", "(0009,1001)"} & set(loaded)


def test_every_file_that_comes_with_pydicom_is_read_or_refused(everything_said):
    folder = Path(get_testdata_file("MR_small.dcm", download=False)).parent
    names = set()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        data = None
        if is_dicom(path):
            data = pydicom.dcmread(path)
            names |= {part for part in str(data.get("PatientName", "")).split("^") if len(part) > 3}
        try:
            frames = read_frames(path)
            assert frames.pictures and all(p.ndim == 2 for p in frames.pictures)
        except DataError as error:
            text = str(error).replace(str(path), "")
            assert "\n" not in text
            assert not any(name in text for name in names)
            assert data is None or data.get("Modality") != "US"
    assert len(names) > 5
