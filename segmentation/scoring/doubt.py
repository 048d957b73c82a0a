"""How doubtful a prediction is, so that a person looks at the most doubtful pictures first."""

import cv2
import numpy as np


def find_doubt(probability: np.ndarray, mask: np.ndarray, score: float | None) -> float:
    """From 0, certain, to 1: the larger of the doubt about the lesion score and of that about the outline.

    Of one probability p the doubt is 4 p (1 - p): 1 at 0.5, and 0 at 0 and at 1. The outline's is the mean over the
    mask's pixels with a neighbour outside, left, right, above or below; the picture's own edge is no outline.

    Args:
        probability: of lesion, calibrated, at the picture's size (H, W).
        mask: what is outlined, (H, W) bool.
        score: that there is a lesion at all, calibrated; None of a network without one, or where a lesion is given.

    Returns:
        The doubt. Without a score and without an outline, that about the pixel with the highest probability.
    """
    inside = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))) > 0
    along = probability[mask & ~inside]
    if score is None and not along.size:
        along = probability.max(keepdims=True)
    doubts = [0.0]
    if along.size:
        doubts.append(4 * float(np.mean(along * (1 - along))))
    if score is not None:
        doubts.append(4 * score * (1 - score))
    return max(doubts)
