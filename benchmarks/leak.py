"""How much does a random split of BUSI flatter? The same small recipe on random and on grouped splits.

    python benchmarks/leak.py --data-dir data

Trains seeds x 2 networks in models/leak/ (about 2 minutes each on 2 cores; finished ones are kept) and
prints a Markdown table. Intervals resample near-duplicate groups.

The grouped split deals out the largest groups first, so some of them are tested with every seed, and they are not
the easiest; the rows of images with near-copies leave those groups out, on both splits.
"""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from metrics import bootstrap_interval

RECIPE = ["--encoder", "none", "--image-size", "64", "--base-filters", "8", "--epochs", "30", "--patience", "30"]
RECIPE += ["--learning-rate", "2e-3", "--threshold", "0.5"]


@dataclass(frozen=True)
class Config:
    """What to run."""

    data_dir: Path  # folder with BUSI
    seeds: int = 3  # networks a split; the split is drawn anew with each seed
    models_dir: Path = Path("models/leak")  # where the runs are kept


def scores_of(config: Config, split: str, seed: int) -> list[dict]:
    """Per-image test scores of one run, which is trained if it is not there yet."""
    name = f"{split}-seed{seed}"
    run = config.models_dir / name
    if not (run / "metrics.json").exists():
        command = [sys.executable, str(REPOSITORY / "train_model.py"), "--data-dir", str(config.data_dir), *RECIPE]
        command += ["--split", split, "--seed", str(seed), "--models-dir", str(config.models_dir), "--run", name]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"error: the run {name} failed; what it said is above")
    parts = json.loads((run / "split.json").read_text())["images"]
    seen = {row["group"] for row in parts.values() if row["part"] != "test"}
    images = json.loads((run / "metrics.json").read_text())["images"]
    size = Counter(row["group"] for row in parts.values())
    about = [{**s, "seen": s["group"] in seen, "copied": size[s["group"]] > 1} for s in images]
    return [s for s in about if s["label"] != "normal"]


def row(title: str, scores: list[dict], seed_means: list[float] | None = None) -> str:
    """One line of the table."""
    low, high = bootstrap_interval([s["dice"] for s in scores], [s["group"] for s in scores])
    spread = f"{np.std(seed_means, ddof=1):.3f}" if seed_means and len(seed_means) > 1 else ""
    mean = np.mean([s["dice"] for s in scores])
    return f"| {title} | {len(scores)} | {mean:.3f} | {low:.3f} to {high:.3f} | {spread} |"


def main(config: Config) -> None:
    """Train what is missing and print the table."""
    runs = {split: [scores_of(config, split, s) for s in range(config.seeds)] for split in ("grouped", "all-random")}
    lines = [
        "| lesion images of the test part | scored | Dice | 95 % interval | sd over seeds |",
        "|---|---|---|---|---|",
    ]
    for split, title in (("grouped", "grouped split (default)"), ("all-random", "random split (leaks)")):
        pooled = [s for scores in runs[split] for s in scores]
        lines.append(row(title, pooled, [float(np.mean([s["dice"] for s in scores])) for scores in runs[split]]))
    grouped, random = ([s for scores in runs[split] for s in scores] for split in ("grouped", "all-random"))
    # Images that have copies are not like the others, so they are compared with themselves.
    always = set.intersection(*({s["group"] for s in scores if s["copied"]} for scores in runs["grouped"]))
    held = [s for s in grouped if s["group"] in always]
    grouped, random = ([s for s in scores if s["group"] not in always] for scores in (grouped, random))
    lines.append(row("groups that every seed tests, left out below: grouped", held))
    lines.append(row("images with near-copies: grouped, none seen in training", [s for s in grouped if s["copied"]]))
    lines.append(row("images with near-copies: random, one seen in training", [s for s in random if s["seen"]]))
    lines.append(row("images without: grouped", [s for s in grouped if not s["copied"]]))
    lines.append(row("images without: random", [s for s in random if not s["copied"]]))
    print("\n".join(lines))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
