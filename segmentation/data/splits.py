"""Divide images into training, validation and test set; a group of near-copies stays in one of them.

BUSI holds many near-copies of one frame, but no patient numbers. A random split therefore leaks: many test images have
a near-copy in training. The splits of this module are computed; a published split is a file, data/splits/NAME.csv.
"""

import csv
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dataset import DataError, Sample
from segmentation.common.checks import Seed, Text, Whole, checked
from segmentation.common.files import check_file
from segmentation.data.near_copies import group_pairs, near_copies
from segmentation.pictures.picture_files import PICTURES, ending_of

SPLIT_FILES = Path(__file__).parents[2] / "data" / "splits"
PARTS = ("train", "val", "test")
# The splits without a file and their numbers of folds; None: as many as the data have.
COMPUTED = {
    "grouped": 1,
    "grouped-cv": 5,
    "tuning": 3,
    "all-random": 1,
    "random-cv": 5,
    "given": None,
    "by-hospital": None,
}
Normals = Literal["both", "train", "test", "none"]
ChooseOn = Literal["validation", "decision", "nothing", "test"]

_TWENTIETHS = 20  # every computed split is composed of twenty grouped, stratified folds of 5 %
LESIONS_NEEDED = _TWENTIETHS
_LEAKY = ("all-random", "random-cv")  # these ignore near-copies
_GROUPED_TEST, _GROUPED_VAL = [0, 1, 2], [3, 4, 5]  # the twentieths of "grouped"


@checked
class Division:
    """How a run's images are divided; stored in split.json."""

    split: Text = "grouped"  # a key of `COMPUTED`, the name of a file in data/splits/, or a CSV file
    fold: Whole[0, 100] = 0  # of a split that has folds
    normals: Normals = "both"  # sets that may hold normal images: both; "train" (and validation); "test"; none
    choose_on: ChooseOn = "validation"  # with "nothing" or "test", the validation images are added to the training set
    seed: Seed = 0  # of the shuffling


def split_samples(samples: Sequence[Sample], groups: np.ndarray, division: Division) -> dict[str, list[int]]:
    """Indices of the training, validation and test samples.

    The computed splits (shares of training/validation/test in %):
    - "grouped": 70/15/15; "grouped-cv": folds 0 to 4, 70/10/20.
    - "tuning": folds 0 to 2, to compare ideas without using the test set of "grouped": its images are left out, and a
      third of the others is the test set.
    - "given": the parts of meta.csv (train, val, test; without val, 15 % of train are it); or its folds: fold k is the
      test set, the next fold the validation set.
    - "by-hospital": fold k tests on the k-th hospital (a folder, or one of meta.csv) in alphabetical order; the others
      are divided as in "grouped".
    - "all-random": 70/15/15; "random-cv": folds 0 to 4. Both ignore near-copies, and exist to measure the leak.

    Args:
        samples: from `find_samples`.
        groups: near-copy group of each sample.
        division: which split, and which of its folds.

    Returns:
        {"train": [...], "val": [...], "test": [...]}; images that a split's file does not name are left out, and "val"
        is empty if the validation images are trained on.

    Raises:
        DataError: there is no such split or fold, an image of its file is missing, or a set has no lesion image.
    """
    part = (
        _parts_of_file(samples, division)
        if division.split not in COMPUTED
        else _assign_parts(samples, groups, division)
    )
    if division.split != "given" and any(s.split or s.fold for s in samples):
        print("note: the data have parts of their own, which are not used; --split given uses them")
    normal = np.array([s.label == "normal" for s in samples])
    allowed = {"both": PARTS, "train": ("train", "val"), "test": ("test",), "none": ()}[division.normals]
    part[normal & ~np.isin(part, allowed)] = ""
    parts = {name: np.flatnonzero(part == name).tolist() for name in PARTS}
    trained_on = ("val",) if division.choose_on in ("nothing", "test") else ()
    for name, members in parts.items():
        if name not in trained_on and not any(samples[i].label != "normal" for i in members):
            more = "Use more images" + ", or --choose-on nothing" * (name == "val")
            raise DataError(f"split {division.split}: no lesion image is left for {name}. {more}.")
    if trained_on:
        parts = {"train": sorted(parts["train"] + parts["val"]), "val": [], "test": parts["test"]}
    return parts


# ---------------------------------------------------------------- computed


