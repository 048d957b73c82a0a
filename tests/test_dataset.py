import os
import shutil
import struct
import sys
import zlib
from functools import partial

import cv2
import numpy as np
import pytest
from conftest import BUSI, needs_busi
from PIL import Image

import dataset
from dataset import DataError, Sample, augment, make_dataset
from segmentation.importing.find_data import data_source


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def square(top, left, size=4, shape=(20, 30)):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + size, left : left + size] = 255
    return mask


def test_masks_are_merged_whatever_their_mode(tmp_path):
    grey, one_bit, rgba = square(0, 0), square(8, 8), square(16, 26)
    paths = [
        save(tmp_path / "L.png", grey),
        tmp_path / "1.png",
        save(tmp_path / "RGBA.png", np.dstack([rgba, rgba, rgba, np.full_like(rgba, 255)])),
        save(tmp_path / "RGB.png", np.dstack([grey] * 3)),
    ]
    Image.fromarray(one_bit).convert("1").save(paths[1])
    mask = dataset.read_mask(paths, (20, 30))
    assert mask.dtype == np.uint8
    assert mask.sum() == 3 * 16
    assert set(np.unique(mask)) == {0, 1}


def test_mask_threshold_is_half_range(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert dataset.read_mask([path], (1, 4)).tolist() == [[0, 0, 1, 1]]


def test_a_fraction_is_named_as_it_is_written():
    """0.1 is no number of 32 bits."""
    reading = dataset.MaskReading(values=(0.1,))
    assert dataset.find_lesion(np.array([[0, 0.1, 0.2]], np.float32), reading).tolist() == [[False, True, False]]


def test_no_mask_file_is_no_lesion():
    assert dataset.read_mask([], (3, 5)).tolist() == [[0] * 5] * 3


def test_16_bit_pictures_are_scaled_not_clipped(tmp_path):
    path = save(tmp_path / "deep.png", np.array([[0, 32768, 65535]], np.uint16))
    assert dataset.read_gray(path).tolist() == [[0, 128, 255]]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "turned.jpg", np.zeros((10, 20), np.uint8), exif=exif)
    assert dataset.read_gray(path).shape == (20, 10)


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.mark.parametrize("name", ["empty.png", "page.png", "half.png", "half.jpg", "huge.png", "missing.png"])
def test_unreadable_files_are_refused_by_name(tmp_path, name):
    whole = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    for suffix in ("png", "jpg"):
        save(tmp_path / f"whole.{suffix}", whole)
        (tmp_path / f"half.{suffix}").write_bytes((tmp_path / f"whole.{suffix}").read_bytes()[:9000])
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.png").write_text("<html>not found</html>")
    (tmp_path / "huge.png").write_bytes(png_header(20000, 20000) + b"\0" * 50)
    with pytest.raises(DataError, match=name):
        dataset.read_gray(tmp_path / name)


def test_mask_of_another_size_is_refused(tmp_path):
    with pytest.raises(DataError, match="30x20.*its image 31x20"):
        dataset.read_mask([save(tmp_path / "m.png", square(0, 0))], (20, 31))


@pytest.mark.parametrize(("label", "mask"), [("benign", square(0, 0) * 0), ("normal", square(0, 0))])
def test_mask_must_fit_the_class(tmp_path, label, mask):
    image, path = save(tmp_path / "i.png", square(3, 3)), save(tmp_path / "i_mask.png", mask)
    with pytest.raises(DataError, match="i_mask.png"):
        dataset.read_sample(Sample("i", label, image, (path,)))


