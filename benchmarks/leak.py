"""How much does a random split of BUSI flatter? Five random folds against five grouped ones, image by image.

    python cross_validate.py paper --name leak_grouped --splits grouped-cv SETTINGS
    python cross_validate.py paper --name leak_random --splits random-cv SETTINGS
    python benchmarks/leak.py models/leak_grouped models/leak_random

On either kind of fold every image is tested once, by a network trained on as many others. On random folds most images
that have near-copies have one in training. Images that have none are the control: their Dice should be the same on
both. Any recipe can be compared. The table in docs/results.md is of a small network from random weights, whose ten
trainings take 25 CPU minutes; there SETTINGS are

    --data-dir FOLDER --image-size 64 --base-filters 8 --epochs 30 --learning-rate 2e-3 --choose-on nothing
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

from segmentation.common.errors import RunError, one_clear_line
from segmentation.scoring.score_table import find_scores
from segmentation.scoring.scores import compare_runs


def main(grouped: tyro.conf.Positional[Path], random: tyro.conf.Positional[Path], key: str = "dice") -> None:
    """Print a Markdown table.

    Args:
        grouped: folder of cross_validate.py, or its file in results/, of --splits grouped-cv.
        random: the same of --splits random-cv.
        key: the score to compare, as in compare_runs.py.
    """
    try:
        print(table(find_scores(grouped), find_scores(random), key))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{grouped} and {random} cannot be compared: {error}") from None


def table(grouped: list[dict], random: list[dict], key: str) -> str:
    """Markdown: all lesion images, then those that leak on random folds, then those that cannot.

    Raises:
        ValueError: the two do not hold the same images, or too few of a row.
    """
    group_of, names, folds = {}, defaultdict(set), defaultdict(set)  # names and random folds of each group
    for score in random:
        group = group_of[score["name"]] = score["group"]
        names[group].add(score["name"])
        folds[group].add(re.sub(r"-seed\d+$", "", score["run"]))
    if {score["name"] for score in grouped} != set(group_of):
        raise ValueError("they do not hold the same images")
    rows = {
        "all": lambda group: True,
        # While one fold tests an image of the group, the images that another fold tests are trained on.
        "with a near-copy in training or validation": lambda group: len(folds[group]) > 1,
        "with no near-copy in BUSI": lambda group: len(names[group]) == 1,
    }
    lines = [f"| lesion images | n | {key}, grouped folds | {key}, random folds (leak) | difference (95 %) |"]
    lines.append("| --- " * 5 + "|")
    for title, chosen in rows.items():
        # Without their folds, which differ: an image is compared with itself wherever it was tested.
        a, b = ([{**s, "run": ""} for s in side if chosen(group_of[s["name"]])] for side in (grouped, random))
        result = compare_runs(a, b, key)
        low, high = result["interval"]
        means = f"{result['images']} | {result['a']:.3f} | {result['b']:.3f}"
        lines.append(f"| {title} | {means} | {result['difference']:+.3f} ({low:+.3f} to {high:+.3f}) |")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_clear_line():
        tyro.cli(main, description=__doc__)