def _twentieths(samples: Sequence[Sample], groups: np.ndarray, seed: int, strata: Sequence[str]) -> np.ndarray:
    """Fold 0 to 19 of each sample; a group is in one fold, and the strata are spread evenly."""
    if (lesions := sum(s.label != "normal" for s in samples)) < LESIONS_NEEDED:
        raise DataError(f"{lesions} images with a lesion are too few to split: at least {LESIONS_NEEDED} are needed.")
    if max(Counter(strata).values()) < _TWENTIETHS:  # scikit-learn needs a stratum of this size
        strata = ["normal" if s.label == "normal" else "lesion" for s in samples]
    if (count := len(set(groups.tolist()))) < _TWENTIETHS:
        patient, images = Counter(s.patient for s in samples).most_common(1)[0]
        held = f" ({images} are of patient {patient!r})" if patient else ""
        raise DataError(
            f"{len(samples)} images in {count} groups of near-copies{held} are too few to split: at least "
            f"{_TWENTIETHS} groups are needed. Use images of more lesions."
        )
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and not every command splits

    folds = np.zeros(len(samples), int)
    splitter = StratifiedGroupKFold(_TWENTIETHS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a class with fewer than 20 images; that is fine
        for fold, (_, members) in enumerate(splitter.split(strata, strata, groups)):
            folds[members] = fold
    return folds


def _assign_parts(samples: Sequence[Sample], groups: np.ndarray, division: Division) -> np.ndarray:
    """Part of each sample in a computed split; "" if it is left out."""
    split, fold, part = division.split, division.fold, np.full(len(samples), "train", dtype="U5")
    if split == "given":
        return _given_parts(samples, groups, division)
    hospitals = np.array([s.folder for s in samples])
    strata = [f"{s.folder} {s.label}" if split == "by-hospital" else s.label for s in samples]
    folds_of = len(set(hospitals)) if split == "by-hospital" else COMPUTED[split]
    _check_fold(division, folds_of)
    if split == "by-hospital" and folds_of < 3:
        needed = "three folders, or one whose meta.csv has three in its column hospital"
        raise DataError(f"split by-hospital tests one hospital and trains on the others: give --data-dir {needed}.")
    if split == "by-hospital" and (unknown := np.count_nonzero(hospitals == "")):
        raise DataError(f"split by-hospital: {unknown} images have no hospital in meta.csv.")
    folds = _twentieths(samples, np.arange(len(samples)) if split in _LEAKY else groups, division.seed, strata)
    if split == "by-hospital":
        part[np.isin(folds, _GROUPED_VAL)] = "val"
        test = hospitals == sorted(set(hospitals))[fold]
        part[np.isin(groups, groups[test])] = ""  # a near-copy of a test image may lie in another folder
        part[test] = "test"
    elif split == "tuning":
        part[np.isin(folds, _GROUPED_TEST)] = ""
        others = np.setdiff1d(range(_TWENTIETHS), _GROUPED_TEST)
        thirds = np.array_split(others, COMPUTED[split])
        part[np.isin(folds, thirds[fold])] = "test"
        part[np.isin(folds, thirds[fold - 1][:3])] = "val"
    else:
        five = COMPUTED[split] == 5
        test_folds = [4 * fold + k for k in range(4)] if five else _GROUPED_TEST
        val_folds = [(4 * fold + 4 + k) % _TWENTIETHS for k in range(2)] if five else _GROUPED_VAL
        part[np.isin(folds, test_folds)] = "test"
        part[np.isin(folds, val_folds)] = "val"
    return part


def _given_parts(samples: Sequence[Sample], groups: np.ndarray, division: Division) -> np.ndarray:
    """Part of each sample by its own entry of meta.csv."""
    if not any(s.split for s in samples):
        if not any(s.fold for s in samples):
            raise DataError("split given: meta.csv has no entries in a column split or fold. Take --split grouped.")
        return _parts_of_folds(np.array([s.fold for s in samples]), division)
    _check_fold(division, 1)
    if unknown := sorted({s.split for s in samples} - {*PARTS, ""}):
        raise DataError(f"split given: meta.csv calls a part {unknown[0]!r}, which is none of {', '.join(PARTS)}.")
    part = np.array([s.split for s in samples], dtype="U5")
    if not (part == "val").any():
        train = np.flatnonzero(part == "train")
        folds = _twentieths(
            [samples[i] for i in train], groups[train], division.seed, [samples[i].label for i in train]
        )
        part[train[np.isin(folds, _GROUPED_VAL)]] = "val"
        print("meta.csv names no validation set: 15 % of the training images are it")
    return part


def _check_fold(division: Division, folds: int) -> None:
    if not 0 <= division.fold < folds:
        allowed = "0" if folds == 1 else f"0 to {folds - 1}"
        raise DataError(f"split {division.split} has fold {allowed}, not {division.fold}.")


def _parts_of_folds(names: np.ndarray, division: Division) -> np.ndarray:
    """Part of each sample from the name of its fold: one fold is the test set, the next one the validation set."""
    folds = sorted(set(names.tolist()) - {""}, key=lambda fold: (len(fold), fold))
    if len(folds) < 3:
        raise DataError(f"split {division.split} needs three folds; there are {len(folds)}.")
    _check_fold(division, len(folds))
    part = np.full(len(names), "train", dtype="U5")
    part[names == folds[division.fold]] = "test"
    part[names == folds[(division.fold + 1) % len(folds)]] = "val"
    part[names == ""] = ""
    return part


# ---------------------------------------------------------------- from a file


def read_split_file(split: str) -> dict[str, dict[str, str]]:
    """Read a split's file: for each image name, its "part" (train, val, test) or its "fold".

    Args:
        split: the name of a file in data/splits/, or the path of a CSV file.

    Raises:
        DataError: there is no such split, or its file has other columns, an image twice, or an unknown part.
    """
    path = Path(split) if split.endswith(".csv") else SPLIT_FILES / f"{split}.csv"
    if not path.is_file():
        published = (file.stem for file in sorted(SPLIT_FILES.glob("*.csv")))
        raise DataError(
            f"--split {split}: no such split; there are {', '.join([*COMPUTED, *published])}, or give a CSV file."
        )
    check_file(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error}).") from None
    column = next((name for name in ("part", "fold") if rows and name in rows[0]), None)
    if column is None or "image" not in rows[0]:
        raise DataError(f"{path}: needs the columns image, and part or fold.")
    table: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        name, value = _name_in_split(row["image"] or ""), (row[column] or "").strip()
        if name in table:
            raise DataError(f"{path}, line {number}: {row['image']} is listed twice.")
        if column == "part" and value not in PARTS:
            raise DataError(f"{path}, line {number}: part {value!r} must be one of {', '.join(PARTS)}.")
        table[name] = {column: value}
    return table