@pytest.mark.parametrize("size", [(7, 11), (64, 48), (20, 30)])
def test_resized_mask_stays_binary(size):
    mask = dataset.resize_mask(square(3, 5) // 255, size)
    assert mask.shape == size
    assert set(np.unique(mask)) == {0, 1}


def test_shrinking_averages():
    stripes = np.tile(np.array([[0], [200]], np.uint8), (8, 16))
    assert np.all(dataset.resize_image(stripes, (8, 8)) == 100)


# ---------------------------------------------------------------- augmentation


def test_augmentation_moves_image_and_mask_together():
    disc = cv2.circle(np.zeros((96, 96), np.uint8), (40, 50), 18, 1, -1)
    for seed in range(30):
        image, mask = augment(disc * 255, disc, np.random.default_rng(seed))
        assert set(np.unique(mask)) <= {0, 1}
        bright = image > (int(image.max()) + int(image.min())) / 2
        assert (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum() > 0.9
        assert image.shape == mask.shape == (96, 96) and image.dtype == mask.dtype == np.uint8


def test_strength_0_is_at_most_a_flip():
    image = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    mask = (image > 128).astype(np.uint8)
    seen = set()
    for seed in range(8):
        new, new_mask = augment(image, mask, np.random.default_rng(seed), strength=0)
        flipped = not np.array_equal(new_mask, mask)
        expected = image[:, ::-1] if flipped else image
        assert np.abs(new.astype(int) - expected).max() <= 1
        seen.add(flipped)
    assert seen == {True, False}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(10, dtype=np.uint8)[:, None, None] * 20, 16 * 16, axis=1).reshape(10, 16, 16)
    return images + rng.integers(0, 9, images.shape, np.uint8), rng.integers(0, 2, images.shape, np.uint8)


def take(data, batches):
    return [(x.numpy(), y.numpy()) for x, y in data.take(batches)]


def test_every_epoch_is_augmented_anew_and_repeats_under_its_seed(arrays):
    stream = take(make_dataset(*arrays, 4, training=True, seed=7), 6)
    again = take(make_dataset(*arrays, 4, training=True, seed=7), 6)
    other = take(make_dataset(*arrays, 4, training=True, seed=8), 6)
    assert [len(x) for x, _ in stream] == [4, 4, 2, 4, 4, 2]
    for (x, y), (u, v) in zip(stream, again, strict=True):
        assert np.array_equal(x, u) and np.array_equal(y, v)
    first, second = (np.concatenate([x for x, _ in part]) for part in (stream[:3], stream[3:]))
    assert not {x.tobytes() for x in first} & {x.tobytes() for x in second}
    assert not np.array_equal(stream[0][0], other[0][0])


def test_a_later_first_epoch_continues_the_stream(arrays):
    whole = take(make_dataset(*arrays, 4, training=True, seed=7), 6)[3:]
    resumed = take(make_dataset(*arrays, 4, training=True, seed=7, first_epoch=1), 3)
    for (x, y), (u, v) in zip(whole, resumed, strict=True):
        assert np.array_equal(x, u) and np.array_equal(y, v)


def test_training_sees_every_image_once_an_epoch(arrays):
    images, masks = arrays
    data = make_dataset(images, masks, 4, training=True, change=partial(augment, strength=0))
    for epoch in range(2):
        batches = take(data, 3 * (epoch + 1))[3 * epoch :]
        means = sorted(round(float(x.mean()) / 20) for x, _ in batches for x in x)
        assert means == list(range(10))


def test_evaluation_keeps_order_and_drops_nothing(arrays):
    images, masks = arrays
    batches = take(make_dataset(images, masks, 4), 9)
    assert np.array_equal(np.concatenate([x for x, _ in batches])[..., 0], images)
    assert np.array_equal(np.concatenate([y for _, y in batches])[..., 0], masks)


# ---------------------------------------------------------------- the folder


def test_phantoms_are_found(phantom_data, capsys):
    samples = dataset.find_samples(phantom_data)
    assert {s.label for s in samples} == set(dataset.CLASSES)
    numbers = [int(s.name[8:-1]) for s in samples if s.label == "benign"]
    assert numbers == sorted(numbers) and len(samples) == 48
    assert "note" not in capsys.readouterr().out


def test_every_unpaired_file_is_named(broken_data, capsys):
    (broken_data / "benign" / "benign (1)_mask.png").unlink()
    (broken_data / "malignant" / "malignant (2).png").unlink()
    (broken_data / "normal" / "notes.txt").touch()
    if sys.platform == "linux":  # elsewhere a name is always text
        shutil.copy(broken_data / "benign" / "benign (2).png", os.fsencode(broken_data) + b"/normal/old\xff (1).png")
    with pytest.raises(DataError) as error:
        dataset.find_samples(broken_data)
    for word in ("benign (1).png: has no mask", "malignant (2)_mask.png: mask without"):
        assert word in str(error.value)
    assert "notes.txt" not in str(error.value)  # passed over, with a count
    assert "other files in" in capsys.readouterr().out
    assert ("(1).png: its name holds bytes that are no text" in str(error.value)) == (sys.platform == "linux")


def test_the_module_stands_alone(tmp_path, monkeypatch):
    """Copied into another project it reads images/ and masks/, and says what does not fit."""
    monkeypatch.setattr(dataset, "LAYOUTS", [])
    with pytest.raises(DataError, match="found no images with masks here"):
        dataset.find_samples(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").touch()  # a file is no folder
    with pytest.raises(DataError, match="found no images with masks here"):
        dataset.find_samples(tmp_path)
    (tmp_path / "masks").unlink()
    (tmp_path / "masks").mkdir()
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
    lines = str(error.value).splitlines()
    for line, words in zip(lines, ("4.png: mask without", "1.bmp: another file", "2.bmp: cannot be read"), strict=True):
        assert words in line


def test_a_reading_that_fails_is_the_line_that_says_why(tmp_path):
    path = save(tmp_path / "i.png", square(3, 3))
    assert np.array_equal(dataset.try_reading(dataset.read_gray, path), square(3, 3))
    assert dataset.try_reading(dataset.read_gray, tmp_path / "no.png") == f"{tmp_path / 'no.png'}: no such file."
    with pytest.raises(ZeroDivisionError):  # our own mistakes stay visible
        dataset.try_reading(lambda item: 1 / item, 0)


def test_every_sample_that_cannot_be_read_is_named(broken_data):
    samples = dataset.find_samples(broken_data)
    for sample in samples[1:3]:
        sample.image.write_text("<html>404</html>")
    with pytest.raises(DataError) as error:
        dataset.read_samples(samples)
    lines = str(error.value).splitlines()
    assert [s.image.name in line for s, line in zip(samples[1:3], lines, strict=True)] == [True, True]


def test_pairs_that_do_not_fit_are_all_named(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    picture = Image.fromarray(square(2, 2, shape=(8, 8)))
    for name in ("images/b.png", "images/b.bmp", "images/c.png", "masks/a.png", "masks/b.png", "masks/c.png"):
        picture.save(tmp_path / name)
    with pytest.raises(dataset.DataError) as error:
        dataset.find_samples(tmp_path)
    assert "a.png: mask without exactly one image" in str(error.value)
    assert "b.png: mask without exactly one image" in str(error.value)
    for name in ("b.png", "b.bmp"):
        assert f"{tmp_path / 'images' / name}: the name 'b' occurs twice" in str(error.value)


@needs_busi
def test_real_busi():
    samples = dataset.find_samples(BUSI)
    assert data_source(BUSI, samples) == "busi"
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert sum(len(s.masks) > 1 for s in samples) == 17
    three = next(s for s in samples if s.name == "benign (195)")
    assert len(three.masks) == 3
    image, mask = dataset.read_sample(three)
    parts = [dataset.read_mask([path], image.shape) for path in three.masks]
    assert np.array_equal(mask, np.maximum.reduce(parts)) and mask.sum() > max(part.sum() for part in parts)
