"""A training on two folders: each is scored by itself, in the training, in the report and in an evaluation."""

import json

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_here, step_by_step, train_here
from folders import write_hospital

from segmentation.data.collection import collect, find_folders
from segmentation.reports.report import load_cases
from segmentation.runs.run_folder import load_run
from segmentation.scoring import threshold
from segmentation.scoring.decision import load_decision
from segmentation.scoring.score_table import read_scores
from segmentation.scoring.threshold import choose_decision


def test_a_training_on_two_folders_scores_each(tmp_path, monkeypatch):
    told = []  # of which folder each validation image is
    monkeypatch.setattr(threshold, "choose_decision", lambda *a, known=choose_decision: told.extend(a[3]) or known(*a))
    folders = write_hospital(tmp_path / "cairo"), write_hospital(tmp_path / "rio", seed=1, normals=10)
    result = train_here(folders[0], tmp_path, "--epochs", "1", "--data-dir", *folders)
    assert_one_clear_line(result, "custom + custom", "cairo: Dice", "rio: Dice", code=0)
    run = tmp_path / "models" / "attention_unet"
    metrics = json.loads((run / "metrics.json").read_text())
    own = metrics["summary"]["folders"]
    assert set(own) == {"cairo", "rio"}
    split = json.loads((run / "split.json").read_text())["images"]
    validated = [name.partition(":")[0] for name, row in split.items() if row["part"] == "val"]
    assert sorted(told) == sorted(validated) and set(told) == set(own)
    lesions = [s for s in metrics["images"] if s["label"] != "normal"]
    assert sum(own[f]["lesions"]["images"] for f in own) == len(lesions)
    for folder in own:
        dice = [s["dice"] for s in lesions if s["folder"] == folder]
        assert own[folder]["lesions"]["dice"] == pytest.approx(np.mean(dice))
    arguments = ("--run", "models/attention_unet", "--unseen-only", "--data-dir", *folders)
    with step_by_step():
        assert_one_clear_line(run_here("evaluate_model.py", *arguments, cwd=tmp_path), "rio: Dice", code=0)
    model, stored = load_run(run)
    drawn = load_cases(model, run, collect(find_folders(stored)).samples, load_decision(run / "decision.json"))
    assert drawn.metrics["summary"]["folders"] == own
    assert {score["folder"] for score in read_scores(tmp_path / "evaluation.csv")} == {"cairo", "rio"}
