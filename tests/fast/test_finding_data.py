"""Which folder is taken for the data, and what it is called: BUSI, phantoms, or somebody's own."""

import shutil
import sys
from pathlib import Path

import pytest
from folders import write_pairs

from dataset import DataError, Sample, find_samples
from segmentation.data.collection import BUSI_COUNTS, data_source, find_or_draw
from segmentation.importing.find_data import find_data
from segmentation.importing.layouts import PHANTOM_MARKER


def test_data_is_found_below_the_folder_that_was_named(phantom_data, tmp_path, capsys):
    nested = Path(shutil.copytree(phantom_data, tmp_path / "Dataset_BUSI_with_GT"))
    write_pairs(tmp_path / "other")  # BUSI goes first, and a line says so
    assert find_data(tmp_path) == find_data(nested) == nested
    assert capsys.readouterr().out == f"reading {nested}\n"
    pairs = tmp_path / "pairs" / "Dataset_BUSI_with_GT"
    write_pairs(pairs)
    assert find_data(tmp_path / "pairs") == pairs


@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("Scans", "GT"), ("benign_images", "benign_masks")])
def test_the_folder_of_data_is_taken_only_if_it_says_that_it_is(images, masks, phantom_data, tmp_path, monkeypatch):
    """Without --data-dir, phantoms of an earlier run in data/ do not stand in for BUSI, but one's own images do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # no network
    shutil.copytree(phantom_data, tmp_path / "data" / "phantoms-160-seed0")
    assert find_data(None) is None
    write_pairs(tmp_path / "data", image=images + "/scan{}.png", mask=masks + "/scan{}.png")
    assert find_data(None) == Path("data")


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent", "absent: no such folder"), (".", "no images with masks"), ("notes.txt", "notes.txt: is a file")],
)
def test_a_named_folder_is_never_replaced(name, message, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=message):
        find_data(tmp_path / name)


def test_a_failed_download_says_so(tmp_path, monkeypatch, capsys):
    kagglehub = pytest.importorskip("kagglehub")

    def fail(handle):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert find_data(None) is None
    assert "ConnectionError: no route)" in capsys.readouterr().out


def test_phantoms_are_drawn_once_where_no_data_can_be_had(tmp_path, monkeypatch, capsys):
    drawn = []

    def draw(folder, images, seed):
        drawn.append((folder, images, seed))
        folder.mkdir(parents=True)
        (folder / PHANTOM_MARKER).touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segmentation.data.collection.write_phantoms", draw)
    monkeypatch.setattr("segmentation.data.collection.find_data", lambda data_dir: data_dir)
    assert find_or_draw(tmp_path / "mine", 0) == (tmp_path / "mine", False)
    assert not capsys.readouterr().out and not drawn
    folder = Path("data") / "phantoms-160-seed4"
    for _ in range(2):
        assert find_or_draw(None, 4) == (folder, True)
        assert "NO BREAST ULTRASOUND DATA: training on SIMULATED images" in capsys.readouterr().out
    assert drawn == [(folder, 160, 4)]


# ---------------------------------------------------------------- what it is


def test_busi_is_known_by_its_published_counts(tmp_path, capsys):
    (tmp_path / "benign").mkdir()
    masks = {label: [1] * (images - 1) + [1 + masks - images] for label, (images, masks) in BUSI_COUNTS.items()}
    listed = [(f"{label} ({i})", label, count) for label in masks for i, count in enumerate(masks[label])]
    samples = [Sample(name, label, Path("x"), (Path("m"),) * count) for name, label, count in listed]
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert data_source(tmp_path, samples) == "busi" and not capsys.readouterr().out
    one_mask_more = samples[0]._replace(masks=(Path("m"),) * 2)  # as many images, another number of masks
    for others, counts in ((samples[1:], "779 images and 797"), ([one_mask_more, *samples[1:]], "780 images and 799")):
        assert data_source(tmp_path, others) == "custom"
        assert f"{counts} masks; BUSI has 780 and 798" in capsys.readouterr().out


def test_images_without_classes_are_never_called_busi(tmp_path, capsys):
    """Also if they are named as BUSI's are; and nobody said that they should be, so no note says that they are not."""
    write_pairs(tmp_path, image="images/benign ({}).png", mask="masks/benign ({}).png")
    samples = find_samples(find_data(tmp_path))
    capsys.readouterr()
    assert "benign (1)" in {s.name for s in samples} and data_source(tmp_path, samples) == "custom"
    assert not capsys.readouterr().out


def test_phantoms_say_what_they_are(phantom_data, broken_data, capsys):
    samples = find_samples(phantom_data)
    assert data_source(phantom_data, samples) == "phantom" and "note" not in capsys.readouterr().out
    (broken_data / PHANTOM_MARKER).unlink()
    assert data_source(broken_data, find_samples(broken_data)) == "custom"
    assert "BUSI has 780 and 798" in capsys.readouterr().out
