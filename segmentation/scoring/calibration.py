"""Calibration of the probabilities, and the calibration error.

Of the pixels with a calibrated probability of 0.3, 30 % should be lesion.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dataset import resize_mask
from segmentation.scoring.decision import Decision, Prediction, to_mask

BINS = 15
MARGIN = 1e-6  # probabilities are clipped to [MARGIN, 1 - MARGIN] before their logit is taken


def calibrated(probability: np.ndarray, decision: Decision) -> np.ndarray:
    """Probabilities of any shape after the decision's calibration, float32."""
    return _calibrate(probability, decision.scale, decision.offset)


def calibrated_score(score: np.ndarray, decision: Decision) -> np.ndarray:
    """Lesion scores of any shape after the decision's calibration, float32."""
    return _calibrate(score, decision.score_scale, decision.score_offset)


def _calibrate(probability: np.ndarray, scale: float, offset: float) -> np.ndarray:
    if scale == 1 and offset == 0:
        return probability
    return (1 / (1 + np.exp(-scale * _logit(probability) - offset))).astype(np.float32)


def _logit(probability: np.ndarray) -> np.ndarray:
    inside = np.clip(probability, MARGIN, 1 - MARGIN)
    return np.log(inside / (1 - inside))


def fit_calibration(probability: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Scale and offset of the logits that minimise the cross-entropy (Platt 1999); both arrays have the same shape."""
    from scipy import optimize  # here, since SciPy is slow to import, and prediction does not need it

    logit, target = (a.ravel().astype(np.float64) for a in (_logit(probability), reference))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.exp(parameters[0]) * logit + parameters[1]
        error = 1 / (1 + np.exp(-z)) - target
        gradient = np.array([np.mean(error * logit) * np.exp(parameters[0]), np.mean(error)])
        return float(np.mean(np.logaddexp(0, z) - target * z)), gradient

    # With bounds, which scikit-learn's LogisticRegression lacks: the slope of an untrained network can be negative,
    # which would swap lesion and background, and on a few images the optimum can lie at infinity.
    best = optimize.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 2), (-10, 10)])
    return float(np.exp(best.x[0])), float(best.x[1])


# ---------------------------------------------------------------- calibration error


class Pixels(NamedTuple):
    """Prediction and reference of every pixel of N images, at the network's resolution."""

    probability: np.ndarray  # of lesion, (N, S, S) float32
    reference: np.ndarray  # (N, S, S) uint8 in {0, 1}
    predicted: np.ndarray  # whether it is in the predicted mask, (N, S, S) bool


def collect_pixels(prediction: Prediction, references: Iterable[np.ndarray], decision: Decision) -> Pixels:
    """Collect prediction and reference of every pixel, at the network's resolution.

    If the network has a lesion score, its lesion map is trained on lesion images only: it is the probability given
    that the image holds a lesion. It is multiplied by the lesion score here.

    Args:
        prediction: calibrated, from `predict_pictures`.
        references: (H, W) of any sizes, lesion where not zero.
        decision: makes the masks.
    """
    probability, score = prediction
    size = probability.shape[1:]
    reference = np.stack([resize_mask((mask > 0).astype(np.uint8), size) for mask in references])
    predicted = np.stack([to_mask(p, size, decision, s) for p, s in prediction.each()])
    if score is not None:
        probability = probability * score[:, None, None].astype(np.float32)
    return Pixels(probability, reference, predicted)


def reliability(probability: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Reliability diagram and expected calibration error.

    Args:
        probability: of any shape, in [0, 1].
        reference: the same shape, lesion where not zero.

    Returns:
        Mean probability and share of lesion pixels in each non-empty one of 15 bins, and the expected calibration error
        (Guo et al. 2017, On calibration of modern neural networks, section 2), which is 0 without pixels.
    """
    bins = {"bins": BINS, "range": (0, 1)}
    count, _ = np.histogram(probability, **bins)
    given, _ = np.histogram(probability, weights=probability, **bins)
    found, _ = np.histogram(probability[reference > 0], **bins)
    held = count > 0
    error = np.abs(given - found).sum() / max(probability.size, 1)
    return given[held] / count[held], found[held] / count[held], float(error)


def judge_calibration(pixels: Pixels) -> dict[str, float]:
    """Expected calibration error over all pixels, and over the pixels of the predicted masks."""
    probability, reference, predicted = pixels
    return {
        "all_pixels": reliability(probability, reference)[2],
        "predicted_lesion": reliability(probability[predicted], reference[predicted])[2],
    }
