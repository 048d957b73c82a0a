"""Choose the thresholds of a decision on the validation set."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from segmentation.scoring.calibration import calibrated, calibrated_score, fit_calibration
from segmentation.scoring.decision import Decision, Prediction, to_mask
from segmentation.scoring.scores import overlap

THRESHOLDS = np.arange(0.2, 0.81, 0.05).round(2)
DICE_TO_SPARE = 0.01  # mean Dice that may be lost for fewer false positives
# Target sensitivities of the lesion score's two cut-offs, on the validation images with a lesion: of lesions whose mask
# is not emptied, and of those that are not doubtful either.
LESIONS_KEPT, LESIONS_SURE = 0.95, 0.9
DESCRIBED_SHARES = (0.98, LESIONS_KEPT, LESIONS_SURE)  # their cut-offs are printed, for users who prefer another
PEAKS = np.r_[0, 1 - np.geomspace(0.7, 0.002, 40)].round(4)  # dense near 1, where a confident network has its peaks


def choose_decision(
    prediction: Prediction, references: np.ndarray, given: Decision, folders: Sequence[str] | None = None
) -> Decision:
    """Choose calibration, threshold, and minimum score or peak on validation images, at the network's resolution.

    Calibration minimises the cross-entropy of the pixels; the threshold maximises the mean Dice of the lesion images.
    With a lesion score, the lesion map is calibrated on lesion images only, on which it was trained, and minimum and
    doubtful score come from `choose_min_score`. Without one, the minimum peak is the highest that costs at most
    DICE_TO_SPARE of Dice, so that few normal images have a false positive; it stays as given if there are no normals.

    Args:
        prediction: of N images, not calibrated.
        references: (N, S, S) in {0, 1}.
        given: the other settings of the decision.
        folders: the folder of each image, if there are several.

    Returns:
        `given` with the chosen values.
    """
    probability, score = prediction
    present = references.any(axis=(1, 2))
    shown, sure = (present, 1.0) if score is not None else (np.ones_like(present), None)
    scale, offset = fit_calibration(probability[shown][:, ::2, ::2], references[shown][:, ::2, ::2])
    given = replace(given, scale=scale, offset=offset)
    lesions = [(p, r > 0) for p, r in zip(calibrated(probability[present], given), references[present], strict=True)]

    def dice(decision: Decision) -> float:
        return float(np.mean([overlap(r, to_mask(p, p.shape, decision, sure))["dice"] for p, r in lesions]))

    scores = [dice(replace(given, threshold=float(t))) for t in THRESHOLDS]
    given = replace(given, threshold=float(THRESHOLDS[int(np.argmax(scores))]))
    if score is not None:
        return choose_min_score(score, present, given, folders)
    if present.all():  # without normal images, a minimum peak would cost Dice and gain nothing
        return given
    for peak in PEAKS[::-1]:
        candidate = replace(given, min_peak=float(peak))
        if dice(candidate) >= max(scores) - DICE_TO_SPARE:
            return candidate
    return given


def choose_min_score(
    score: np.ndarray, present: np.ndarray, given: Decision, folders: Sequence[str] | None = None
) -> Decision:
    """Calibrate the lesion score, and choose its two cut-offs: the highest of their sensitivities in every folder.

    The minimum score keeps LESIONS_KEPT of the lesion images, and the doubtful score LESIONS_SURE: what lies between
    them is what a person should look at. With fewer than ten lesion images both are the lowest score of one, and
    nothing is doubtful. Over all folders together the cut-offs would be too high: a hospital without normal images has
    high scores, and would hide that too many lesions of another hospital lie below the cut-off.

    Args:
        score: of N images, (N,), not calibrated.
        present: whether each image holds a lesion, (N,) bool.
        given: the other settings of the decision.
        folders: as for `choose_decision`.
    """
    if not present.all():
        # Platt's targets (1999, section 2.2): a few normals, perfectly separated, must not make the score certain.
        where = np.asarray(folders or [""] * len(present))
        both = np.isin(where, where[~present])  # a folder without normal images cannot calibrate a score
        both |= not present[both].any()  # unless no folder holds both kinds
        lesions, normals = present[both].sum(), (~present).sum()
        target = np.where(present, (lesions + 1) / (lesions + 2), 1 / (normals + 2))
        scale, offset = fit_calibration(score[both], target[both])
        given = replace(given, score_scale=scale, score_offset=offset)
    score = calibrated_score(score, given)
    kept, sure = (_score_that_keeps(share, score, present, folders) for share in (LESIONS_KEPT, LESIONS_SURE))
    return replace(given, min_score=kept, doubtful_score=sure)


def _score_that_keeps(share: float, score: np.ndarray, present: np.ndarray, folders: Sequence[str] | None) -> float:
    """The highest cut-off with this sensitivity (share) in every folder; scores are calibrated."""
    where = np.asarray(folders or [""] * len(present))
    own = (np.sort(score[present & (where == folder)]) for folder in set(where[present]))
    return min(float(scores[len(scores) - math.ceil(share * len(scores))]) for scores in own)


def describe_min_scores(
    score: np.ndarray, present: np.ndarray, decision: Decision, folders: Sequence[str] | None = None
) -> str:
    """One line with three minimum scores and their effect on the validation set, for users who prefer another one, and
    one for each folder if there are several: a score that suits one hospital may not suit another.

    Args:
        score, present, folders: as for `choose_min_score`.
        decision: from `choose_min_score`.
    """
    score, where = calibrated_score(score, decision), np.asarray(folders or [""] * len(present))
    # Rounded down, as rounding up would lower the sensitivity.
    points = [math.floor(1000 * _score_that_keeps(s, score, present, folders)) / 1000 for s in DESCRIBED_SHARES]
    several = sorted(set(where[present])) if len(set(where)) > 1 else []
    lines = []
    for name, own in ((f"the {len(present)} validation images", where == where), *((f, where == f) for f in several)):
        lesions, normals = score[own & present], score[own & ~present]
        told = [f"{least:.3f} has sensitivity {np.mean(lesions >= least):.0%}" for least in points]
        if len(normals):
            told = [f"{t}, specificity {np.mean(normals < least):.0%}" for t, least in zip(told, points, strict=True)]
        lines.append(f"--min-score on {name}: {'; '.join(told)}")
    return "\n".join(lines)
