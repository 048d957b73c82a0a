"""Train one configuration on every fold and with every seed, each in its own process, and collect the scores.

    python cross_validate.py --data-dir data/                                # 5 grouped folds of the default
    python cross_validate.py paper --name p1_paper --splits p1-1 p1-2 p1-3 --normals none
    python cross_validate.py --seeds 0 1 2 --ray auto                        # the same on a Ray cluster

A preset and all flags that are not listed below are passed to train_model.py. {run} in a flag is replaced by the run's
name: --decision-from models/cross_validation/{run} --choose-on nothing. To go on after a stop, repeat the command.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

import tyro
from pydantic import model_validator
from tqdm import tqdm

from segmentation.common.checks import AnyPath, FolderName, Seed, Text, Whole, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_output, content_hash, json_holds, lock_folder, read_json, write_json
from segmentation.data.collection import collect, find_folders
from segmentation.data.splits import count_folds
from segmentation.runs.run_table import collect_scores, format_table
from segmentation.runs.schemas import read_config, read_split
from segmentation.runs.split_record import hash_samples, load_split
from segmentation.runs.workers import LocalTrainer, RayTrainer
from segmentation.scoring.score_table import is_score_table, write_scores

# Flags of train_model.py that each run gets from this script, and what to take in their place.
NOT_FOR_RUNS = {"--split": ": take --splits", "--fold": ": take --folds", "--seed": ": take --seeds"}
NOT_FOR_RUNS |= {"--run": ": take --name", "--resume": ": repeat the command", "--finish": ""}


@checked
class CrossValidationConfig:
    """Which runs to train."""

    name: FolderName = "cross_validation"  # the runs are folders in models/NAME/
    splits: tuple[Text, ...] = ("grouped-cv",)
    folds: tuple[Whole[0, 100], ...] = ()  # folds of each split; if none are given, all
    seeds: tuple[Seed, ...] = (0,)  # each fold is trained once with each seed
    jobs: Whole[1, 1000] = 1  # runs at the same time; one run uses a whole CPU, but a GPU has room for several
    models_dir: AnyPath = Path("models")  # where the folder is made
    ray: Text | None = None  # address of a Ray cluster ("auto", "local", or HOST:PORT) to train on

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse settings that contradict each other."""
        if not self.splits or not self.seeds:
            raise ValueError("--splits and --seeds need at least one value each")
        if len({Path(split).stem for split in self.splits}) < len(self.splits):
            raise ValueError("--splits: two have the same name, and so would their runs")
        for split in self.splits:
            folds = count_folds(split)
            if folds is None and not self.folds:
                raise ValueError(
                    f"--splits {split} needs --folds, because the number of folds depends on the data: --folds 0 1 2"
                )
            if folds is not None and not set(self.folds) <= set(range(folds)):
                raise ValueError(f"--folds of split {split} are 0 to {folds - 1}, got {self.folds}")
        return self


def main(config: CrossValidationConfig, flags: Sequence[str]) -> dict:
    """Train the runs that are not finished yet, then write and print the table.

    Args:
        config: which runs.
        flags: for train_model.py, the same for every run.

    Returns:
        The content of cross_validation.json; the per-image scores are in cross_validation.csv.

    Raises:
        RunError: the folder holds runs of other flags, or a run failed; the other runs are finished first.
        RunError, DataError: the data were changed since a run was finished.
    """
    folder = config.models_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder, "cross-validation, or a training that it started,") as lock:
        check_output(folder / "cross_validation.csv", is_score_table)
        check_output(folder / "cross_validation.json", json_holds("mean", "runs", "together"))
        keep_flags(folder, flags, config.splits)
        plan = {
            f"{Path(split).stem}-fold{fold}-seed{seed}": ["--split", split, "--fold", str(fold), "--seed", str(seed)]
            for split, seed in product(config.splits, config.seeds)
            for fold in config.folds or range(count_folds(split))
        }
        # A preset comes first, as train_model.py requires.
        plan = {name: [*(flag.replace("{run}", name) for flag in flags), *which] for name, which in plan.items()}
        missing = {name: arguments for name, arguments in plan.items() if not (folder / name / "metrics.json").exists()}
        print(f"{len(plan)} runs in {folder}, {len(missing)} to be trained", flush=True)
        if missing and (finished := [folder / name for name in plan if name not in missing]):
            check_data(finished, goes_on=True)
        trainer = LocalTrainer(kept_open=[lock]) if config.ray is None else RayTrainer(config.ray)
        # Ray itself limits how many run at a time.
        if failed := train_all(missing, folder, trainer, config.jobs if config.ray is None else len(missing)):
            reasons = (f"{folder / name}.log: the run failed: {reason}" for name, reason in failed.items())
            raise RunError("\n".join(reasons))
        check_data([folder / name for name in plan])
        result = collect_scores(folder, list(plan))
        images = result.pop("images")
        write_scores(folder / "cross_validation.csv", images)
        write_json(folder / "cross_validation.json", {"flags": list(flags)} | result)
    print(format_table(result))
    return result


