"""Which folder is taken for the data of a training, and what it is called: BUSI, the sample, or somebody's own."""

import shutil
import sys
from pathlib import Path

import pytest
from folders import write_hospital, write_pairs

from dataset import DataError, Sample, find_samples
from segmentation.data.collection import BUSI_COUNTS, data_source
from segmentation.data.find_data import SAMPLE, find_data


def test_busi_is_found_below_the_folder_that_was_named(phantom_data, tmp_path, capsys):
    nested = Path(shutil.copytree(phantom_data, tmp_path / "Dataset_BUSI_with_GT"))
    assert find_data(tmp_path) == find_data(nested) == nested
    assert capsys.readouterr().out == f"reading {nested}\n"


def test_without_a_folder_busi_in_data_goes_before_a_download_and_that_before_the_sample(
    phantom_data, tmp_path, monkeypatch, capsys
):
    kagglehub = pytest.importorskip("kagglehub")

    def fail(handle):
        raise ConnectionError("no route\nsecond line")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kagglehub, "dataset_download", fail)
    assert find_data(None) == SAMPLE
    told = capsys.readouterr().out
    assert "ConnectionError: no route)" in told and "NO BUSI: training on 160 lesion images of BUS-BRA" in told
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(phantom_data))
    assert find_data(None) == phantom_data
    monkeypatch.setitem(sys.modules, "kagglehub", None)  # is not even asked
    write_hospital(tmp_path / "data" / "mine", count=1)  # does not stand in for BUSI
    assert find_data(None) == SAMPLE
    shutil.copytree(phantom_data, tmp_path / "data" / "Dataset_BUSI_with_GT")
    assert find_data(None) == Path("data") / "Dataset_BUSI_with_GT"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "absent: no such folder"),
        ("scans", "neither BUSI nor imported.*python import_data.py .*scans --output data/mine"),
        ("notes.txt", "notes.txt: is a file"),
    ],
)
def test_any_other_folder_is_refused_with_the_command_that_imports_it(name, message, tmp_path):
    (tmp_path / "notes.txt").touch()
    write_pairs(tmp_path / "scans")
    with pytest.raises(DataError, match=message):
        find_data(tmp_path / name)


# ---------------------------------------------------------------- what it is


def test_busi_is_known_by_its_published_counts(tmp_path, capsys):
    masks = {label: [1] * (images - 1) + [1 + masks - images] for label, (images, masks) in BUSI_COUNTS.items()}
    listed = [(f"{label} ({i})", label, count) for label in masks for i, count in enumerate(masks[label])]
    samples = [Sample(name, label, Path("x"), (Path("m"),) * count) for name, label, count in listed]
    assert (len(samples), sum(len(s.masks) for s in samples)) == (780, 798)
    assert data_source(tmp_path, samples) == "busi" and not capsys.readouterr().out
    one_mask_more = samples[0]._replace(masks=(Path("m"),) * 2)  # as many images, another number of masks
    for others, counts in ((samples[1:], "779 images and 797"), ([one_mask_more, *samples[1:]], "780 images and 799")):
        assert data_source(tmp_path, others) == "custom"
        assert f"{counts} masks; BUSI has 780 and 798" in capsys.readouterr().out


def test_the_sample_and_ones_own_images_are_never_called_busi(tmp_path, capsys):
    assert data_source(SAMPLE, find_samples(SAMPLE)) == "sample"
    assert data_source(tmp_path, find_samples(write_hospital(tmp_path, count=2))) == "custom"
    assert not capsys.readouterr().out
