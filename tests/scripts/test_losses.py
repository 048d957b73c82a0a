"""The loss and what is watched in training, against numbers worked out by hand."""

import numpy as np
import pytest

from segmentation.network.losses import BceDiceLoss, LesionDice, add_presence, score_loss, training_metrics


def batch(*images):
    return np.array(images, np.float32).reshape(len(images), 1, -1, 1)


def test_loss_by_hand():
    y, p = batch([1, 1, 0, 0]), batch([0.5, 0.5, 0.5, 0.5])
    dice = (2 * 1 + 1) / (2 + 2 + 1)
    assert float(BceDiceLoss(dice_weight=0)(y, p)) == pytest.approx(np.log(2), rel=1e-5)
    assert float(BceDiceLoss(dice_weight=2)(y, p)) == pytest.approx(np.log(2) + 2 * (1 - dice), rel=1e-5)


def test_dice_term_is_per_image_and_counts_an_empty_one():
    y, p = batch([1, 1, 0, 0], [0, 0, 0, 0]), batch([1, 1, 0, 0], [0, 0, 0, 0])
    assert float(BceDiceLoss()(y, p)) == pytest.approx(0, abs=1e-5)
    worse = batch([1, 1, 0, 0], [0.5, 0.5, 0, 0])
    assert float(BceDiceLoss()(y, worse)) > 0.25


def test_lesion_dice_is_a_mean_over_images_with_a_lesion():
    metric = LesionDice()
    metric.update_state(batch([1, 1, 0, 0], [0, 0, 0, 0]), batch([0.9, 0.2, 0.9, 0.2], [0.9, 0.9, 0.9, 0.9]))
    assert float(metric.result()) == pytest.approx(0.5)  # the second image has no lesion
    metric.update_state(batch([1, 1, 1, 1]), batch([0.9, 0.9, 0.9, 0.9]))
    assert float(metric.result()) == pytest.approx(0.75)  # not 2/3: batches weigh by their images


def test_the_outline_is_learned_from_lesions_alone_and_the_score_from_all():
    image, mask = batch([1, 2, 3, 4], [5, 6, 7, 8]), batch([0, 1, 1, 0], [0, 0, 0, 0])
    same, targets, weights = add_presence(image, mask)
    assert same is image and targets["lesion"] is mask
    assert np.array_equal(targets["lesion_score"], [[1], [0]])
    assert np.array_equal(weights["lesion"], [1, 0]) and np.array_equal(weights["lesion_score"], [1, 1])
    *_, weights = add_presence(image, mask, np.float32([0, 1]))  # the first of a folder without normal images
    assert np.array_equal(weights["lesion"], [1, 0]) and np.array_equal(weights["lesion_score"], [0, 1])
    p = batch([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5])
    loss = BceDiceLoss(dice_weight=0)
    assert float(loss(mask, p, sample_weight=weights["lesion"])) == pytest.approx(np.log(2) / 2, rel=1e-5)


def test_the_score_has_soft_targets():
    y, p = np.float32([[1], [0]]), np.float32([[0.975], [0.025]])
    entropy = -(0.975 * np.log(0.975) + 0.025 * np.log(0.025))
    assert float(score_loss()(y, p)) == pytest.approx(entropy, rel=1e-4)  # the least that is possible


def test_what_is_watched_has_the_names_of_the_history():
    watched = training_metrics()
    assert [metric.name for metric in watched] == ["accuracy", "iou", "dice"]
    for metric in watched:
        metric.update_state(batch([1, 1, 0, 0]), batch([0.9, 0.2, 0.9, 0.2]))
    assert [float(metric.result()) for metric in watched] == pytest.approx([0.5, 1 / 3, 0.5])
