"""DICOM: the pixels of every kind that is read, and the millimetres of a pixel."""

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from dicom_files import (
    BARS,
    COLUMNS,
    GREY,
    PRIVATE,
    READ,
    ROWS,
    SCALED,
    TWELVE,
    luma,
    read_frames,
    real,
    silence_about_the_patient,
    spaced,
    stored,
)
from PIL import Image
from pydicom.dataset import Dataset

from segmentation.importing.understanding import Wishes, read_case, understand_source
from segmentation.pictures import picture_files
from segmentation.pictures.dicom import is_dicom
from segmentation.pictures.picture_files import count_pages, list_pages, read_picture


@pytest.mark.parametrize("kind", READ)
def test_every_kind_is_read_and_nothing_of_the_patient_comes_out(kind, tmp_path, capfd):
    make, expected, off = READ[kind]
    path = make(tmp_path / "a.dcm")
    with silence_about_the_patient(capfd) as said:
        pictures, _ = read_frames(path)
        said += [repr(pictures), repr(count_pages(path))]
    expected = expected.reshape(-1, *expected.shape[-2:])
    deep = expected.max() > 255
    assert count_pages(path) == (len(pictures), deep) and len(pictures) == len(expected)
    assert {p.dtype for p in pictures} == {np.dtype(np.uint8)}
    assert np.abs(np.stack(pictures).astype(float) - (expected / 257 if deep else expected)).max() <= off + deep


@pytest.mark.parametrize("name", ["rgb_color", "palette", "ybr_color", "jpeg2k"])
def test_real_ultrasound_files_are_read_as_pydicom_reads_them(name, capsys):
    data = pydicom.dcmread(real(f"examples_{name}"))
    pictures, spacing = read_frames(real(f"examples_{name}"))
    colours = data.pixel_array if "NumberOfFrames" in data else data.pixel_array[None]
    if name == "palette":
        colours = pydicom.pixels.apply_color_lut(colours, data) >> 8
    for picture, colour in zip(pictures, colours.astype(np.uint8), strict=True):
        assert np.abs(picture.astype(int) - luma(colour)).mean() < 0.01
    shrunk = name in ("palette", "ybr_color")  # by pydicom, which left the regions alone
    assert spacing is None and ("beyond the picture" in capsys.readouterr().out) == shrunk


@pytest.mark.parametrize("name", ["dcmtk_+eb+cr", *(f"dcmtk_+eb+cy+{end}" for end in ("n1", "np", "s4")), "jpeg_dcmtk"])
def test_jpegs_of_all_colours_and_samplings_show_one_picture(name):
    """Coloured bars as RGB and YBR, with and without the markers that say which; none of them says it wrongly."""
    assert np.abs(read_frames(real(f"SC_rgb_{name}"))[0][0].astype(int) - BARS).max() <= 1


@pytest.mark.parametrize(
    "name", ["SC_jpeg_no_color_transform", "SC_jpeg_no_color_transform_2", "SC_rgb_jpeg_app14_dcmd"]
)
def test_jpegs_whose_marker_decides_are_read_as_pydicom_reads_them(name):
    np.testing.assert_array_equal(read_frames(real(name))[0][0], luma(pydicom.dcmread(real(name)).pixel_array))


def test_jpeg_of_12_bits_where_its_decoder_is_installed():
    pytest.importorskip("libjpeg")
    ((picture,), _) = read_frames(real("JPGExtended"))
    assert (picture.shape, picture.max()) == ((1024, 256), round(264 * 255 / 4095))


def test_a_folder_of_dicom_pictures_and_masks_is_a_data_set(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    lesion = (GREY > 200) * np.uint8(255)
    stored(tmp_path / "images" / "a.dcm", TWELVE, bits=12)
    stored(tmp_path / "masks" / "a.dcm", lesion)
    stored(tmp_path / "images" / "b.DCM", GREY)
    Image.fromarray(lesion).save(tmp_path / "masks" / "b.png")
    source = understand_source(tmp_path, Wishes())
    deep, grey = (read_case(case, source) for case in source.cases)
    assert np.abs(deep.image - SCALED / 257).max() <= 1 and np.array_equal(grey.image, GREY)
    assert np.array_equal(deep.mask, lesion > 0) and np.array_equal(grey.mask, lesion > 0)


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
    _, spacing = read_frames(stored(tmp_path / "a.dcm", GREY, **elements))
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
    pictures, spacing = read_frames(path)
    assert spacing is None and np.array_equal(pictures[0], GREY)
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


def test_a_loop_is_decoded_once_for_all_threads(tmp_path, monkeypatch):
    path = stored(tmp_path / "loop.dcm", np.stack([GREY] * 6), frames=6)
    decoded, decode = [], picture_files.read_stored

    def slow(*asked):
        decoded.append(asked)
        time.sleep(0.05)
        return decode(*asked)

    monkeypatch.setattr(picture_files, "read_stored", slow)
    with ThreadPoolExecutor(5) as pool:
        assert len(list(pool.map(read_picture, list_pages(path)[1:]))) == 5
    assert len(decoded) == 1


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path):
    padded = np.concatenate([GREY, GREY[:3]])  # of more pixels than needed pydicom warns
    paths = [stored(tmp_path / f"{i}.dcm", padded) for i in range(24)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(read_frames, paths))) == 24
    assert warnings.filters == before
