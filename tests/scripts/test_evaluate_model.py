"""evaluate_model.py: only what a run has not seen is scored, as in training; the mean of several runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_here, step_by_step
from folders import write_hospital

import evaluate_model
from segmentation.common.errors import RunError
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.score_table import read_scores


def evaluate(*arguments, cwd):
    with step_by_step():
        return run_here("evaluate_model.py", *arguments, cwd=cwd)


def test_images_that_a_run_has_seen_are_refused_under_any_name(finished_run, lesion_data, tmp_path):
    refused = evaluate("--run", finished_run, "--data-dir", lesion_data, cwd=tmp_path)
    assert_one_clear_line(refused, "images were trained on", "--unseen-only")
    split = json.loads((finished_run / "split.json").read_text())["images"]
    name = next(n for n, row in split.items() if row["part"] == "train" and int(n.removeprefix("scan")) > 6)
    for folder in ("images", "masks"):
        (tmp_path / "own" / folder).mkdir(parents=True)
        shutil.copy(lesion_data / folder / f"{name}.png", tmp_path / "own" / folder / "patient.png")
    (tmp_path / "own" / "meta.csv").write_text("image,class\npatient,lesion\n")
    assert_one_clear_line(evaluate("--run", finished_run, "--data-dir", "own", cwd=tmp_path), "'patient'")
    nothing = evaluate("--run", finished_run, "--data-dir", "own", "--unseen-only", cwd=tmp_path)
    assert_one_clear_line(nothing, "no unseen image with a lesion is left")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def test_unseen_images_score_as_in_training(finished_run, lesion_data, tmp_path):
    """The test part again, by another script: the same scores, image by image, in a table beside the summary."""
    out = tmp_path / "other" / "place.json"
    where = ["--run", finished_run, "--data-dir", lesion_data, "--unseen-only", "--output", out]
    result = evaluate(*where, cwd=tmp_path)
    assert_one_clear_line(result, "left out", "test (custom): lesion Dice", str(out.with_suffix(".csv")), code=0)
    assert {path.name for path in out.parent.iterdir()} == {"place.json", "place.csv"}
    old, new = json.loads((finished_run / "metrics.json").read_text()), json.loads(out.read_text())
    assert new["summary"] == old["summary"] and "images" not in new and new["near_copies_in_training"] == 0
    errors = new["calibration_error"]
    assert 0 < errors["all_pixels"] < 1 and 0 <= errors["predicted_lesion"] < 1
    assert f"calibration error: {errors['all_pixels']:.3f} over all pixels" in result.stdout
    for a, b in zip(read_scores(out.with_suffix(".csv")), old["images"], strict=True):
        assert (a["name"], a["dice"]) == (b["name"], b["dice"])
        for key in ("hd95", "assd", "dice_lesion_given", "iou_lesion_given"):  # None where undefined
            assert a[key] == (None if b[key] is None else pytest.approx(b[key], rel=1e-4))
    assert_one_clear_line(evaluate(*where, cwd=tmp_path), code=0)  # its own files are replaced


def test_the_mean_of_two_runs_on_another_hospital(finished_run, stopped_run, tmp_path):
    """One is not finished, and of another image size."""
    other = shutil.copytree(stopped_run, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    config["network"]["input_shape"] = [48, 48, 1]
    (other / "config.json").write_text(json.dumps(config))
    new = write_hospital(tmp_path / "new", count=20, seed=9, normals=3)
    result = evaluate("--run", finished_run, other, "--data-dir", new, "--tta", "--threshold", "0.3", cwd=tmp_path)
    assert_one_clear_line(result, "is not finished", "20 images scored, 0 left out", code=0)
    assert f"note: {finished_run} was trained on images of the same names" in result.stdout  # scan0, scan1, ...
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert scores["near_copies_in_training"] is None  # no training image is there to compare with
    assert len(scores["runs"]) == 2 and scores["decision"]["threshold"] == 0.3 and scores["decision"]["tta"]
    assert [score["label"] for score in read_scores(tmp_path / "evaluation.csv")].count("normal") == 3


def test_the_mean_is_a_mean(monkeypatch):
    maps = [np.full((1, 4, 4), 0.2, np.float32), np.full((1, 8, 8), 0.6, np.float32)]
    found = iter([Prediction(maps[0], np.float32([0.1])), Prediction(maps[1], np.float32([0.5]))])
    monkeypatch.setattr(evaluate_model, "open_network", lambda *_: (None, None))
    monkeypatch.setattr(evaluate_model, "predict_pictures", lambda *_: next(found))
    config = evaluate_model.EvaluationConfig(run=(Path("a"), Path("b")), data_dir=(Path("."),))
    own = [Decision(threshold=0.3, min_score=0.2), Decision(threshold=0.5, min_score=0.4, doubtful_score=0.6)]
    (mean, score), decision = evaluate_model.predict_mean(config, own, [])
    assert score == pytest.approx(0.3) and decision.min_score == pytest.approx(0.3)
    assert mean.shape == (1, 8, 8) and np.allclose(mean, 0.4) and decision.threshold == pytest.approx(0.4)
    assert decision.doubtful_score == pytest.approx(0.3)
    found = iter([Prediction(maps[0], np.float32([0.1])), Prediction(maps[1])])
    with pytest.raises(RunError, match="only some of these networks have a lesion score"):
        evaluate_model.predict_mean(config, own, [])
