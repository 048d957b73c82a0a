"""What --tensorboard writes, as TensorBoard's own reader finds it."""

import shutil

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import assert_one_clear_line, train_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segmentation.common.errors import RunError
from segmentation.reports import tensorboard_log
from segmentation.reports.tensorboard_log import TensorBoardLog
from segmentation.runs.schemas import read_history


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


def test_every_score_of_the_history_is_there_and_overlays_of_some_pictures(lesion_data, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_log, "EVERY", 2)
    result = train_here(lesion_data, tmp_path, "--epochs", "4", "--batch-size", "64", "--tensorboard")
    assert_one_clear_line(result, code=0)
    run = tmp_path / "models" / "attention_unet"
    history = read_history(run / "history.csv")
    training, none = read_events(run, "train")
    validation, overlays = read_events(run, "validation")
    scores = {f"epoch_{key}" for key in ("loss", "accuracy", "iou", "dice")}
    assert not none and set(training) == scores | {"epoch_learning_rate"} and set(validation) == scores
    for found, prefix in ((training, ""), (validation, "val_")):
        for tag, values in found.items():
            expected = [(row["epoch"], row[tag.replace("epoch_", prefix)]) for row in history]
            assert np.allclose(values, expected, rtol=1e-5, atol=1e-9), tag
    assert [step for step, _ in overlays] == [0] * 4 + [2] * 4 + [3] * 4  # every second, and the last
    assert {picture.shape for _, picture in overlays} == {(320, 320, 3)}
    blue = (0xE9, 0xB4, 0x56)  # of the reference's outline, as blue, green and red; a normal picture has none
    assert any((picture == blue).all(axis=2).any() for _, picture in overlays)


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
