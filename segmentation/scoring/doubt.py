"""How doubtful a prediction is, so that a person looks at the most doubtful pictures first."""

import numpy as np


def find_doubt(probability: np.ndarray, mask: np.ndarray, score: float | None, dashed: bool = False) -> float:
    """From 0, certain, to 1: the larger of the doubt about the lesion score and of that about the outline.

    Of a lesion score s it is 4 s (1 - s): 1 at 0.5, and 0 at 0 and at 1. Of an outline it is 1 - Dice, where Dice is
    what the network itself expects: 2 * (sum of p in the mask) / (sum of p everywhere + pixels of the mask). A mask
    that is kept although its lesion score is low has the doubt 1: score and outline contradict each other.

    Args:
        probability: of lesion, calibrated, at the picture's size (H, W).
        mask: what is outlined, (H, W) bool.
        score: that there is a lesion at all, calibrated; None of a network without one, or where a lesion is given.
        dashed: whether there is a `doubtful_mask`.

    Returns:
        The doubt. With neither a score nor an outline it is the highest probability: that a lesion was missed.
    """
    if dashed and mask.any():
        return 1.0
    if mask.any():
        expected = 2 * float(probability[mask].sum()) / (float(probability.sum()) + int(mask.sum()))
        outline = 1 - expected
    else:
        outline = float(probability.max()) if score is None else 0.0
    return outline if score is None else max(outline, 4 * score * (1 - score))
