"""Whether probabilities mean what they say: of the pixels that are given 0.3, are three tenths lesion?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset import resize_mask
from segmentation.decision import Decision, Prediction, to_mask

BINS = 15


class Pixels(NamedTuple):
    """What is said of every pixel of N pictures, and what is true."""

    probability: np.ndarray  # that it is lesion, (N, S, S) float32
    reference: np.ndarray  # (N, S, S) uint8 in {0, 1}
    predicted: np.ndarray  # in the mask that the decision draws, (N, S, S) bool


def collect_pixels(prediction: Prediction, references: Sequence[np.ndarray], decision: Decision) -> Pixels:
    """Prediction and reference of every pixel, at the network's resolution.

    The map of a network with a lesion score is learned from lesion images alone: it says how likely a pixel is lesion
    if the picture holds one. How likely it is lesion at all is that times the lesion score.

    Args:
        prediction: calibrated, as `predict_pictures` returns it.
        references: (H, W) of any sizes, lesion where not zero.
        decision: what draws the masks.
    """
    probability, score = prediction
    size = probability.shape[1:]
    reference = np.stack([resize_mask((mask > 0).astype(np.uint8), size) for mask in references])
    predicted = np.stack([to_mask(p, size, decision, s) for p, s in prediction.each()])
    if score is not None:
        probability = probability * score[:, None, None].astype(np.float32)
    return Pixels(probability, reference, predicted)


def reliability(probability: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """How often pixels are lesion that are given a probability.

    Args:
        probability: of any shape, in [0, 1].
        reference: the same shape, lesion where not zero.

    Returns:
        Mean probability and share of lesion in each of 15 bins that holds any pixel, and the expected calibration error
        (Guo et al. 2017, On calibration of modern neural networks, section 2), 0 without pixels.
    """
    bins = {"bins": BINS, "range": (0, 1)}
    count, _ = np.histogram(probability, **bins)
    given, _ = np.histogram(probability, weights=probability, **bins)
    found, _ = np.histogram(probability[reference > 0], **bins)
    held = count > 0
    error = np.abs(given - found).sum() / max(probability.size, 1)
    return given[held] / count[held], found[held] / count[held], float(error)


def judge_calibration(pixels: Pixels) -> dict[str, float]:
    """Expected calibration error over all pixels, and over those of the masks that are drawn."""
    probability, reference, predicted = pixels
    return {
        "all_pixels": reliability(probability, reference)[2],
        "predicted_lesion": reliability(probability[predicted], reference[predicted])[2],
    }
