"""The files of a run, in models/RUN/. They are written atomically: a kill or a full disk never damages one.

config.json   settings of the training, and how to rebuild the network; written once, before training
split.json    set and hashes of every image; config.json has the hash of this file
history.csv   one row per epoch
best.keras    the network of the best epoch
backup.npz    the state from which training is resumed; deleted when the run is finished
decision.json how a probability map becomes a mask
metrics.json  scores of the test images; a run that has this file is finished

They are written in this order. A run without metrics.json is resumed from backup.npz; without that too, at most one
epoch was completed, and the training starts again. A combination of files that no stopped training leaves is refused.
--tensorboard writes to tensorboard/, which is never read here.
"""

import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import keras
import numpy as np

from attention_unet import build_attention_unet
from segmentation.common.checks import check
from segmentation.common.errors import RunError
from segmentation.common.files import (
    MAX_BYTES,
    check_file,
    content_hash,
    lock_folder,
    numbered,
    read_json,
    to_json,
    try_writing,
    write_text,
)
from segmentation.network.encoders import check_channels, choose_encoder
from segmentation.runs.finished import RUN_FILES
from segmentation.runs.schemas import read_config, read_history, read_split

MAX_WEIGHTS_BYTES, MAX_PARAMETERS = 500_000_000, 120_000_000  # 4 bytes each, and the file's overhead
SCORE_BYTES = 700  # of an image in metrics.json, without its name


# ---------------------------------------------------------------- open


@contextmanager
def open_run(config, folder: Path, resume: Path | None) -> Iterator[tuple[Path, object, bool]]:
    """Choose and lock the folder of a training: a new one, or that of an unfinished run.

    Args:
        config: an object of a class decorated with `checked`.
        folder: the run's folder; if it holds a finished run, -2, -3, ... are tried.
        resume: the folder of a stopped run, whose settings are used instead of `config`, but for a data_dir.

    Yields:
        The folder, the settings, and whether the training is resumed from the files in the folder. If not, these files
        are to be ignored, and `begin` must be called.

    Raises:
        RunError: there is nothing to resume, another training has locked the folder, or the folder's files are not
            those of a stopped training with these settings.
    """
    run = resume or next(path for path in numbered(folder) if not (path / "metrics.json").exists())
    if resume:
        asked = {"resume": resume, "finish": True} if config.finish else {}
        own = settings_of(run, type(config))
        if config.data_dir and not own.data_dir and read_config(run).get("data") == "sample":
            raise RunError(f"{run}: was begun on the sample, as no data were there. Begin another run: --run NAME.")
        asked |= {"data_dir": config.data_dir} if config.data_dir else {}  # the data may have moved
        config = replace(own, **asked)
    with lock(run):
        if (run / "metrics.json").exists():
            raise RunError(f"{run}: this run is finished; see its metrics.json.")
        for name in RUN_FILES:
            try_writing(run / name)
        try:
            yield run, config, goes_on(run, config)
        except KeyboardInterrupt:
            if (run / "best.keras").exists():
                print(f"\n--resume {run} goes on with this run; --resume {run} --finish scores its best epoch so far")
            raise


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Make a run's folder and lock it.

    Raises:
        RunError: another training has locked it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with lock_folder(run, "training"):
        for left_by_a_kill in run.glob(".writing-*"):
            left_by_a_kill.unlink()
        yield


def settings_of(run: Path, settings: type):
    """Read the settings in a run's config.json, as an object of the class `settings`.

    Raises:
        RunError: the file is missing, or a setting is unknown or has the wrong type or range.
    """
    path = run / "config.json"
    return check(settings, read_json(path).get("config"), path, "config")


def goes_on(run: Path, config) -> bool:
    """Whether an unfinished run is resumed from its backup; if False, its training starts again.

    Raises:
        RunError: at least one epoch was trained with other settings, or a file is missing that a stopped training has.
    """
    present = [name for name in RUN_FILES if os.path.lexists(run / name)]
    if not present:
        return False
    if "config.json" not in present:
        raise RunError(f"{run}: holds {present[0]} but no config.json. Choose another --run, or remove the folder.")
    if config.finish:
        if not read_history(run / "history.csv"):
            raise RunError(f"{run}: has no finished epoch to score. Go on with it: --resume {run}")
        return True
    stored = settings_of(run, type(config))
    # Of the data, the hashes in split.json decide, not the place; but the sample that stands in has fewer epochs.
    on_sample = read_config(run).get("data") == "sample" and bool(stored.data_dir) != bool(config.data_dir)
    compared = [f.name for f in fields(config) if f.name != "data_dir" or on_sample]
    different = [name for name in compared if getattr(stored, name) != getattr(config, name)]
    if set(present) <= {"config.json", "split.json"}:
        print(f"{run} holds a run that was stopped before its first epoch: beginning anew")
        return False
    if different:
        raise RunError(
            f"{run}: holds an unfinished run with another {different[0]} ({getattr(stored, different[0])}). Go on with "
            f"it: --resume {run}; or choose another --run."
        )
    epochs = len(read_history(run / "history.csv"))
    needed = RUN_FILES[:5] if "backup.npz" in present or epochs > 1 else RUN_FILES[:1] + RUN_FILES[2:3]
    if missing := [name for name in needed if name not in present]:
        raise RunError(f"{run}: {missing[0]} is missing, so this run cannot go on. Choose another --run.")
    if "backup.npz" in present:
        read_split(run)
        print(f"{run} holds an unfinished run of this command: going on with it")
        return True
    print(f"{run} holds a run that was stopped in its first epochs: beginning anew")
    return False


