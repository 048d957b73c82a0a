"""From the network's probabilities to a mask: the decision, and how it is chosen on validation images."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segmentation.checks import Real, check, checked
from segmentation.earlier_runs import RENAMED_DECISION, rename
from segmentation.files import read_json, write_json
from segmentation.scores import overlap

MARGIN = 1e-6  # what a probability is kept away from 0 and 1 by, where its logit is needed
THRESHOLDS = np.arange(0.2, 0.81, 0.05).round(2)
LIKELIEST = 0.3  # of a map's highest probability; docs/experiments.md has the others that were tried
DICE_TO_SPARE = 0.01  # mean Dice given up for fewer false positives; docs/experiments.md has the price of more
LESIONS_KEPT = 0.98  # share of the validation images with a lesion whose lesion score is not below the minimum
DESCRIBED_SHARES = (LESIONS_KEPT, 0.95, 0.9)  # a user may weigh lesions against normals otherwise
PEAKS = np.r_[0, 1 - np.geomspace(0.7, 0.002, 40)].round(4)  # dense where a sure network has its peaks


class Prediction(NamedTuple):
    """What a network says of N pictures."""

    probability: np.ndarray  # of lesion, (N, S, S) float32
    score: np.ndarray | None = None  # that there is a lesion at all, (N,) float32; None of a network without a score

    def each(self) -> Iterator[tuple[np.ndarray, float | None]]:
        """Probability (S, S) and lesion score of one picture after the other."""
        scores = [None] * len(self.probability) if self.score is None else self.score.tolist()
        return zip(self.probability, scores, strict=True)


@checked
class Decision:
    """How a probability map becomes a binary mask. Kept in a run's decision.json."""

    scale: Real[1e-6, 20] = 1.0  # calibration: logit -> scale * logit + offset (Platt 1999)
    offset: Real[-20, 20] = 0.0
    threshold: Real[0, 1] = 0.5  # calibrated probability above which a pixel is lesion; of networks with a lesion
    #                              score, as a share of the picture's highest: they say elsewhere that there is none
    min_peak: Real[0, 1] = 0.0  # a component whose highest probability is below this is dropped
    score_scale: Real[1e-6, 20] = 1.0  # calibration of the lesion score, as above
    score_offset: Real[-20, 20] = 0.0
    min_score: Real[0, 1] = 0.0  # calibrated lesion score below which the mask is emptied; of networks that have one
    largest_component: bool = False  # keep only the largest component
    tta: bool = False  # the probability is the mean of the picture's and its mirror image's
    lesion_given: bool = False  # lesion presence is given: the score empties no mask; of a network without a score,
    #                             mark the likeliest pixels, however unlikely, and drop none


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
    min_score: float | None = None,
) -> Decision:
    """A run's own decision with what a command line asks for on top; the switches can only be switched on."""
    if min_score is not None:
        own = replace(own, min_score=min_score)
    if threshold is not None:
        own = replace(own, threshold=threshold, min_peak=0.0)  # the minimum peak was chosen for the other threshold
    switches = {"tta": tta, "largest_component": largest_component, "lesion_given": lesion_given}
    return replace(own, **{name: True for name, on in switches.items() if on})


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


def is_empty(score: float | None, decision: Decision) -> bool:
    """Whether a picture's calibrated lesion score says that there is no lesion; None of a network without one."""
    return score is not None and not decision.lesion_given and score < decision.min_score


