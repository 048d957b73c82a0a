"""The files of a run, `models/<run>/`: written so that a kill or a full disk never loses a good one.

config.json   how the run was made, and how to rebuild its network
split.json    which image is in which part, with hashes
history.csv   one row an epoch
best.keras    the network of the best validation epoch
decision.json from probability to mask
backup.npz    everything needed to go on training; deleted when the run is finished
metrics.json  scores of the held-out test images; a run that has it is finished
"""

import csv
import io
import math
import os
import platform
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import keras
import numpy as np
from filelock import FileLock, Timeout

from dataset import LABELS
from files import RunError, read_json, write_atomic
from metrics import KNOWN, SCORES

PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "scipy")
HISTORY = ("epoch", "loss", "dice", "iou", "accuracy", "learning_rate")  # of every row; the val_ ones may be missing


def environment() -> dict[str, str]:
    """Versions and, in a git checkout, the commit: what else a figure depends on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    return {
        "commit": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in PACKAGES},
    }


# ---------------------------------------------------------------- open


def settings_from_json(kind: type, stored: object, path: Path):
    """Rebuild a settings dataclass from config.json; keys and types are checked, as nothing else would.

    Raises:
        RunError: a key is unknown or a value has the wrong type or range.
    """
    if not isinstance(stored, dict):
        raise RunError(f'{path}: has no "config" object.')
    hints = get_type_hints(kind)
    values = {}
    for key, value in stored.items():
        if key not in hints:
            raise RunError(f"{path}: setting {key!r} is not known. Was the run made by a newer version?")
        allowed = get_args(hints[key]) or (hints[key],)
        if get_origin(hints[key]) is Literal:
            good = value in allowed
        elif Path in allowed:
            good = type(value) is str or (value is None and type(None) in allowed)
            value = Path(value) if good and value is not None else value
        else:
            good = type(value) in allowed or (float in allowed and type(value) is int)
        if not good:
            raise RunError(f"{path}: setting {key!r} cannot be {value!r}.")
        values[key] = value
    try:
        return kind(**values)
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def open_run(config, folder: Path, resume: Path | None):
    """Decide where a training writes: a new folder, or an unfinished one that it goes on with.

    Args:
        config: a settings dataclass.
        folder: the run's folder; a finished one is kept, and -2, -3, ... tried.
        resume: a folder whose own settings are to be used instead of `config`.

    Returns:
        The folder, which exists, and the settings to train with.

    Raises:
        RunError: there is nothing to resume, or an unfinished run there has other settings.
    """
    if resume is not None:
        stored = read_json(resume / "config.json").get("config")
        if (resume / "metrics.json").exists():
            raise RunError(f"{resume}: this run is finished; see its metrics.json.")
        return resume, settings_from_json(type(config), stored, resume / "config.json")
    number, candidate = 1, folder
    while (candidate / "metrics.json").exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    if (candidate / "config.json").exists():
        stored = settings_from_json(
            type(config), read_json(candidate / "config.json").get("config"), candidate / "config.json"
        )
        if different := [f.name for f in fields(config) if getattr(stored, f.name) != getattr(config, f.name)]:
            raise RunError(
                f"{candidate}: holds an unfinished run with another {different[0]} "
                f"({getattr(stored, different[0])}). Go on with it: --resume {candidate}; or choose another --run."
            )
        print(f"{candidate} holds an unfinished run of this command: going on with it")
    candidate.mkdir(parents=True, exist_ok=True)
    return candidate, config


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Hold a run's folder; the operating system lets go of it when the process dies, however it dies.

    Raises:
        RunError: another training holds it.
    """
    try:
        with FileLock(run / ".lock", timeout=0):
            for left_by_a_kill in run.glob(".writing-*"):
                left_by_a_kill.unlink()
            yield
    except Timeout:
        raise RunError(f"{run}: another training is writing here. Wait for it, or choose another --run.") from None


