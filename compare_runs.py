"""Is one run better than another? A paired test over the images that both were tested on.

python compare_runs.py models/a models/b                                    # two runs, or two of cross_validate.py
python compare_runs.py results/busi_grouped5_scratch.json results/busi_grouped5.json  # what is in docs/
"""

from pathlib import Path

import quiet  # noqa: F401  # isort: skip

import tyro

import metrics
from errors import one_clear_line
from files import RunError, read_json


def main(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], key: str = "dice") -> None:
    """Compare two finished runs image by image.

    Args:
        a: a run's folder, or that of cross_validate.py, or a file of results/.
        b: another of the same kind, tested on the same images.
        key: the score to compare: dice, iou, precision, recall, hd95, assd, dice_known or iou_known.
    """
    if key not in (allowed := metrics.SCORES + metrics.KNOWN):
        raise RunError(f"--key must be one of {', '.join(allowed)}, got {key!r}.")
    scores = [read_json(scores_file(run)).get("images") for run in (a, b)]
    try:
        result = metrics.compare_runs(*scores, key)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{a} and {b} cannot be compared: {error}") from None
    low, high = result["interval"]
    print(f"{key} on {result['images']} lesion images: {a} {result['a']:.4f}, {b} {result['b']:.4f}")
    print(f"difference {result['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} (groups resampled)")
    print(f"Wilcoxon signed-rank p = {result['wilcoxon_p']:.3g} (as if no two images were alike)")
    if normals := result.get("normals"):
        by, low, high = (100 * share for share in (normals["difference"], *normals["interval"]))
        print(f"false positive on {normals['images']} normals: {a} {normals['a']:.0%}, {b} {normals['b']:.0%}")
        print(f"difference {by:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")
    if together := result.get("all"):
        low, high = together["interval"]
        print(f"{key} on all {together['images']} images: {a} {together['a']:.4f}, {b} {together['b']:.4f}")
        print(f"difference {together['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")


def scores_file(run: Path) -> Path:
    """The file that holds the scores of every image."""
    together = run / "cross_validation.json"
    return run if run.is_file() else together if together.exists() else run / "metrics.json"


if __name__ == "__main__":
    with one_clear_line():
        tyro.cli(main, description=__doc__)
