import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, assert_one_clear_line, copy_as_pairs, run_here, run_script

import dataset
import evaluate_model
from segmentation.common.errors import RunError
from segmentation.data.phantoms import write_phantoms
from segmentation.scoring.decision import Decision, Prediction
from segmentation.scoring.score_table import read_scores


@pytest.fixture(scope="module")
def runs(phantom_data, tmp_path_factory):
    """Two tiny networks of different sizes, trained on the same phantoms."""
    cwd = tmp_path_factory.mktemp("runs")
    for size in ("32", "48"):
        flags = [*TINY, "--image-size", size, "--epochs", "1", "--run", size]
        assert_one_clear_line(run_here("train_model.py", "--data-dir", phantom_data, *flags, cwd=cwd), code=0)
    return [cwd / "models" / size for size in ("32", "48")]


def evaluate(*arguments, cwd):
    return run_here("evaluate_model.py", *arguments, cwd=cwd)


def test_images_that_a_run_has_seen_are_refused(runs, phantom_data, tmp_path):
    refused = evaluate("--run", runs[0], "--data-dir", phantom_data, cwd=tmp_path)
    assert_one_clear_line(refused, "images were trained on", "--unseen-only")
    assert not list(tmp_path.iterdir())


def test_unseen_images_score_as_in_training(runs, phantom_data, tmp_path):
    """The test part again, by another script: the same scores, image by image."""
    where = ["--run", runs[0], "--data-dir", phantom_data, "--unseen-only"]
    result = run_script("evaluate_model.py", *where, cwd=tmp_path)
    assert_one_clear_line(result, "left out", "test (phantom): lesion Dice", code=0)
    printed = result.stdout
    old = json.loads((runs[0] / "metrics.json").read_text())
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["summary"] == old["summary"] and "images" not in result
    errors = result["calibration_error"]
    assert 0 < errors["all_pixels"] < 1 and 0 <= errors["predicted_lesion"] < 1
    assert f"calibration error: {errors['all_pixels']:.3f} over all pixels" in printed
    new = read_scores(tmp_path / "evaluation.csv")
    assert {s["name"]: s["dice"] for s in new} == {s["name"]: s["dice"] for s in old["images"]}
    for a, b in zip(new, old["images"], strict=True):
        for key in ("hd95", "assd", "dice_lesion_given", "iou_lesion_given"):  # None where undefined
            assert a[key] == (None if b[key] is None else pytest.approx(b[key], rel=1e-4))


def test_the_table_lies_beside_the_summary(runs, phantom_data, tmp_path):
    out = tmp_path / "other" / "place.json"
    where = ["--run", runs[0], "--data-dir", phantom_data, "--unseen-only", "--output"]
    assert_one_clear_line(evaluate(*where, out, cwd=tmp_path), str(out), str(out.with_suffix(".csv")), code=0)
    assert {path.name for path in out.parent.iterdir()} == {"place.json", "place.csv"}
    assert_one_clear_line(evaluate(*where, "x.csv", cwd=tmp_path), "--output is the name of a .json file", code=2)


def test_a_renamed_image_is_still_known(runs, broken_data, tmp_path):
    split = json.loads((runs[0] / "split.json").read_text())["images"]
    name = next(n for n, row in split.items() if row["part"] == "train" and n.startswith("benign"))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    shutil.copy(broken_data / "benign" / f"{name}.png", tmp_path / "images" / "patient.png")
    shutil.copy(broken_data / "benign" / f"{name}_mask.png", tmp_path / "masks" / "patient.png")
    assert_one_clear_line(evaluate("--run", runs[0], "--data-dir", tmp_path, cwd=tmp_path), "'patient'")


def test_other_layout_and_mean_of_two(runs, tmp_path):
    """images/ and masks/ of new phantoms, scored by the mean of both networks."""
    new = write_phantoms(tmp_path / "new", images=20, seed=9)
    count = len(dataset.find_samples(new))
    flat = copy_as_pairs(new, tmp_path / "flat")
    result = evaluate("--run", *runs, "--data-dir", flat, "--tta", cwd=tmp_path)
    assert_one_clear_line(result, "have no mask file", f"{count} images scored, 0 left out", code=0)
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(scores["runs"]) == 2
    assert {s["label"] for s in read_scores(tmp_path / "evaluation.csv")} == {"lesion", "normal"}
    assert scores["summary"]["lesions"]["images"] + scores["summary"]["normals"]["images"] == count


def test_the_mean_is_a_mean(monkeypatch):
    maps = [np.full((1, 4, 4), 0.2, np.float32), np.full((1, 8, 8), 0.6, np.float32)]
    found = iter([Prediction(maps[0], np.float32([0.1])), Prediction(maps[1], np.float32([0.5]))])
    monkeypatch.setattr(evaluate_model, "load_run", lambda run: (None, None))
    decisions = {"a": Decision(threshold=0.3, min_score=0.2), "b": Decision(threshold=0.5, min_score=0.4)}
    monkeypatch.setattr(evaluate_model, "load_decision", lambda path: decisions[path.parent.name])
    monkeypatch.setattr(evaluate_model, "predict_pictures", lambda *_: next(found))
    config = evaluate_model.EvaluationConfig(run=(Path("a"), Path("b")), data_dir=(Path("."),))
    (mean, score), decision = evaluate_model.predict_mean(config, [])
    assert score == pytest.approx(0.3) and decision.min_score == pytest.approx(0.3)
    found = iter([Prediction(maps[0], np.float32([0.1])), Prediction(maps[1])])
    with pytest.raises(RunError, match="only some of these networks have a lesion score"):
        evaluate_model.predict_mean(config, [])
    assert mean.shape == (1, 8, 8) and np.allclose(mean, 0.4) and decision.threshold == pytest.approx(0.4)
