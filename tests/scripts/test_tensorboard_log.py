"""What --tensorboard writes: as TensorBoard's own reader finds it, and without a gap after a stop."""

import shutil

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataset import make_dataset
from segmentation.common.errors import RunError
from segmentation.network.losses import training_loss, training_metrics
from segmentation.reports.tensorboard_log import TensorBoardLog
from segmentation.runs.recorder import RunRecorder
from segmentation.runs.schemas import read_history

EPOCHS, STEPS = 7, 2


def train(run, watched, stop_at=None):
    """Train one convolution on noise, or go on with it. Returns the images."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 255, (12, 32, 40), np.uint8), np.zeros((12, 32, 40), np.uint8)
    pairs[1][:, 8:16, 10:20] = 1
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 40, 1))
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    model = keras.Model(inputs, layers[1](layers[0](inputs)))
    model.compile(keras.optimizers.Adam(0.1), training_loss(0.0), metrics=training_metrics(), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    run.mkdir(exist_ok=True)
    recorder = RunRecorder(run, "val_dice", EPOCHS, STEPS)
    recorder.restore(model)

    def stop(epoch, logs):
        if epoch == stop_at:
            raise KeyboardInterrupt([step for step, _ in read_events(run, "train")[0]["epoch_loss"]])

    watching = [keras.callbacks.LambdaCallback(on_epoch_begin=stop)]
    watching += [TensorBoardLog(run).show(pairs)] if watched else []
    data = make_dataset(*pairs, 6)
    settings = {"initial_epoch": recorder.first_epoch, "epochs": EPOCHS, "verbose": 0, "shuffle": False}
    model.fit(data, validation_data=data, callbacks=[recorder, *watching], **settings)
    return pairs[0]


def read_events(run, part):
    """Scalars, tag -> [(epoch, value)], and overlays, [(epoch, picture)], as TensorBoard reads them."""
    events = EventAccumulator(str(run / "tensorboard" / part), {"tensors": 0}).Reload()
    found = {
        tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    # Each overlay stands behind its width and height.
    encoded = [(step, png) for step, values in found.pop("overlays", []) for png in values[2:]]
    pictures = [(step, cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)) for step, png in encoded]
    return {tag: [(step, float(value)) for step, value in values] for tag, values in found.items()}, pictures


def test_a_stopped_run_shows_every_epoch_once_and_trains_as_without(tmp_path):
    train(tmp_path / "plain", watched=False)
    run = tmp_path / "shown"
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(run, watched=True, stop_at=3)
    assert stopped.value.args == ([0, 1, 2],)  # even a kill would have lost nothing
    images = train(run, watched=True)

    history = read_history(run / "history.csv")
    assert history == read_history(tmp_path / "plain" / "history.csv")
    training, none = read_events(run, "train")
    validation, overlays = read_events(run, "validation")
    scores = {f"epoch_{key}" for key in ("loss", "accuracy", "iou", "dice")}
    assert not none and set(training) == scores | {"epoch_learning_rate"} and set(validation) == scores
    for found, prefix in ((training, ""), (validation, "val_")):
        for tag, values in found.items():
            assert [step for step, _ in values] == list(range(EPOCHS))
            expected = [row[tag.replace("epoch_", prefix)] for row in history]
            assert [value for _, value in values] == pytest.approx(expected, rel=1e-5, abs=1e-9), tag
    assert [step for step, _ in overlays] == [0] * 4 + [5] * 4 + [6] * 4  # every fifth, and the last
    assert {picture.shape for _, picture in overlays} == {(256, 320, 3)}
    for n, (_, picture) in zip([0, 4, 7, 11], overlays[4:8], strict=True):
        enlarged = [cv2.resize(image, (320, 256))[..., None] for image in images]
        assert max(range(12), key=lambda i: (picture == enlarged[i]).all(axis=2).mean()) == n  # but for the outlines
        assert (picture == (0xE9, 0xB4, 0x56)).all(axis=2).any()  # the reference's blue, as blue, green and red


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    board = TensorBoardLog(tmp_path)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    board.set_model(model)
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").write_text("a file")  # as a full disk, it fails deep inside TensorFlow
    with pytest.raises(RunError, match="tensorboard: cannot be written"):
        board.on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(FileExistsError):
        TensorBoardLog(tmp_path)
