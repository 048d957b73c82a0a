"""The drawings of a report: overlays and figures of numbers that are known."""

import io

import numpy as np

from segmentation.reports import figures, overlays
from segmentation.scoring.calibration import Pixels
from segmentation.scoring.decision import Decision
from segmentation.scoring.scores import judge_lesion_score


def test_an_overlay_shows_what_is_wrong():
    reference, prediction = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    reference[10:40, 10:40] = prediction[20:55, 20:55] = True
    picture = overlays.draw_overlay(np.zeros((64, 64), np.uint8), prediction, reference, side=640)

    def share(colour, rows, columns):
        return (picture[rows, columns] == tuple(bytes.fromhex(colour[1:]))).all(axis=2).mean()

    only_reference, only_prediction = (slice(120, 180), slice(120, 180)), (slice(450, 520), slice(450, 520))
    missed, invented = overlays.FALSE_NEGATIVE, overlays.FALSE_POSITIVE
    assert share(missed, *only_reference) > 0.2 and share(invented, *only_reference) == 0
    assert share(invented, *only_prediction) > 0.2 and share(missed, *only_prediction) == 0
    assert share(invented, slice(250, 350), slice(250, 350)) == 0
    picture = overlays.draw_overlay(np.zeros((64, 64), np.uint8), prediction, None)
    assert share(invented, slice(None), slice(None)) == 0


def test_a_name_is_no_formula():
    score = {"name": "a$\\frac$", "label": "normal", "fp": 0, "height": 8, "width": 8}
    case = figures.Case(score, *[np.zeros((8, 8), np.uint8)] * 2, np.zeros((8, 8), bool), np.zeros((8, 8)))
    figures.overlay_grid([case], "title").savefig(io.BytesIO())


def test_the_lesion_score_is_drawn_as_it_is_counted():
    rows = [{"label": label, "group": n, "lesion_score": 0.1 * n} for n, label in enumerate(["normal", "benign"] * 4)]
    decision = Decision(min_score=0.25, doubtful_score=0.45)
    roc, sweep = figures.lesion_score(rows, judge_lesion_score(rows, repeats=10), decision).axes
    assert roc.get_title().startswith("AUC 0.625")  # of 16 pairs, 10 are in order
    assert [line.get_xydata()[0].tolist() for line in roc.lines[-2:]] == [[0.5, 0.75], [0.25, 0.5]]
    assert [text.get_text() for text in roc.get_legend().texts] == ["minimum score 0.25", "doubtful score 0.45"]
    sensitivity, specificity = (line.get_xydata() for line in sweep.lines[:2])
    for minimum in (0.25, 0.45, 0.65):
        at = sensitivity[:, 0].searchsorted(minimum)
        lesions, normals = (
            np.mean([row["lesion_score"] >= minimum for row in rows if row["label"] == label])
            for label in ("benign", "normal")
        )
        assert sensitivity[at, 1] == lesions and 1 - specificity[at, 1] == normals


def test_curves_say_what_they_are_of():
    row = {"epoch": 0, "learning_rate": 0.1} | {key: 0.5 for key in ("loss", "dice", "iou", "accuracy")}
    judged = row | {f"val_{key}": 0.4 for key in ("loss", "dice", "iou", "accuracy")}
    labels = [
        [text.get_text() for text in figures.curves([history], 0, 0.9, "the test images").axes[5].get_legend().texts]
        for history in (row, judged)
    ]
    assert "the test images" in labels[1] and [t for t in labels[1] if t != "the test images"] == labels[0]


def test_a_share_of_the_highest_probability_is_drawn_as_one():
    """The maps are unsure, and right at every share below 1."""
    reference = np.zeros((2, 8, 8), np.uint8)
    reference[:, 2:5, 2:5] = 1
    probability = np.where(reference > 0, 0.2, 0.01).astype(np.float32)
    found = {}
    for of_highest in (False, True):
        diagram, sweep = figures.calibration(Pixels(probability, reference, reference > 0), 0.5, of_highest).axes
        # All of the pixels that are marked are lesion, and were given 0.2.
        assert diagram.texts[0].get_text().endswith("over predicted-lesion pixels 0.800")
        found[of_highest] = sweep.lines[0].get_ydata()[9]  # Dice at 0.5
        assert ("share of the picture's highest" in sweep.get_xlabel()) == of_highest
    assert found == {False: 0, True: 1}


def test_threshold_curves_by_hand():
    probability = np.array([[[0.9, 0.4]], [[0.6, 0.1]]], np.float32)
    reference = np.array([[[1, 1]], [[0, 0]]], np.uint8)
    curves = figures.threshold_curves(probability, reference, np.array([0.3, 0.5, 0.8]))
    assert np.allclose(curves["dice"], [1, 2 / 3, 2 / 3]) and np.allclose(curves["sensitivity"], [1, 0.5, 0.5])
    assert np.allclose(curves["false_positive_area"], [0.5, 0.5, 0])
