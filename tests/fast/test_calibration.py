"""segmentation/scoring/calibration.py: numbers worked out by hand."""

import numpy as np
import pytest

from segmentation.scoring.calibration import collect_pixels, judge_calibration, reliability
from segmentation.scoring.decision import Decision, Prediction


def test_reliability_by_hand():
    """A fifth of the pixels given 0.1 and seven tenths of those given 0.9 are lesion: both are 0.1 and 0.2 off."""
    probability = np.repeat([0.1, 0.9], [100, 100]).astype(np.float32)
    reference = np.r_[np.ones(20), np.zeros(80), np.ones(70), np.zeros(30)]
    given, share, error = reliability(probability, reference)
    assert given == pytest.approx([0.1, 0.9]) and share == pytest.approx([0.2, 0.7])
    assert error == pytest.approx((0.1 + 0.2) / 2, abs=1e-6)
    assert reliability(np.empty(0), np.empty(0))[2] == 0  # without any pixel


def test_reliability_agrees_with_scikit_learn():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    probability = rng.random((2, 1200, 2000)).astype(np.float32)
    reference = rng.random(probability.shape) < probability**2
    given, share, error = reliability(probability, reference)
    observed, mean = calibration_curve(reference.ravel(), probability.ravel(), n_bins=15)
    assert given == pytest.approx(mean) and share == pytest.approx(observed)
    assert error == pytest.approx(1 / 6, abs=0.002)  # the mean of p - p * p


def test_a_pixel_is_lesion_if_the_picture_holds_one_and_it_lies_there():
    """Two pictures with the same map, one surely with a lesion and one that holds it in a quarter of all cases."""
    maps = np.tile(np.array([[0.8, 0.8], [0.0, 0.0]], np.float32), (2, 1, 1))
    references = [np.array([[255, 255], [0, 0]], np.uint8), np.zeros((2, 2), np.uint8)]
    prediction = Prediction(maps, np.array([1.0, 0.25]))
    decision = Decision(min_score=0.5)
    pixels = collect_pixels(prediction, references, decision)
    assert pixels.probability[:, 0, 0] == pytest.approx([0.8, 0.2])
    assert pixels.reference[0].tolist() == [[1, 1], [0, 0]]
    assert pixels.predicted.any(axis=(1, 2)).tolist() == [True, False]  # the second mask is emptied
    # Both bins are 0.2 off: the two pixels that are given 0.8 are lesion, the two that are given 0.2 are not.
    assert judge_calibration(pixels) == pytest.approx({"all_pixels": 0.2 * 4 / 8, "predicted_lesion": 0.2})
