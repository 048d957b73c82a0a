"""Is one run better than another? A paired test over the images on which both were tested.

python compare_runs.py models/a models/b    # two runs, or two of cross_validate.py
python compare_runs.py results/busi_grouped5_scratch.csv results/busi_grouped5.csv    # of docs/results.md
"""

from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

import tyro

from segmentation.common.errors import RunError, one_clear_line
from segmentation.scoring.score_table import find_scores
from segmentation.scoring.scores import LESION_GIVEN, SCORES, compare_runs, further_scores


def main(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], key: str = "dice") -> None:
    """Compare two finished runs image by image.

    Args:
        a: folder of a run or of cross_validate.py, or a file: a CSV of results/ or evaluate_model.py, or a JSON file.
        b: another of these, tested on the same images.
        key: the score to compare: dice, iou, precision, recall, hd95, assd, dice_lesion_given, iou_lesion_given, or a
            further score of the runs.
    """
    scores = [find_scores(run) for run in (a, b)]
    if key not in (allowed := [*SCORES, *LESION_GIVEN, *further_scores(scores[0])]):
        raise RunError(f"--key must be one of {', '.join(allowed)}, got {key!r}.")
    try:
        result = compare_runs(*scores, key)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{a} and {b} cannot be compared: {error}") from None
    low, high = result["interval"]
    print(f"{key} on {result['images']} lesion images: {a} {result['a']:.4f}, {b} {result['b']:.4f}")
    print(f"difference {result['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} (groups resampled)")
    print(f"Wilcoxon signed-rank p = {result['wilcoxon_p']:.3g} (treats near-copies as independent images)")
    if normals := result.get("normals"):
        by, low, high = (100 * share for share in (normals["difference"], *normals["interval"]))
        print(f"false positive on {normals['images']} normal images: {a} {normals['a']:.0%}, {b} {normals['b']:.0%}")
        print(f"difference {by:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}")
    if together := result.get("all"):
        low, high = together["interval"]
        print(f"{key} on all {together['images']} images: {a} {together['a']:.4f}, {b} {together['b']:.4f}")
        print(f"difference {together['difference']:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")


if __name__ == "__main__":
    with one_clear_line():
        tyro.cli(main, description=__doc__)
