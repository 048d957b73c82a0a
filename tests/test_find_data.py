import shutil
import sys
from pathlib import Path

import pytest
from folders import write_pairs

import dataset
from dataset import DataError, Sample
from segmentation.data.phantoms import MARKER
from segmentation.importing.find_data import BUSI_COUNTS, data_source, find_data, find_or_draw


def test_archive_is_unpacked_and_found(phantom_data, tmp_path):
    nested = tmp_path / "x" / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"
    shutil.copytree(phantom_data, nested)
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "x")
    shutil.rmtree(tmp_path / "x")
    assert find_data(tmp_path) == tmp_path / "Dataset_BUSI_with_GT" / "Dataset_BUSI_with_GT"


def test_data_is_found_below_the_folder_that_was_named(phantom_data, tmp_path, capsys):
    nested = Path(shutil.copytree(phantom_data, tmp_path / "Dataset_BUSI_with_GT"))
    write_pairs(tmp_path / "other")  # BUSI goes first, and a line says so
    assert find_data(tmp_path) == find_data(nested) == nested
    assert capsys.readouterr().out == f"reading {nested}\n"
    pairs = tmp_path / "pairs" / "Dataset_BUSI_with_GT"
    write_pairs(pairs)
    assert find_data(tmp_path / "pairs") == pairs


def test_the_folder_of_data_is_taken_only_if_it_says_that_it_is(phantom_data, tmp_path, monkeypatch):
    """Without --data-dir, phantoms of an earlier run in data/ do not stand in for BUSI, but one's own images do."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # no network
    shutil.copytree(phantom_data, tmp_path / "data" / "phantoms-160-seed0")
    assert find_data(None) is None
    for folders in (("images", "masks"), ("Scans", "GT"), ("benign_images", "benign_masks")):
        write_pairs(tmp_path / "data", image=folders[0] + "/scan{}.png", mask=folders[1] + "/scan{}.png")
        assert find_data(None) == Path("data")
        for folder in folders:
            shutil.rmtree(tmp_path / "data" / folder)


def test_a_named_folder_is_never_replaced(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_data(tmp_path / "absent")
    with pytest.raises(DataError, match="found no images with masks here. data/README.md says which"):
        find_data(tmp_path)


def test_a_failed_download_says_so(tmp_path, monkeypatch, capsys):
    import kagglehub

    def fail(handle):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert find_data(None) is None
    assert "ConnectionError: no route)" in capsys.readouterr().out


# ---------------------------------------------------------------- what it is


def made_up(counts, folder):
    """Samples with as many masks as BUSI has, in a folder of its layout."""
    for label in counts:
        (folder / label).mkdir()
    return [
        Sample(f"{label} ({i})", label, Path("x"), (Path("m"),) * (1 + (masks - images if i == 0 else 0)))
        for label, (images, masks) in counts.items()
        for i in range(images)
    ]


def test_busi_is_known_by_its_published_counts(tmp_path, capsys):
    samples = made_up(BUSI_COUNTS, tmp_path)
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert data_source(tmp_path, samples) == "busi" and not capsys.readouterr().out
    one_mask_more = [samples[1]._replace(masks=(Path("m"),) * 2)]  # as many images, another number of masks
    for others in (samples[1:], [samples[0], *one_mask_more, *samples[2:]]):
        assert data_source(tmp_path, others) == "custom"
        masks = sum(len(s.masks) for s in others)
        assert f"{len(others)} images and {masks} masks; BUSI has 780 and 798" in capsys.readouterr().out


def test_images_without_classes_are_never_called_busi(tmp_path, capsys):
    """Also if they are named as BUSI's are."""
    write_pairs(tmp_path, image="images/benign ({}).png", mask="masks/benign ({}).png")
    samples = dataset.find_samples(find_data(tmp_path))
    capsys.readouterr()
    assert "benign (1)" in {s.name for s in samples} and data_source(tmp_path, samples) == "custom"
    assert not capsys.readouterr().out  # nobody said that it should be


def test_phantoms_say_what_they_are(phantom_data, broken_data, capsys):
    samples = dataset.find_samples(phantom_data)
    assert data_source(phantom_data, samples) == "phantom" and "note" not in capsys.readouterr().out
    (broken_data / MARKER).unlink()
    assert data_source(broken_data, dataset.find_samples(broken_data)) == "custom"
    assert "BUSI has 780 and 798" in capsys.readouterr().out


def test_phantoms_are_drawn_once_where_no_data_can_be_had(tmp_path, monkeypatch, capsys):
    drawn = []

    def draw(folder, images, seed):
        drawn.append((folder, images, seed))
        folder.mkdir(parents=True)
        (folder / MARKER).touch()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segmentation.importing.find_data.write_phantoms", draw)
    monkeypatch.setattr("segmentation.importing.find_data.find_data", lambda data_dir: data_dir)
    assert find_or_draw(tmp_path / "mine", 0) == (tmp_path / "mine", False)
    assert not capsys.readouterr().out and not drawn
    folder = Path("data") / "phantoms-160-seed4"
    for _ in range(2):
        assert find_or_draw(None, 4) == (folder, True)
        assert "NO BREAST ULTRASOUND DATA: training on SIMULATED images" in capsys.readouterr().out
    assert drawn == [(folder, 160, 4)]