def to_mask(
    probability: np.ndarray, shape: tuple[int, int], decision: Decision, score: float | None = None
) -> np.ndarray:
    """Binary mask at the original size. The probability is enlarged, not the mask: the outline stays smooth.

    Args:
        probability: calibrated, of any size.
        shape: (H, W) of the original.
        decision: how.
        score: the picture's calibrated lesion score, of a network that has one.

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
    """What `to_mask` would outline if the lesion score had not emptied the mask; None where it has not."""
    if not is_empty(score, decision):
        return None
    return to_mask(probability, shape, replace(decision, lesion_given=True), score)


def _drop_components(mask: np.ndarray, full: np.ndarray, min_peak: float, largest: bool) -> np.ndarray:
    """The mask without components that stay below the minimum peak; of the others, all or the largest."""
    if not min_peak and not largest:
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    keep = np.zeros(count, bool)
    for k, (x, y, width, height, _) in enumerate(stats[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        keep[k] = full[box][labels[box] == k].max() >= min_peak
    if largest:
        keep &= np.arange(count) == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return keep[labels]


# ---------------------------------------------------------------- chosen on validation


def choose_decision(
    prediction: Prediction, references: np.ndarray, given: Decision, folders: Sequence[str] | None = None
) -> Decision:
    """Calibration, threshold, and what empties a mask, from validation images, at the network's resolution.

    Calibration minimises the cross-entropy of all pixels; the threshold maximises the mean Dice of the lesion images.
    With a lesion score: it is calibrated, too, and the minimum score is the one that keeps LESIONS_KEPT of the lesion
    images of every folder; the outline is calibrated on the lesion images alone, from which it was learned. Without:
    the minimum peak is the highest that costs at most DICE_TO_SPARE of Dice, so that as few normals as possible have a
    false positive, and 0 where there are no normals.

    Args:
        prediction: of N images, as the network gives it.
        references: (N, S, S) in {0, 1}.
        given: the other settings.
        folders: where each image comes from, if there are several folders.

    Returns:
        `given` with the chosen numbers.
    """
    probability, score = prediction
    there = references.any(axis=(1, 2))
    shown, sure = (there, 1.0) if score is not None else (np.ones_like(there), None)
    scale, offset = fit_calibration(probability[shown][:, ::2, ::2], references[shown][:, ::2, ::2])
    given = replace(given, scale=scale, offset=offset)
    lesions = [(p, r > 0) for p, r in zip(calibrated(probability[there], given), references[there], strict=True)]

    def dice(decision: Decision) -> float:
        return float(np.mean([overlap(r, to_mask(p, p.shape, decision, sure))["dice"] for p, r in lesions]))

    scores = [dice(replace(given, threshold=float(t))) for t in THRESHOLDS]
    given = replace(given, threshold=float(THRESHOLDS[int(np.argmax(scores))]))
    if score is not None:
        return choose_min_score(score, there, given, folders)
    if there.all():  # no normal to spare a false positive: Dice would be given up for nothing
        return given
    for peak in PEAKS[::-1]:
        candidate = replace(given, min_peak=float(peak))
        if dice(candidate) >= max(scores) - DICE_TO_SPARE:
            return candidate
    return given


def choose_min_score(
    score: np.ndarray, there: np.ndarray, given: Decision, folders: Sequence[str] | None = None
) -> Decision:
    """Calibration of the lesion score, and the highest minimum that keeps LESIONS_KEPT of each folder's lesion images.

    Of all together it would be too high: a hospital without normals has high scores everywhere, and would pay for the
    lesions of another one.

    Args:
        score: of N images, (N,), as the network gives it.
        there: whether each holds a lesion, (N,) bool.
        given: the other settings.
        folders: as for `choose_decision`.
    """
    if not there.all():
        # Platt's own targets (1999, section 2.2): a few normals, all told apart, must not make the score certain.
        lesions, normals = there.sum(), (~there).sum()
        target = np.where(there, (lesions + 1) / (lesions + 2), 1 / (normals + 2))
        scale, offset = fit_calibration(score, target)
        given = replace(given, score_scale=scale, score_offset=offset)
    return replace(given, min_score=_score_that_keeps(LESIONS_KEPT, calibrated_score(score, given), there, folders))


def _score_that_keeps(share: float, score: np.ndarray, there: np.ndarray, folders: Sequence[str] | None) -> float:
    """The highest minimum score that leaves that share of each folder's lesion images; scores are calibrated."""
    where = np.asarray(folders or [""] * len(there))
    own = (np.sort(score[there & (where == folder)]) for folder in set(where[there]))
    return min(float(scores[len(scores) - math.ceil(share * len(scores))]) for scores in own)


def describe_min_scores(
    score: np.ndarray, there: np.ndarray, decision: Decision, folders: Sequence[str] | None = None
) -> str:
    """One line that says what three minimum scores do on the validation images, for users who want another one.

    Args:
        score, there, folders: as for `choose_min_score`.
        decision: what `choose_min_score` returned.
    """
    score, points = calibrated_score(score, decision), []
    for share in DESCRIBED_SHARES:
        least = math.floor(1000 * _score_that_keeps(share, score, there, folders)) / 1000  # rounded up, it keeps fewer
        normals = f" and marks {np.mean(score[~there] >= least):.0%} of the normal ones" if not there.all() else ""
        points.append(f"{least:.3f} keeps {share:.0%} of the lesion images{normals}")
    return f"--min-score on the {len(there)} validation images: {'; '.join(points)}"


def fit_calibration(probability: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Scale and offset of the logits that minimise the cross-entropy (Platt 1999); both of one shape."""
    from scipy import optimize  # not at the top: a prediction needs no SciPy, which is slow to import

    logit, target = (a.ravel().astype(np.float64) for a in (_logit(probability), reference))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.exp(parameters[0]) * logit + parameters[1]
        error = 1 / (1 + np.exp(-z)) - target
        gradient = np.array([np.mean(error * logit) * np.exp(parameters[0]), np.mean(error)])
        return float(np.mean(np.logaddexp(0, z) - target * z)), gradient

    # Bounded, which scikit-learn's LogisticRegression is not: an untrained network can have a negative slope,
    # which would turn lesion into background, and on a few images the optimum can lie at infinity.
    best = optimize.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 2), (-10, 10)])
    return float(np.exp(best.x[0])), float(best.x[1])
