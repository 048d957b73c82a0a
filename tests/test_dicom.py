"""DICOM files of every kind that is read: pixels and millimetres."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import (
    COLUMNS,
    EXACT,
    GREY,
    LITTLE,
    LOOPS,
    NEARLY,
    RGB,
    ROWS,
    TWELVE,
    encapsulated,
    header,
    jpeg,
    lossless_frames,
    luma,
    save,
    spaced,
    speckle,
    stored,
)
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended

import dataset
from segmentation.pictures.dicom import count_frames, is_dicom, read_dicom, read_frames
from segmentation.scoring.measure import measure


@pytest.mark.parametrize("kind", EXACT)
def test_lossless_kinds_are_read_exactly(tmp_path, kind):
    path, expected = EXACT[kind](tmp_path / "a.dcm")
    frames = read_frames(path)
    assert [p.dtype for p in frames.pictures] == [np.uint16 if expected.max() > 255 else np.uint8]
    np.testing.assert_array_equal(frames.pictures[0], expected)
    np.testing.assert_array_equal(read_dicom(path), expected)
    assert count_frames(path) == 1


@pytest.mark.parametrize("kind", NEARLY)
def test_lossy_kinds_are_read_nearly(tmp_path, kind):
    path, expected = NEARLY[kind](tmp_path / "a.dcm")
    (picture,) = read_frames(path).pictures
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - expected).max() <= 4
    np.testing.assert_array_equal(read_dicom(path), picture)


def test_a_jpeg_reads_as_the_same_jpeg_does_outside_of_dicom(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(RGB, subsampling=1))
    path = encapsulated(tmp_path / "a.dcm", [jpeg(RGB, subsampling=1)], RGB, "YBR_FULL_422", uid.JPEGBaseline8Bit)
    difference = dataset.read_gray(path).astype(int) - dataset.read_gray(tmp_path / "a.jpg")
    assert np.abs(difference).max() <= 2  # Y itself, without the way over red, green and blue


def palette(path: Path, deep: bool, syntax=LITTLE, segmented: bool = False, as_8_bits: bool = False) -> np.ndarray:
    """Write a palette picture; the colours that its values stand for."""
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], 1).astype(np.uint8)
    data = header(speckle(), "PALETTE COLOR", syntax)
    order = ">u2" if syntax == uid.ExplicitVRBigEndian else "<u2"
    for i, name in enumerate(("Red", "Green", "Blue")):
        table = colours[:, i].astype(int)
        if deep and not as_8_bits:
            table = table * 256 + 7
        if segmented:
            table = np.concatenate([[0, 256], table])  # one segment: the 256 entries as they are
        prefix = "Segmented" if segmented else ""
        setattr(data, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16 if deep else 8])
        entries = table.astype(order if deep else np.uint8).tobytes()
        data.add_new(pydicom.datadict.tag_for_keyword(f"{prefix}{name}PaletteColorLookupTableData"), "OW", entries)
    data.add_new("PixelData", "OB", speckle().tobytes())
    save(path, data)
    return colours[speckle()]


@pytest.mark.parametrize(
    "options",
    [
        {"deep": False},
        {"deep": True},
        {"deep": True, "as_8_bits": True},
        {"deep": True, "segmented": True},
        {"deep": True, "syntax": uid.ExplicitVRBigEndian},
        {"deep": True, "syntax": uid.ExplicitVRBigEndian, "segmented": True},
        {"deep": True, "syntax": uid.ImplicitVRLittleEndian},
    ],
)
def test_palettes(tmp_path, options):
    expected = luma(palette(tmp_path / "a.dcm", **options))
    np.testing.assert_array_equal(read_dicom(tmp_path / "a.dcm"), expected)


def test_one_bit_is_black_and_white(tmp_path):
    bits = speckle() > 128
    data = header(speckle(), GREY, LITTLE, bits=1, BitsAllocated=1)
    data.add_new("PixelData", "OB", np.packbits(bits, bitorder="little").tobytes())
    np.testing.assert_array_equal(read_dicom(save(tmp_path / "a.dcm", data)), bits * np.uint8(255))


@pytest.mark.parametrize("kind", LOOPS)
def test_every_frame_of_a_loop_is_a_picture(tmp_path, kind):
    path = LOOPS[kind](tmp_path / "loop.dcm")
    frames = read_frames(path)
    np.testing.assert_array_equal(np.stack(frames.pictures), speckle(4))
    np.testing.assert_array_equal(read_dicom(path), speckle(4)[0])
    assert count_frames(path) == 4


def test_frames_in_several_fragments(tmp_path):
    data = header(speckle(), GREY, uid.JPEGLosslessSV1, frames=4)
    data.PixelData = encapsulate(lossless_frames(), fragments_per_frame=3)
    data["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(np.stack(read_frames(save(tmp_path / "a.dcm", data)).pictures), speckle(4))


def test_an_extended_table_of_offsets(tmp_path):
    data = header(speckle(), GREY, uid.JPEGLosslessSV1, frames=4)
    data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = encapsulate_extended(lossless_frames())
    data["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(np.stack(read_frames(save(tmp_path / "a.dcm", data)).pictures), speckle(4))


# ---------------------------------------------------------------- where the pictures come from


def test_dataset_reads_dicom_as_any_other_picture(tmp_path):
    path = stored(tmp_path / "A.DCM", TWELVE, bits=12)
    assert dataset.read_values(path).dtype == np.uint16
    expected = (TWELVE / 4095 * 255).round()
    assert np.abs(dataset.read_gray(path) - expected).max() <= 1
    Image.fromarray((speckle() > 128).astype(np.uint8) * 255).save(tmp_path / "m.png")
    mask = dataset.read_mask([stored(tmp_path / "m.dcm", (speckle() > 128).astype(np.uint8) * 255)], (ROWS, COLUMNS))
    np.testing.assert_array_equal(mask, speckle() > 128)


def test_a_data_folder_of_dicom_pictures_and_png_masks(tmp_path):
    import segmentation.importing.layouts  # noqa: F401

    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i, frame in enumerate(speckle(3)):
        stored(tmp_path / "images" / f"scan{i}.dcm", frame)
        Image.fromarray((frame > 200).astype(np.uint8) * 255).save(tmp_path / "masks" / f"scan{i}.png")
    samples = dataset.find_samples(tmp_path)
    assert len(samples) == 3
    for (image, mask), frame in zip(dataset.read_samples(samples), speckle(3), strict=True):
        np.testing.assert_array_equal(image, frame)
        np.testing.assert_array_equal(mask, frame > 200)


def test_dicom_is_known_by_what_it_holds(tmp_path):
    assert is_dicom(stored(tmp_path / "IM_0001", speckle()))
    np.testing.assert_array_equal(read_dicom(tmp_path / "IM_0001"), speckle())
    Image.fromarray(speckle()).save(tmp_path / "picture.png")
    for name, content in {"empty": b"", "short.dcm": b"DICM", "page.dcm": b"<html>" + b" " * 500}.items():
        (tmp_path / name).write_bytes(content)
        assert not is_dicom(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    for name in ("picture.png", "missing.dcm", ".", "pipe"):
        assert not is_dicom(tmp_path / name)


# ---------------------------------------------------------------- millimetres


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"SequenceOfUltrasoundRegions": [spaced(0.02, 0.03)]}, (0.3, 0.2)),
        ({"SequenceOfUltrasoundRegions": [spaced(-0.02, 0.03)]}, (0.3, 0.2)),
        ({"SequenceOfUltrasoundRegions": [spaced(0.02, 0.03)], "PixelSpacing": [7, 7]}, (0.3, 0.2)),
        ({"SequenceOfUltrasoundRegions": [spaced(0.02, 0.03), spaced(0.0201, 0.03)]}, (0.3, 0.2)),
        (  # beside a spectrum, in seconds and cm/s
            {
                "SequenceOfUltrasoundRegions": [
                    spaced(0.5, 0.5, RegionSpatialFormat=3, PhysicalUnitsXDirection=4, PhysicalUnitsYDirection=7),
                    spaced(0.02, 0.03),
                ]
            },
            (0.3, 0.2),
        ),
        (  # tissue beside colour flow of another size
            {"SequenceOfUltrasoundRegions": [spaced(0.05, 0.05, RegionDataType=2), spaced(0.02, 0.03)]},
            (0.3, 0.2),
        ),
        ({"SequenceOfUltrasoundRegions": [spaced(0.02, 0.03, RegionDataType=2)]}, (0.3, 0.2)),
        ({"PixelSpacing": [0.3, 0.2]}, (0.3, 0.2)),
        ({"ImagerPixelSpacing": [0.3, 0.2]}, (0.3, 0.2)),
        ({"PixelSpacing": [0.3, 0.2], "ImagerPixelSpacing": [0.6, 0.4]}, (0.3, 0.2)),
        (  # regions of something else
            {"SequenceOfUltrasoundRegions": [spaced(1, 1, RegionSpatialFormat=2)], "PixelSpacing": [0.3, 0.2]},
            (0.3, 0.2),
        ),
        ({"SequenceOfUltrasoundRegions": [spaced(1, 1, PhysicalUnitsXDirection=0)]}, None),
        ({"SequenceOfUltrasoundRegions": []}, None),
        ({"PixelSpacing": [0, 0.2]}, None),
        ({}, None),
    ],
)
def test_spacing(tmp_path, capsys, elements, expected):
    spacing = read_frames(stored(tmp_path / "a.dcm", speckle(), **elements)).spacing
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
def test_spacing_that_cannot_be_trusted_is_said_in_a_line(tmp_path, capsys, regions, word):
    path = stored(tmp_path / "a.dcm", speckle(), SequenceOfUltrasoundRegions=regions, PixelSpacing=[0.3, 0.2])
    frames = read_frames(path)
    assert frames.spacing is None
    assert len(frames.pictures) == 1
    output = capsys.readouterr().out
    assert output.count("\n") == 1
    assert "a.dcm" in output and word in output


def test_a_picture_is_read_whose_spacing_is_no_number(tmp_path, capsys):
    path = stored(tmp_path / "a.dcm", speckle(), PixelSpacing=[0.3, 0.2])
    path.write_bytes(path.read_bytes().replace(b"0.3\\0.2 ", b"Grimaldi"))
    frames = read_frames(path)
    np.testing.assert_array_equal(frames.pictures[0], speckle())
    assert frames.spacing is None
    assert "that cannot be read" in capsys.readouterr().out


def test_spacing_of_an_enhanced_volume(tmp_path):
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [0.3, 0.2]
    shared.PixelMeasuresSequence = [measures]
    path = stored(tmp_path / "a.dcm", speckle(2), frames=2, SharedFunctionalGroupsSequence=[shared])
    assert read_frames(path).spacing == (0.3, 0.2)


@pytest.mark.parametrize(
    "elements",
    [{"SequenceOfUltrasoundRegions": [spaced(0.01, 0.02)]}, {"PixelSpacing": [0.2, 0.1]}],
    ids=["regions", "PixelSpacing"],
)
def test_a_rectangle_is_measured_in_millimetres(tmp_path, elements):
    """15 rows of 0.2 mm and 40 columns of 0.1 mm: 3 by 4 mm, whose diagonal is 5 mm and 2 * 3 * 4 / 5 across."""
    pixels = np.zeros((ROWS, COLUMNS), np.uint8)
    pixels[10:25, 8:48] = 200
    (picture,), spacing = read_frames(stored(tmp_path / "a.dcm", pixels, **elements))
    sizes = measure(picture > 100, spacing)
    assert sizes["area_mm2"] == pytest.approx(12.0)
    assert sizes["longest_mm"] == pytest.approx(5.0, abs=0.2)
    assert sizes["across_mm"] == pytest.approx(4.8, abs=0.2)


# ---------------------------------------------------------------- pydicom's own files


@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("examples_rgb_color.dcm", 1, (240, 320)),
        ("examples_palette.dcm", 1, (350, 800)),
        ("examples_ybr_color.dcm", 30, (240, 320)),
        ("examples_jpeg2k.dcm", 1, (480, 640)),
        ("ExplVR_BigEnd.dcm", 1, (60, 80)),
    ],
)
def test_the_ultrasound_files_of_pydicom(capsys, name, frames, shape):
    path = Path(get_testdata_file(name, download=False))
    pictures, spacing = read_frames(path)
    assert [p.shape for p in pictures] == [shape] * frames
    assert count_frames(path) == frames
    data = pydicom.dcmread(path)
    colours = data.pixel_array if frames > 1 else data.pixel_array[None]
    if name == "examples_palette.dcm":
        colours = pydicom.pixels.apply_color_lut(colours, data) >> 8
    for picture, colour in zip(pictures, colours.astype(np.uint8), strict=True):
        assert np.abs(picture.astype(int) - luma(colour)).max() <= 6
        assert np.abs(picture.astype(int) - luma(colour)).mean() < 0.01
    # These two were made smaller by pydicom, and their regions were not.
    assert spacing is None
    assert ("beyond the picture" in capsys.readouterr().out) == (
        name in ("examples_palette.dcm", "examples_ybr_color.dcm")
    )
