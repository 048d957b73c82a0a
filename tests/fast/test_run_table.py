"""The table of cross_validate.py, worked out by hand on two runs, and what it does with missing values."""

import numpy as np
import pytest

from dataset import Sample
from segmentation.common.errors import RunError
from segmentation.common.files import read_json, write_json
from segmentation.runs.parts import weigh_scores
from segmentation.runs.run_table import collect_scores, format_table, seed_luck

RUNS = ["fold0", "fold1"]


@pytest.fixture
def folder(tmp_path):
    """Lesions of one Dice and HD95 in each run, 4 and 12 of them, and four normals, one of them marked."""
    shape = {"height": 3, "width": 3, "diagonal": 10.0, "precision": 1.0, "recall": 1.0, "assd": 1.0}
    for name, dice, count in (("fold0", 0.6, 4), ("fold1", 0.8, 12)):
        lesion = shape | {"label": "benign", "dice": dice, "iou": dice / 2, "hd95": 3.0, "tp": 3, "fp": 0, "fn": 1}
        lesion |= {"tn": 5, "dice_lesion_given": dice + 0.1, "iou_lesion_given": dice / 2, "roundness": 10 * dice}
        normal = shape | {"label": "normal", "dice": 1.0, "iou": 1.0, "hd95": 0.0, "tp": 0, "fp": 0, "fn": 0, "tn": 9}
        marked = normal | {"dice": 0.0, "iou": 0.0, "precision": 0.0, "recall": None, "hd95": None, "assd": None}
        scores = [lesion] * count + [normal] * 3 + [marked | {"fp": 2, "tn": 7}]
        images = [{"name": f"{name} ({i})", "group": i, **score} for i, score in enumerate(scores)]
        result = {"data": "busi", "split": "grouped-cv", "best_epoch": 3, "minutes": 2.0, "parameters": 7_000_000}
        result |= {"gmac": 1.25, "near_copies_in_training": 3, "environment": {}}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "metrics.json", result | {"images": images})
    return tmp_path


def change(run, **values):
    """Change a run's metrics.json; None takes a key away."""
    metrics = read_json(run / "metrics.json") | values
    write_json(run / "metrics.json", {key: value for key, value in metrics.items() if value is not None})


def test_table_by_hand(folder):
    result = collect_scores(folder, RUNS)
    assert result["mean"]["dice"] == pytest.approx({"mean": 0.7, "sd": 0.2 / 2**0.5})
    assert result["mean"]["roundness"]["mean"] == pytest.approx(7) and result["further"] == ["roundness"]
    assert result["together"]["lesions"]["dice"] == pytest.approx((4 * 0.6 + 12 * 0.8) / 16)
    assert len(result["images"]) == 24 and result["images"][0]["run"] == "fold0"
    text = format_table(result)
    assert text.startswith(
        "| run | Dice | presence given | IoU | HD95 px | missed | normals with FP | minutes | roundn"
    )
    assert "\n| fold1 | 0.8 | 0.9 | 0.4 | 3 | 0 | 0.25 | 2 | 8 |\n| mean | 0.7 | 0.8 | 0.35 |" in text
    assert "16 predictions of lesion images together: Dice 0.750" in text
    assert "with lesion presence given: Dice 0.850 (95 % " in text
    assert "all 24 predictions together: Dice 0.750, IoU 0.500, HD95 21.8% of" in text
    assert "7.00 M parameters, 1.25 GMAC" in text and "LEAKY: 6" in text
    assert "FLATTERED" not in text and "lesion score" not in text


def test_an_empty_mask_counts_as_the_diagonal(folder):
    images = read_json(folder / "fold1" / "metrics.json")["images"]
    images[0] |= {"hd95": None, "assd": None, "tp": 0, "fp": 0, "fn": 4}
    change(folder / "fold1", images=images)
    text = format_table(collect_scores(folder, RUNS))
    assert "\n| fold1 | 0.8 | 0.9 | 0.4 | 3.58 | 1 |" in text  # (11 x 3 + 10) / 12


