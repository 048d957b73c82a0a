"""Find finished runs, choose one where the user names none, and use an unfinished one. Quick to import."""

from pathlib import Path

from segmentation.common.environment import REPOSITORY
from segmentation.common.errors import RunError
from segmentation.scoring.decision import Decision, load_decision

# In the order in which they are written; segmentation/runs/run_folder.py describes them.
RUN_FILES = ("config.json", "split.json", "history.csv", "best.keras", "backup.npz", "decision.json", "metrics.json")
MODELS = REPOSITORY / "models"  # holds the two networks of the repository (models/README.md)
SHIPPED, BUS_BRA = MODELS / "attention_unet_hospitals", MODELS / "attention_unet_bus_bra"


def newest_run(models_dir: Path) -> Path:
    """Folder of the run that was finished last; without any, that of the repository's own network.

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
    """Check that a run is finished and has these further files.

    Raises:
        RunError: one of the files is missing.
    """
    for name in ("config.json", "split.json", "best.keras", "metrics.json", *files):
        if not (run / name).exists():
            raise RunError(f"{run / name}: no such file. Only a finished run lends its weights or its decision.")


def open_decision(run: Path) -> Decision:
    """Read a run's decision; if the run is not finished, print a note and return the default decision.

    Raises:
        RunError: decision.json is missing or damaged, or an unfinished run has no network yet.
    """
    if (run / "metrics.json").exists():
        return load_decision(run / "decision.json")
    for name in ("config.json", "split.json", "best.keras"):
        if not (run / name).exists():
            raise RunError(f"{run / name}: no such file. A run can be used once its first epoch is done.")
    print(f"note: {run} is not finished: its best epoch so far is used, with a threshold of 0.5")
    return Decision()


def check_min_score(run: Path, stored: dict, min_score: float | None) -> None:
    """Refuse a minimum lesion score if the network has no lesion score; `stored` is the run's config.json.

    Raises:
        RunError: the minimum would be ignored.
    """
    if min_score is not None and not stored["network"].get("lesion_score"):
        raise RunError(f"{run}: its network has no lesion score, so there is nothing to compare with --min-score.")
