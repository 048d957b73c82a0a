"""The loss, and the metrics that are watched in training. To change them: `training_loss`, `training_metrics`."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("attention_unet")
class BceDiceLoss(keras.losses.Loss):
    """Binary cross-entropy + dice_weight * (1 - soft Dice), each a mean over images.

    Soft Dice per image (Milletari et al. 2016, V-Net, section 3), with 1 pixel added above and below
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

    def get_config(self):
        return {**super().get_config(), "dice_weight": self.dice_weight}


@keras.saving.register_keras_serializable("attention_unet")
class LesionDice(keras.metrics.Mean):
    """Mean of the per-image Dice over images with a lesion, at a threshold; others have weight 0."""

    def __init__(self, threshold: float = 0.5, name: str = "dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: references and probabilities, both (B, H, W, 1)."""
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred > self.threshold, "float32")
        lesion = ops.sum(y_true, axis=(1, 2, 3))
        overlap = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        dice = 2 * overlap / ops.maximum(lesion + ops.sum(y_pred, axis=(1, 2, 3)), 1)
        weight = ops.cast(lesion > 0, "float32")
        super().update_state(dice, weight if sample_weight is None else weight * ops.reshape(sample_weight, (-1,)))

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


def training_loss(dice_weight: float) -> keras.losses.Loss:
    """The loss of the lesion map, for `compile`: references in {0, 1} and probabilities, both (B, H, W, 1)."""
    return BceDiceLoss(dice_weight)


def training_metrics() -> list[keras.metrics.Metric]:
    """Pixel accuracy, pooled foreground IoU and per-image lesion Dice, for `compile`; history.csv has them all."""
    return [
        keras.metrics.BinaryAccuracy(name="accuracy"),
        keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5, name="iou"),
        LesionDice(name="dice"),
    ]


# ---------------------------------------------------------------- two outputs


def has_lesion_score(model: keras.Model) -> bool:
    """Whether a network has the second output."""
    return isinstance(model.output, dict)


def score_loss() -> keras.losses.Loss:
    """Of the lesion score. The targets are a little soft: with few normal images, the network is soon too sure."""
    return keras.losses.BinaryCrossentropy(label_smoothing=0.05)


def add_presence(image, mask, weight=None):
    """A batch for a network with a lesion score, to be mapped over the batches of `make_dataset`.

    Args:
        image, mask: (B, H, W, 1).
        weight: of each picture in the lesion score's loss, (B,); without it all count alike.

    Returns:
        The image, the target of each output, and the weight of each picture in each output's loss: the outline is
        learned from pictures with a lesion alone.
    """
    present = ops.max(mask, axis=(1, 2, 3))
    targets = {"lesion": mask, "lesion_score": present[:, None]}
    return image, targets, {"lesion": present, "lesion_score": ops.ones_like(present) if weight is None else weight}
