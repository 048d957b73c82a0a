"""Scores of one image, their summaries and intervals, and the paired comparison: numbers worked out by hand."""

import json

import numpy as np
import pytest
from scipy import ndimage

from segmentation.scoring import scores


def block(rows, columns, shape=(12, 12)):
    mask = np.zeros(shape, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def test_worked_numbers():
    # 4x4 against the same square moved 2 to the right: 8 pixels common, 8 and 8 not.
    score = scores.score_image(block((2, 6), (2, 6)), block((2, 6), (4, 8)))
    assert (score["tp"], score["fp"], score["fn"], score["tn"]) == (8, 8, 8, 120)
    assert score["dice"] == 0.5
    assert score["iou"] == pytest.approx(1 / 3)
    assert score["precision"] == score["recall"] == 0.5
    # Border distances, 12 pixels each way: 4 columns edge 2, then 1 and 0 (rows overlap), worst 2.
    assert score["hd95"] == 2
    assert 0 < score["assd"] < 2


def test_distances_agree_with_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        masks = [ndimage.binary_opening(ndimage.gaussian_filter(rng.normal(size=(40, 50)), 3) > 0.05) for _ in "ab"]
        if not all(m.any() for m in masks):
            continue
        points = [np.argwhere(m & ~ndimage.binary_erosion(m)) for m in masks]
        distance = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
        one, other = distance.min(axis=1), distance.min(axis=0)
        score = scores.score_image(*masks)
        assert score["hd95"] == pytest.approx(max(np.percentile(one, 95), np.percentile(other, 95)))
        assert score["assd"] == pytest.approx(np.concatenate([one, other]).mean())


def test_a_lesion_at_the_edge_of_the_picture_has_a_border_there():
    full = np.ones((5, 5), bool)
    score = scores.score_image(full, block((2, 3), (2, 3), (5, 5)))
    assert score["hd95"] == pytest.approx(np.percentile([8**0.5] * 4 + [5**0.5] * 8 + [2.0] * 4, 95))


def test_the_rule_for_empty_masks():
    empty, lesion = np.zeros((4, 4), bool), block((0, 2), (0, 2), (4, 4))
    both = scores.score_image(empty, empty)
    assert (both["dice"], both["iou"], both["precision"], both["recall"], both["hd95"]) == (1, 1, 1, 1, 0)
    missed = scores.score_image(lesion, empty)
    assert (missed["dice"], missed["recall"], missed["precision"], missed["hd95"]) == (0, 0, None, None)
    alarm = scores.score_image(empty, lesion)
    assert (alarm["dice"], alarm["precision"], alarm["recall"], alarm["assd"]) == (0, 0, None, None)


def row(name, label, reference, prediction, group=0):
    return {"name": name, "label": label, "group": group, "diagonal": 5.0, **scores.score_image(reference, prediction)}


def test_summary_by_hand():
    empty, small, large = np.zeros((3, 4), bool), block((0, 1), (0, 2), (3, 4)), block((0, 2), (0, 2), (3, 4))
    rows = [
        row("a", "benign", small, large, 0),  # dice 2*2/(2+4) = 2/3, iou 1/2
        row("b", "malignant", large, large, 1),  # 1
        row("c", "malignant", large, empty, 2),  # 0, missed
        row("d", "normal", empty, empty, 3),  # right
        row("e", "normal", empty, small, 4),  # false positive, 2 of 12 pixels
    ]
    summary = scores.summarise(rows)
    assert summary["lesions"]["dice"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert summary["lesions"]["missed"] == 1
    assert summary["lesions"]["undefined"] == {"dice": 0, "iou": 0, "precision": 1, "recall": 0, "hd95": 1, "assd": 1}
    assert summary["lesions"]["hd95_or_diagonal"] == pytest.approx((rows[0]["hd95"] + 0 + 5) / 3)
    # Of the diagonal; c is missed, e, a false positive on a normal, is left out.
    assert summary["all"]["hd95_of_diagonal"] == pytest.approx((rows[0]["hd95"] / 5 + 0 + 1 + 0) / 4)
    assert summary["benign"]["iou"] == 0.5
    assert summary["malignant"]["images"] == 2
    assert summary["all"]["dice"] == pytest.approx((2 / 3 + 1 + 0 + 1 + 0) / 5)
    assert summary["pooled"]["dice"] == pytest.approx(2 * 6 / (2 * 6 + 2 + 4))
    assert summary["normals"]["false_positive_rate"] == 0.5
    assert summary["normals"]["false_positive_area"] == pytest.approx(2 / 12 / 2)
    assert summary["accuracy"]["all_background"] == pytest.approx((60 - 10) / 60)
    assert summary["accuracy"]["pixels"] == pytest.approx((60 - 2 - 4 - 2) / 60)
    json.dumps(summary, allow_nan=False)


def test_scores_with_lesion_presence_given_and_a_score_that_somebody_added():
    lesion, empty = block((0, 2), (0, 2), (3, 4)), np.zeros((3, 4), bool)
    rows = [row("a", "benign", lesion, empty, 0), row("b", "benign", lesion, lesion, 1)]
    rows.append(row("c", "normal", empty, empty, 2))
    for scored, dice, added in zip(rows, (0.6, 0.8, None), (3, None, 1.5), strict=True):
        scored |= {"dice_lesion_given": dice, "iou_lesion_given": dice and dice / 2, "roundness": added, "note": "x"}
    assert scores.further_scores(rows) == ["roundness"]
    summary = scores.summarise(rows)
    lesions = summary["lesions"]
    assert lesions["dice"] == 0.5 and lesions["dice_lesion_given"] == pytest.approx(0.7)
    assert lesions["dice_lesion_given_interval"] == pytest.approx([0.6, 0.8])
    assert lesions["roundness"] == 3 and lesions["undefined"]["roundness"] == 1 and summary["all"]["roundness"] == 2.25
    assert summary["benign"]["iou_lesion_given"] == pytest.approx(0.35) and "dice_lesion_given" not in summary["all"]
    assert "; Dice with lesion presence given: 0.700" in scores.result_line("busi", summary, 0)
    assert scores.result_line("busi", summary, 3, chosen_on_test=True).endswith(f"; {scores.FLATTERED}")
    assert "LEAKY: 3 test images" in scores.result_line("busi", summary, 3)
    del rows[0]["dice_lesion_given"]  # put together with a run that has no such scores
    assert "dice_lesion_given" not in scores.summarise(rows)["lesions"]


def test_lesion_score_by_hand():
    """Of 20 lesions, one is below both normals, and one between them: 37 of the 40 pairs are in order."""
    rows = [{"label": "benign", "group": n, "lesion_score": 0.5 + n / 100} for n in range(18)]
    rows += [{"label": "malignant", "group": 18, "lesion_score": s} for s in (0.1, 0.25)]
    rows += [{"label": "normal", "group": 20 + n, "lesion_score": s} for n, s in enumerate((0.2, 0.3))]
    judged = scores.judge_lesion_score(rows, repeats=200)
    assert judged["auc"] == pytest.approx(37 / 40)
    low, high = judged["auc_interval"]
    assert low < 37 / 40 < high == 1
    # 19 of 20 lesions reach 0.25, above one of the two normals; 18 reach 0.5, above both.
    assert (judged["specificity_at_95"], judged["specificity_at_90"]) == (0.5, 1)


def test_bootstrap_resamples_groups():
    values = np.repeat(np.random.default_rng(0).normal(size=10), 20)
    by_image = scores.bootstrap_interval(values, range(200))
    by_group = scores.bootstrap_interval(values, np.repeat(range(10), 20))
    assert by_group[1] - by_group[0] > 3 * (by_image[1] - by_image[0])
    assert by_group[0] < values.mean() < by_group[1]
    assert by_group == scores.bootstrap_interval(values, np.repeat(range(10), 20))


def lesions_of(dice, run="", key="dice"):
    row = {"run": run, "label": "benign", "fp": 0}
    return [row | {"name": str(i), "group": i, key: d} for i, d in enumerate(dice)]


def test_two_runs_are_compared_image_by_image():
    """All ten differences are positive, and no two are alike: by chance, so are 2 of 2**10 orders of their signs."""
    first, difference = np.linspace(0.3, 0.7, 10), 0.1 + np.arange(10) / 100
    a, b = lesions_of(first, key="roundness"), lesions_of(first + difference, key="roundness")
    result = scores.compare_runs(a, b[::-1], "roundness")
    assert result["images"] == 10 and result["wilcoxon_p"] == pytest.approx(2 / 2**10)
    assert (result["a"], result["b"], result["difference"]) == pytest.approx((0.5, 0.645, 0.145))
    assert 0.1 < result["interval"][0] < 0.145 < result["interval"][1] < 0.19
    assert scores.compare_runs(a, a, "roundness")["wilcoxon_p"] == 1
    with pytest.raises(ValueError, match="share 2"):
        scores.compare_runs(a[:2], b, "roundness")


def test_compare_runs_on_normals():
    lesions = [{"name": f"b{i}", "label": "benign", "group": i, "dice": 0.5, "hd95": 2.0, "fp": 9} for i in range(6)]

    def run(*marked):
        rows = enumerate(marked)
        return lesions + [
            {"name": f"n{i}", "label": "normal", "group": 9, "dice": float(not n), "hd95": None if n else 0.0, "fp": n}
            for i, n in rows
        ]

    a, b = run(7, 1, 3, 0), run(0, 0, 5, 0)  # 3 of 4, and 1
    result = scores.compare_runs(a, b[::-1])
    # One group: resampled, it is always the same.
    expected = {"images": 4, "a": 0.75, "b": 0.25, "difference": -0.5, "interval": [-0.5, -0.5]}
    assert result["normals"] == expected and result["images"] == 6 and result["difference"] == 0
    # Six lesions of 0.5; one normal in four is empty in a, three are in b.
    whole = result["all"]
    assert (whole["images"], whole["a"], whole["b"], whole["difference"]) == (10, 0.4, 0.6, pytest.approx(0.2))
    assert "all" not in scores.compare_runs(a, b, "hd95")  # a false positive has none
    assert not {"normals", "all"} & set(scores.compare_runs(lesions, lesions))


def test_seeds_are_averaged_before_images_are_compared():
    def seed(run, dice, fp):
        normal = {"run": run, "name": "n", "label": "normal", "group": 9, "dice": float(not fp), "fp": fp}
        return [*lesions_of([dice] * 6, run), normal]

    result = scores.compare_runs(
        seed("p1-1-fold0-seed0", 0.4, 1),
        seed("p1-1-fold0-seed1", 0.5, 0) + seed("p1-1-fold0-seed2", 0.7, 3) + seed("p1-2-fold0-seed0", 0.9, 0),
    )
    assert result["images"] == 6 and result["difference"] == pytest.approx(0.2)  # the other fold has no partner
    assert (result["normals"]["images"], result["normals"]["a"], result["normals"]["b"]) == (1, 1, 0.5)
