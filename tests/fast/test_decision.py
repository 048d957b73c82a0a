"""From a probability map to a mask: the decision, its file, and how it is chosen on validation images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segmentation.common.errors import RunError
from segmentation.scoring import threshold
from segmentation.scoring.calibration import calibrated, calibrated_score, fit_calibration
from segmentation.scoring.decision import (
    Decision,
    Prediction,
    doubtful_mask,
    load_decision,
    override_decision,
    save_decision,
    to_mask,
)
from segmentation.scoring.threshold import choose_decision, choose_min_score, describe_min_scores


def test_largest_component_and_size():
    probability = np.zeros((8, 8), np.float32)
    probability[0, 0] = probability[4:7, 4:7] = 1
    both, one = (to_mask(probability, (8, 8), Decision(largest_component=keep)) for keep in (False, True))
    assert both.sum() == 10 and one.sum() == 9 and not one[0, 0]
    assert to_mask(probability, (16, 24), Decision()).shape == (16, 24)
    assert not to_mask(probability * 0, (8, 8), Decision(largest_component=True)).any()


def test_a_component_without_a_sure_pixel_is_dropped():
    probability = np.zeros((8, 8), np.float32)
    probability[0:2, 0:4], probability[5:8, 5:8], probability[6, 6] = 0.6, 0.6, 0.95
    assert to_mask(probability, (8, 8), Decision()).sum() == 17
    sure = to_mask(probability, (8, 8), Decision(min_peak=0.9))
    assert sure.sum() == 9 and not sure[0].any()
    assert not to_mask(probability, (8, 8), Decision(min_peak=0.99)).any()
    # The larger of the two is dropped for its peak, so the other is the largest that may stay.
    probability[0:3, 0:5] = 0.6
    assert to_mask(probability, (8, 8), Decision(min_peak=0.9, largest_component=True)).sum() == 9


def test_a_given_lesion_is_marked_however_unlikely():
    probability = np.full((8, 8), 0.02, np.float32)
    probability[2:4, 2:6], probability[4, 2:6], probability[7, 7] = 0.2, 0.07, 0.04
    strict = Decision(threshold=0.5, min_peak=0.9)
    assert not to_mask(probability, (8, 8), strict).any()
    given = to_mask(probability, (8, 8), Decision(threshold=0.5, min_peak=0.9, lesion_given=True))
    assert given[2:5, 2:6].all() and given.sum() == 12  # 0.07 and 0.2, not 0.04: of a peak of 0.2
    # A sure network is cut at the same share of its peak, not at its threshold.
    assert to_mask(probability * 4, (8, 8), Decision(lesion_given=True)).sum() == 12


def test_calibration_finds_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    true = rng.uniform(0.02, 0.98, (60, 80, 80))
    reference = (rng.random(true.shape) < true).astype(np.uint8)
    logit = np.log(true / (1 - true))
    overconfident = (1 / (1 + np.exp(-(3 * logit + 1)))).astype(np.float32)
    scale, offset = fit_calibration(overconfident, reference)
    assert scale == pytest.approx(1 / 3, abs=0.03) and offset == pytest.approx(-1 / 3, abs=0.04)
    mended = calibrated(overconfident, Decision(scale=scale, offset=offset))
    assert np.abs(mended - true).max() < 0.03 and mended.dtype == np.float32


def test_threshold_and_peak_come_from_the_given_images():
    """Lesions are reached at 0.35 and peak at 0.9, a normal's false alarm at 0.7."""
    maps, masks = np.full((4, 16, 16), 0.05, np.float32), np.zeros((4, 16, 16), np.uint8)
    for k in range(3):
        masks[k, 4:12, 4:12] = 1
        maps[k, 4:12, 4:12] = 0.35
        maps[k, 6:10, 6:10] = 0.9
    maps[3, 2:6, 2:6] = 0.7
    chosen = choose_decision(Prediction(maps), masks, Decision(tta=True))
    sure = calibrated(maps, chosen)
    assert chosen.tta and [to_mask(p, (16, 16), chosen).sum() for p in sure] == [64, 64, 64, 0]
    # Without normals there is nothing to gain from dropping components.
    assert chosen.min_peak > 0 == choose_decision(Prediction(maps[:3]), masks[:3], Decision()).min_peak


