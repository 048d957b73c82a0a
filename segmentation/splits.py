"""Splits that keep a group of near-copies in one part, and split.json, which records them.

BUSI holds many near-copies of one frame, and no patient numbers. A random split puts a copy of many
a test image into training; here a group of near-copies never straddles two parts.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from dataset import DataError, Sample
from segmentation.errors import RunError
from segmentation.files import file_hash
from segmentation.near_copies import group_pairs, near_copies
from segmentation.schemas import read_split

LISTS = Path(__file__).parent.parent / "data" / "splits"
PARTS = ("train", "val", "test")
Split = Literal[
    "grouped", "grouped-cv", "tuning", "table", "p1-1", "p1-2", "p1-3", "curated", "all-random", "random-cv"
]
FOLDS = {"grouped-cv": 5, "tuning": 3, "curated": 4, "random-cv": 5}  # of the others, one
Normals = Literal["both", "train", "test", "none"]
ChooseOn = Literal["validation", "decision", "nothing", "test"]

_TWENTIETHS = 20  # every split is made of twenty grouped, stratified folds of 5 %
_LEAKY = ("all-random", "random-cv")  # these ignore near-copies
_GROUPED_TEST = [0, 1, 2]  # those that are the test part of "grouped"


# ---------------------------------------------------------------- splits


def _folds(samples: Sequence[Sample], groups: np.ndarray, seed: int) -> np.ndarray:
    """Fold 0..19 of each sample; a group is in one fold, classes are spread evenly."""
    if (count := len(set(groups.tolist()))) < _TWENTIETHS:
        raise DataError(
            f"{len(samples)} images in {count} groups of near-copies are too few to split: at least {_TWENTIETHS} "
            "groups are needed. Use images of more lesions."
        )
    labels = np.array([s.label for s in samples])
    folds = np.zeros(len(samples), int)
    splitter = StratifiedGroupKFold(_TWENTIETHS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class of fewer than 20 images cannot be in every fold; that is fine
        for fold, (_, members) in enumerate(splitter.split(labels, labels, groups)):
            folds[members] = fold
    return folds


def _names(file: str) -> set[str]:
    return set((LISTS / file).read_text().split("\n")) - {""}


def _curated_names() -> set[str]:
    with (LISTS / "curated_busi_keep.csv").open() as lines:
        return {f"{row['class']} ({row['id']})" for row in csv.DictReader(lines, delimiter=";")}


def split_samples(
    samples: Sequence[Sample],
    groups: np.ndarray,
    split: Split = "grouped",
    fold: int = 0,
    seed: int = 0,
    normals: Normals = "both",
    choose_on: ChooseOn = "validation",
) -> dict[str, list[int]]:
    """Indices of the training, validation and test samples.

    Args:
        samples: as `find_samples` lists them.
        groups: near-copy group of each sample.
        split: "grouped" 70/15/15; "grouped-cv" fold 0..4, 70/10/20; "table" the published folds, the
            next one for validation; "tuning" fold 0..2, to compare ideas without a look
            at the test images of "grouped": those are in no part, a third of the others stands for the test;
            "p1-1".."p1-3" the public lists of the CMUNeXt benchmark: its validation images are the test, 15 % of its
            training images the validation; "curated" the 450-image keep-list, fold 0..3, 60/15/25; "all-random"
            70/15/15 and "random-cv" fold 0..4 ignore groups, leak, and exist to measure the leak.
        fold: for those that have folds.
        seed: of the shuffling (p1's test images are fixed).
        normals: parts that may hold normal images: both; "train" (and validation); "test"; none.
        choose_on: if it is "nothing" or "test", the validation images are trained on.

    Returns:
        {"train": [...], "val": [...], "test": [...]}; images outside a list are in no part, and val is empty if
        it is trained on.

    Raises:
        DataError: the fold does not exist, an image of a public list is missing, or a part is empty.
    """
    folds_of = len(published_folds(samples)) if split == "table" else FOLDS.get(split, 1)
    if not 0 <= fold < folds_of:
        raise DataError(f"split {split} has fold {'0' if folds_of == 1 else f'0 to {folds_of - 1}'}, not {fold}.")
    largest = max(Counter(s.label for s in samples).values(), default=0)
    if largest < _TWENTIETHS:
        raise DataError(f"{len(samples)} images are too few to split: one class must have at least {_TWENTIETHS}.")
    folds = _folds(samples, np.arange(len(samples)) if split in _LEAKY else groups, seed)
    part = _assign_parts(samples, split, fold, folds)
    normal = np.array([s.label == "normal" for s in samples])
    allowed = {"both": PARTS, "train": ("train", "val"), "test": ("test",), "none": ()}[normals]
    part[normal & ~np.isin(part, allowed)] = ""
    parts = {name: np.flatnonzero(part == name).tolist() for name in PARTS}
    for name, members in parts.items():
        if not any(samples[i].label != "normal" for i in members):
            raise DataError(f"split {split}: no lesion image is left for {name}. Use more images.")
    if choose_on in ("nothing", "test"):
        parts = {"train": sorted(parts["train"] + parts["val"]), "val": [], "test": parts["test"]}
    return parts


def _assign_parts(samples: Sequence[Sample], split: Split, fold: int, folds: np.ndarray) -> np.ndarray:
    """Part of each sample, "" for none, from its fold among the twenty."""
    index = {s.name: i for i, s in enumerate(samples)}
    part = np.full(len(samples), "train", dtype="U5")
    if split.startswith("p1-"):
        test, rest = _names(f"busi_val{split[3]}.txt"), _names(f"busi_train{split[3]}.txt")
        _require(index, test | rest, split)
        # The lists leave the normals out: 30 % of them are tested, as of the lesions.
        part[np.isin(folds, range(3, 9))] = "test"
        part[[index[name] for name in rest]] = "train"
        part[np.isin(folds, (0, 1, 2))] = "val"
        part[[index[name] for name in test]] = "test"
    elif split == "curated":
        _require(index, _curated_names(), split)
        keep = np.isin(np.arange(len(samples)), [index[name] for name in _curated_names()])
        part[np.isin(folds, range(5 * fold, 5 * fold + 5))] = "test"
        part[np.isin(folds, [(5 * fold + 5 + k) % _TWENTIETHS for k in range(3)])] = "val"
        part[~keep] = ""
    elif split == "table":
        published = published_folds(samples)
        own = np.array([s.fold for s in samples])
        part[own == published[fold]] = "test"
        part[own == published[(fold + 1) % len(published)]] = "val"
        part[own == ""] = ""
    elif split == "tuning":
        part[np.isin(folds, _GROUPED_TEST)] = ""
        others = np.setdiff1d(range(_TWENTIETHS), _GROUPED_TEST)
        thirds = np.array_split(others, FOLDS[split])
        part[np.isin(folds, thirds[fold])] = "test"
        part[np.isin(folds, thirds[fold - 1][:3])] = "val"
    else:
        five = split in ("grouped-cv", "random-cv")
        test_folds = [4 * fold + k for k in range(4)] if five else _GROUPED_TEST
        val_folds = [(4 * fold + 4 + k) % _TWENTIETHS for k in range(2)] if five else [3, 4, 5]
        part[np.isin(folds, test_folds)] = "test"
        part[np.isin(folds, val_folds)] = "val"
    return part


def published_folds(samples: Sequence[Sample]) -> list[str]:
    """The folds that the table beside the data names, in order.

    Raises:
        DataError: there are fewer than three: one to test on, one to choose on, and one to train on.
    """
    folds = sorted({s.fold for s in samples} - {""}, key=lambda fold: (len(fold), fold))
    if len(folds) < 3:
        raise DataError(f"split table needs three folds in a table beside the data; there are {len(folds)}.")
    return folds


def group_samples(samples: Sequence[Sample], pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Group of each sample, (N,) int: near-copies, and pictures of one patient, share one; pictures (H, W) uint8."""
    pairs = [(pair.a, pair.b) for pair in near_copies(pictures)]
    first: dict[str, int] = {}
    pairs += [(first.setdefault(s.patient, i), i) for i, s in enumerate(samples) if s.patient]
    return group_pairs(len(samples), pairs)


def _require(index: dict[str, int], names: set[str], split: str) -> None:
    if missing := sorted(names - set(index)):
        raise DataError(
            f"split {split} needs the published BUSI: {len(missing)} of its {len(names)} images are not "
            f"here, {missing[0]!r} first. Use --split grouped."
        )


def near_copies_in_training(parts: dict[str, list[int]], groups: np.ndarray) -> list[int]:
    """Test samples that have a near-copy in training or validation."""
    seen = set(groups[parts["train"] + parts["val"]])
    return [i for i in parts["test"] if groups[i] in seen]


# ---------------------------------------------------------------- split.json


def split_record(samples: Sequence[Sample], groups: np.ndarray, parts: dict[str, list[int]], **settings) -> dict:
    """What `split.json` holds: how the split was made, then part, group and hashes of every image in it.

    `sha256` is that of image and masks together, `image_sha256` of the image alone.
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
    return {**settings, "images": images}


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
