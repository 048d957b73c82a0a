"""split.json: which image of a run is in which part, with hashes, and what must therefore not be tested on."""

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
    """What `split.json` holds: how the split was made, then part, group and hashes of every image in it.

    `sha256` is that of image and masks together, `image_sha256` of the image alone; `seen_before` lists hashes of what
    the runs were trained on that this one takes weights or a decision from.
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
    """Image hashes of what a run, and those it took weights or a decision from, was trained or its epoch chosen on.

    Raises:
        RunError: its split.json is missing or damaged, or belongs to another run.
    """
    record = read_split(run)
    unseen = set() if record.get("choose_on") == "test" else {"test"}
    own = {row["image_sha256"] for row in record["images"].values() if row["part"] not in unseen}
    return own | set(record.get("seen_before", ()))


def seen_before(run: Path, samples: Sequence[Sample], groups: np.ndarray, test: Sequence[int]) -> list[str]:
    """Hashes of what the run that a training takes weights or a decision from has seen, for split.json.

    Raises:
        DataError: a test sample, or a near-copy of one, is among them; RunError: as `hashes_seen`.
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
    """Parts (indices into `samples`) and group of each image, by name, from a run's split.json.

    Raises:
        RunError: as `read_split`; DataError: an image of it is missing or changed since; all are counted.
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
    """Refuse a split.json that was left by a run of other settings.

    Args:
        record: what `split_record` makes of the settings of this run.

    Raises:
        RunError: split.json was made otherwise; the first difference is named.
    """
    stored = read_split(run)
    different = [key for key in (*stored, "seen_before") if stored.get(key) != record.get(key)]
    if different:
        raise RunError(f"{run / 'split.json'}: was made with another {different[0]}. Choose another --run.")
