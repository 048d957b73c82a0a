"""split.json of a run: it is read as it was written, refuses other data, and says what a run has seen."""

import json

import cv2
import numpy as np
import pytest

from dataset import DataError, find_samples
from segmentation.common.errors import RunError
from segmentation.common.files import file_hash, write_json
from segmentation.data.splits import Division, split_samples
from segmentation.runs.split_record import load_split, seen_before, split_record

NETWORK = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 2, "gates": "paper", "encoder": "none"}


@pytest.fixture
def run(phantom_data, tmp_path):
    """A run's folder, its images, of which every third is tied to the next, and their groups."""
    write_json(tmp_path / "config.json", {"network": NETWORK})
    samples = find_samples(phantom_data)
    return tmp_path, samples, np.array([i - (i % 3 == 1) for i in range(len(samples))])


def write(run, samples, groups, parts):
    write_json(run / "split.json", split_record(samples, groups, parts, Division()))


def test_a_split_is_read_as_it_was_written(run):
    folder, samples, groups = run
    parts = split_samples(samples, groups, Division())
    write(*run, parts)
    loaded, group_of = load_split(folder, samples)
    assert loaded == parts
    assert all(group_of[s.name] == groups[i] for i, s in enumerate(samples))


def test_a_near_copy_of_what_a_run_has_seen_is_refused(run):
    folder, samples, groups = run
    write(*run, {"train": [0], "val": [], "test": [5]})
    with pytest.raises(DataError, match=r"1 of the 2 test images .*'benign \(2\)' first"):
        seen_before(folder, samples, groups, [5, 1])
    assert seen_before(folder, samples, groups, [5, 6]) == [file_hash(samples[0].image)]


def test_a_split_of_other_data_is_refused(run, broken_data):
    folder, samples, groups = run
    write(*run, split_samples(samples, groups, Division()))
    changed = broken_data / "benign" / "benign (3)_mask.png"
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed)))
    (broken_data / "normal" / "normal (1).png").unlink()
    with pytest.raises(DataError, match=r"1 images are missing and 1 changed, 'normal .1.' first"):
        load_split(folder, find_samples(broken_data))


ROW = {"part": "train", "group": 0, "sha256": "0123456789abcdef", "image_sha256": "0123456789abcdef"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "no JSON object"),
        ({"images": {"a": 3}}, '"images.a" must be'),
        ({"images": {"a": {"part": "train"}}}, '"images.a.group" is missing'),
        ({"images": {"a": ROW}}, "no image in the part 'test'"),
    ],
)
def test_a_damaged_split_is_refused_by_name(content, words, run):
    (run[0] / "split.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=f"split.json: .*{words}"):
        load_split(run[0], [])
