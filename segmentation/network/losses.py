"""The loss and the metrics of training. To change them, edit `training_loss` and `training_metrics`."""

import keras
from keras import ops


class BceDiceLoss(keras.losses.Loss):
    """Binary cross-entropy + dice_weight * (1 - soft Dice), each a mean over images.

    Soft Dice per image (Milletari et al. 2016, V-Net, section 3), with 1 pixel added to numerator and denominator,
    so that an image without a lesion has a gradient too. dice_weight=0 is plain cross-entropy.

    Inputs: references in {0, 1} and probabilities in [0, 1], both (B, H, W, 1).
    """

    def __init__(self, dice_weight: float = 1.0, name: str = "bce_dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dice_weight = dice_weight

    def call(self, y_true, y_pred):
        """Loss of each image, (B,)."""
        bce = ops.mean(keras.losses.binary_crossentropy(y_true, y_pred), axis=(1, 2))
        overlap = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        total = ops.sum(y_true + y_pred, axis=(1, 2, 3))
        return bce + self.dice_weight * (1 - (2 * overlap + 1) / (total + 1))


class LesionDice(keras.metrics.Mean):
    """Mean per-image Dice at the threshold 0.5, over the images with a lesion; the others have weight 0."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: references and probabilities, both (B, H, W, 1)."""
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred > 0.5, "float32")
        lesion = ops.sum(y_true, axis=(1, 2, 3))
        overlap = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        dice = 2 * overlap / ops.maximum(lesion + ops.sum(y_pred, axis=(1, 2, 3)), 1)
        weight = ops.cast(lesion > 0, "float32")
        super().update_state(dice, weight if sample_weight is None else weight * ops.reshape(sample_weight, (-1,)))


def training_loss(dice_weight: float) -> keras.losses.Loss:
    """Loss of the lesion map, for `compile`: references in {0, 1} and probabilities, both (B, H, W, 1)."""
    return BceDiceLoss(dice_weight)


def training_metrics() -> list[keras.metrics.Metric]:
    """Pixel accuracy, pooled foreground IoU and per-image lesion Dice, for `compile`; each is a history.csv column.

    Accuracy and IoU count normal images too, where the lesion map of a network with a lesion score has no loss.
    """
    return [
        keras.metrics.BinaryAccuracy(name="accuracy"),
        keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5, name="iou"),
        LesionDice(name="dice"),
    ]


# ---------------------------------------------------------------- the lesion score, a second output


def has_lesion_score(model: keras.Model) -> bool:
    """Whether a network has a lesion score."""
    return isinstance(model.output, dict)


def score_loss() -> keras.losses.Loss:
    """Loss of the lesion score. Label smoothing, because the network is soon overconfident with few normal images."""
    return keras.losses.BinaryCrossentropy(label_smoothing=0.05)


def add_presence(image, mask, weight=None):
    """Turn a batch of `make_dataset` into one for a network with a lesion score; for `Dataset.map`.

    Args:
        image, mask: (B, H, W, 1).
        weight: of each image in the lesion score's loss, (B,); without it all images have weight 1.

    Returns:
        The image, the target of each output, and the weight of each image in each output's loss: images without a
        lesion have weight 0 in the loss of the lesion map.
    """
    present = ops.max(mask, axis=(1, 2, 3))
    targets = {"lesion": mask, "lesion_score": present[:, None]}
    return image, targets, {"lesion": present, "lesion_score": ops.ones_like(present) if weight is None else weight}
