"""Which runs are finished, and which of them is meant where none is named. It imports nothing heavy."""

from pathlib import Path

from segmentation.common.environment import REPOSITORY
from segmentation.common.errors import RunError

MODELS = REPOSITORY / "models"  # the two that come with the repository (models/README.md)
SHIPPED, BUS_BRA = MODELS / "attention_unet_busi", MODELS / "attention_unet_bus_bra"


def newest_run(models_dir: Path) -> Path:
    """Folder of the run that was finished last; without one, of the network that comes with the repository.

    Raises:
        RunError: there is neither.
    """
    finished = sorted(models_dir.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    runs = [path.parent for path in finished if path.parent.name not in (SHIPPED.name, BUS_BRA.name)]
    if runs:
        return runs[-1]
    if not (SHIPPED / "metrics.json").exists():
        raise RunError(f"{models_dir}: no finished run here. First: python train_model.py")
    print(f"no finished run in {models_dir}: using the network that comes with the repository, {SHIPPED}")
    return SHIPPED


def check_finished(run: Path, *files: str) -> None:
    """Refuse to build upon what is no finished run.

    Raises:
        RunError: a file is missing, of `files` or of those that every finished run has.
    """
    for name in ("config.json", "split.json", "best.keras", "metrics.json", *files):
        if not (run / name).exists():
            raise RunError(f"{run / name}: no such file. Only a finished run can be built upon or scored.")