# ---------------------------------------------------------------- record and resume


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of history.csv; none if there is no file yet.

    Raises:
        RunError: it holds anything but numbers, or lacks what training writes.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as lines:
            rows = [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
    except (csv.Error, TypeError, ValueError) as error:
        raise RunError(f"{path}: is damaged ({error}).") from None
    if rows and not set(HISTORY) <= set(rows[0]):
        raise RunError(f"{path}: lacks one of the columns {', '.join(HISTORY)}.")
    return rows


def read_metrics(path: Path) -> dict:
    """metrics.json with everything that a report reads of it.

    Raises:
        RunError: the file is missing or damaged, or a score in it cannot come from training.
    """
    metrics = read_json(path)
    kinds = {"data": str, "split": str, "twins_in_training": int, "parameters": int, "environment": dict}
    kinds |= {"best_epoch": int, "minutes": (int, float, type(None)), "images": list}
    if wrong := [key for key, kind in kinds.items() if not isinstance(metrics.get(key, ...), kind)]:
        raise RunError(f"{path}: {wrong[0]!r} is missing, or of the wrong type.")
    for score in metrics["images"]:
        try:
            good = type(score["name"]) is str and score["label"] in LABELS
            good &= all(type(score[key]) is int and score[key] >= 0 for key in ("tp", "fp", "fn", "tn"))
            good &= min(score["height"], score["width"], score["diagonal"]) > 0 and type(score["group"]) is int
            good &= min(score["dice"], score["iou"]) >= 0  # of the others, None is undefined
            good &= all(score[key] is None or math.isfinite(score[key]) for key in SCORES)
            good &= all(score.get(key) is None or math.isfinite(score[key]) for key in KNOWN)  # not of old runs
        except (KeyError, TypeError):
            good = False
        if not good:
            raise RunError(f"{path}: the scores of an image are damaged: {str(score)[:100]}.")
    if not any(score["label"] != "normal" for score in metrics["images"]):
        raise RunError(f"{path}: holds no scored image with a lesion.")
    return metrics


class RunRecorder(keras.callbacks.Callback):
    """Writes history.csv, best.keras and backup.npz; stops early; can go on where a run was killed.

    Stands for CSVLogger, ModelCheckpoint, EarlyStopping and BackupAndRestore, which (Keras 3.15)
    overwrite good files in place, keep a NaN epoch as best, and forget the best score on resume. All
    that is remembered is in two files: the history says what was best and for how long, the backup's
    iteration count says how many of its rows count.

    Put it behind SwapEMAWeights(swap_on_epoch=True): at the end of an epoch it then sees the averaged
    weights (best.keras), at the start of the next the raw ones (backup.npz).

    Args:
        run: the run's folder.
        monitor: history column whose maximum is best.
        patience: epochs without a new best before training stops.
        steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, run: Path, monitor: str, patience: int, steps_per_epoch: int):
        super().__init__()
        self.run, self.monitor, self.patience, self.steps_per_epoch = run, monitor, patience, steps_per_epoch
        self.history: list[dict[str, float]] = []

    def _state(self) -> list:
        # Random states (dropout) are variables of their layers, and not among model.variables.
        seeds = [v for layer in self.model.layers for v in layer.variables if "seed_generator" in v.path]
        return list({id(v): v for v in (*self.model.variables, *seeds, *self.model.optimizer.variables)}.values())

    def restore(self, model: keras.Model) -> int:
        """Load backup.npz into a compiled model and return the epoch to go on with (0 without a backup).

        Raises:
            RunError: the backup does not fit the model, or the history is shorter than it says.
        """
        path = self.run / "backup.npz"
        if not path.exists():
            return 0
        self.set_model(model)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for number, variable in enumerate(self._state()):
                    variable.assign(arrays[f"v{number}"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise RunError(f"{path}: does not fit this run ({error}). Start it under another --run name.") from None
        epoch = int(model.optimizer.iterations) // self.steps_per_epoch
        self.history = read_history(self.run / "history.csv")[:epoch]
        if len(self.history) < epoch:
            raise RunError(
                f"{self.run / 'history.csv'}: has {len(self.history)} rows, the backup {epoch} epochs. "
                "Start the run under another --run name."
            )
        return epoch

    def best_epoch(self) -> int | None:
        """Epoch (from 0) of the best finite score so far."""
        scores = [row[self.monitor] if math.isfinite(row[self.monitor]) else -math.inf for row in self.history]
        return int(np.argmax(scores)) if scores and max(scores) > -math.inf else None

    def finished(self, epochs: int) -> bool:
        """Whether training is over: all epochs done, or no better one for `patience` epochs."""
        best = self.best_epoch()
        return len(self.history) >= epochs or (best is not None and len(self.history) - 1 - best >= self.patience)

    def on_train_batch_end(self, batch, logs=None):
        """Stop at the first loss that is no number, before anything is saved."""
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise RunError(
                f"{self.run}: the loss became {logs['loss']} in epoch {len(self.history) + 1}. The best network so "
                "far is kept. Start a new --run with a lower --learning-rate, or a lower --clip-norm."
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Back up the state after the epoch before, raw weights and optimizer."""
        if self.history:
            buffer = io.BytesIO()  # in memory first: a full disk then fails on one plain write
            np.savez(buffer, **{f"v{n}": np.asarray(v) for n, v in enumerate(self._state())})
            write_atomic(self.run / "backup.npz", lambda path: path.write_bytes(buffer.getbuffer()))

    def on_epoch_end(self, epoch, logs=None):
        """Add a history row; save the network if it is the best; stop if none was for `patience` epochs."""
        row = {"epoch": epoch, "learning_rate": float(self.model.optimizer.learning_rate)} | {
            key: float(value) for key, value in (logs or {}).items()
        }
        self.history.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, row)
        writer.writeheader()
        writer.writerows(self.history)
        write_atomic(self.run / "history.csv", lambda path: path.write_text(text.getvalue()))
        if self.best_epoch() == len(self.history) - 1:
            # Shares the layers but not the optimizer, which would make the file four times as large.
            network = keras.Model(self.model.inputs, self.model.outputs, name=self.model.name)
            write_atomic(self.run / "best.keras", lambda path: _save_checked(network, path))
        if self.finished(self.params["epochs"]):
            self.model.stop_training = True


def _save_checked(network: keras.Model, path: Path) -> None:
    network.save(path)
    with zipfile.ZipFile(path) as written:
        if damaged := written.testzip():
            raise OSError(f"{damaged} was not written whole")