def test_dice_is_given_up_for_normals_as_far_as_asked(monkeypatch):
    """A normal's false alarm peaks above one lesion of four: dropping both costs a quarter of the Dice."""
    maps, masks = np.full((5, 16, 16), 0.05, np.float32), np.zeros((5, 16, 16), np.uint8)
    for k, peak in enumerate((0.9, 0.9, 0.9, 0.6)):
        masks[k, 4:12, 4:12] = 1
        maps[k, 4:12, 4:12] = peak
    maps[4, 2:6, 2:6] = 0.7
    for spare, marked in ((0.24, [True] * 5), (0.26, [True, True, True, False, False])):
        monkeypatch.setattr(threshold, "DICE_TO_SPARE", spare)
        chosen = choose_decision(Prediction(maps), masks, Decision())
        assert [to_mask(p, (16, 16), chosen).any() for p in calibrated(maps, chosen)] == marked


def test_the_score_empties_masks_and_the_outline_is_chosen_on_lesions_alone():
    """50 lesions, two of them with a score below all others, and 10 normals with a map as sure as a lesion's."""
    maps, masks = np.full((60, 16, 16), 0.05, np.float32), np.zeros((60, 16, 16), np.uint8)
    maps[:, 4:12, 4:12], masks[:50, 4:12, 4:12] = 0.6, 1
    score = np.r_[0.1, 0.11, np.linspace(0.6, 0.9, 48), np.linspace(0.05, 0.3, 10)].astype(np.float32)
    there = masks.any(axis=(1, 2))
    chosen = choose_decision(Prediction(maps, score), masks, Decision())
    assert chosen.min_peak == 0 and 0 < chosen.scale and 0 < chosen.score_scale
    sure = calibrated_score(score, chosen)
    assert chosen.min_score == pytest.approx(sure[2])  # the lowest of the 95 % that are kept
    assert chosen.doubtful_score == pytest.approx(sure[5])  # the lowest of the 90 % that are not doubtful
    marked = [to_mask(p, (16, 16), chosen, s).any() for p, s in zip(calibrated(maps, chosen), sure, strict=True)]
    assert marked == [False] * 2 + [True] * 48 + [False] * 10
    strict = Decision(min_score=0.5)
    given = [to_mask(maps[0], (16, 16), replace(strict, lesion_given=g), 0.1).sum() for g in (False, True)]
    assert given == [0, 64]
    assert (
        doubtful_mask(maps[0], (16, 16), strict, 0.1).sum() == 64
        and doubtful_mask(maps[0], (16, 16), strict, 0.6) is None
    )
    # The threshold is a share of the highest probability, 0.6: an outline is drawn however unsure the map is.
    drawn = [to_mask(maps[0] * sure, (16, 16), Decision(threshold=0.99), 1.0).sum() for sure in (1, 0.1)]
    assert drawn == [64, 64] and not to_mask(maps[0], (16, 16), Decision(threshold=0.99)).any()
    # Another folder, without normals and with high scores, does not raise the minimum, and its lesions are kept too.
    wide, shown = np.r_[score, np.full(50, 0.95)].astype(np.float32), np.r_[there, np.ones(50, bool)]
    together, apart = (choose_min_score(wide, shown, Decision(), f) for f in (None, ["a"] * 60 + ["b"] * 50))
    raised, kept = (calibrated_score(wide, decision) >= decision.min_score for decision in (together, apart))
    assert raised[:50].sum() == 45 and kept[:50].sum() == 48 and kept[60:].all()
    assert (apart.score_scale, apart.score_offset) == (chosen.score_scale, chosen.score_offset)  # the first one's
    # Lesions in one folder and normals in another: neither holds both kinds, so both calibrate.
    split = choose_min_score(score, there, Decision(), ["a"] * 50 + ["b"] * 10)
    assert (split.score_scale, split.score_offset) == (chosen.score_scale, chosen.score_offset)
    # Without a normal there is nothing to calibrate with.
    alone = choose_decision(Prediction(maps[:50], score[:50]), masks[:50], Decision())
    assert (alone.score_scale, alone.score_offset) == (1, 0) and alone.min_score == pytest.approx(score[2])
    few = choose_min_score(score[:9], there[:9], Decision())
    assert few.min_score == few.doubtful_score == pytest.approx(0.1)  # of nine lesions both keep all


