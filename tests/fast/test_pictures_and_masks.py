"""dataset.py: one picture and its masks are read, resized, or refused by name; and the module stands alone."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from folders import save
from PIL import Image

import dataset
from dataset import DataError, MaskReading, Sample


def square(top, left, size=4, shape=(20, 30)):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + size, left : left + size] = 255
    return mask


def test_masks_are_merged_whatever_their_mode(tmp_path):
    grey, one_bit, rgba = square(0, 0), square(8, 8), square(16, 26)
    paths = [
        save(tmp_path / "L.png", grey),
        save(tmp_path / "1.png", one_bit > 0),
        save(tmp_path / "RGBA.png", np.dstack([rgba, rgba, rgba, np.full_like(rgba, 255)])),
        save(tmp_path / "RGB.png", np.dstack([grey] * 3)),
    ]
    mask = dataset.read_mask(paths, (20, 30))
    assert mask.dtype == np.uint8 and np.array_equal(mask, (grey | one_bit | rgba) // 255)
    assert dataset.read_mask([], (3, 5)).tolist() == [[0] * 5] * 3


def test_lesion_is_what_differs_by_more_than_half_the_range_or_what_is_named(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert dataset.read_mask([path], (1, 4)).tolist() == [[0, 0, 1, 1]]
    fractions = np.array([[0, 0.1, 0.2]], np.float32)  # 0.1 is no number of 32 bits
    assert dataset.find_lesion(fractions, MaskReading(values=(0.1,))).tolist() == [[False, True, False]]


def test_16_bit_pictures_are_scaled_and_rotation_is_applied(tmp_path):
    path = save(tmp_path / "deep.png", np.array([[0, 32768, 65535]], np.uint16))
    assert dataset.read_gray(path).tolist() == [[0, 128, 255]]
    exif = Image.Exif()
    exif[0x0112] = 6
    assert dataset.read_gray(save(tmp_path / "turned.jpg", np.zeros((10, 20), np.uint8), exif=exif)).shape == (20, 10)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0" * 50


def half(path):
    whole = save(path, np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)).read_bytes()
    path.write_bytes(whole[:9000])


UNREADABLE = {
    "missing.png": lambda path: None,
    "empty.png": lambda path: path.touch(),
    "page.png": lambda path: path.write_text("<html>not found</html>"),
    "huge.png": lambda path: path.write_bytes(png_header(20000, 20000)),
    "half.png": half,
    "half.jpg": half,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_refused_by_name(name, tmp_path):
    UNREADABLE[name](tmp_path / name)
    with pytest.raises(DataError, match=name):
        dataset.read_gray(tmp_path / name)


@pytest.mark.parametrize(
    ("label", "mask", "words"),
    [
        ("benign", square(0, 0, shape=(19, 30)), "30x19.*30x20"),
        ("benign", square(0, 0) * 0, "empty"),
        ("normal", square(0, 0), "holds a lesion"),
    ],
)
def test_a_mask_must_fit_its_image_and_class(label, mask, words, tmp_path):
    image, path = save(tmp_path / "i.png", square(3, 3)), save(tmp_path / "i_mask.png", mask)
    with pytest.raises(DataError, match=f"i_mask.png: .*{words}"):
        dataset.read_sample(Sample("i", label, image, (path,)))


def test_every_sample_that_cannot_be_read_is_named(tmp_path):
    mask, good = save(tmp_path / "m.png", square(3, 3)), save(tmp_path / "good.png", square(3, 3))
    paths = [good, tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(DataError, match=r"a.png: no such file.\n.*b.png: no such file.$"):
        dataset.read_samples([Sample(path.stem, "lesion", path, (mask,)) for path in paths])
    with pytest.raises(ZeroDivisionError):  # our own mistakes stay visible
        dataset.try_reading(lambda item: 1 / item, 0)


def test_shrinking_averages_the_picture_and_keeps_the_mask_binary():
    stripes = np.tile(np.array([[0], [200]], np.uint8), (8, 16))
    assert np.all(dataset.resize_image(stripes, (8, 8)) == 100)
    for size in ((7, 11), (64, 48), (20, 30)):
        mask = dataset.resize_mask(square(3, 5) // 255, size)
        assert mask.shape == size and set(np.unique(mask)) == {0, 1}


def test_the_module_stands_alone(tmp_path, monkeypatch):
    """Copied into another project it reads images/ and masks/, and says what does not fit."""
    monkeypatch.setattr(dataset, "LAYOUTS", [])
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").touch()  # a file is no folder
    with pytest.raises(DataError, match="found no images with masks here"):
        dataset.find_samples(tmp_path)
    (tmp_path / "images").unlink()
    for i in range(3):
        save(tmp_path / "images" / f"{i}.png", square(3, 3))
        save(tmp_path / "masks" / f"{i}.bmp", square(3, 3 + i) if i else square(0, 0) * 0)
    samples = dataset.find_samples(tmp_path)
    assert [(s.name, s.label) for s in samples] == [("0", "normal"), ("1", "lesion"), ("2", "lesion")]
    assert [int(mask.sum()) for _, mask in dataset.read_samples(samples)] == [0, 16, 16]
    assert dataset.find_samples(tmp_path, mask_values=(255,))[1].reading.values == (255,)
    save(tmp_path / "images" / "1.bmp", square(3, 3))
    save(tmp_path / "masks" / "4.png", square(3, 3))
    (tmp_path / "masks" / "2.bmp").write_text("<html>")
    with pytest.raises(DataError) as error:
        dataset.find_samples(tmp_path)
    lines = [line.partition(": ") for line in str(error.value).splitlines()]
    assert [Path(path).name for path, _, _ in lines] == ["4.png", "1.bmp", "2.bmp"]
    assert ["mask without" in lines[0][2], "another file" in lines[1][2], "cannot be read" in lines[2][2]] == [True] * 3
