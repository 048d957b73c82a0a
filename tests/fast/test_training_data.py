"""The pictures of a training: each is read once and let go, and all that cannot be read are told together."""

import os
import weakref

import numpy as np
import pytest

import dataset
from dataset import DataError, read_samples, resize_samples
from segmentation.data.appearance import appearance, appearance_limits
from segmentation.data.splits import Division, group_samples
from segmentation.runs.parts import load_data, split_data
from segmentation.runs.split_record import hash_samples


def test_each_picture_is_read_once_and_let_go(lesion_data, monkeypatch):
    read, images, most = dataset.read_sample, [], []

    def watched(sample):
        picture = read(sample)
        images.append(weakref.ref(picture[0]))
        most.append(sum(image() is not None for image in images))
        return picture

    monkeypatch.setattr(dataset, "read_sample", watched)
    data = load_data([lesion_data], 32)
    assert len(images) == len(data.found.samples) == 48
    assert max(most) <= 3 * os.cpu_count() + 2 and not any(image() is not None for image in images)
    parts = split_data(data, Division(), [])
    assert len(images) == 48
    monkeypatch.undo()
    pictures = read_samples(data.found.samples)
    for kept, expected in zip((data.images, data.masks), resize_samples(pictures, 32), strict=True):
        np.testing.assert_array_equal(kept, expected)
    assert data.hashes == hash_samples(data.found.samples)
    np.testing.assert_array_equal(data.groups, group_samples(data.found.samples, [image for image, _ in pictures]))
    names = [sample.name for sample in data.found.samples]
    train, test = (
        [names.index(n) for n, r in parts.record["images"].items() if r["part"] == p] for p in ("train", "test")
    )
    np.testing.assert_array_equal(parts.train[0], data.images[train])
    np.testing.assert_array_equal(parts.test_images, data.images[test])
    assert parts.appearance == appearance_limits([appearance(pictures[i][0]) for i in train])


def test_images_in_no_part_are_counted(lesion_data, tmp_path, capsys):
    data = load_data([lesion_data], 32)
    rows = [f"{sample.name},{('train', 'val', 'test')[i % 3]}" for i, sample in enumerate(data.found.samples[:30])]
    (tmp_path / "my.csv").write_text("\n".join(["image,part", *rows]))
    split_data(data, Division(str(tmp_path / "my.csv")), [])
    assert "10 train images, 10 val images, 10 test images, 18 in no part" in capsys.readouterr().out


def test_damaged_pictures_are_told_together(broken_data):
    for name in ("benign (3)", "benign (7)"):
        path = broken_data / "benign" / f"{name}.png"
        path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(DataError) as error:
        load_data([broken_data], 32)
    lines = str(error.value).splitlines()
    assert [("benign (3)" in line, "benign (7)" in line) for line in lines] == [(True, False), (False, True)]
