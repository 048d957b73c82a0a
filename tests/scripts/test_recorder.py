"""What a training writes after each epoch: a kill or a full disk at any moment loses nothing, and it goes on as if it
had never stopped. The network is one layer of a few weights; test_stopped_trainings.py has a real one."""

import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import step_by_step

from dataset import Stream, make_dataset
from segmentation.common import files
from segmentation.common.errors import RunError
from segmentation.runs.recorder import RunRecorder, bytes_to_write
from segmentation.runs.schemas import read_history

EPOCHS, STEPS = 3, 2


@keras.saving.register_keras_serializable("tests")
class Rising(keras.metrics.Mean):
    """A metric of one's own, which is better in every epoch."""

    epoch = 0.0

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(self.epoch)


def train(run, monitor="rising", epochs=EPOCHS):
    """Train in a folder, or go on with what is there. Returns the network."""
    run.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(keras.layers.Dropout(0.5, seed=3)(inputs))  # draws at random in every step
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=[Rising(name="rising")])
    model.optimizer.build(model.trainable_variables)
    recorder = RunRecorder(run, monitor, epochs, STEPS)
    recorder.restore(model)
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(Rising, "epoch", float(epoch)))
    x, y = np.ones((8, 4), np.float32), np.zeros((8, 1), np.float32)
    settings = {"batch_size": 8 // STEPS, "initial_epoch": recorder.first_epoch, "shuffle": False, "verbose": 0}
    with step_by_step():
        model.fit(x, y, epochs=epochs, callbacks=[count, recorder], **settings)
    return model


def assert_equal(run, other):
    assert (run / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    weights = [keras.saving.load_model(r / "best.keras", compile=False).get_weights() for r in (run, other)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, with a metric of one's own, and the order in which its files were put in place."""
    order, replace = [], os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.os, "replace", lambda a, b: order.append(os.path.basename(b)) or replace(a, b))
        train(run := tmp_path_factory.mktemp("whole"))
    assert "rising" in (run / "history.csv").read_text()
    return run, order


def test_each_epoch_is_a_history_row_and_a_printed_line(tmp_path, capsys):
    train(tmp_path, monitor="loss")  # whose maximum, the first epoch, is called the best here
    rows = read_history(tmp_path / "history.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2] == [row["rising"] for row in rows]
    header, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"] and "epoch" in header
    best = int(np.argmax([row["loss"] for row in rows]))
    assert [line.endswith("best") for line in lines] == [i == 0 or i == best for i in range(3)]
    assert f"{rows[1]['loss']:.4f}" in lines[1]
    assert max(map(len, [header, *lines])) <= 100


@pytest.mark.parametrize("moment", range(3 * EPOCHS - 1))
def test_a_kill_at_any_write_loses_at_most_one_epoch(whole, tmp_path, monkeypatch, moment):
    run, order = tmp_path / "run", whole[1]
    assert order == ["history.csv", "best.keras", *["backup.npz", "history.csv", "best.keras"] * (EPOCHS - 1)]
    put, count = os.replace, []

    def killed(source, target):
        count.append(target)
        if len(count) > moment:
            raise KeyboardInterrupt
        put(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.os, "replace", killed)
        train(run)
    assert sorted({path.name for path in run.iterdir()}) == sorted(set(order[:moment]))  # no temporary files
    train(run)
    assert_equal(run, whole[0])


@pytest.mark.parametrize("name", ["history.csv", "best.keras", "backup.npz"])
def test_a_full_disk_keeps_the_good_files(whole, tmp_path, monkeypatch, name):
    train(run := tmp_path / "run", epochs=2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    write = files.write_atomic

    def full(path, content):
        def half(temporary):
            content(temporary)
            temporary.write_bytes(temporary.read_bytes()[:100])
            raise OSError(28, "No space left on device")

        write(path, half if path.name == name else content)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as error:
        patch.setattr(files, "write_atomic", full)
        patch.setattr("segmentation.runs.recorder.write_atomic", full)
        train(run)
    assert error.value.filename == str(run / name)
    assert (run / name).read_bytes() == before[name] and set(before) == {path.name for path in run.iterdir()}
    train(run)
    assert_equal(run, whole[0])


@pytest.mark.parametrize("damage", ["weights", "score", "loss"])
def test_what_is_no_number_is_never_kept(tmp_path, damage):
    model = train(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    recorder = RunRecorder(tmp_path, "rising", EPOCHS, STEPS)
    recorder.set_model(model)
    recorder.take_history()
    recorder.on_epoch_begin(1)
    before["backup.npz"] = (tmp_path / "backup.npz").read_bytes()
    if damage == "weights":
        model.weights[0].assign(model.weights[0] * np.inf)
    with pytest.raises(RunError, match="became nan in epoch 2. The best network so far is kept.*--learning-rate"):
        if damage == "loss":
            recorder.on_train_batch_end(0, {"loss": np.nan})
        recorder.on_epoch_end(1, {"loss": 1.0, "rising": np.nan if damage == "score" else 1.0})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("epoch,learning_rate,loss\n0,1,1\n1,1,1\n", "has no column rising"),
        ("epoch,learning_rate,loss,rising\n0,1,1,1\n", "has 1 rows, the backup 2 epochs"),
        (None, "has 0 rows, the backup 2 epochs"),
    ],
)
def test_a_history_that_does_not_fit_the_backup_is_refused(whole, tmp_path, history, words):
    run = shutil.copytree(whole[0], tmp_path / "run")
    (run / "history.csv").unlink()
    if history:
        (run / "history.csv").write_text(history)
    with pytest.raises(RunError, match=words):
        train(run)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use where Linux says it")
def test_memory_does_not_grow_over_epochs(tmp_path):
    """Forty short epochs with all that a run writes."""

    def mebibytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    rng = np.random.default_rng(0)
    arrays = rng.integers(0, 255, (16, 128, 128), np.uint8), rng.integers(0, 2, (16, 128, 128), np.uint8)
    inputs, memory = keras.Input((128, 128, 1)), []
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs))
    model.compile("adam", "binary_crossentropy", jit_compile=False)
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: memory.append(mebibytes()))
    settings = {"steps_per_epoch": 2, "epochs": 40, "shuffle": False, "verbose": 0}
    callbacks = [RunRecorder(tmp_path, "epoch", 40, 2), watch]
    model.fit(
        make_dataset(*arrays, 8, Stream()), validation_data=make_dataset(*arrays, 8), callbacks=callbacks, **settings
    )
    # The first epochs fill caches. A batch kept by mistake in every epoch would be 1 MiB.
    assert max(memory[-5:]) - max(memory[10:20]) < 12, memory


def test_as_much_space_is_asked_for_as_a_training_needs():
    network, backup = 4 * 10**6, 4 * 10**6 * 4  # a million float32; two numbers of the optimizer and an average each
    assert bytes_to_write(10**6, averaged=True) >= 2 * backup + network
    assert bytes_to_write(10**6, averaged=True) - bytes_to_write(10**6, averaged=False) == 2 * network
    assert bytes_to_write(3_700_000, averaged=True) < 200_000_000
