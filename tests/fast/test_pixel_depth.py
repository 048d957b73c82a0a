"""Pictures of more than 8 bits: white is the end of the range of the folder, not of each picture."""

import cv2
import numpy as np
import pytest
from folders import PICTURES, SHAPE, lesion, picture, read, save, write_pairs
from PIL import Image

from dataset import DataError
from segmentation.importing.understanding import Wishes, read_case, understand_source


def ramp(top, kind):
    """From 0 to `top`, (40, 50)."""
    return np.linspace(0, top, 2000).reshape(SHAPE).astype(kind)


def write_deep(root, *pictures):
    """Ten images in turn, with masks."""
    write_pairs(root)
    for i in range(PICTURES):
        (root / "images" / f"scan{i}.png").unlink()
        values = pictures[i % len(pictures)]
        save(root / "images" / f"scan{i}.{'tif' if values.dtype == np.float32 else 'png'}", values)


def images_of(root):
    source = understand_source(root, Wishes("normal"))
    print(*source.lines, sep="\n")
    return [read_case(case, source).image for case in source.cases]


DEEP = {  # the values, what is white, and what is said
    "12 bits": (ramp(4095, np.uint16), 4095, "10 pictures of more than 8 bits hold values up to 4095; 4095 is white"),
    "12 bits, dark": (ramp(3000, np.uint16), 4095, "hold values up to 3000; 4095 is white"),
    "10 bits": (ramp(1023, np.uint16), 1023, "hold values up to 1023; 1023 is white"),
    "16 bits": (ramp(65535, np.uint16), 65535, "hold values up to 65535; 65535 is white"),
    "8 bits in 16": (ramp(255, np.uint16), 255, "hold values up to 255; 255 is white"),
    "fractions": (ramp(1, np.float32), 1, "hold values up to 1; 1 is white"),
    "fractions, filtered": (ramp(1.02, np.float32) - np.float32(0.01), 1, "hold values up to 1.01; 1 is white"),
    "fractions of 255": (ramp(254.5, np.float32), 255, "hold values up to 254.5; 255 is white"),
}


@pytest.mark.parametrize("case", DEEP)
def test_the_range_is_the_folders(case, tmp_path, capsys):
    values, top, line = DEEP[case]
    write_deep(tmp_path, values)
    assert np.array_equal(images_of(tmp_path)[4], (np.clip(values / top, 0, 1) * 255).round())
    assert line in capsys.readouterr().out


def test_dark_pictures_stay_dark_and_8_bits_as_they_are(tmp_path, capsys):
    write_deep(tmp_path, ramp(4095, np.uint16), ramp(900, np.uint16), picture(1))
    bright, dark, shallow, *_ = images_of(tmp_path)
    assert (bright.max(), dark.max()) == (255, 56) and np.array_equal(shallow, picture(1))
    assert "7 pictures of more than 8 bits" in capsys.readouterr().out


def test_two_ranges_in_one_folder_are_worth_a_note(tmp_path, capsys):
    write_deep(tmp_path, ramp(65535, np.uint16), ramp(4095, np.uint16))
    images_of(tmp_path)
    assert "note: 5 of them hold nothing brighter than an eighth of that, scan1.png first" in capsys.readouterr().out


def test_a_few_pixels_beyond_the_range_change_nothing(tmp_path, capsys):
    values = ramp(4000, np.uint16)
    values[0, 0] = 65535
    write_deep(tmp_path, values)
    image = images_of(tmp_path)[0]
    assert image[0, 0] == 255 and image[-1, -1] == round(4000 / 4095 * 255)
    assert "hold values up to 65535; 4095 is white" in capsys.readouterr().out


def test_a_file_of_several_pictures_is_refused(tmp_path):
    write_pairs(tmp_path)
    first, *others = (Image.fromarray(picture(i)) for i in range(3))
    first.save(tmp_path / "images" / "scan4.tif", save_all=True, append_images=others)
    (tmp_path / "images" / "scan4.png").unlink()
    with pytest.raises(DataError, match="scan4.tif: holds 3 pictures"):
        images_of(tmp_path)


def test_a_file_of_several_masks_is_refused(tmp_path):
    write_pairs(tmp_path)
    first, other = (Image.fromarray(lesion(i).astype(np.uint8)) for i in (5, 6))
    first.save(tmp_path / "masks" / "scan5.tif", save_all=True, append_images=[other])
    (tmp_path / "masks" / "scan5.png").unlink()
    with pytest.raises(DataError, match="scan5.tif: holds 2 masks"):
        images_of(tmp_path)


def with_pixel(value):
    values = ramp(1, np.float32)
    values[3, 3] = value
    return lambda path: save(path, values)


BAD = {
    "NaN": (with_pixel(np.nan), "NaN or infinite"),
    "infinite": (with_pixel(np.inf), "NaN or infinite"),
    "negative": (lambda path: save(path, ramp(2, np.float32) - 1), "values down to -1"),
    "16 bits of colour": (lambda path: cv2.imwrite(str(path), np.zeros((40, 50, 3), np.uint16)), "colours of 16 bits"),
}


@pytest.mark.parametrize("case", BAD)
def test_pictures_that_have_no_range_are_refused_by_name(case, tmp_path):
    write, words = BAD[case]
    write_deep(tmp_path, ramp(1, np.float32))
    write(tmp_path / "images" / "scan6.tif")
    with pytest.raises(DataError, match=f"scan6.tif: .*{words}"):
        read(tmp_path)
