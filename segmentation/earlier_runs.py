"""Runs of earlier commits, whose files hold other names: read as today's, or refused by name.

A setting that was retired is accepted at the value that every default run had, since that is what is done today.
"""

from pathlib import Path

from segmentation.errors import RunError

RETIRED_SETTINGS = {
    "phantom_images": 160,
    "phantom_epochs": 16,
    "patience": 25,
    "clip_norm": 1.0,
    "weight_decay": 1e-4,
    "deterministic": False,
    "threshold": None,
    "largest_component": False,
    "dice_to_spare": 0.01,
}
RETIRED_NETWORK = {"deep_supervision": False, "dropout": 0.0}
GATES = {("coarse", False): "paper", ("full", True): "full", ("none", False): "none", ("none", True): "none"}
RENAMED_SCORES = {"dice_known": "dice_lesion_given", "iou_known": "iou_lesion_given"}
RENAMED_METRICS = {"twins_in_training": "near_copies_in_training"}
RENAMED_DECISION = {"lesion_known": "lesion_given"}


def rename(stored: dict, names: dict[str, str]) -> dict:
    """The same values, with today's names for earlier ones."""
    return {names.get(key, key): value for key, value in stored.items()}


def _without(stored: dict, retired: dict, path: Path) -> dict:
    for key, accepted in retired.items():
        if stored.get(key, accepted) != accepted:
            raise RunError(f"{path}: setting {key!r} was {stored[key]!r}, which this version no longer has.")
    return {key: value for key, value in stored.items() if key not in retired}


def _with_gates(stored: dict, path: Path) -> dict:
    grid, finest = stored.pop("gate_grid", None), stored.pop("gate_finest", False)
    if grid is None:
        return stored
    try:
        return {**stored, "gates": GATES[grid, finest]}
    except (KeyError, TypeError):
        message = f"{path}: gates of grid {grid!r} with gate_finest {finest!r} are not in this version."
        raise RunError(message) from None


def upgrade_network(stored: dict, path: Path) -> dict:
    """Arguments of the network in config.json, as today's are named.

    Raises:
        RunError: a retired argument has another value than every default network had.
    """
    return _with_gates(_without(stored, RETIRED_NETWORK, path), path)


def upgrade_settings(stored: dict, path: Path) -> dict:
    """Settings of a training in config.json, as today's are named.

    Raises:
        RunError: a retired setting has another value than its default.
    """
    settings = _with_gates(_without(stored, RETIRED_SETTINGS | RETIRED_NETWORK, path), path)
    if "pretrained" in stored or settings.get("start_from", ...) is None:
        pretrained = settings.pop("pretrained", True) and settings.get("encoder") != "none"
        settings["start_from"] = settings.get("start_from") or ("imagenet" if pretrained else "random")
    settings = {"lesion_score": 0.0, "scanners": 0.0} | settings  # what earlier versions did not have
    if settings.get("split_seed") is None:
        settings["split_seed"] = settings.get("seed", 0)
    if "data_dir" in settings and not isinstance(settings["data_dir"], (list, tuple)):
        settings["data_dir"] = [] if settings["data_dir"] is None else [settings["data_dir"]]
    return upgrade_split(settings)


def upgrade_split(stored: dict) -> dict:
    """What split.json says of how it was made, as today's does."""
    return stored | {"choose_on": "decision"} if stored.get("choose_on") == "rule" else stored