def keep_flags(folder: Path, flags: Sequence[str], splits: Sequence[str]) -> None:
    """Write flags.json: the flags, and the hash of each split's CSV file.

    Raises:
        RunError: a flag is not for train_model.py here, the folder holds runs with other flags, or a split's file was
            changed since.
    """
    for flag in (flag.split("=")[0].replace("_", "-") for flag in flags):
        if flag in NOT_FOR_RUNS:
            raise RunError(f"{flag} is not for cross_validate.py{NOT_FOR_RUNS[flag]}.")
    path = folder / "flags.json"
    has_runs = any(path.is_dir() for path in folder.iterdir())  # without runs, the earlier flags may have been refused
    stored = read_json(path) if has_runs and path.exists() else {"flags": list(flags)}
    if _in_order(earlier := stored.get("flags") or ()) != _in_order(flags):
        raise RunError(f"{folder}: holds runs with other flags ({' '.join(map(str, earlier))}). Choose another --name.")
    files = {split: content_hash(Path(split).read_bytes()) for split in splits if split.endswith(".csv")}
    known = stored.get("splits") or {}
    if changed := [split for split in files if known.get(split, files[split]) != files[split]]:
        raise RunError(f"{changed[0]}: was changed after runs in {folder} were trained with it. Choose another --name.")
    write_json(path, {"flags": list(flags), "splits": known | files})


def check_data(runs: Sequence[Path], goes_on: bool = False) -> None:
    """Check that finished runs are of the same data.

    Args:
        goes_on: other runs are to be trained; then the data must still be as they were, if they are on this machine.

    Raises:
        RunError: two runs are of different data; DataError: the data were changed since.
    """
    versions = {read_split(run).get("data_sha256"): run for run in runs}
    if len(versions) > 1:
        a, b = list(versions.values())[:2]
        raise RunError(f"{a} and {b} are of different versions of the data. Choose another --name.")
    stored = read_config(runs[0])
    folders = find_folders(stored)
    if goes_on and all(folder.is_dir() for folder in folders):
        samples = collect(folders).samples
        load_split(runs[0], samples, hash_samples(samples), whole=True)


def _in_order(flags: Sequence[str]) -> list[str]:
    """Each flag with its values, sorted, so that the order of the flags does not matter."""
    return sorted(f" {' '.join(map(str, flags))}".split(" --"))


# ---------------------------------------------------------------- train


def train_all(
    runs: dict[str, list[str]], folder: Path, trainer: LocalTrainer | RayTrainer, jobs: int
) -> dict[str, str]:
    """Train, `jobs` runs at a time, and stop all trainings on Ctrl-C or a signal. Returns why runs failed."""
    failed = {}
    pool = ThreadPoolExecutor(max(jobs, 1))
    try:
        waiting = {pool.submit(trainer.train, folder / name, arguments): name for name, arguments in runs.items()}
        for job in tqdm(as_completed(waiting), total=len(waiting), desc="training", unit="run"):
            name = waiting[job]
            if problem := job.result():
                failed[name] = problem
            tqdm.write(f"{name}: {f'failed: {problem}' if problem else 'trained'}")
    except BaseException:
        try:
            trainer.stop()
        except KeyboardInterrupt:  # the second Ctrl-C
            trainer.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


if __name__ == "__main__":
    with one_clear_line("To go on, repeat the command."):
        main(*tyro.cli(CrossValidationConfig, description=__doc__, return_unknown_args=True))
