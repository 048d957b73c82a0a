"""Several folders of data that are used together: names, patients and folders stay apart."""

import numpy as np
import pytest
from folders import write_hospital

from dataset import DataError
from segmentation.data.collection import collect
from segmentation.data.splits import group_samples


def strangers(count):
    """Pictures that are no near-copies of one another."""
    return [np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8) for i in range(count)]


def test_pictures_of_one_patient_are_one_group(tmp_path):
    found = collect([write_hospital(tmp_path / "a")])
    assert len(found.samples) == 30 and found.source == "custom"
    groups = group_samples(found.samples, strangers(30))
    assert len(set(groups)) == 15
    assert all(groups[i] == groups[i + 1] for i in range(0, 30, 2))


def test_two_folders_keep_names_and_patients_apart(tmp_path):
    found = collect([write_hospital(tmp_path / "cairo"), write_hospital(tmp_path / "rio", seed=1, normals=4)])
    assert found.source == "custom + custom" and len({s.name for s in found.samples}) == 60
    assert {s.folder for s in found.samples} == {"cairo", "rio"}
    assert found.samples[0].name == "cairo: scan0" and found.samples[0].patient == "cairo: 0"
    assert len(set(group_samples(found.samples, strangers(60)))) == 30
    assert found.describe()["root"] == [tmp_path / "cairo", tmp_path / "rio"]


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path):
    found = collect([write_hospital(tmp_path / city / "data", count=2) for city in ("cairo", "rio")])
    assert [s.folder for s in found.samples] == ["cairo/data"] * 2 + ["rio/data"] * 2


def test_one_folder_twice_is_refused(tmp_path):
    root = write_hospital(tmp_path / "a", count=2)
    with pytest.raises(DataError, match="the same folder twice"):
        collect([root, root / ".." / "a"])
