"""split.json: the set and the hashes of every image of a run, and checks that no test image was trained on."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from dataset import DataError, Sample
from segmentation.common.errors import RunError
from segmentation.common.files import file_hash
from segmentation.data.splits import PARTS, Division
from segmentation.runs.schemas import read_split


def split_record(
    samples: Sequence[Sample],
    groups: np.ndarray,
    parts: dict[str, list[int]],
    division: Division,
    seen: Sequence[str] = (),
) -> dict:
    """The content of split.json: how the split was made, then part, group and hashes of every image.

    `sha256` is the hash of image and masks together, `image_sha256` of the image alone; `seen_before` lists the hashes
    of the images on which earlier runs were trained, if this run uses their weights or decision.
    """
    images = {
        samples[i].name: {
            "part": name,
            "group": int(groups[i]),
            "sha256": file_hash(samples[i].image, *samples[i].masks),
            "image_sha256": file_hash(samples[i].image),
        }
        for name, members in parts.items()
        for i in members
    }
    return asdict(division) | ({"seen_before": list(seen)} if seen else {}) | {"images": images}


def hashes_seen(run: Path) -> set[str]:
    """Hashes of the images that a run was trained or chosen on, and so were the runs whose weights or decision it uses.

    Raises:
        RunError: its split.json is missing or damaged, or belongs to another run.
    """
    record = read_split(run)
    unseen = set() if record.get("choose_on") == "test" else {"test"}
    own = {row["image_sha256"] for row in record["images"].values() if row["part"] not in unseen}
    return own | set(record.get("seen_before", ()))


def seen_before(run: Path, samples: Sequence[Sample], groups: np.ndarray, test: Sequence[int]) -> list[str]:
    """`hashes_seen` of a run whose weights or decision a training uses, for its split.json.

    Raises:
        DataError: a test sample, or a near-copy of one, is among these images; RunError: as `hashes_seen`.
    """
    hashes = hashes_seen(run)
    seen_groups = {group for sample, group in zip(samples, groups, strict=True) if file_hash(sample.image) in hashes}
    if seen := [samples[i].name for i in test if groups[i] in seen_groups]:
        raise DataError(
            f"{run}: was trained on {len(seen)} of the {len(test)} test images or on near-copies of them, {seen[0]!r} "
            "first. Take other images, another --start-from (imagenet), or its --split and --fold, with the seed in "
            "its split.json as --split-seed."
        )
    return sorted(hashes)


def load_split(run: Path, samples: Sequence[Sample]) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Read the parts (indices into `samples`) and the group of each image name from a run's split.json.

    Raises:
        RunError: as `read_split`; DataError: images are missing or were changed; the message has their numbers.
    """
    rows = read_split(run)["images"]
    index = {s.name: i for i, s in enumerate(samples)}
    missing = [name for name in rows if name not in index]
    there = {name: samples[index[name]] for name in rows if name in index}
    changed = [name for name, s in there.items() if file_hash(s.image, *s.masks) != rows[name]["sha256"]]
    if missing or changed:
        first = (missing or changed)[0]
        raise DataError(
            f"{run / 'split.json'}: was made for another version of the data: {len(missing)} images are missing and "
            f"{len(changed)} changed, {first!r} first. Give --data-dir the data it was made for, or start a new run."
        )
    parts = {part: [index[name] for name, row in rows.items() if row["part"] == part] for part in PARTS}
    return parts, {name: row["group"] for name, row in rows.items()}


def check_same_split(run: Path, record: dict) -> None:
    """Check that a run's split.json agrees with the settings.

    Args:
        record: from `split_record`.

    Raises:
        RunError: split.json differs; the message names the first difference.
    """
    stored = read_split(run)
    different = [key for key in (*stored, "seen_before") if stored.get(key) != record.get(key)]
    if different:
        raise RunError(f"{run / 'split.json'}: was made with another {different[0]}. Choose another --run.")
