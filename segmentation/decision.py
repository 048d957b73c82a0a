"""From the network's probabilities to a mask: the decision, and how it is chosen on validation images."""

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
from scipy import optimize

from segmentation.checks import Real, check, checked
from segmentation.earlier_runs import RENAMED_DECISION, rename
from segmentation.files import read_json, write_json
from segmentation.scores import overlap

THRESHOLDS = np.arange(0.2, 0.81, 0.05).round(2)
LIKELIEST = 0.3  # of a map's highest probability; docs/experiments.md has the others that were tried
PEAKS = np.r_[0, 1 - np.geomspace(0.7, 0.002, 40)].round(4)  # dense where a sure network has its peaks


@checked
class Decision:
    """How a probability map becomes a binary mask. Kept in a run's decision.json."""

    scale: Real[1e-6, 20] = 1.0  # calibration: logit -> scale * logit + offset (Platt 1999)
    offset: Real[-20, 20] = 0.0
    threshold: Real[0, 1] = 0.5  # calibrated probability above which a pixel is lesion
    min_peak: Real[0, 1] = 0.0  # a component whose highest probability is below this is dropped
    largest_component: bool = False  # keep only the largest component
    tta: bool = False  # the probability is the mean of the picture's and its mirror image's
    lesion_given: bool = False  # lesion presence is given: mark the likeliest pixels, however unlikely, and drop none


def save_decision(path: Path, decision: Decision) -> None:
    """Write decision.json."""
    write_json(path, asdict(decision))


def load_decision(path: Path) -> Decision:
    """Read decision.json; keys, types and ranges are checked.

    Raises:
        RunError: the file is missing or holds something else.
    """
    return check(Decision, rename(read_json(path), RENAMED_DECISION), path)


def override_decision(
    own: Decision,
    threshold: float | None = None,
    tta: bool = False,
    largest_component: bool = False,
    lesion_given: bool = False,
) -> Decision:
    """A run's own decision with what a command line asks for on top; the switches can only be switched on."""
    if threshold is not None:
        own = replace(own, threshold=threshold, min_peak=0.0)  # the minimum peak was chosen for the other threshold
    switches = {"tta": tta, "largest_component": largest_component, "lesion_given": lesion_given}
    return replace(own, **{name: True for name, on in switches.items() if on})


def calibrated(probability: np.ndarray, decision: Decision) -> np.ndarray:
    """Probabilities of any shape after the decision's calibration, float32."""
    if decision.scale == 1 and decision.offset == 0:
        return probability
    logit = decision.scale * _logit(probability) + decision.offset
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _logit(probability: np.ndarray) -> np.ndarray:
    inside = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(inside / (1 - inside))


def to_mask(probability: np.ndarray, shape: tuple[int, int], decision: Decision) -> np.ndarray:
    """Binary mask (H, W) bool at the original size from a calibrated probability map of any size.

    The probability is enlarged, not the mask: the outline stays smooth.
    """
    full = cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR)
    threshold, min_peak = decision.threshold, decision.min_peak
    if decision.lesion_given:
        threshold, min_peak = LIKELIEST * float(full.max()), 0.0
    mask = full > threshold
    if mask.any() and (min_peak > threshold or decision.largest_component):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        keep = np.zeros(count, bool)
        for k, (x, y, width, height, _) in enumerate(stats[1:], start=1):
            box = slice(y, y + height), slice(x, x + width)
            keep[k] = full[box][labels[box] == k].max() >= min_peak
        if decision.largest_component:
            keep &= np.arange(count) == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
        mask = keep[labels]
    return mask


# ---------------------------------------------------------------- chosen on validation


def choose_decision(
    probabilities: np.ndarray, references: np.ndarray, given: Decision, dice_to_spare: float
) -> Decision:
    """Calibration, threshold and minimum peak from validation images, at the network's resolution.

    Calibration minimises the cross-entropy of all pixels; the threshold maximises the mean Dice of the
    lesion images; the minimum peak is the highest that costs at most `dice_to_spare` of it, so that as
    few normals as possible have a false positive, and 0 where there are no normals.

    Args:
        probabilities: (N, S, S), as the network gives them.
        references: (N, S, S) in {0, 1}.
        given: the other settings.
        dice_to_spare: mean Dice of the lesion images that may be given up for fewer false positives.

    Returns:
        `given` with the chosen numbers.
    """
    scale, offset = fit_calibration(probabilities, references)
    given = replace(given, scale=scale, offset=offset)
    maps = calibrated(probabilities, given)
    lesions = [(p, r > 0) for p, r in zip(maps, references, strict=True) if r.any()]

    def dice(decision: Decision) -> float:
        return float(np.mean([overlap(r, to_mask(p, p.shape, decision))["dice"] for p, r in lesions]))

    scores = [dice(replace(given, threshold=float(t))) for t in THRESHOLDS]
    given = replace(given, threshold=float(THRESHOLDS[int(np.argmax(scores))]))
    if len(lesions) == len(maps):  # no normal to spare a false positive: Dice would be given up for nothing
        return given
    for peak in PEAKS[::-1]:
        candidate = replace(given, min_peak=float(peak))
        if dice(candidate) >= max(scores) - dice_to_spare:
            return candidate
    return given


def fit_calibration(probability: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Scale and offset of the logits that minimise the cross-entropy (Platt 1999); both (N, S, S)."""
    # Every fourth pixel is plenty for two numbers.
    logit, target = (a[:, ::2, ::2].ravel().astype(np.float64) for a in (_logit(probability), reference))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.exp(parameters[0]) * logit + parameters[1]
        error = 1 / (1 + np.exp(-z)) - target
        gradient = np.array([np.mean(error * logit) * np.exp(parameters[0]), np.mean(error)])
        return float(np.mean(np.logaddexp(0, z) - target * z)), gradient

    # Bounded, which scikit-learn's LogisticRegression is not: an untrained network can have a negative slope,
    # which would turn lesion into background, and on a few images the optimum can lie at infinity.
    best = optimize.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 2), (-10, 10)])
    return float(np.exp(best.x[0])), float(best.x[1])
