"""What --tensorboard writes: as TensorBoard's own reader finds it, and without a gap after a stop."""

import importlib.util
import shutil

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_model
from dataset import make_dataset
from segmentation.common.errors import RunError
from segmentation.network.losses import BceDiceLoss
from segmentation.reports.tensorboard_log import TensorBoardLog
from segmentation.runs.recorder import RunRecorder, make_optimizer
from segmentation.runs.schemas import read_history
from train_model import TrainingConfig, compile_model, fit, main

EPOCHS, STEPS = 7, 2


def train(run, watched, stop_at=None):
    """Train one convolution on noise, or go on with it."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 255, (12, 32, 40), np.uint8), np.zeros((12, 32, 40), np.uint8)
    pairs[1][:, 8:16, 10:20] = 1
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 40, 1))
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")]
    model = keras.Model(inputs, layers[1](layers[0](inputs)))
    compile_model(model, make_optimizer(0.1, 0.9, EPOCHS, STEPS), BceDiceLoss(), 0.0)
    run.mkdir(exist_ok=True)
    recorder = RunRecorder(run, "val_dice", STEPS)
    first_epoch = recorder.restore(model)
    back_up = recorder.on_epoch_begin

    def stop(epoch, logs=None):
        back_up(epoch, logs)
        if epoch == stop_at:
            raise KeyboardInterrupt([step for step, _ in read_events(run, "train")[0]["epoch_loss"]])

    recorder.on_epoch_begin = stop
    stream, judged = make_dataset(*pairs, 6, training=True, first_epoch=first_epoch), make_dataset(*pairs, 6)
    board = TensorBoardLog(run) if watched else None
    fit(model, stream, judged, recorder, first_epoch, EPOCHS, averaged=True, board=board)
    return pairs[0]


def read_events(run, part):
    """Scalars, tag -> [(epoch, value)], and overlays, [(epoch, picture)], as TensorBoard reads them."""
    events = EventAccumulator(str(run / "tensorboard" / part), {"tensors": 0}).Reload()
    found = {
        tag: [(e.step, tf.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }
    encoded = [
        (step, png) for step, values in found.pop("overlays", []) for png in values[2:]
    ]  # behind width and height
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
    assert not none and set(training) == {
        f"epoch_{key}" for key in ("loss", "accuracy", "iou", "dice", "learning_rate")
    }
    assert set(validation) == {f"epoch_{key}" for key in ("loss", "accuracy", "iou", "dice")}
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


def test_without_the_package_it_is_said_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(train_model, "load_data", lambda *_: pytest.fail("the data are read"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="^--tensorboard needs .* pip install -r requirements-tensorboard.txt$"):
        main(TrainingConfig(models_dir=tmp_path, tensorboard=True))


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
