"""How a network is trained: number format, optimizer and schedule, and the record that a stopped run goes on from."""

import csv
import io
import math
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from attention_unet import in_plain_keras
from segmentation.errors import RunError
from segmentation.files import check_file, write_atomic, write_text
from segmentation.schemas import read_history

Precision = Literal["auto", "float32", "bfloat16"]
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}
CLIP_NORM = 1.0  # of each gradient: one odd batch cannot spoil the averages of Adam
WEIGHT_DECAY = 1e-4  # decoupled (AdamW): over a default training, it takes a ten-thousandth off each weight


def convolution_policy(precision: Precision, gpus: int, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Keras dtype policy for the 3x3 convolutions in training.

    What the processor says of itself, and not a timing: two starts on one machine must give the same network.

    Args:
        precision: "auto" is bfloat16 on a CPU that multiplies it in hardware, else float32.
        gpus: how many GPUs train; with one, "auto" is float32 (TensorFlow uses TF32 there by itself).
        cpuinfo: where Linux lists what the processor can do; elsewhere "auto" is float32.

    Returns:
        "mixed_bfloat16" or "float32".
    """
    if precision == "auto":
        flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
        precision = "bfloat16" if flags & BFLOAT16_FLAGS and not gpus else "float32"
    return "mixed_bfloat16" if precision == "bfloat16" else "float32"


# ---------------------------------------------------------------- optimizer


class AveragingAdamW(keras.optimizers.AdamW):
    """AdamW whose weight average is short at first: after t steps, momentum is at most (1 + t) / (10 + t).

    The rule of TensorFlow's `ExponentialMovingAverage(num_updates=t)`. A long average from the first step on
    is of weights that no longer fit the batch statistics: validation stays at 0 for up to six epochs.
    """

    @property
    def ema_momentum(self):
        """Momentum of this step; `_update_model_variables_moving_average` reads it."""
        steps = keras.ops.cast(self.iterations, "float32")
        return keras.ops.minimum(self.longest, (1 + steps) / (10 + steps))

    @ema_momentum.setter
    def ema_momentum(self, value: float):
        self.longest = value

    def get_config(self):
        return {**super().get_config(), "ema_momentum": self.longest}


def make_schedule(learning_rate: float, epochs: int, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Warm-up to the peak over three epochs of `steps` each, then a cosine down to 0."""
    warmup = min(3, epochs // 2) * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else learning_rate,
        max(epochs * steps - warmup, 1),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(learning_rate: float, ema: float, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay, `make_schedule`, clipping, and weight averaging unless `ema` is 0."""
    # An average over more than two epochs would lag too far behind in a short run on few images.
    average = dict(use_ema=True, ema_momentum=min(ema, 1 - 1 / (2 * steps))) if ema else {}
    schedule = make_schedule(learning_rate, epochs, steps)
    return AveragingAdamW(schedule, weight_decay=WEIGHT_DECAY, clipnorm=CLIP_NORM, **average)


# ---------------------------------------------------------------- record


class RunRecorder(keras.callbacks.Callback):
    """Writes history.csv, best.keras and backup.npz, and can go on where a run was killed.

    Stands for CSVLogger, ModelCheckpoint and BackupAndRestore, which (Keras 3.15) overwrite good files in place, keep a
    NaN epoch as best, and forget the best score on resume. All that is remembered is in two files: the history says
    what was best, the backup's iteration count says how many of its rows count.

    Put it behind SwapEMAWeights(swap_on_epoch=True): at the end of an epoch it then sees the averaged
    weights (best.keras), at the start of the next the raw ones (backup.npz).

    Args:
        run: the run's folder.
        monitor: history column whose maximum is best.
        steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, run: Path, monitor: str, steps_per_epoch: int):
        super().__init__()
        self.run, self.monitor, self.steps_per_epoch = run, monitor, steps_per_epoch
        self.history: list[dict[str, float]] = []
        self.plain: keras.Model | None = None  # what is saved; made once, since it takes a second

    def _state(self) -> list:
        # Random states (dropout) are variables of their layers, and not among model.variables.
        seeds = [v for layer in self.model.layers for v in layer.variables if "seed_generator" in v.path]
        return list({id(v): v for v in (*self.model.variables, *seeds, *self.model.optimizer.variables)}.values())

    def restore(self, model: keras.Model) -> int:
        """Load backup.npz into a compiled model and return the epoch to go on with (0 without a backup).

        Raises:
            RunError: the backup does not fit the model, or the history does not fit the backup.
        """
        path = self.run / "backup.npz"
        if not path.exists():
            return 0
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
        return epoch

    def best_epoch(self) -> int:
        """Epoch (from 0) of the best score so far."""
        return int(np.argmax([row[self.monitor] for row in self.history]))

    def _stop_unless_finite(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunError(
                    f"{self.run}: the {name} became {value} in epoch {len(self.history) + 1}. The best network so far "
                    "is kept. Start a new --run with a lower --learning-rate."
                )

    def on_train_batch_end(self, batch, logs=None):
        """Stop at the first loss that is no number, before anything is saved."""
        self._stop_unless_finite({"loss": (logs or {}).get("loss", 0.0)})

    def on_epoch_begin(self, epoch, logs=None):
        """Back up the state after the epoch before, raw weights and optimizer."""
        if self.history:
            buffer = io.BytesIO()  # in memory first: a full disk then fails on one plain write
            np.savez(buffer, **{f"v{n}": np.asarray(v) for n, v in enumerate(self._state())})
            write_atomic(self.run / "backup.npz", lambda path: path.write_bytes(buffer.getbuffer()))

    def on_epoch_end(self, epoch, logs=None):
        """Add a history row; save the network if it is the best. Stop if a score or a weight is no number."""
        row = {"epoch": epoch, "learning_rate": float(self.model.optimizer.learning_rate)} | {
            # Keras puts the output's name in front where there are two.
            re.sub("^(val_)?lesion_(accuracy|iou|dice)$", r"\1\2", key): float(value)
            for key, value in (logs or {}).items()
        }
        whole = all(np.isfinite(values).all() for values in self.model.get_weights())
        self._stop_unless_finite(row | {"largest weight": 0.0 if whole else math.nan})
        self.history.append(row)
        text = io.StringIO()
        columns = [column for column in row if column in self.history[0]]
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.history)
        write_text(self.run / "history.csv", text.getvalue())
        if self.best_epoch() == len(self.history) - 1:
            # Without the optimizer, which would make the file four times as large.
            self.plain = self.plain or in_plain_keras(self.model)
            self.plain.set_weights(self.model.get_weights())
            write_atomic(self.run / "best.keras", lambda path: _save_checked(self.plain, path))


def bytes_to_write(parameters: int, averaged: bool) -> int:
    """The most that a run's files take at one time: the network, its backup, and a backup that is being replaced."""
    # The optimizer keeps two numbers a parameter, and its average; 20 MB are room for tables, figures and the report.
    backup = 4 * parameters * (4 if averaged else 3)
    return 2 * backup + 4 * parameters + 20_000_000


def read_backup(path: Path, variables: Sequence) -> list[np.ndarray]:
    """Values of the variables in backup.npz, checked before any memory is taken for them.

    Raises:
        RunError: the file is damaged, or holds arrays of other shapes or types.
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
                    content = member.read(size + 1)  # one more, so that the end is reached and the checksum compared
                    if len(content) != size:
                        raise ValueError(f"array {number} is not whole")
                    values.append(np.frombuffer(content, dtype).reshape(shape))
    except Exception as error:  # zipfile, zlib and NumPy each raise their own for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path}: does not fit this run ({reason}). Start it under another --run name.") from None
    return values


def _save_checked(network: keras.Model, path: Path) -> None:
    network.save(path)
    with zipfile.ZipFile(path) as written:
        if damaged := written.testzip():
            raise OSError(f"{damaged} was not written whole")
