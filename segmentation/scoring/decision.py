"""From the network's probabilities to a mask, by the decision that is stored in decision.json."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segmentation.common.checks import Real, check, checked
from segmentation.common.files import read_json, write_json

LIKELIEST = 0.3  # threshold as a share of a map's highest probability (docs/experiments.md)


class Prediction(NamedTuple):
    """A network's outputs for N images."""

    probability: np.ndarray  # of lesion, (N, S, S) float32
    score: np.ndarray | None = None  # probability that the image holds a lesion, (N,) float32; None without a score

    def each(self) -> Iterator[tuple[np.ndarray, float | None]]:
        """Iterate over the images: probability (S, S) and lesion score of each."""
        scores = [None] * len(self.probability) if self.score is None else self.score.tolist()
        return zip(self.probability, scores, strict=True)


@checked
class Decision:
    """How a probability map becomes a binary mask; stored in a run's decision.json."""

    scale: Real[1e-6, 20] = 1.0  # calibration: logit -> scale * logit + offset (Platt 1999)
    offset: Real[-20, 20] = 0.0
    threshold: Real[0, 1] = 0.5  # calibrated probability above which a pixel is lesion; if the network has a lesion
    #                              score, a share of the image's highest probability
    min_peak: Real[0, 1] = 0.0  # a component whose highest probability is below this is dropped
    score_scale: Real[1e-6, 20] = 1.0  # calibration of the lesion score, as above
    score_offset: Real[-20, 20] = 0.0
    min_score: Real[0, 1] = 0.0  # cut-off of the calibrated lesion score: below it, the mask is emptied
    doubtful_score: Real[0, 1] = 0.0  # another one: below it, a mask that is not emptied is doubtful
    largest_component: bool = False  # keep only the largest component
    tta: bool = False  # test-time augmentation: average the predictions of the image and its mirror image
    lesion_given: bool = False  # assume that every image holds a lesion: never return an empty mask


def save_decision(path: Path, decision: Decision) -> None:
    """Write decision.json."""
    write_json(path, asdict(decision))


def load_decision(path: Path) -> Decision:
    """Read decision.json, and check keys, types and ranges.

    Raises:
        RunError: the file is missing or not valid.
    """
    return check(Decision, read_json(path), path)


def override_decision(own: Decision, **asked: float | bool | None) -> Decision:
    """A run's own decision with the values of the command line; None and False do not change it."""
    asked = {name: value for name, value in asked.items() if value is not None and value is not False}
    if "threshold" in asked:
        asked["min_peak"] = 0.0  # the run's minimum peak was chosen for its own threshold
    return replace(own, **asked)


def is_empty(score: float | None, decision: Decision) -> bool:
    """Whether an image's calibrated lesion score is below the cut-off; the score is None if the network has none."""
    return score is not None and not decision.lesion_given and score < decision.min_score


def to_mask(
    probability: np.ndarray, shape: tuple[int, int], decision: Decision, score: float | None = None
) -> np.ndarray:
    """Binary mask at the original size. The probability map is enlarged, not the mask, for a smooth outline.

    Args:
        probability: calibrated, of any size.
        shape: (H, W) of the original image.
        decision: threshold, cut-off and components.
        score: the image's calibrated lesion score, if the network has one.

    Returns:
        (H, W) bool.
    """
    if is_empty(score, decision):
        return np.zeros(shape, bool)
    full = cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR)
    threshold, min_peak = decision.threshold, decision.min_peak
    if score is not None:
        threshold *= float(full.max())
    elif decision.lesion_given:
        threshold, min_peak = LIKELIEST * float(full.max()), 0.0
    mask = full > threshold
    return _drop_components(mask, full, min_peak, decision.largest_component) if mask.any() else mask


def doubtful_mask(
    probability: np.ndarray, shape: tuple[int, int], decision: Decision, score: float | None
) -> np.ndarray | None:
    """The mask whose outline is dashed: the one that `to_mask` empties, or keeps although it is doubtful; else None."""
    if not is_empty(score, replace(decision, min_score=max(decision.min_score, decision.doubtful_score))):
        return None
    return to_mask(probability, shape, replace(decision, lesion_given=True), score)


def _drop_components(mask: np.ndarray, full: np.ndarray, min_peak: float, largest: bool) -> np.ndarray:
    """Keep the components whose highest probability reaches the minimum peak; of these, all or only the largest."""
    if not min_peak and not largest:
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = np.zeros(count, bool)
    for k, (x, y, width, height, _) in enumerate(stats[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        keep[k] = full[box][labels[box] == k].max() >= min_peak
    if largest:
        keep &= np.arange(count) == (stats[:, cv2.CC_STAT_AREA] * keep).argmax()
    return keep[labels]
