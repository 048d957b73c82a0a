"""Train one configuration on every fold and seed, one process a run, and put the scores into one table.

python cross_validate.py --data-dir data/                                # 5 grouped folds of the default
python cross_validate.py paper --name p1_paper --splits p1-1 p1-2 p1-3 --normals none
python cross_validate.py --seeds 0 1 2 --ray auto                        # the same on a Ray cluster

A preset and every flag that is not listed below go to train_model.py; {run} in it is the run's name, as in
--decision-from models/cross_validation/{run} --choose-on nothing. Stopped, it goes on where it was: the same
command again.
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
from segmentation.common.files import check_output, json_holds, lock_folder, read_json, write_json
from segmentation.data.splits import count_folds
from segmentation.runs.run_table import collect_scores, format_table
from segmentation.runs.workers import LocalTrainer, RayTrainer
from segmentation.scoring.score_table import is_score_table, write_scores


@checked
class CrossValidationConfig:
    """Which runs to make."""

    name: FolderName = "cross_validation"  # the runs are folders in models/NAME/
    splits: tuple[Text, ...] = ("grouped-cv",)
    folds: tuple[Whole[0, 100], ...] = ()  # of each split; without it, all
    seeds: tuple[Seed, ...] = (0,)  # every fold is trained once for each
    jobs: Whole[1, 1000] = 1  # runs at a time; one fills a CPU, and a GPU holds a few
    models_dir: AnyPath = Path("models")  # where the folder is made
    ray: Text | None = None  # address of a Ray cluster ("auto", "local", or HOST:PORT) to train on

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse values that cannot work with each other."""
        if not self.splits or not self.seeds:
            raise ValueError("--splits and --seeds must name one or more")
        for split in self.splits:
            folds = count_folds(split)
            if folds is None and not self.folds:
                raise ValueError(
                    f"--splits {split} needs --folds: only the data says how many there are: --folds 0 1 2"
                )
            if folds is not None and not set(self.folds) <= set(range(folds)):
                raise ValueError(f"--folds of split {split} are 0 to {folds - 1}, got {self.folds}")
        return self


def main(config: CrossValidationConfig, flags: Sequence[str]) -> dict:
    """Make the runs that are not there yet, then the table.

    Args:
        config: which runs.
        flags: for train_model.py, the same for every run.

    Returns:
        What cross_validation.json holds; the scores of every image are in cross_validation.csv.

    Raises:
        RunError: the folder holds runs of other flags, or a run failed; the others are finished first.
    """
    folder = config.models_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    with lock_folder(folder, "cross-validation, or a training that it started,") as lock:
        check_output(folder / "cross_validation.csv", is_score_table)
        check_output(folder / "cross_validation.json", json_holds("mean", "runs", "together"))
        keep_flags(folder, flags)
        plan = {
            f"{Path(split).stem}-fold{fold}-seed{seed}": ["--split", split, "--fold", str(fold), "--seed", str(seed)]
            for split, seed in product(config.splits, config.seeds)
            for fold in config.folds or range(count_folds(split))
        }
        # The preset, if there is one, comes first, as train_model.py wants it.
        plan = {name: [*(flag.replace("{run}", name) for flag in flags), *which] for name, which in plan.items()}
        missing = {name: arguments for name, arguments in plan.items() if not (folder / name / "metrics.json").exists()}
        print(f"{len(plan)} runs in {folder}, {len(missing)} to be made", flush=True)
        trainer = LocalTrainer(kept_open=[lock]) if config.ray is None else RayTrainer(config.ray)
        # Ray knows how many fit.
        if failed := train_all(missing, folder, trainer, config.jobs if config.ray is None else len(missing)):
            reasons = (f"{folder / name}.log: the run failed: {reason}" for name, reason in failed.items())
            raise RunError("\n".join(reasons))
        result = collect_scores(folder, list(plan))
        images = result.pop("images")
        write_scores(folder / "cross_validation.csv", images)
        write_json(folder / "cross_validation.json", {"flags": list(flags)} | result)
    print(format_table(result))
    return result


def keep_flags(folder: Path, flags: Sequence[str]) -> None:
    """Write flags.json.

    Raises:
        RunError: the runs that are there were made with other flags.
    """
    path = folder / "flags.json"
    begun = any(path.is_dir() for path in folder.iterdir())  # if not, the earlier flags may have been refused
    if begun and path.exists() and _in_order(earlier := read_json(path).get("flags") or ()) != _in_order(flags):
        raise RunError(f"{folder}: holds runs with other flags ({' '.join(map(str, earlier))}). Choose another --name.")
    write_json(path, {"flags": list(flags)})


def _in_order(flags: Sequence[str]) -> list[str]:
    """Each flag with its values, sorted: the same command in another order is the same."""
    return sorted(f" {' '.join(map(str, flags))}".split(" --"))


# ---------------------------------------------------------------- train


def train_all(
    runs: dict[str, list[str]], folder: Path, trainer: LocalTrainer | RayTrainer, jobs: int
) -> dict[str, str]:
    """Train, `jobs` at a time. Returns why runs failed; stopped itself, it stops those that run and begins no other."""
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
    with one_clear_line("The same command goes on from here."):
        main(*tyro.cli(CrossValidationConfig, description=__doc__, return_unknown_args=True))
