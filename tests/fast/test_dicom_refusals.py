"""DICOM files that cannot be read are refused in one line that names the file and nothing of the patient."""

import sys
import time
import traceback

import numpy as np
import pydicom
import pytest
from dicom_files import (
    BAD_LOOPS,
    GREY,
    READ,
    REFUSED,
    TOO_MANY,
    encapsulated,
    jpeg,
    read_frames,
    save,
    silence_about_the_patient,
    speckle,
    stored,
    written,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from dataset import DataError
from segmentation.pictures import dicom

drawn = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def less_is_too_much(monkeypatch):
    monkeypatch.setattr(dicom, "MAX_DICOM_BYTES", TOO_MANY)


@pytest.mark.parametrize("kind", [*REFUSED, *BAD_LOOPS])
def test_what_cannot_be_read_is_one_line(kind, tmp_path, capfd):
    make, words = (REFUSED | BAD_LOOPS)[kind]
    path = make(tmp_path / "odd.dcm")
    with silence_about_the_patient(capfd) as said:
        with pytest.raises(DataError, match=f"odd.dcm: .*({words})") as caught:
            read_frames(path)
        assert "\n" not in str(caught.value)
        said += traceback.format_exception(caught.value)


@pytest.mark.parametrize(
    ("syntax", "bits", "words"),
    [
        (uid.JPEGExtended12Bit, 12, "JPEG Extended .*12 bits.* pip install pylibjpeg pylibjpeg-libjpeg"),
        (uid.JPEGLosslessSV1, 12, "JPEG Lossless, .*pip install python-gdcm"),
        (uid.HTJ2KLossless, 8, "High-Throughput JPEG 2000.* pip install pylibjpeg pylibjpeg-openjpeg"),
        (uid.JPEGLSLossless, 8, "JPEG-LS Lossless.* pip install pyjpegls"),
    ],
)
def test_a_missing_decoder_is_named(syntax, bits, words, tmp_path, monkeypatch):
    monkeypatch.setattr(pydicom.pixels.get_decoder(syntax), "_available", {})
    pixels = GREY.astype(np.uint16 if bits > 8 else np.uint8)
    path = encapsulated(tmp_path / "a.dcm", [jpeg(GREY)], pixels, "MONOCHROME2", syntax, bits=bits)
    with pytest.raises(DataError, match=f"a.dcm: is compressed as {words}"):
        read_frames(path)


def test_without_pydicom_its_name_is_said(tmp_path, monkeypatch):
    path = stored(tmp_path / "a.dcm", GREY)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match="a.dcm: .*pip install pydicom"):
        read_frames(path)


SPOILT = {  # elements that pydicom warns of, quoting them; "Grimaldi" and "Ottavia" are the patient
    "number": (b"00000022", b"Grimaldi"),
    "character set": (b"ISO_IR 100", b"Grimaldi^O"),
    "colours": (b"MONOCHROME2", b"Grimaldi^Ot"),
    "spacing": (b"0.3\\0.20", b"Grimaldi"),
    "spacing of two": (b"0.3\\0.20", b"\\Ottavia"),
    "length": (b"OB\0\0", b"Ot\0\0"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_name_where_something_else_belongs_does_not_come_out(kind, tmp_path, capfd):
    before, after = SPOILT[kind]
    path = stored(tmp_path / "a.dcm", speckle(22), NumberOfFrames="00000022", PixelSpacing=["0.3", "0.20"])
    assert before in path.read_bytes()
    written(path, path.read_bytes().replace(before, after))
    with silence_about_the_patient(capfd) as said:
        try:
            said.append(repr(read_frames(path)))
        except DataError:
            said.append(traceback.format_exc())


# ---------------------------------------------------------------- damaged files

ENCODED = ["RLE", "JPEG", "lossless JPEG", "JPEG-LS", "JPEG 2000 lossless"]
DAMAGED = [*ENCODED, "implicit little endian", "deflated", "YBR of half the width"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a whole file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    return {kind: READ[kind][0](folder / f"{number}.dcm").read_bytes() for number, kind in enumerate(DAMAGED)}


@drawn
@given(kind=st.sampled_from(DAMAGED), share=st.floats(0, 1))
def test_a_file_cut_off_anywhere_is_refused(kind, share, whole, tmp_path):
    content = whole[kind]
    with pytest.raises(DataError, match="cut.dcm: "):
        read_frames(written(tmp_path / "cut.dcm", content[: round(share * (len(content) - 16))]))


@pytest.mark.parametrize("kind", ENCODED)
def test_a_frame_cut_off_inside_a_whole_file_is_refused_at_once(kind, tmp_path):
    data = pydicom.dcmread(READ[kind][0](tmp_path / "whole.dcm"))
    frames = list(generate_frames(data.PixelData, number_of_frames=int(data.get("NumberOfFrames", 1))))
    for share in (0.1, 0.5, 0.9):
        data.PixelData = encapsulate([*frames[:-1], frames[-1][: int(len(frames[-1]) * share) // 2 * 2]])
        began = time.process_time()
        with pytest.raises(DataError, match="cut.dcm: "):
            read_frames(save(tmp_path / "cut.dcm", data))
        assert time.process_time() - began < 3  # a decoder that looks for the end beyond the end needs more


@drawn
@given(
    kind=st.sampled_from(DAMAGED),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_changed_bytes_are_read_or_refused_in_silence(kind, changes, whole, tmp_path, capfd):
    content = bytearray(whole[kind])
    for share, value in changes:
        content[128 + int(share * (len(content) - 128))] = value
    path = written(tmp_path / "changed.dcm", content)
    with silence_about_the_patient(capfd) as said:
        try:
            assert all(p.ndim == 2 and p.dtype == np.uint8 for p in read_frames(path)[0])
        except DataError as error:
            assert "changed.dcm: " in str(error)
            said.append(traceback.format_exc())
