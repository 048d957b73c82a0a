"""split.json: the set and the hashes of every image of a run, and checks that no test image was trained on.

A picture is known by its decoded grey pixels: saved again, in another format too, it is still the same.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import DataError, Sample, hash_pixels, read_each
from segmentation.common.errors import RunError
from segmentation.common.files import content_hash
from segmentation.data.splits import PARTS, Division
from segmentation.runs.schemas import read_split


class Hashes(NamedTuple):
    """Hashes of the pixels, at the original size."""

    image: str
    both: str  # of image and merged mask


def hash_picture(image: np.ndarray, mask: np.ndarray) -> Hashes:
    """What identifies an image and its merged mask, (H, W) uint8."""
    return Hashes(hash_pixels(image), hash_pixels(image, mask))


def hash_samples(samples: Sequence[Sample]) -> list[Hashes]:
    """Read the pictures of all samples, one after the other, for their hashes."""
    return [hash_picture(*picture) for picture in read_each(samples, bar="comparing")]


def _hash_data(samples: Sequence[Sample], hashes: Sequence[Hashes]) -> str:
    """Hash of all that a split is made from: pictures, names, classes, patients, given parts and hospitals."""
    rows = [
        (s.name, s.label, s.patient, s.split or s.fold, h.both) + (s.folder,) * bool(s.folder)
        for s, h in zip(samples, hashes, strict=True)
    ]
    return content_hash(repr(rows).encode())


def split_record(
    samples: Sequence[Sample],
    hashes: Sequence[Hashes],
    groups: np.ndarray,
    parts: dict[str, list[int]],
    division: Division,
) -> dict:
    """The content of split.json: how the split was made, then part, group and hashes of every image.

    `sha256` is the hash of image and mask together, `image_sha256` of the image alone, `data_sha256` of all that
    the split was made from. A run that uses weights or decision of earlier runs adds `seen_before`: the hashes of the
    images on which they were trained.
    """
    images = {
        samples[i].name: {
            "part": name,
            "group": int(groups[i]),
            "sha256": hashes[i].both,
            "image_sha256": hashes[i].image,
        }
        for name, members in parts.items()
        for i in members
    }
    return asdict(division) | {"data_sha256": _hash_data(samples, hashes), "images": images}


def hashes_seen(run: Path) -> set[str]:
    """Hashes of the images that a run was trained or chosen on, and so were the runs whose weights or decision it uses.

    Raises:
        RunError: its split.json is missing or damaged, or belongs to another run.
    """
    record = read_split(run)
    unseen = set() if record.get("choose_on") == "test" else {"test"}
    own = {row["image_sha256"] for row in record["images"].values() if row["part"] not in unseen}
    return own | set(record.get("seen_before", ()))


def seen_before(
    run: Path, samples: Sequence[Sample], hashes: Sequence[Hashes], groups: np.ndarray, test: Sequence[int]
) -> list[str]:
    """`hashes_seen` of a run whose weights or decision a training uses, for its split.json.

    Raises:
        DataError: a test sample, or a near-copy of one, is among these images; RunError: as `hashes_seen`.
    """
    known = hashes_seen(run)
    seen_groups = {group for own, group in zip(hashes, groups, strict=True) if own.image in known}
    if seen := [samples[i].name for i in test if groups[i] in seen_groups]:
        raise DataError(
            f"{run}: was trained on {len(seen)} of the {len(test)} test images or on near-copies of them, {seen[0]!r} "
            "first. Take other images, another --start-from (imagenet), or its --split and --fold, with the seed in "
            "its split.json as --split-seed."
        )
    note_same_names(run, [samples[i].name for i in test])
    return sorted(known)


def note_same_names(run: Path, names: Sequence[str]) -> None:
    """Print a note if a run was trained on images of these names: it did not see these pixels, but may know the images
    at another size."""
    rows = read_split(run)["images"]
    if alike := [name for name in names if rows.get(name, {"part": "test"})["part"] != "test"]:
        print(
            f"note: {run} was trained on images of the same names as {len(alike)} of the test images, {alike[0]!r} "
            "first, with other pixels. If these are the same pictures at another size, their scores mean nothing."
        )


def load_split(
    run: Path, samples: Sequence[Sample], hashes: Sequence[Hashes], whole: bool = False
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Read the parts (indices into `samples`) and the group of each image name from a run's split.json.

    Args:
        whole: `samples` must be exactly those from which the split was made, as when a training goes on.

    Raises:
        RunError: as `read_split`; DataError: the data were changed; the message says how.
    """
    record = read_split(run)
    rows = record["images"]
    index = {s.name: i for i, s in enumerate(samples)}
    missing = [name for name in rows if name not in index]
    changed = [name for name, row in rows.items() if name in index and hashes[index[name]].both != row["sha256"]]
    other = ""
    if missing or changed:
        counts = f"{len(missing)} images are missing and {len(changed)} changed"
        other = f"{counts}, {(missing or changed)[0]!r} first"
    elif whole and (own := _hash_data(samples, hashes)) != record.get("data_sha256", own):
        other = "images were added, or a class, patient, hospital or fold changed"
    if other:
        raise DataError(
            f"{run / 'split.json'}: was made for another version of the data: {other}. Give --data-dir the data it was "
            "made for, or start a new run."
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
