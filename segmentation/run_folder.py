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
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import keras
from filelock import FileLock, Timeout

from attention_unet import GATES, build_attention_unet
from dataset import LABELS
from segmentation.earlier_runs import RENAMED_METRICS, RENAMED_SCORES, rename, upgrade_network, upgrade_settings
from segmentation.encoders import APPLICATIONS, LITE, choose_encoder
from segmentation.errors import RunError
from segmentation.files import read_json
from segmentation.scores import LESION_GIVEN, SCORES

MAX_WEIGHTS_BYTES, MAX_CHANNELS = 500_000_000, 2048
PACKAGES = ("tensorflow", "keras", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "scipy")
HISTORY = ("epoch", "loss", "dice", "iou", "accuracy", "learning_rate")  # of every row; the val_ ones may be missing


def environment() -> dict[str, str]:
    """Versions and, in a git checkout, the commit: what else a figure depends on."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    return {
        "commit": git.stdout.strip() or "unknown",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in PACKAGES},
    }


# ---------------------------------------------------------------- open


def settings_from_json(settings: type, stored: object, path: Path):
    """Rebuild a dataclass of settings from config.json; keys and types are checked, as nothing else would.

    Raises:
        RunError: a key is unknown or a value has the wrong type or range.
    """
    if not isinstance(stored, dict):
        raise RunError(f'{path}: has no "config" object.')
    hints = get_type_hints(settings)
    values = {}
    for key, value in upgrade_settings(stored, path).items():
        if key not in hints:
            raise RunError(f"{path}: setting {key!r} is not known. Was the run made by a newer version?")
        allowed = get_args(hints[key]) or (hints[key],)
        if get_origin(hints[key]) is Literal:
            good = value in allowed
        elif Path in allowed:
            good = type(value) is str or (value is None and type(None) in allowed)
            words = [word for option in allowed for word in get_args(option)]  # "imagenet" is no path
            value = Path(value) if good and value is not None and value not in words else value
        else:
            good = type(value) in allowed or (float in allowed and type(value) is int)
        if not good:
            raise RunError(f"{path}: setting {key!r} cannot be {value!r}.")
        values[key] = value
    try:
        return settings(**values)
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
    metrics = rename(read_json(path), RENAMED_METRICS)
    types = {"data": str, "split": str, "near_copies_in_training": int, "parameters": int, "environment": dict}
    types |= {"best_epoch": int, "minutes": (int, float, type(None)), "images": list}
    if wrong := [key for key, expected in types.items() if not isinstance(metrics.get(key, ...), expected)]:
        raise RunError(f"{path}: {wrong[0]!r} is missing, or of the wrong type.")
    metrics["images"] = [rename(s, RENAMED_SCORES) if isinstance(s, dict) else s for s in metrics["images"]]
    for score in metrics["images"]:
        try:
            good = type(score["name"]) is str and score["label"] in LABELS
            good &= all(type(score[key]) is int and score[key] >= 0 for key in ("tp", "fp", "fn", "tn"))
            good &= min(score["height"], score["width"], score["diagonal"]) > 0 and type(score["group"]) is int
            good &= min(score["dice"], score["iou"]) >= 0  # of the others, None is undefined
            good &= all(score[key] is None or math.isfinite(score[key]) for key in SCORES)
            good &= all(score.get(key) is None or math.isfinite(score[key]) for key in LESION_GIVEN)
        except (KeyError, TypeError):
            good = False
        if not good:
            raise RunError(f"{path}: the scores of an image are damaged: {str(score)[:100]}.")
    if not any(score["label"] != "normal" for score in metrics["images"]):
        raise RunError(f"{path}: holds no scored image with a lesion.")
    return metrics


# ---------------------------------------------------------------- the network


def _check_network(path: Path, network: object) -> dict:
    """The allow-list: only these keys, only these types and sizes, can reach the builder."""
    checks: dict[str, Callable[[object], bool]] = {
        "input_shape": lambda v: (
            isinstance(v, list) and len(v) == 3 and all(type(n) is int and 0 < n <= 4096 for n in v)
        ),
        "base_filters": lambda v: type(v) is int and 0 < v <= 256,
        "depth": lambda v: type(v) is int and 0 < v <= 8,
        "gates": lambda v: v in GATES,
        "encoder": lambda v: v in ("none", *LITE, *APPLICATIONS),
    }
    if not isinstance(network, dict):
        raise RunError(f'{path}: has no "network" object.')
    network = upgrade_network(network, path)
    for key, value in network.items():
        if key not in checks:
            raise RunError(f"{path}: network key {key!r} means nothing here. Was the run made by a newer version?")
        if not checks[key](value):
            raise RunError(f"{path}: network key {key!r} cannot be {value!r}.")
    if missing := set(checks) - set(network):
        raise RunError(f"{path}: network key {min(missing)!r} is missing.")
    if network["base_filters"] * 2 ** network["depth"] > MAX_CHANNELS:
        raise RunError(f"{path}: a network of more than {MAX_CHANNELS} channels. Refused.")
    return {**network, "input_shape": tuple(network["input_shape"])}


def _check_use(path: Path, config: dict) -> None:
    """What is read from config.json beside the network, when a run is shown or used."""

    def number(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    limits = config.get("appearance", {})
    good = isinstance(limits, dict) and all(
        isinstance(v, list) and len(v) == 2 and all(map(number, v)) for v in limits.values()
    )
    if not good:
        raise RunError(f'{path}: "appearance" holds a value of the wrong type.')


def build_network(encoder: str, **arguments) -> keras.Model:
    """`build_attention_unet` with the encoder of that name; what else config.json keeps under "network" goes to it."""
    return build_attention_unet(encoder=choose_encoder(encoder), **arguments)


def load_run(run: Path, weights: str = "best.keras") -> tuple[keras.Model, dict]:
    """Rebuild a run's network and load its weights. No code from any file is run.

    Args:
        run: the run's folder.
        weights: the file in it.

    Returns:
        The network, and config.json.

    Raises:
        RunError: a file is missing, damaged, or does not fit the network.
    """
    config = read_json(run / "config.json")
    network = _check_network(run / "config.json", config.get("network"))
    _check_use(run / "config.json", config)
    path = run / weights
    try:
        if path.stat().st_size > MAX_WEIGHTS_BYTES:
            raise RunError(f"{path}: larger than {MAX_WEIGHTS_BYTES // 10**6} MB. Refused.")
        model = build_network(**network)
        model.load_weights(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file. Has the run finished its first epoch?") from None
    except RunError:
        raise
    except Exception as error:  # zipfile, h5py and Keras each raise their own for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path}: cannot be loaded into the network of config.json ({reason}).") from error
    return model, config


def take_weights(model: keras.Model, run: Path) -> None:
    """Give a network the weights of a run's best epoch; the image size may be another.

    Raises:
        RunError: the run's network cannot be loaded or has other layers.
    """
    other, _ = load_run(run)
    if [w.shape for w in other.weights] != [w.shape for w in model.weights]:
        raise RunError(
            f"{run}: is another network than this one. Give --encoder, --base-filters, --depth and the other "
            "settings of a network as in its config.json."
        )
    model.set_weights(other.get_weights())
