"""Logs of a training for TensorBoard (`--tensorboard`); the package is optional."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from segmentation.common.errors import RunError
from segmentation.common.files import try_writing
from segmentation.reports.overlays import draw_overlay
from segmentation.scoring.decision import Decision, to_mask
from segmentation.scoring.prediction import predict_raw

SHOWN, EVERY, SIDE = 4, 5, 320  # overlays: number of images, epochs between them, pixels of the longer side
PLAIN_DECISION = Decision(threshold=0.5, min_score=0.5)  # the run's own is chosen after training


class TensorBoardLog(keras.callbacks.TensorBoard):
    """Losses, metrics and learning rate of each epoch, and overlays of the same few images every few epochs.

    They are written to `tensorboard/` in the run's folder. A resumed training adds a file, and TensorBoard joins them.
    Put it after SwapEMAWeights, like the `RunRecorder`, so that it shows the averaged weights.

    Args:
        run: the run's folder.

    Raises:
        RunError: the package is not installed, or the folder cannot be written.
    """

    def __init__(self, run: Path):
        if not importlib.util.find_spec("tensorboard"):
            raise RunError("--tensorboard needs one more package: pip install -r requirements-tensorboard.txt")
        try_writing(run / "tensorboard" / "events")
        super().__init__(run / "tensorboard", write_graph=False)
        self.images = self.references = np.zeros((0, 1, 1), np.uint8)

    def show(self, judged: tuple[np.ndarray, np.ndarray] | None) -> "TensorBoardLog":
        """Choose the images for the overlays, evenly spaced, from images and masks, (N, S, S). Returns itself."""
        if judged:
            chosen = np.unique(np.linspace(0, len(judged[0]) - 1, SHOWN).round().astype(int))
            self.images, self.references = (part[chosen] for part in judged)
        return self

    def on_test_end(self, logs=None):
        """Do nothing: Keras would log each validation metric a second time, against the training steps."""

    def on_epoch_end(self, epoch, logs=None):
        """Write the metrics of this epoch and, every few epochs, the overlays."""
        try:
            super().on_epoch_end(epoch, logs)
            if len(self.images) and (epoch % EVERY == 0 or epoch + 1 == self.params["epochs"]):
                with self._val_writer.as_default():
                    self.summary.image("overlays", self.draw(), step=epoch, max_outputs=SHOWN)
        except tf.errors.OpError as error:
            raise RunError(f"{self.log_dir}: cannot be written ({error.message}).") from error

    def draw(self) -> np.ndarray:
        """The chosen images with both outlines at a threshold of 0.5: (n, h, w, 3) uint8, RGB."""
        prediction = predict_raw(self.model, self.images, batch_size=len(self.images))
        drawn = []
        for image, reference, (probability, score) in zip(self.images, self.references, prediction.each(), strict=True):
            mask = to_mask(probability, probability.shape, PLAIN_DECISION, score)
            drawn.append(draw_overlay(image, mask, reference, SIDE))
        return np.stack(drawn)
