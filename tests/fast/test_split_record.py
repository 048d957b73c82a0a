"""split.json of a run: it is read as it was written, refuses other data, and says what a run has seen."""

import shutil

import cv2
import numpy as np
import pytest

import cross_validate
import evaluate_model
from dataset import DataError, find_samples, hash_pixels, read_sample
from segmentation.common.errors import RunError
from segmentation.common.files import read_json, write_json
from segmentation.data.splits import Division, split_samples
from segmentation.page.corrections import save_correction
from segmentation.runs.split_record import hash_picture, hash_samples, load_split, seen_before, split_record

NETWORK = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 2, "gates": "paper", "encoder": "none"}


@pytest.fixture
def run(phantom_data, tmp_path):
    """A run's folder, its images, of which every third is tied to the next, and their groups."""
    write_json(tmp_path / "config.json", {"network": NETWORK})
    samples = find_samples(phantom_data)
    return tmp_path, samples, np.array([i - (i % 3 == 1) for i in range(len(samples))])


def write(run, samples, groups, parts):
    write_json(run / "split.json", split_record(samples, hash_samples(samples), groups, parts, Division()))


def save_again(path):
    """Other bytes, the same pixels."""
    before = path.read_bytes()
    cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), (cv2.IMWRITE_PNG_COMPRESSION, 0))
    assert path.read_bytes() != before


def test_a_split_is_read_as_it_was_written(run):
    folder, samples, groups = run
    parts = split_samples(samples, groups, Division())
    write(*run, parts)
    loaded, group_of = load_split(folder, samples, hash_samples(samples), whole=True)
    assert loaded == parts
    for change in (
        {"split": "test"},
        {"fold": "2"},
        {"patient": "7"},
        {"folder": "Lima"},
    ):  # of meta.csv, with the same pictures
        other = [samples[0]._replace(**change), *samples[1:]]
        with pytest.raises(DataError, match="another version of the data"):
            load_split(folder, other, hash_samples(other), whole=True)
    assert all(group_of[s.name] == groups[i] for i, s in enumerate(samples))


def test_a_near_copy_of_what_a_run_has_seen_is_refused(run):
    folder, samples, groups = run
    write(*run, {"train": [0], "val": [], "test": [5]})
    hashes = hash_samples(samples)
    with pytest.raises(DataError, match=r"1 of the 2 test images .*'benign \(2\)' first"):
        seen_before(folder, samples, hashes, groups, [5, 1])
    assert seen_before(folder, samples, hashes, groups, [5, 6]) == [hash_pixels(read_sample(samples[0])[0])]


def test_pictures_of_the_same_name_at_another_size_are_said(run, capsys):
    folder, samples, groups = run
    write(*run, {"train": [0], "val": [], "test": [5]})
    half = [hash_picture(image[::2], mask[::2]) for image, mask in map(read_sample, samples)]
    seen_before(folder, samples, half, groups, [5, 6])
    assert capsys.readouterr().out == ""
    seen_before(folder, samples, half, groups, [5, 0])
    assert f"same names as 1 of the test images, {samples[0].name!r} first" in capsys.readouterr().out


def test_a_picture_that_the_page_saved_counts_as_seen(run):
    folder, samples, _ = run
    write(*run, {"train": [0, 3], "val": [1], "test": [2]})
    for i in range(4):
        save_correction(folder / "saved", f"scan{i}.jpg", *read_sample(samples[i]))
    hashes, groups = evaluate_model.look(find_samples(folder / "saved"), hash_pixels)
    assert evaluate_model.seen_by((folder,), hashes) == [True, True, False, True] and groups.shape == (4,)


def test_the_same_pictures_in_other_files_are_the_same_data(run, broken_data):
    write(*run, split_samples(*run[1:], Division()))
    for name in ("benign (3).png", "benign (3)_mask.png"):
        save_again(broken_data / "benign" / name)
    samples = find_samples(broken_data)
    load_split(run[0], samples, hash_samples(samples), whole=True)


def test_an_added_picture_is_other_data_for_a_run_that_goes_on(run, broken_data):
    write(*run, split_samples(*run[1:], Division()))
    shutil.copy(broken_data / "normal" / "normal (1).png", broken_data / "normal" / "normal (99).png")
    samples = find_samples(broken_data)
    load_split(run[0], samples, hash_samples(samples))  # a report
    with pytest.raises(DataError, match="another version of the data: images were added"):
        load_split(run[0], samples, hash_samples(samples), whole=True)


def test_folds_of_different_data_are_not_put_together(run, phantom_data, broken_data):
    """Neither those that are finished, nor one that is still to be trained."""
    write(*run, split_samples(*run[1:], Division()))
    record, config = read_json(run[0] / "split.json"), {"network": NETWORK, "root": str(broken_data)}
    runs = [run[0] / name for name in ("fold0", "fold1")]
    for path in runs:
        path.mkdir()
        write_json(path / "config.json", config)
        write_json(path / "split.json", record)
    cross_validate.check_data(runs, goes_on=True)
    changed = broken_data / "benign" / "benign (3).png"
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed)))
    with pytest.raises(DataError, match=r"fold0.split.json: .* 0 images are missing and 1 changed"):
        cross_validate.check_data(runs, goes_on=True)
    write_json(runs[1] / "split.json", record | {"data_sha256": "0" * 16})
    with pytest.raises(RunError, match="fold0 and .*fold1 are of different versions of the data"):
        cross_validate.check_data(runs)


def test_a_split_of_other_data_is_refused(run, broken_data):
    folder, samples, groups = run
    write(*run, split_samples(samples, groups, Division()))
    changed = broken_data / "benign" / "benign (3)_mask.png"
    cv2.imwrite(str(changed), 255 - cv2.imread(str(changed)))
    (broken_data / "normal" / "normal (1).png").unlink()
    with pytest.raises(DataError, match=r"1 images are missing and 1 changed, 'normal .1.' first"):
        samples = find_samples(broken_data)
        load_split(folder, samples, hash_samples(samples))


def test_a_damaged_split_is_refused_by_name(run):
    (run[0] / "split.json").write_text('{"images": {"a": {"part": "train"}}}')
    with pytest.raises(RunError, match='split.json: .*"images.a.group" is missing'):
        load_split(run[0], [], [])


def test_hashes_of_files_are_refused(run):
    """Of a run of before: no picture would count as seen."""
    row = {"part": "train", "group": 0, "sha256": "0" * 16, "image_sha256": "0" * 16}
    write_json(run[0] / "split.json", {"images": {"a": row, "b": row | {"part": "test"}}})
    with pytest.raises(RunError, match="split.json: .*images.a.sha256"):
        load_split(run[0], [], [])
