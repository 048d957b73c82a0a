"""The thresholds of a decision, chosen on the validation images."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segmentation.scoring.calibration import calibrated, calibrated_score, fit_calibration
from segmentation.scoring.decision import Decision, Prediction, to_mask
from segmentation.scoring.scores import overlap

THRESHOLDS = np.arange(0.2, 0.81, 0.05).round(2)
DICE_TO_SPARE = 0.01  # mean Dice given up for fewer false positives; docs/experiments.md has the price of more
LESIONS_KEPT = 0.98  # target sensitivity of the lesion score's cut-off, on the validation images with a lesion
DESCRIBED_SHARES = (LESIONS_KEPT, 0.95, 0.9)  # a user may weigh lesions against normals otherwise
PEAKS = np.r_[0, 1 - np.geomspace(0.7, 0.002, 40)].round(4)  # dense where a sure network has its peaks


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
        where = np.asarray(folders or [""] * len(there))
        both = np.isin(where, where[~there])  # folders without a normal image do not say what a score means
        lesions, normals = there[both].sum(), (~there).sum()
        target = np.where(there, (lesions + 1) / (lesions + 2), 1 / (normals + 2))
        scale, offset = fit_calibration(score[both], target[both])
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
