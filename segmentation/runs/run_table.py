"""The scores of many runs in one table: each run, their mean, and all test images together."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from segmentation.runs.schemas import read_metrics
from segmentation.scoring.scores import FLATTERED, LESION_GIVEN, further_scores, summarise


def collect_scores(folder: Path, names: list[str]) -> dict:
    """Collect the scores of every run, their means and standard deviations, and a summary of all test images together.

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
        row |= {key: metrics.get(key) for key in ("minutes", "gmac", "choose_on")}  # minutes: None if a run was resumed
        images += [score | {"run": name} for score in metrics["images"]]
        runs[name] = row
    not_scores = ("data", "parameters", "gmac", "near_copies_in_training", "choose_on")
    # A run that was finished before a score was added does not have it.
    scores = dict.fromkeys(key for row in runs.values() for key in row if key not in not_scores)
    values = {key: [row[key] for row in runs.values() if row.get(key) is not None] for key in scores}
    spread = {
        key: {"mean": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else 0.0}
        for key, v in values.items()
        if v  # a score may be undefined in every run
    }
    luck = seed_luck(images)
    result = {"mean": spread, "seed_luck": luck, "runs": runs, "further": further_scores(images)}
    return result | {"together": summarise(images), "images": images}


def seed_luck(images: Sequence[dict]) -> float | None:
    """Pooled standard deviation of lesion Dice between runs with the same test images; None without such runs."""
    runs: dict[str, list[dict]] = {}
    for score in images:
        runs.setdefault(score["run"], []).append(score)
    same: dict[frozenset, list[float]] = {}
    for scores in runs.values():
        lesions = [score["dice"] for score in scores if score["label"] != "normal"]
        same.setdefault(frozenset(score["name"] for score in scores), []).append(float(np.mean(lesions)))
    spread = [(len(dice) - 1, np.var(dice, ddof=1)) for dice in same.values() if len(dice) > 1]
    return float(np.average([v for _, v in spread], weights=[n for n, _ in spread]) ** 0.5) if spread else None


def format_table(result: dict) -> str:
    """Markdown: one row per run, then mean and standard deviation, then sentences on all images together."""
    columns = {"dice": "Dice", "dice_lesion_given": "presence given", "iou": "IoU"}
    columns |= {"hd95_or_diagonal": "HD95 px", "missed": "missed"}  # without a mask, HD95 is the image's diagonal
    columns |= {"normals_with_false_positive": "normals with FP", "minutes": "minutes"}
    columns |= {key: key for key in result["further"]}
    rows = dict(result["runs"])
    for statistic in ("mean", "sd"):
        rows[statistic] = {key: values[statistic] for key, values in result["mean"].items()}
    lines = [f"| run | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for name, row in rows.items():
        cells = ("" if row.get(key) is None else f"{row[key]:.3g}" for key in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_describe_together(result["together"], result["seed_luck"]), *_describe_runs(rows)])


def _describe_together(together: dict, seed_luck: float | None) -> Iterator[str]:
    lesions, everything = together["lesions"], together["all"]

    def score(key: str) -> str:
        low, high = lesions[f"{key}_interval"]
        return f"Dice {lesions[key]:.3f} (95 % {low:.3f} to {high:.3f})"

    yield f"{lesions['images']} predictions of lesion images together: {score('dice')}"
    if "dice_lesion_given" in lesions:
        yield f"with lesion presence given: {score('dice_lesion_given')}"
    if judged := together.get("lesion_score"):
        low, high = judged["auc_interval"]
        yield (
            f"lesion score: AUC {judged['auc']:.3f} (95 % {low:.3f} to {high:.3f}); specificity "
            f"{judged['specificity_at_95']:.0%} at a sensitivity of 95 %, {judged['specificity_at_90']:.0%} at 90 %"
        )
    if seed_luck is not None:
        yield f"runs with the same test images but other seeds: standard deviation of Dice {seed_luck:.3f}"
    yield (
        f"all {everything['images']} predictions together: Dice {everything['dice']:.3f}, IoU {everything['iou']:.3f}, "
        f"HD95 {everything['hd95_of_diagonal']:.1%} of the image's diagonal (an empty mask on a lesion: 100 %)"
    )


def _describe_runs(rows: dict[str, dict]) -> Iterator[str]:
    runs = [row for row in rows.values() if "parameters" in row]
    gmac = "" if runs[0]["gmac"] is None else f", {runs[0]['gmac']:.2f} GMAC an image"
    yield f"the network: {runs[0]['parameters'] / 1e6:.2f} M parameters{gmac}"
    if near_copies := sum(row["near_copies_in_training"] for row in runs):
        yield f"LEAKY: {near_copies} predictions are of images with a near-copy in training or validation"
    if any(row["choose_on"] == "test" for row in runs):
        yield FLATTERED
