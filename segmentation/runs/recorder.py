"""The Keras callback that writes a run's files after each epoch, from which a stopped training is resumed."""

import csv
import io
import json
import math
import re
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from attention_unet import in_plain_keras
from segmentation.common.errors import RunError
from segmentation.common.files import check_file, write_atomic, write_text
from segmentation.runs.schemas import read_history

NEW_ARGUMENTS = {"input_axes": None, "output_axes": None, "quantization_config": None}  # after Keras 3.8
NEW_ARGUMENTS |= {"renorm": False, "renorm_clipping": None, "renorm_momentum": 0.99}
LOGGED = {  # columns of history.csv that are printed after each epoch, and their headings
    "loss": "loss",
    "dice": "Dice",
    "val_loss": "val loss",
    "val_dice": "val Dice",
    "val_iou": "val IoU",
    "val_lesion_score_auc": "val AUC",
}


def monitored(choose_on: str) -> str:
    """The column of history.csv whose highest value chooses the epoch: the last one, if no images choose it."""
    return "val_dice" if choose_on in ("validation", "test") else "epoch"


class RunRecorder(keras.callbacks.Callback):
    """Writes history.csv, best.keras and backup.npz, prints one line per epoch, and resumes a stopped training.

    It replaces CSVLogger, ModelCheckpoint and BackupAndRestore, which (Keras 3.15) overwrite good files in place, keep
    an epoch with NaN as the best, and forget the best score on resume. Its whole state is in two files: history.csv has
    the scores of the epochs, and the optimizer's iteration count in the backup tells how many of its rows are valid.

    Put it after SwapEMAWeights(swap_on_epoch=True) in the list of callbacks: at the end of an epoch it then sees the
    averaged weights (for best.keras), at the start of the next epoch the raw ones (for backup.npz).

    Args:
        run: the run's folder.
        monitor: history column; the epoch with its maximum is the best.
        epochs: number of epochs of the training.
        steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, run: Path, monitor: str, epochs: int, steps_per_epoch: int):
        super().__init__()
        self.run, self.monitor, self.epochs, self.steps_per_epoch = run, monitor, epochs, steps_per_epoch
        self.history: list[dict[str, float]] = []
        self.first_epoch = 0  # the next epoch to train; more than 0 in a resumed run
        self.plain: keras.Model | None = None  # the copy that is saved; made once, since it takes a second

    def _state(self) -> list:
        # Random states (dropout) are variables of their layers, but not in model.variables.
        seeds = [v for layer in self.model.layers for v in layer.variables if "seed_generator" in v.path]
        return list({id(v): v for v in (*self.model.variables, *seeds, *self.model.optimizer.variables)}.values())

    def restore(self, model: keras.Model) -> None:
        """Load backup.npz, if there is one, into a compiled model, and set `first_epoch`.

        Raises:
            RunError: the backup does not fit the model, or the history does not fit the backup.
        """
        path = self.run / "backup.npz"
        if not path.exists():
            return
        self.set_model(model)
        state = self._state()
        for variable, values in zip(state, read_backup(path, state), strict=True):
            variable.assign(values)
        epoch = int(model.optimizer.iterations) // self.steps_per_epoch
        history = self.run / "history.csv"
        self.history = read_history(history)[:epoch]
        if len(self.history) < epoch or not epoch:
            raise RunError(f"{history}: has {len(self.history)} rows, the backup {epoch} epochs. Start another --run.")
        if self.monitor not in self.history[0]:
            raise RunError(f"{history}: has no column {self.monitor}, which chooses the epoch. Start another --run.")
        self.first_epoch = epoch

    def take_history(self) -> None:
        """Read the history of a stopped run that trains no further."""
        self.history = read_history(self.run / "history.csv")
        self.first_epoch = len(self.history)

    def best_epoch(self) -> int:
        """Epoch (from 0) of the best score so far."""
        return int(np.argmax([row[self.monitor] for row in self.history]))

    def _stop_unless_finite(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                kept = "The best network so far is kept" if self.history else "There is no network yet"
                raise RunError(
                    f"{self.run}: the {name} became {value} in epoch {len(self.history) + 1}. {kept}. Start a new "
                    "--run with a lower --learning-rate."
                )

    def on_train_batch_end(self, batch, logs=None):
        """Stop at the first NaN or infinite loss, before anything is saved."""
        self.progress.update()
        self._stop_unless_finite({"loss": (logs or {}).get("loss", 0.0)})

    def on_epoch_begin(self, epoch, logs=None):
        """Back up the state after the previous epoch: raw weights and optimizer."""
        self.began = time.monotonic()
        self.progress = tqdm(total=self.steps_per_epoch, desc=f"epoch {epoch + 1}", unit="step", leave=False)
        if self.history:
            buffer = io.BytesIO()  # in memory first, so that a full disk raises a plain OSError
            np.savez(buffer, **{f"v{n}": np.asarray(v) for n, v in enumerate(self._state())})
            write_atomic(self.run / "backup.npz", lambda path: path.write_bytes(buffer.getbuffer()))

    def on_epoch_end(self, epoch, logs=None):
        """Add a history row; save the network if it is the best. Stop if a score or a weight is NaN or infinite."""
        self.progress.close()
        row = {"epoch": epoch, "learning_rate": float(self.model.optimizer.learning_rate)} | {
            # With two outputs, Keras prefixes each metric with the output's name; the lesion map's prefix is removed.
            re.sub("^(val_)?lesion_(?!loss$|score_)", r"\1", key): float(value)
            for key, value in (logs or {}).items()
        }
        finite = all(np.isfinite(values).all() for values in self.model.get_weights())
        self._stop_unless_finite(row | {"largest weight": 0.0 if finite else math.nan})
        self.history.append(row)
        text = io.StringIO()
        columns = [column for column in row if column in self.history[0]]
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.run / "history.csv", text.getvalue())
        if self.best_epoch() == len(self.history) - 1:
            # Without the optimizer's state, which would make the file four times as large.
            self.plain = self.plain or in_plain_keras(self.model)
            self.plain.set_weights(self.model.get_weights())
            write_atomic(self.run / "best.keras", lambda path: _save_checked(self.plain, path))
        if epoch == self.first_epoch:
            print(f"{'epoch':>9}{'time':>8}" + "".join(f"{heading:>10}" for heading in LOGGED.values()))
        print(self._line(row, time.monotonic() - self.began))

    def _line(self, row: dict[str, float], seconds: float) -> str:
        """The printed line of an epoch, less than 100 columns wide."""
        cells = [f"{row[key]:10.4f}" if key in row else f"{'-':>10}" for key in LOGGED]
        best = "  best" if self.best_epoch() == len(self.history) - 1 else ""
        return f"{row['epoch'] + 1:>4}/{self.epochs:<4}{seconds:6.0f} s" + "".join(cells) + best


def bytes_to_write(parameters: int, averaged: bool) -> int:
    """The most disk space that a run's files take: the network, its backup, and a backup that is being replaced."""
    # The optimizer has two values per parameter, and the average; 20 MB are for tables, figures and the report.
    backup = 4 * parameters * (4 if averaged else 3)
    return 2 * backup + 4 * parameters + 20_000_000


