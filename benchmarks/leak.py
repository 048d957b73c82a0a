"""How much does a random split of BUSI flatter? Five random folds against five grouped ones, image by image.

    python cross_validate.py --name grouped5 --data-dir FOLDER
    python cross_validate.py --name random5 --splits random-cv --data-dir FOLDER
    python benchmarks/leak.py models/grouped5 models/random5

Both test every image once, by a network trained on as many others. On random folds most images that have near-copies
have one in training or validation; images that have none are the control.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent.parent))

from compare_runs import scores_file
from errors import one_clear_line
from files import read_json
from metrics import compare_runs


def main(grouped: tyro.conf.Positional[Path], random: tyro.conf.Positional[Path], key: str = "dice") -> None:
    """Print a Markdown table.

    Args:
        grouped: folder of cross_validate.py, or its file in results/, of --splits grouped-cv.
        random: the same of --splits random-cv.
        key: the score to compare.
    """
    sides = [read_json(scores_file(path))["images"] for path in (grouped, random)]
    names, folds = defaultdict(set), defaultdict(set)  # of each group of near-copies
    for s in sides[1]:
        names[s["group"]].add(s["name"])
        folds[s["group"]].add(re.sub(r"-seed\d+$", "", s["run"]))
    rows = {
        "all": lambda s: True,
        # One that another fold tests was in this one's training or validation part.
        "with a near-copy in training or validation": lambda s: len(folds[s["group"]]) > 1,
        "with no near-copy in BUSI": lambda s: len(names[s["group"]]) == 1,
    }
    print(f"| lesion images | n | {key}, grouped folds | {key}, random folds (leak) | difference (95 %) |")
    print("| --- | --- | --- | --- | --- |")
    for title, chosen in rows.items():
        # Without their folds, which differ: an image is compared with itself wherever it was tested.
        a, b = ([{**s, "run": ""} for s in side if chosen(s)] for side in sides)
        result = compare_runs(a, b, key)
        low, high = result["interval"]
        print(
            f"| {title} | {result['images']} | {result['a']:.3f} | {result['b']:.3f} "
            f"| {result['difference']:+.3f} ({low:+.3f} to {high:+.3f}) |"
        )


if __name__ == "__main__":
    with one_clear_line():
        tyro.cli(main, description=__doc__)