def test_lesion_scores_and_a_flattered_run_are_told(folder):
    for run in RUNS:  # normals have 0.2, one lesion of 16 is below them
        images = read_json(folder / run / "metrics.json")["images"]
        for image in images:
            first = image["name"] == "fold0 (0)"
            image["lesion_score"] = 0.2 if image["label"] == "normal" else 0.1 if first else 0.9
        change(folder / run, images=images)
    change(folder / "fold1", choose_on="test")
    text = format_table(collect_scores(folder, RUNS))
    assert "lesion score: AUC 0.938" in text and "FLATTERED" in text
    assert "specificity 0% at a sensitivity of 95 %, 100% at 90 %" in text


def test_what_a_run_does_not_say_is_an_empty_cell(folder):
    """A resumed run has no minutes, and a test set may hold no normal image."""
    lesions = [s for s in read_json(folder / "fold1" / "metrics.json")["images"] if s["label"] == "benign"]
    change(folder / "fold1", images=lesions, minutes=None, gmac=None)
    result = collect_scores(folder, RUNS)
    assert result["mean"]["normals_with_false_positive"] == {"mean": 0.25, "sd": 0.0}
    assert result["mean"]["minutes"] == {"mean": 2.0, "sd": 0.0}
    assert "| fold1 | 0.8 | 0.9 | 0.4 | 3 | 0 |  |  | 8 |" in format_table(result)
    lesions = [{key: value for key, value in s.items() if key != "roundness"} for s in lesions]
    change(folder / "fold1", images=lesions)  # finished before this score was added
    assert "| fold1 | 0.8 | 0.9 | 0.4 | 3 | 0 |  |  |  |" in format_table(collect_scores(folder, RUNS))
    change(folder / "fold0", minutes=None, gmac=None)
    text = format_table(collect_scores(folder, RUNS))
    assert "GMAC" not in text and "| mean | 0.7 | 0.8 | 0.35 | 3 | 0 | 0.25 |  | 6 |" in text
    change(folder / "fold1", near_copies_in_training=None)
    with pytest.raises(RunError, match='fold1/metrics.json: "near_copies_in_training" is missing'):
        collect_scores(folder, RUNS)


def test_the_luck_of_a_seed_by_hand():
    def tested(run, dice, names="ab"):
        return [{"run": run, "name": name, "label": "benign", "dice": dice} for name in names]

    images = [*tested("p1-1-seed0", 0.7), *tested("p1-1-seed1", 0.8), *tested("p1-2-seed0", 0.2, "cd")]
    normal = {"run": "p1-2-seed0", "name": "n", "label": "normal", "dice": 0.0}
    assert seed_luck(images) == pytest.approx(0.005**0.5)  # 0.05 each side of the mean, ddof 1
    # Three runs more: squares 0.01, 0 and 0.01 with two degrees of freedom, and 0.005 with one.
    more = [entry for n in (1, 2, 3) for entry in tested(f"p1-3-seed{n}", n / 10, "ef")]
    assert seed_luck([*images, normal, *more]) == pytest.approx((0.025 / 3) ** 0.5)
    assert seed_luck([*tested("seed0", 0.7), *tested("seed1", 0.8, "ac")]) is None  # another split


def test_a_folder_without_normal_images_teaches_no_lesion_score(capsys):
    """Otherwise the network would learn to recognise the hospital."""
    samples = [Sample(str(i), label, None, (), folder=folder) for i, (folder, label) in enumerate(
        [("cairo", "normal"), ("cairo", "benign"), ("rio", "benign"), ("rio", "normal"), ("cairo", "benign")]
    )]  # fmt: skip
    train, judged = weigh_scores(samples, [0, 1, 2], [3, 4])
    assert train.tolist() == [1, 1, 0] and judged.tolist() == [0, 1] and train.dtype == np.float32
    assert "cairo only" in capsys.readouterr().out
    assert weigh_scores(samples, [0, 1, 3], [4])[0].tolist() == [1, 1, 0]  # nor does one without a lesion
    assert weigh_scores(samples, [0, 1, 2, 3], [4]) == weigh_scores(samples, [1, 2], [4]) == (None, None)
    assert "note" not in capsys.readouterr().out
    assert weigh_scores(samples, [0, 2], [4]) == (None, None)
    assert "note: no folder holds lesion and normal images" in capsys.readouterr().out