def read_backup(path: Path, variables: Sequence) -> list[np.ndarray]:
    """Read the values of the variables from backup.npz; shapes are checked before memory is allocated.

    Raises:
        RunError: the file is damaged, or its arrays have other shapes or types.
    """
    expected = [(variable.shape, np.dtype(variable.dtype)) for variable in variables]
    values = []
    check_file(path, 2 * sum(math.prod(shape) * dtype.itemsize for shape, dtype in expected) + 1_000_000)
    try:
        with zipfile.ZipFile(path) as archive:
            for number, (shape, dtype) in enumerate(expected):
                with archive.open(f"v{number}.npy") as member:
                    if np.lib.format.read_magic(member) != (1, 0):
                        raise ValueError("written by another version of NumPy")
                    found = np.lib.format.read_array_header_1_0(member)
                    if found != (shape, False, dtype):
                        raise ValueError(f"array {number} is {found[0]} of {found[2]}, not {shape} of {dtype}")
                    size = math.prod(shape) * dtype.itemsize
                    content = member.read(size + 1)  # one more byte, so that zipfile compares the checksum
                    if len(content) != size:
                        raise ValueError(f"array {number} is not complete")
                    values.append(np.frombuffer(content, dtype).reshape(shape))
    except Exception as error:  # zipfile, zlib and NumPy raise different errors for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path}: does not fit this run ({reason}). Start it under another --run name.") from None
    return values


def _save_checked(network: keras.Model, path: Path) -> None:
    network.save(path)
    _write_for_earlier_keras(path)
    with zipfile.ZipFile(path) as written:
        if damaged := written.testzip():
            raise OSError(f"{damaged} was not written completely")


def _write_for_earlier_keras(path: Path) -> None:
    """Leave out of a .keras file the arguments that Keras 3.8 does not know, where they have their default values."""

    def known(config):
        if isinstance(config, dict):
            return {k: known(v) for k, v in config.items() if k not in NEW_ARGUMENTS or v != NEW_ARGUMENTS[k]}
        return [known(item) for item in config] if isinstance(config, list) else config

    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["config.json"] = json.dumps(known(json.loads(contents["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
