"""DICOM: the pixels of every kind that is read, and the millimetres of a pixel."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import (
    COLUMNS,
    GREY,
    PRIVATE,
    READ,
    ROWS,
    SCALED,
    TWELVE,
    luma,
    silence_about_the_patient,
    spaced,
    stored,
)
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

import dataset
from segmentation.importing.find_data import find_data
from segmentation.pictures.dicom import count_frames, is_dicom, read_dicom, read_frames


@pytest.mark.parametrize("kind", READ)
def test_every_kind_is_read_and_nothing_of_the_patient_comes_out(kind, tmp_path, capfd):
    make, expected, off = READ[kind]
    path = make(tmp_path / "a.dcm")
    with silence_about_the_patient(capfd) as said:
        pictures, first = read_frames(path).pictures, read_dicom(path)
        said += [repr(pictures), repr(count_frames(path))]
    expected = expected.reshape(-1, ROWS, COLUMNS)
    assert len(pictures) == count_frames(path) == len(expected)
    assert {p.dtype for p in pictures} == {np.dtype(np.uint16 if expected.max() > 255 else np.uint8)}
    assert np.abs(np.stack(pictures).astype(int) - expected).max() <= off
    np.testing.assert_array_equal(first, pictures[0])


REAL = ["rgb_color", "palette", "ybr_color", "jpeg2k"]


@pytest.mark.parametrize("name", REAL)
def test_real_ultrasound_files_are_read_as_pydicom_reads_them(name, capsys):
    path = Path(get_testdata_file(f"examples_{name}.dcm", download=False))
    pictures, spacing = read_frames(path)
    data = pydicom.dcmread(path)
    colours = data.pixel_array if "NumberOfFrames" in data else data.pixel_array[None]
    if name == "palette":
        colours = pydicom.pixels.apply_color_lut(colours, data) >> 8
    for picture, colour in zip(pictures, colours.astype(np.uint8), strict=True):
        assert np.abs(picture.astype(int) - luma(colour)).mean() < 0.01
    shrunk = name in ("palette", "ybr_color")  # by pydicom, which left the regions alone
    assert spacing is None and ("beyond the picture" in capsys.readouterr().out) == shrunk


def test_jpeg_of_12_bits_where_its_decoder_is_installed():
    pytest.importorskip("libjpeg")
    picture = read_dicom(Path(get_testdata_file("JPGExtended.dcm", download=False)))
    assert (picture.shape, picture.dtype, picture.max()) == ((1024, 256), np.uint16, round(264 * 65535 / 4095))


def test_a_folder_of_dicom_pictures_and_masks_is_a_data_set(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    lesion = (GREY > 200) * np.uint8(255)
    stored(tmp_path / "images" / "a.dcm", TWELVE, bits=12)
    stored(tmp_path / "masks" / "a.dcm", lesion)
    stored(tmp_path / "images" / "b.DCM", GREY)
    Image.fromarray(lesion).save(tmp_path / "masks" / "b.png")
    samples = dataset.find_samples(find_data(tmp_path))
    (deep, first), (grey, second) = dataset.read_samples(samples)
    assert np.array_equal(deep, (SCALED / 65535 * 255).round()) and np.array_equal(grey, GREY)
    assert np.array_equal(first, lesion > 0) and np.array_equal(second, lesion > 0)


def test_dicom_is_known_by_what_it_holds(tmp_path):
    assert is_dicom(stored(tmp_path / "IM_0001", GREY))
    Image.fromarray(GREY).save(tmp_path / "picture.png")
    for name, content in {"empty": b"", "short.dcm": b"DICM", "page.dcm": b"<html>" + b" " * 500}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    for name in ("empty", "short.dcm", "page.dcm", "picture.png", "missing.dcm", ".", "pipe"):
        assert not is_dicom(tmp_path / name)


# ---------------------------------------------------------------- millimetres

REGIONS = "SequenceOfUltrasoundRegions"
SPECTRUM = spaced(0.5, 0.5, RegionSpatialFormat=3, PhysicalUnitsXDirection=4, PhysicalUnitsYDirection=7)  # s, cm/s
FLOW = spaced(0.05, 0.05, RegionDataType=2)
MEASURES, VOLUME = Dataset(), Dataset()
MEASURES.PixelSpacing = [0.3, 0.2]
VOLUME.PixelMeasuresSequence = [MEASURES]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({REGIONS: [spaced(0.02, 0.03)], "PixelSpacing": [7, 7]}, (0.3, 0.2)),
        ({REGIONS: [spaced(-0.02, 0.03)]}, (0.3, 0.2)),  # an axis that points to the left
        ({REGIONS: [spaced(0.02, 0.03), spaced(0.0201, 0.03)]}, (0.3, 0.2)),
        ({REGIONS: [SPECTRUM, spaced(0.02, 0.03)]}, (0.3, 0.2)),
        ({REGIONS: [FLOW, spaced(0.02, 0.03)]}, (0.3, 0.2)),
        ({REGIONS: [FLOW]}, (0.5, 0.5)),
        ({REGIONS: [SPECTRUM], "PixelSpacing": [0.3, 0.2]}, (0.3, 0.2)),
        ({"PixelSpacing": [0.3, 0.2], "ImagerPixelSpacing": [0.6, 0.4]}, (0.3, 0.2)),
        ({"ImagerPixelSpacing": [0.3, 0.2]}, (0.3, 0.2)),
        ({"SharedFunctionalGroupsSequence": [VOLUME]}, (0.3, 0.2)),
        ({REGIONS: [spaced(1, 1, PhysicalUnitsXDirection=0)]}, None),
        ({REGIONS: []}, None),
        ({"PixelSpacing": [0, 0.2]}, None),
        ({}, None),
    ],
)
def test_the_size_of_a_pixel_is_read(elements, expected, tmp_path, capsys):
    spacing = read_frames(stored(tmp_path / "a.dcm", GREY, **elements)).spacing
    assert spacing == (expected if expected is None else pytest.approx(expected))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("regions", "word"),
    [
        ([spaced(0.02, 0.03), spaced(0.03, 0.03)], "different sizes"),
        ([spaced(0.02, 0.03, RegionLocationMaxX1=COLUMNS * 2)], "beyond the picture"),
        ([spaced(0.02, 0.03, RegionLocationMaxY1=ROWS * 2)], "beyond the picture"),
        ([spaced(0.0, 0.03)], "no size"),
        ([spaced(float("nan"), 0.03)], "no size"),
    ],
)
def test_a_size_that_cannot_be_trusted_is_none_and_a_line_says_why(regions, word, tmp_path, capsys):
    path = stored(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=regions, PixelSpacing=[0.3, 0.2])
    frames = read_frames(path)
    assert frames.spacing is None and np.array_equal(frames.pictures[0], GREY)
    output = capsys.readouterr().out
    assert output.count("\n") == 1 and "a.dcm" in output and word in output


# ---------------------------------------------------------------- the patient, and others


def test_nothing_of_the_patient_is_even_loaded(tmp_path, monkeypatch):
    loaded, read = [], pydicom.dcmread

    def watched(*arguments, **options):
        data = read(*arguments, **options)
        loaded.extend(element.keyword or str(element.tag) for element in data.iterall())
        return data

    monkeypatch.setattr(pydicom, "dcmread", watched)
    read_frames(stored(tmp_path / "a.dcm", GREY, SequenceOfUltrasoundRegions=[spaced(0.02, 0.03)]))
    assert "PixelData" in loaded and "PhysicalDeltaX" in loaded
    assert not {*PRIVATE, "SOPInstanceUID", "OtherPatientIDsSequence", "(0009,1001)"} & set(loaded)


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path):
    padded = np.concatenate([GREY, GREY[:3]])  # of more pixels than needed pydicom warns
    paths = [stored(tmp_path / f"{i}.dcm", padded) for i in range(24)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(read_dicom, paths))) == 24
    assert warnings.filters == before