def begin(run: Path, config: dict, split: dict) -> None:
    """Remove the files of an earlier training from the folder, and write config.json, then split.json.

    Args:
        config: as in `schemas.RunConfig`, without the hash.
        split: as in `schemas.SplitRecord`.

    Raises:
        RunError: the files could not be read again: there are too many images, or an image's name is not valid.
    """
    text = to_json(split)
    if len(text) + SCORE_BYTES * len(split["images"]) > MAX_BYTES:
        raise RunError(f"{run}: the scores of {len(split['images'])} images are too many for one file.")
    for name in ("decision.json", "best.keras", "history.csv", "split.json"):  # config.json is replaced
        (run / name).unlink(missing_ok=True)
    write_text(run / "config.json", to_json(config | {"split_sha256": content_hash(text.encode())}))
    write_text(run / "split.json", text)
    read_split(run)


# ---------------------------------------------------------------- the network


def build_network(encoder: str, **arguments) -> keras.Model:
    """`build_attention_unet` with the encoder of that name and the other arguments under "network" in config.json.

    Raises:
        ValueError: an argument is not allowed; RunError: the network has too many parameters.
    """
    check_channels(encoder, arguments["base_filters"], arguments["depth"])
    model = build_attention_unet(encoder=choose_encoder(encoder), **arguments)
    if (parameters := model.count_params()) > MAX_PARAMETERS:
        raise RunError(
            f"a network of {parameters / 1e6:.0f} million parameters is larger than {MAX_PARAMETERS // 10**6} million. "
            "Take fewer --base-filters or a smaller --depth."
        )
    return model


def _load_weights(model: keras.Model, path: Path) -> None:
    """As `model.load_weights(path)`, which takes ten times as long to jump about in a compressed file."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        if (size := archive.getinfo("model.weights.h5").file_size) > MAX_WEIGHTS_BYTES:
            raise ValueError(f"its weights have {size} bytes")
        model.load_weights(archive.extract("model.weights.h5", folder))


def load_run(run: Path) -> tuple[keras.Model, dict]:
    """Rebuild a run's network and load the weights of its best epoch. No code from a file is executed.

    Returns:
        The network, and config.json.

    Raises:
        RunError: a file is missing, damaged, or does not fit the network.
    """
    config = read_config(run)
    path = run / "best.keras"
    if not path.exists():
        raise RunError(f"{path}: no such file. Has the run finished its first epoch?")
    check_file(path, MAX_WEIGHTS_BYTES)
    try:
        model = build_network(**config["network"])
        _load_weights(model, path)
    except RunError as error:
        raise RunError(f"{run / 'config.json'}: {error}") from None
    except Exception as error:  # zipfile, h5py and Keras raise different errors for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path}: cannot be loaded into the network of config.json ({reason}).") from error
    if not all(np.isfinite(values).all() for values in model.get_weights()):
        raise RunError(
            f"{path}: contains NaN or infinite weights, which would find no lesion anywhere. Train it again."
        )
    return model, config


def take_weights(model: keras.Model, run: Path) -> None:
    """Copy the weights of a run's best epoch into a network; the image sizes may differ.

    If only one of the two networks has a lesion score, that output's weights are not copied.

    Raises:
        RunError: the run's network cannot be loaded or has other layers.
    """
    other, _ = load_run(run)
    own, theirs = ({layer.name: layer for layer in m.layers if layer.weights} for m in (model, other))
    shared = own.keys() & theirs.keys()
    alike = own.keys() ^ theirs.keys() <= {"lesion_score"}
    if not alike or any([w.shape for w in own[n].weights] != [w.shape for w in theirs[n].weights] for n in shared):
        raise RunError(
            f"{run}: is another network than this one. Give --encoder, --base-filters, --depth and the other "
            "settings of the network as in its config.json, or --start-from imagenet."
        )
    for name in shared:
        own[name].set_weights(theirs[name].get_weights())
