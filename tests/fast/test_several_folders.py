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


def test_pictures_of_one_patient_are_one_group(tmp_path, capsys):
    found = collect([write_hospital(tmp_path / "a", count=10)])
    assert len(found.samples) == 10 and found.source == "custom"
    groups = group_samples(found.samples, strangers(10))
    assert len(set(groups)) == 5
    assert all(groups[i] == groups[i + 1] for i in range(0, 10, 2))
    # One number in two hospitals may be one person, or one each: it is said.
    group_samples([s._replace(folder="ab"[i % 2]) for i, s in enumerate(found.samples)], strangers(10))
    assert "note: 5 patients are in several hospitals (0)" in capsys.readouterr().out
    group_samples([s._replace(folder=("a", "")[i % 2]) for i, s in enumerate(found.samples)], strangers(10))
    assert "several hospitals" not in capsys.readouterr().out  # of some, none is known


def test_two_folders_keep_names_and_patients_apart(tmp_path):
    found = collect([write_hospital(tmp_path / city, count=10, seed=i) for i, city in enumerate(("cairo", "rio"))])
    assert found.source == "custom + custom" and len({s.name for s in found.samples}) == 20
    assert {s.folder for s in found.samples} == {"cairo", "rio"}
    assert found.samples[0].name == "cairo: scan0" and found.samples[0].patient == "cairo: 0"
    assert len(set(group_samples(found.samples, strangers(20)))) == 10
    assert found.describe()["root"] == [tmp_path / "cairo", tmp_path / "rio"]


def test_a_hospital_of_the_table_goes_before_the_folders_name(tmp_path):
    roots = [write_hospital(tmp_path / name, count=2) for name in ("a", "b")]
    header, first, second = (roots[0] / "meta.csv").read_text().splitlines()
    (roots[0] / "meta.csv").write_text(f"{header},hospital\n{first},Cairo\n{second},\n")
    assert [s.folder for s in collect(roots).samples] == ["Cairo", "a", "b", "b"]


def test_folders_of_one_name_are_told_apart_by_those_above(tmp_path):
    found = collect([write_hospital(tmp_path / city / "data", count=2) for city in ("cairo", "rio")])
    assert [s.folder for s in found.samples] == ["cairo/data"] * 2 + ["rio/data"] * 2


def test_one_folder_twice_is_refused(tmp_path):
    root = write_hospital(tmp_path / "a", count=2)
    with pytest.raises(DataError, match="the same folder twice"):
        collect([root, root / ".." / "a"])
