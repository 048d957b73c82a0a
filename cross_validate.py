"""Train one configuration on every fold and seed, one process a run, and put the scores into one table.

python cross_validate.py --data-dir data/                                # 5 grouped folds of the default
python cross_validate.py --name p1 --splits p1-1 p1-2 p1-3 --normals none
python cross_validate.py --seeds 0 1 2 --ray auto                        # the same on a Ray cluster

Every flag that is not listed below goes to train_model.py; {run} in it is the run's name, as in
--decision-from models/cross_validation/{run} --choose-on nothing. Stopped, it goes on where it was: the same
command again.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import quiet  # noqa: F401  # isort: skip

import numpy as np
import tyro
from tqdm import tqdm

from errors import one_clear_line
from files import RunError, read_json, write_json
from metrics import FLATTERED, KNOWN, summarise
from splits import FOLDS, SplitKind

HERE = Path(__file__).parent
RESULTS = ("metrics.json", "history.csv", "split.json", "decision.json", "config.json", "best.keras")


@dataclass(frozen=True)
class Config:
    """Which runs to make."""

    name: str = "cross_validation"  # the runs are folders in models/NAME/
    splits: tuple[SplitKind, ...] = ("grouped-cv",)
    folds: tuple[int, ...] = ()  # of each split; without it, all
    seeds: tuple[int, ...] = (0,)  # every fold is trained once for each
    jobs: int = 1  # runs at a time; one fills a CPU, and a GPU holds a few
    models_dir: Path = Path("models")  # where the folder is made
    ray: str | None = None  # address of a Ray cluster ("auto", "local", or HOST:PORT) to train on

    def __post_init__(self):
        """Refuse values that cannot work."""
        if self.jobs < 1 or not self.splits or not self.seeds:
            raise ValueError("--jobs must be at least 1, --splits and --seeds must name one or more")
        for split in self.splits:
            if not set(self.folds) <= set(range(last := FOLDS.get(split, 1))):
                raise ValueError(f"--folds of split {split} are 0 to {last - 1}, got {self.folds}")
        if Path(self.name).name != self.name or self.name in ("", ".", ".."):
            raise ValueError(f"--name is the name of a folder in models/, got {self.name!r}")


def main(config: Config, flags: Sequence[str]) -> dict:
    """Make the runs that are not there yet, then the table.

    Args:
        config: which runs.
        flags: for train_model.py, the same for every run.

    Returns:
        What cross_validation.json holds.

    Raises:
        RunError: the folder holds runs of other flags, or a run failed; the others are finished first.
    """
    folder = config.models_dir / config.name
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "flags.json"
    begun = any(path.is_dir() for path in folder.iterdir())  # if not, the earlier flags may have been refused
    if begun and about.exists() and _in_order(earlier := read_json(about).get("flags") or ()) != _in_order(flags):
        raise RunError(f"{folder}: holds runs with other flags ({' '.join(map(str, earlier))}). Choose another --name.")
    write_json(about, {"flags": list(flags)})

    plan = {
        f"{split}-fold{fold}-seed{seed}": ["--split", split, "--fold", str(fold), "--seed", str(seed)]
        for split, seed in product(config.splits, config.seeds)
        for fold in config.folds or range(FOLDS.get(split, 1))
    }
    plan = {name: [*which, *(flag.replace("{run}", name) for flag in flags)] for name, which in plan.items()}
    missing = {name: arguments for name, arguments in plan.items() if not (folder / name / "metrics.json").exists()}
    print(f"{len(plan)} runs in {folder}, {len(missing)} to be made")
    failed = train_all(missing, folder, config)
    if failed:
        raise RunError("\n".join(f"{folder / name}.log: the run failed: {reason}" for name, reason in failed.items()))
    result = collect(folder, list(plan))
    write_json(folder / "cross_validation.json", {"flags": list(flags)} | result)
    print(table(result))
    return result


def _in_order(flags: Sequence[str]) -> list[str]:
    """Each flag with its values, sorted: the same command in another order is the same."""
    return sorted(f" {' '.join(map(str, flags))}".split(" --"))


# ---------------------------------------------------------------- train


def train_all(runs: dict[str, list[str]], folder: Path, config: Config) -> dict[str, str]:
    """Train, some at a time. Returns the last line of each run that failed."""
    train: Callable[[str, list[str]], str] = train_here if config.ray is None else ray_trainer(config.ray)
    failed = {}
    jobs = config.jobs if config.ray is None else len(runs)  # Ray knows how many fit
    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        waiting = {pool.submit(train, folder / name, arguments): name for name, arguments in runs.items()}
        for job in tqdm(as_completed(waiting), total=len(waiting), desc="training", unit="run"):
            if problem := job.result():
                failed[waiting[job]] = problem
    return failed


def train_here(run: Path, arguments: list[str]) -> str:
    """One training in a process of its own, with its output in a log beside the run; why it failed, or ""."""
    command = [sys.executable, str(HERE / "train_model.py"), "--models-dir", str(run.parent), "--run", run.name]
    log = run.with_name(f"{run.name}.log")
    with log.open("w") as output:
        process = subprocess.run([*command, *arguments], stdout=output, stderr=subprocess.STDOUT, check=False)
    if not process.returncode:
        return ""
    lines = [text for line in log.read_text(errors="replace").splitlines() if (text := line.strip("╭╮╰╯│─ "))]
    # Refused settings (2) are told in a box of several lines, anything else in the last one.
    return ("; ".join(lines)[:300] if process.returncode == 2 else "".join(lines[-1:])[-300:]) or "no output"


def ray_trainer(address: str) -> Callable[[Path, list[str]], str]:
    """As `train_here`, on any machine of a Ray cluster; the run's files come back.

    The scripts travel with the task; --data-dir must be a path that every machine has.
    """
    try:
        import ray
    except ImportError:
        raise RunError("--ray needs Ray: pip install ray") from None
    # Without data, models and git history, which may be large.
    environment = {"working_dir": str(HERE), "excludes": ["data/**/*.png", "models/", ".git/", "docs/", "*.zip"]}
    try:
        ray.init(None if address == "local" else address, runtime_env=environment, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise RunError(f"--ray {address}: no cluster there ({error}).") from None

    @ray.remote(num_cpus=1, max_retries=2)
    def train_there(name: str, arguments: list[str]) -> tuple[str, str, dict[str, bytes]]:
        import tempfile

        import cross_validate

        with tempfile.TemporaryDirectory() as temporary:
            run = Path(temporary) / name
            problem = cross_validate.train_here(run, arguments)
            files = {file: (run / file).read_bytes() for file in RESULTS if (run / file).exists()}
            return problem, run.with_name(f"{name}.log").read_text(errors="replace"), files

    def train(run: Path, arguments: list[str]) -> str:
        problem, log, files = ray.get(train_there.remote(run.name, arguments))
        run.with_name(f"{run.name}.log").write_text(log)
        run.mkdir(exist_ok=True)
        for file in sorted(files, key=lambda name: name == "metrics.json"):  # last: a run that has it is finished
            (run / file).write_bytes(files[file])
        return problem

    return train


# ---------------------------------------------------------------- collect


def collect(folder: Path, names: list[str]) -> dict:
    """Scores of every run, their means and standard deviations, and all images that were tested, together."""
    runs, images = {}, []
    for name in names:
        metrics = read_json(folder / name / "metrics.json")
        try:
            summary = metrics["summary"]
            row = {key: summary["lesions"][key] for key in ("dice", "iou", "hd95", "hd95_or_diagonal", "missed")}
            row |= {key: summary["lesions"].get(key) for key in KNOWN}  # not of old runs
            row |= {"all_dice": summary["all"]["dice"], "all_iou": summary["all"]["iou"]}
            row["normals_with_false_positive"] = summary.get("normals", {}).get("false_positive_rate")
            row |= {key: metrics[key] for key in ("data", "minutes", "parameters", "twins_in_training")}
            row |= {"choose_on": metrics.get("choose_on", "validation"), "gmac": metrics.get("gmac")}  # not of old runs
            images += [{**score, "run": name} for score in metrics["images"]]
        except (KeyError, TypeError) as error:
            raise RunError(f"{folder / name / 'metrics.json'}: is damaged ({error}). Remove the folder.") from None
        runs[name] = row
    about = ("data", "parameters", "gmac", "twins_in_training", "choose_on")
    scores = [key for key in row if key not in about]
    values = {key: [row[key] for row in runs.values() if row[key] is not None] for key in scores}
    spread = {
        key: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0}
        for key, v in values.items()
        if v  # a score may be undefined in every run, but not in the last alone
    }
    luck = seed_luck(images)
    return {"mean": spread, "seed_luck": luck, "runs": runs, "together": summarise(images), "images": images}


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
    keys = ("dice", "dice_known", "iou", "hd95", "missed", "normals_with_false_positive", "minutes")
    lines = ["| run | Dice | lesion known | IoU | HD95 px | missed | normals with FP | minutes |", "|---" * 8 + "|"]

    def cells(row: dict) -> str:
        return " | ".join("" if row.get(key) is None else f"{row[key]:.3g}" for key in keys)

    lines += [f"| {name} | {cells(row)} |" for name, row in result["runs"].items()]
    for statistic in ("mean", "sd"):
        lines.append(f"| {statistic} | {cells({k: v[statistic] for k, v in result['mean'].items()})} |")
    lesions = result["together"]["lesions"]
    low, high = lesions["dice_interval"]
    lines.append(
        f"\n{lesions['images']} lesion images together: Dice {lesions['dice']:.3f} (95 % {low:.3f} to {high:.3f})"
    )
    if "dice_known" in lesions:
        low, high = lesions["dice_known_interval"]
        lines.append(f"known to hold a lesion: Dice {lesions['dice_known']:.3f} (95 % {low:.3f} to {high:.3f})")
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
    if twins := sum(row["twins_in_training"] for row in result["runs"].values()):
        lines.append(f"LEAKY: {twins} test images have a near-copy in training or validation")
    if any(row["choose_on"] == "test" for row in result["runs"].values()):
        lines.append(FLATTERED)
    return "\n".join(lines)


if __name__ == "__main__":
    settings, others = tyro.cli(Config, description=__doc__, return_unknown_args=True)
    with one_clear_line():
        try:
            main(settings, others)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command goes on from here.")
