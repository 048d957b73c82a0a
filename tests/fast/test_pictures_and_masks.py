"""dataset.py: BUSI and the plain form are listed, read, resized, or refused by name."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from folders import changed, save, write_classes, write_hospital

import dataset
from dataset import DataError, Sample


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


def test_what_is_brighter_than_half_is_lesion(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert dataset.read_mask([path], (1, 4)).tolist() == [[0, 0, 1, 1]]


def test_pictures_of_more_than_8_bits_are_not_squeezed_but_sent_to_the_import(tmp_path):
    path = save(tmp_path / "deep.png", np.array([[0, 32768, 65535]], np.uint16))
    with pytest.raises(DataError, match="deep.png: has more than 8 bits.*import_data.py"):
        dataset.read_gray(path)


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
    "a.jpg": lambda path: save(path, square(0, 0)),
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


# ---------------------------------------------------------------- the two kinds of folders


def lines_of(root: Path) -> list[str]:
    with pytest.raises(DataError) as refused:
        dataset.find_samples(root)
    return str(refused.value).splitlines()


def test_busi_is_read_as_it_is_published(tmp_path):
    expected = changed(write_classes, "+benign/Thumbs.db", "+benign/._benign (1).png")(tmp_path)
    save(tmp_path / "benign" / "benign (2)_mask_1.png", square(30, 40, shape=(40, 50)))
    save(tmp_path / "benign" / "benign (10).png", square(3, 3))
    save(tmp_path / "benign" / "benign (10)_mask.png", square(3, 3))
    (tmp_path / "normal" / "normal (1)_mask.png").unlink()
    samples = dataset.find_samples(tmp_path)
    found = {s.name: (s.label, int(m.sum())) for s, (_, m) in zip(samples, dataset.read_samples(samples), strict=True)}
    label, pixels = expected["benign (2)"]
    assert found == expected | {"benign (2)": (label, pixels + 16), "benign (10)": ("benign", 16)}
    assert [s.name for s in samples[:5]] == [f"benign ({i})" for i in (1, 2, 3, 4, 10)]  # in the order of the numbers


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        ("-benign/benign (2)_mask.png", "benign (2).png", "has no mask file"),
        ("-benign/benign (2).png", "benign (2)_mask.png", "mask without an image"),
        ("benign/benign (2)_mask.png > benign/benign (2)_mask_1.png", "benign (2).png", "has no mask file"),
        ("benign/benign (2).png > benign/benign (2).jpg", "benign (2).jpg", "import_data.py"),
        ("benign/benign (2)_mask.png > benign/benign (2) mask.png", "benign (2) mask.png", "has no mask file"),
    ],
)
def test_every_file_of_busi_that_has_no_partner_is_named(change, name, words, tmp_path):
    changed(write_classes, change)(tmp_path)
    assert any(Path(line.split(": ")[0]).name == name and words in line for line in lines_of(tmp_path))


def test_the_plain_form_is_read_with_what_its_table_says(tmp_path):
    write_hospital(tmp_path, count=3, normals=1)
    (tmp_path / "masks" / "scan0.png").unlink()  # a normal image may have none
    table = (tmp_path / "meta.csv").read_text().splitlines()
    (tmp_path / "meta.csv").write_text(
        "\n".join([f"{table[0]},split,hospital,more", *(f"{r},test,Lima,x" for r in table[1:])])
    )
    first, _, last = samples = dataset.find_samples(tmp_path)
    assert (first.name, first.label, first.masks) == ("scan0", "normal", ())
    assert last == Sample("scan2", "malignant", tmp_path / "images/scan2.png", (tmp_path / "masks/scan2.png",),
                          "1", "test", "2", "Lima")  # fmt: skip
    assert [int(mask.sum()) for _, mask in dataset.read_samples(samples)] == [0, 50 * 89, 50 * 88]


@pytest.mark.parametrize(
    ("before", "after", "name", "words"),
    [
        ("scan1.png,", "other.png,", "other.png", "is named by meta.csv"),
        ("scan1.png,", "scan2.png,", "scan2.png", "named twice"),
        ("image,", "picture,", "meta.csv", "no columns image and class"),
        ("benign", "cancer", "scan0.png", "class 'cancer'"),
        ("scan1.png,0,benign,1\n", "", "scan1.png", "is not in meta.csv"),
    ],
)
def test_a_table_that_does_not_fit_its_files_is_refused(before, after, name, words, tmp_path):
    write_hospital(tmp_path, count=3)
    text = (tmp_path / "meta.csv").read_text()
    assert before in text
    (tmp_path / "meta.csv").write_text(text.replace(before, after))
    assert any(Path(line.split(": ")[0]).name == name and words in line for line in lines_of(tmp_path))


def test_a_picture_that_was_changed_after_its_import_is_refused(tmp_path):
    write_hospital(tmp_path, count=3)
    image = dataset.read_gray(tmp_path / "images" / "scan2.png")
    rows = (tmp_path / "meta.csv").read_text().splitlines()
    (tmp_path / "meta.csv").write_text(
        f"{rows[0]},sha256\n{rows[1]},\n{rows[2]},\n{rows[3]},{dataset.hash_pixels(image)}"
    )
    dataset.read_samples(dataset.find_samples(tmp_path))
    image = image.copy()
    image[0, 0] ^= 1
    save(tmp_path / "images" / "scan2.png", image)
    with pytest.raises(DataError, match="scan2.png: was changed after it was imported"):
        dataset.read_samples(dataset.find_samples(tmp_path))


def test_any_other_folder_is_sent_to_the_import(tmp_path):
    save(tmp_path / "images" / "1.png", square(3, 3))
    save(tmp_path / "masks" / "1.png", square(3, 3))
    (line,) = lines_of(tmp_path)
    assert f"python import_data.py {tmp_path} --output data/mine" in line
