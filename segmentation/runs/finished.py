"""Which runs are finished, which of them is meant where none is named, and how an unfinished one is used.

It imports nothing heavy.
"""

from pathlib import Path

from segmentation.common.environment import REPOSITORY
from segmentation.common.errors import RunError
from segmentation.scoring.decision import Decision, load_decision

# In the order in which they are written; segmentation/runs/run_folder.py says what each is.
RUN_FILES = ("config.json", "split.json", "history.csv", "best.keras", "backup.npz", "decision.json", "metrics.json")
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


def open_decision(run: Path) -> Decision:
    """A run's decision; the plain one, with a note, if the run is not finished.

    Raises:
        RunError: decision.json is missing or damaged; an unfinished run has no network yet.
    """
    if (run / "metrics.json").exists():
        return load_decision(run / "decision.json")
    for name in ("config.json", "split.json", "best.keras"):
        if not (run / name).exists():
            raise RunError(f"{run / name}: no such file. A run can be used once its first epoch is done.")
    print(f"note: {run} is not finished: its best epoch so far is used, with a threshold of 0.5")
    return Decision()