def _name_in_split(name: str) -> str:
    """An image's name as files and splits have it in common: no picture's ending, and no capitals; dots may stay."""
    ending = ending_of(Path(name))
    return unicodedata.normalize("NFC", name[: -len(ending)] if ending in PICTURES else name).casefold()


def count_folds(split: str) -> int | None:
    """Number of folds of a split; None if it depends on the data.

    Raises:
        DataError: as `read_split_file`.
    """
    if split in COMPUTED:
        return COMPUTED[split]
    return len({row["fold"] for row in read_split_file(split).values() if row.get("fold")}) or 1


def _parts_of_file(samples: Sequence[Sample], division: Division) -> np.ndarray:
    table = read_split_file(division.split)
    there = {_name_in_split(sample.name): i for i, sample in enumerate(samples)}
    if missing := sorted(set(table) - set(there)):
        raise DataError(
            f"split {division.split}: {len(missing)} of the {len(table)} images in its file are not here, "
            f"{missing[0]!r} first. Give the data that it was made for, or use --split grouped."
        )
    rows = [table.get(_name_in_split(sample.name), {}) for sample in samples]
    if any("fold" in row for row in rows):
        return _parts_of_folds(np.array([row.get("fold", "") for row in rows]), division)
    _check_fold(division, 1)
    return np.array([row.get("part", "") for row in rows], dtype="U5")


# ---------------------------------------------------------------- near-copies


def group_samples(samples: Sequence[Sample], pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Group of each sample, (N,) int: near-copies and images of one patient share a group.

    `pictures` are (H, W) uint8, each used once, as in `near_copies`.
    """
    pairs = [(pair.a, pair.b) for pair in near_copies(pictures)]
    first: dict[str, int] = {}
    pairs += [(first.setdefault(s.patient, i), i) for i, s in enumerate(samples) if s.patient]
    places = Counter(patient for patient, _ in {(s.patient, s.folder) for s in samples if s.patient and s.folder})
    if shared := sorted(patient for patient, count in places.items() if count > 1):
        print(f"note: {len(shared)} patients are in several hospitals ({shared[0]}), and each is taken as one person. "
              "If the hospitals number theirs alike, write the hospital before the number in meta.csv")  # fmt: skip
    return group_pairs(len(samples), pairs)


def near_copies_in_training(parts: dict[str, list[int]], groups: np.ndarray) -> list[int]:
    """Test samples that have a near-copy in training or validation."""
    seen = set(groups[parts["train"] + parts["val"]])
    return [i for i in parts["test"] if groups[i] in seen]
