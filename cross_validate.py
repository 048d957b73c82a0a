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

import numpy as np
import tyro
from pydantic import model_validator
from tqdm import tqdm

from segmentation.common.checks import AnyPath, FolderName, Seed, Text, Whole, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_output, json_holds, lock_folder, read_json, write_json
from segmentation.data.splits import count_folds
from segmentation.runs.schemas import read_metrics
from segmentation.runs.workers import LocalTrainer, RayTrainer
from segmentation.scoring.score_table import is_score_table, write_scores
from segmentation.scoring.scores import FLATTERED, LESION_GIVEN, further_scores, summarise


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
    print(table(result))
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


# ---------------------------------------------------------------- collect


def collect_scores(folder: Path, names: list[str]) -> dict:
    """Scores of every run, their means and standard deviations, and all images that were tested, together.

    Raises:
        RunError: a run's metrics.json is damaged.
    """
    runs, images = {}, []
    for name in names:
        metrics = read_metrics(folder / name / "metrics.json")
        summary = summarise(metrics["images"])
        row = {key: summary["lesions"][key] for key in ("dice", "iou", "hd95", "hd95_or_diagonal", "missed")}
        row |= {key: summary["lesions"].get(key) for key in (*LESION_GIVEN, *further_scores(metrics["images"]))}
        row |= {"all_dice": summary["all"]["dice"], "all_iou": summary["all"]["iou"]}
        row["normals_with_false_positive"] = summary.get("normals", {}).get("false_positive_rate")
        row |= {key: metrics[key] for key in ("data", "parameters", "near_copies_in_training")}
        row |= {key: metrics.get(key) for key in ("minutes", "gmac", "choose_on")}  # no minutes of a resumed run
        images += [score | {"run": name} for score in metrics["images"]]
        runs[name] = row
    not_scores = ("data", "parameters", "gmac", "near_copies_in_training", "choose_on")
    scores = [key for key in row if key not in not_scores]
    values = {key: [row[key] for row in runs.values() if row[key] is not None] for key in scores}
    spread = {
        key: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0}
        for key, v in values.items()
        if v  # a score may be undefined in every run, but not in the last alone
    }
    luck = seed_luck(images)
    result = {"mean": spread, "seed_luck": luck, "runs": runs, "further": further_scores(images)}
    return result | {"together": summarise(images), "images": images}


def seed_luck(images: Sequence[dict]) -> float | None:
    """Standard deviation of lesion Dice between runs with the same test images, pooled; None without such runs."""
    runs: dict[str, list[dict]] = {}
    for score in images:
        runs.setdefault(score["run"], []).append(score)
    same: dict[frozenset, list[float]] = {}
    for scores in runs.values():
        lesions = [score["dice"] for score in scores if score["label"] != "normal"]
        same.setdefault(frozenset(score["name"] for score in scores), []).append(float(np.mean(lesions)))
    spread = [(len(dice) - 1, np.var(dice, ddof=1)) for dice in same.values() if len(dice) > 1]
    return float(np.average([v for _, v in spread], weights=[n for n, _ in spread]) ** 0.5) if spread else None


def table(result: dict) -> str:
    """Markdown: one row a run, then mean and standard deviation, then all images together."""
    columns = {"dice": "Dice", "dice_lesion_given": "presence given", "iou": "IoU", "hd95": "HD95 px"}
    columns |= {"missed": "missed", "normals_with_false_positive": "normals with FP", "minutes": "minutes"}
    columns |= {key: key for key in result["further"]}
    lines = [f"| run | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]

    def cells(row: dict) -> str:
        return " | ".join("" if row.get(key) is None else f"{row[key]:.3g}" for key in columns)

    lines += [f"| {name} | {cells(row)} |" for name, row in result["runs"].items()]
    for statistic in ("mean", "sd"):
        lines.append(f"| {statistic} | {cells({k: v[statistic] for k, v in result['mean'].items()})} |")
    lesions = result["together"]["lesions"]
    low, high = lesions["dice_interval"]
    lines.append(
        f"\n{lesions['images']} lesion images together: Dice {lesions['dice']:.3f} (95 % {low:.3f} to {high:.3f})"
    )
    if "dice_lesion_given" in lesions:
        low, high = lesions["dice_lesion_given_interval"]
        lines.append(
            f"with lesion presence given: Dice {lesions['dice_lesion_given']:.3f} (95 % {low:.3f} to {high:.3f})"
        )
    if judged := result["together"].get("lesion_score"):
        low, high = judged["auc_interval"]
        lines.append(
            f"lesion score: AUC {judged['auc']:.3f} (95 % {low:.3f} to {high:.3f}); of the normal images, "
            f"{judged['specificity_at_95']:.0%} are below what 95 % of the lesion images reach, and "
            f"{judged['specificity_at_90']:.0%} below what 90 % reach"
        )
    if result["seed_luck"] is not None:
        lines.append(f"runs with the same test images, so seeds alone: Dice differs with sd {result['seed_luck']:.3f}")
    everything = result["together"]["all"]
    lines.append(
        f"all {everything['images']} images together: Dice {everything['dice']:.3f}, IoU {everything['iou']:.3f}, HD95 "
        f"{everything['hd95_of_diagonal']:.1%} of the image's diagonal (an empty mask on a lesion: 100 %)"
    )
    network = next(iter(result["runs"].values()))
    gmac = "" if network["gmac"] is None else f", {network['gmac']:.2f} GMAC an image"
    lines.append(f"the network: {network['parameters'] / 1e6:.2f} M parameters{gmac}")
    if near_copies := sum(row["near_copies_in_training"] for row in result["runs"].values()):
        lines.append(f"LEAKY: {near_copies} test images have a near-copy in training or validation")
    if any(row["choose_on"] == "test" for row in result["runs"].values()):
        lines.append(FLATTERED)
    return "\n".join(lines)


if __name__ == "__main__":
    with one_clear_line("The same command goes on from here."):
        main(*tyro.cli(CrossValidationConfig, description=__doc__, return_unknown_args=True))
