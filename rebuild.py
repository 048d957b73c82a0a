"""Rebuild a run's network from its own config.json and best.keras. No code from any file is run."""

import math
from collections.abc import Callable
from pathlib import Path

import keras

from attention_unet import APPLICATIONS, ENCODERS, GATE_GRIDS, build_attention_unet
from files import RunError, read_json

MAX_WEIGHTS_BYTES, MAX_CHANNELS = 500_000_000, 2048


def _check_network(path: Path, network: object) -> dict:
    """The allow-list: only these keys, only these types and sizes, can reach the builder."""
    checks: dict[str, Callable[[object], bool]] = {
        "input_shape": lambda v: (
            isinstance(v, list) and len(v) == 3 and all(type(n) is int and 0 < n <= 4096 for n in v)
        ),
        "base_filters": lambda v: type(v) is int and 0 < v <= 256,
        "depth": lambda v: type(v) is int and 0 < v <= 8,
        "gate_grid": lambda v: v in GATE_GRIDS,
        "gate_finest": lambda v: type(v) is bool,
        "deep_supervision": lambda v: type(v) is bool,
        "dropout": lambda v: type(v) in (int, float) and 0 <= v < 1,
        "encoder": lambda v: v in ("none", *ENCODERS, *APPLICATIONS),
    }
    if not isinstance(network, dict):
        raise RunError(f'{path}: has no "network" object.')
    for key, value in network.items():
        if key not in checks:
            raise RunError(f"{path}: network key {key!r} is not known. Was the run made by a newer version?")
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
        model = build_attention_unet(**network)
        model.load_weights(path)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file. Has the run finished its first epoch?") from None
    except RunError:
        raise
    except Exception as error:  # zipfile, h5py and Keras each raise their own for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise RunError(f"{path}: cannot be loaded into the network of config.json ({reason}).") from error
    return model, config


def start_from(model: keras.Model, run: Path) -> None:
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
