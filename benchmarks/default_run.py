"""Settings of the default network, read from the run that comes with the repository: the benchmarks share them."""

from pathlib import Path

from segmentation.earlier_runs import upgrade_network, upgrade_settings

from segmentation.common.files import read_json

PATH = Path(__file__).parent.parent / "models" / "attention_unet_busi" / "config.json"


def default_settings() -> dict:
    """Settings of its training, by the names that train_model.py gives them."""
    return upgrade_settings(read_json(PATH)["config"], PATH)


def default_network(**changes) -> dict:
    """Arguments of `segmentation.runs.run_folder.build_network` for it; `changes` replace some of them."""
    network = upgrade_network(read_json(PATH)["network"], PATH)
    return network | {"input_shape": tuple(network["input_shape"])} | changes
