"""One folder or several, patients and published folds."""

import csv
import json

import cv2
import numpy as np
import pytest
from conftest import BUSBRA, TINY, assert_one_clear_line, needs_busbra, run_here
from PIL import Image

from dataset import DataError
from segmentation.data.collection import collect
from segmentation.data.splits import group_samples, near_copies_in_training, published_folds, split_samples
from segmentation.scoring.decision import choose_decision
from segmentation.scoring.score_table import read_scores


def hospital(root, count=30, first=0, normals=0, table=True):
    """Blobs, each picture its own, with a bright square as lesion; two pictures a patient; five folds by patient."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    rows = [("image", "patient", "class", "fold")]
    for number in range(count):
        rng = np.random.default_rng((first, number))
        mask = np.zeros((160, 200), np.uint8)
        if number >= normals:
            mask[40:90, 30 + number % 9 : 120] = 255
        picture = cv2.resize(rng.integers(0, 180, (40, 50), np.uint8), (200, 160)) + mask // 5
        Image.fromarray(picture).save(root / "images" / f"scan{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"scan{number}.png")
        label = "normal" if number < normals else ("benign", "malignant")[number % 4 // 2]
        rows.append((f"scan{number}.png", number // 2, label, number // 2 % 5 + 1))
    if table:
        with (root / "meta.csv").open("w", newline="") as lines:
            csv.writer(lines).writerows(rows)
    return root


def test_pictures_of_one_patient_are_one_group(tmp_path):
    found = collect([hospital(tmp_path / "a")])
    assert len(found.samples) == 30 and found.source == "custom"
    groups = group_samples(found.samples, _strangers(30))
    assert len(set(groups)) == 15
    assert all(groups[i] == groups[i + 1] for i in range(0, 30, 2))


def _strangers(count):
    """Pictures that are no near-copies of one another."""
    return [np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8) for i in range(count)]


def test_the_published_folds_can_be_asked_for(tmp_path):
    samples = collect([hospital(tmp_path / "a", count=60)]).samples
    groups = group_samples(samples, _strangers(60))
    assert published_folds(samples) == ["1", "2", "3", "4", "5"]
    for fold in range(5):
        parts = split_samples(samples, groups, "table", fold=fold)
        assert {samples[i].fold for i in parts["test"]} == {str(fold + 1)}
        assert {samples[i].fold for i in parts["val"]} == {str((fold + 1) % 5 + 1)}
        assert len(parts["train"]) == 36 and near_copies_in_training(parts, groups) == []
    with pytest.raises(DataError, match="fold 0 to 4, not 5"):
        split_samples(samples, groups, "table", fold=5)


def test_without_a_table_there_are_no_published_folds(tmp_path):
    samples = collect([hospital(tmp_path / "a", table=False)]).samples
    with pytest.raises(DataError, match="needs three folds in a table"):
        split_samples(samples, np.arange(30), "table")


def test_two_folders_keep_names_and_patients_apart(tmp_path):
    found = collect([hospital(tmp_path / "cairo"), hospital(tmp_path / "rio", first=1, normals=4)])
    assert found.source == "custom + custom" and len({s.name for s in found.samples}) == 60
    assert {s.folder for s in found.samples} == {"cairo", "rio"}
    assert found.samples[0].name == "cairo: scan0" and found.samples[0].patient == "cairo: 0"
    assert len(set(group_samples(found.samples, _strangers(60)))) == 30
    assert found.describe()["root"] == [tmp_path / "cairo", tmp_path / "rio"]


def test_one_folder_twice_is_refused(tmp_path):
    root = hospital(tmp_path / "a")
    with pytest.raises(DataError, match="the same folder twice"):
        collect([root, root / ".." / "a"])


def test_a_training_on_two_folders_scores_each(tmp_path, monkeypatch):
    told = []  # of which folder each validation image is
    monkeypatch.setattr(
        "segmentation.scoring.decision.choose_decision", lambda *a: told.extend(a[3]) or choose_decision(*a)
    )
    folders = hospital(tmp_path / "cairo"), hospital(tmp_path / "rio", first=1, normals=10)
    result = run_here("train_model.py", *TINY, "--epochs", "1", "--data-dir", *folders, cwd=tmp_path)
    assert_one_clear_line(result, "test (custom + custom)", "cairo: Dice", "rio: Dice", code=0)
    metrics = json.loads((tmp_path / "models" / "attention_unet" / "metrics.json").read_text())
    own = metrics["summary"]["folders"]
    assert set(own) == {"cairo", "rio"}
    split = json.loads((tmp_path / "models" / "attention_unet" / "split.json").read_text())["images"]
    validated = [name.partition(":")[0] for name, row in split.items() if row["part"] == "val"]
    assert sorted(told) == sorted(validated) and set(told) == set(own)
    lesions = [s for s in metrics["images"] if s["label"] != "normal"]
    assert sum(own[f]["lesions"]["images"] for f in own) == len(lesions)
    for folder in own:
        dice = [s["dice"] for s in lesions if s["folder"] == folder]
        assert own[folder]["lesions"]["dice"] == pytest.approx(np.mean(dice))
    again = run_here("visualize_results.py", cwd=tmp_path)
    assert_one_clear_line(again, "report.html", code=0)
    other = run_here(
        "evaluate_model.py", "--run", "models/attention_unet", "--unseen-only", "--data-dir", *folders, cwd=tmp_path
    )
    assert_one_clear_line(other, "rio: Dice", code=0)
    assert {score["folder"] for score in read_scores(tmp_path / "evaluation.csv")} == {"cairo", "rio"}


@needs_busbra
def test_bus_bra_is_read_with_its_patients():
    samples = collect([BUSBRA]).samples
    assert len(samples) == 1875 and len({s.patient for s in samples}) == 1064
    assert {s.label for s in samples} == {"benign", "malignant"}
    patients = {patient: number for number, patient in enumerate(sorted({s.patient for s in samples}))}
    groups = np.array([patients[s.patient] for s in samples])
    for split, fold in (("table", 0), ("table", 4), ("grouped", 0)):
        parts = split_samples(samples, groups, split, fold=fold)
        assert near_copies_in_training(parts, groups) == []
        assert len({groups[i] for part in parts.values() for i in part}) == 1064
