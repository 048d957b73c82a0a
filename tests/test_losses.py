"""The loss and what is watched in training, against numbers worked out by hand."""

import keras
import numpy as np
import pytest

from segmentation.losses import BceDiceLoss, LesionDice, training_metrics


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


@pytest.mark.parametrize("thing", [BceDiceLoss(dice_weight=0.3), LesionDice(threshold=0.4)])
def test_serialisation(thing):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(thing))
    assert copy.get_config() == thing.get_config()


def test_what_is_watched_has_the_names_of_the_history():
    watched = training_metrics()
    assert [metric.name for metric in watched] == ["accuracy", "iou", "dice"]
    for metric in watched:
        metric.update_state(batch([1, 1, 0, 0]), batch([0.9, 0.2, 0.9, 0.2]))
    assert [float(metric.result()) for metric in watched] == pytest.approx([0.5, 1 / 3, 0.5])
