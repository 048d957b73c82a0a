"""Choose the images of data/sample: whole patients of BUS-BRA's fold 1, which no shipped network has seen.

python benchmarks/choose_sample.py ../shared/data/BUS-BRA chosen/
python import_data.py chosen/ --output data/sample
"""

import csv
import random
import shutil
import sys
from collections import defaultdict
from pathlib import Path

IMAGES = 160
FOLD = "1"


def main(source: Path, target: Path) -> None:
    """Copy images and masks of patients in random order until there are `IMAGES`."""
    with (source / "meta.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["fold5"] == FOLD]
    patients = defaultdict(list)
    for row in rows:
        patients[row["patient"]].append(row)
    order = sorted(patients)
    random.Random(0).shuffle(order)
    chosen = []
    for patient in order:
        if len(chosen) + len(patients[patient]) <= IMAGES:
            chosen += patients[patient]
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True)
        for row in chosen:
            shutil.copy(source / part / row["image"], target / part)
    with (target / "meta.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(("image", "patient", "class"))
        chosen.sort(key=lambda row: row["image"])
        table.writerows((row["image"], row["patient"], row["class"]) for row in chosen)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