def test_a_mask_below_the_doubtful_score_is_kept_and_its_outline_dashed():
    probability = np.zeros((8, 8), np.float32)
    probability[2:6, 2:6] = 0.9
    decision = Decision(min_score=0.2, doubtful_score=0.5)
    for score, kept, dashed in ((0.1, 0, 16), (0.2, 16, 16), (0.49, 16, 16), (0.5, 16, None), (None, 16, None)):
        doubtful = doubtful_mask(probability, (8, 8), decision, score)
        assert to_mask(probability, (8, 8), decision, score).sum() == kept
        assert (doubtful if doubtful is None else doubtful.sum()) == dashed
    assert doubtful_mask(probability, (8, 8), replace(decision, lesion_given=True), 0.1) is None
    assert doubtful_mask(probability, (8, 8), Decision(min_score=0.6, doubtful_score=0.5), 0.55).any()  # it is emptied


def test_other_minimum_scores_are_told_by_hand():
    """The lowest of the upper 95 of 100 lesion images has 0.0519; 40 of 100 normal ones are above, none above 0.1."""
    score = np.r_[np.arange(100) / 100, np.repeat([0.01, 0.07], [60, 40])] + 0.0019
    there = np.arange(200) < 100
    told = describe_min_scores(score, there, Decision())
    assert told.startswith("--min-score on the 200 validation images: 0.021 has sensitivity 98%, specificity 60%;")
    assert "; 0.051 has sensitivity 95%, specificity 60%;" in told
    assert told.endswith("; 0.101 has sensitivity 90%, specificity 100%")
    assert "specificity" not in describe_min_scores(score[:100], there[:100], Decision())
    halves = ["a"] * 50 + ["b"] * 50  # of the folder with the lower scores
    first, *others = describe_min_scores(score[:100], there[:100], Decision(), halves).splitlines()
    assert "; 0.021 has sensitivity 98%; 0.051 has sensitivity 95%" in first
    assert [line.split(": ")[0] for line in others] == ["--min-score on a", "--min-score on b"]
    assert "0.021 has sensitivity 96%" in others[0] and others[1].count("sensitivity 100%") == 3
    told = describe_min_scores(score, there, Decision(), ["a"] * 160 + ["b"] * 40).splitlines()
    assert len(told) == 2 and "; 0.051 has sensitivity 95%, specificity 100%;" in told[1]  # b holds no lesion


def test_a_perfect_score_does_not_become_certain():
    """Platt's targets: of 10 and 10 that are told apart, the calibrated scores are about 1/12 and 11/12."""
    maps, masks = np.full((20, 8, 8), 0.5, np.float32), np.zeros((20, 8, 8), np.uint8)
    masks[:10, 2:5, 2:5] = 1
    score = np.repeat([0.99, 0.01], 10).astype(np.float32)
    sure = calibrated_score(score, choose_decision(Prediction(maps, score), masks, Decision()))
    assert sure[0] == pytest.approx(11 / 12, abs=0.01) and sure[-1] == pytest.approx(1 / 12, abs=0.01)


def test_decision_file(tmp_path):
    path = tmp_path / "decision.json"
    save_decision(path, Decision(scale=0.5, min_peak=0.8, tta=True))
    assert load_decision(path) == Decision(scale=0.5, min_peak=0.8, tta=True)
    path.write_text('{"min_score": 0.4}')  # without the key of a doubtful score, nothing is doubtful
    assert load_decision(path) == Decision(min_score=0.4, doubtful_score=0.0)
    for change in ({"threshold": "0.5"}, {"tta": 1}, {"scale": 0}, {"min_peak": 2}, {"code": "x"}, {"offset": 1e999}):
        path.write_text(json.dumps({**{"scale": 0.5}, **change}))
        with pytest.raises(RunError, match=r"decision\.json"):
            load_decision(path)
    path.unlink()
    with pytest.raises(RunError, match=r"decision\.json"):
        load_decision(path)


def test_a_command_line_goes_over_the_runs_own_decision():
    own = Decision(scale=0.5, offset=0.1, threshold=0.4, min_peak=0.8, tta=True)
    assert override_decision(own, tta=False, threshold=None) == own  # what was not asked for is not switched off
    # The minimum peak was chosen for the run's own threshold.
    assert override_decision(own, threshold=0.0) == replace(own, threshold=0.0, min_peak=0.0)
    asked = {"min_score": 0.3, "largest_component": True, "lesion_given": True}
    assert override_decision(own, **asked) == replace(own, **asked)
    with pytest.raises(ValueError, match="threshold"):
        override_decision(own, threshold=1.5)
