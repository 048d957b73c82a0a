"""Read the data of a training, and divide them into training, validation and test set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import Sample, read_samples, resize_samples
from segmentation.data.appearance import appearance_limits
from segmentation.data.collection import Collection, collect
from segmentation.data.splits import Division, group_samples, near_copies_in_training, split_samples
from segmentation.runs.split_record import check_same_split, load_split, seen_before, split_record


class Data(NamedTuple):
    """All samples and their decoded images."""

    found: Collection
    pictures: list[tuple[np.ndarray, np.ndarray]]  # image and mask of each sample, (H, W) uint8


class Parts(NamedTuple):
    """The three sets: training and validation at the network's resolution, test at the original one."""

    found: Collection
    record: dict  # for split.json
    appearance: dict  # range of the training images' statistics, to warn of pictures unlike them
    train: tuple[np.ndarray, np.ndarray]  # images and masks, (N, image_size, image_size) uint8
    val: tuple[np.ndarray, np.ndarray] | None  # the same; None without a validation set
    val_folders: list[str]  # folder of each validation image
    weights: tuple[np.ndarray | None, np.ndarray | None]  # of each training and validation image, for the lesion score
    test: list[Sample]
    pictures: list[tuple[np.ndarray, np.ndarray]]  # image and mask of each test sample, (H, W) uint8
    groups: np.ndarray  # near-copy group of each test sample
    leaked: int  # test samples with a near-copy in training or validation


def load_data(folders: Sequence[Path]) -> Data:
    """Find and read all images and masks, so that damaged files are reported before training."""
    found = collect(folders)
    return Data(found, read_samples(found.samples))


def split_data(
    data: Data, division: Division, image_size: int, earlier: Sequence[Path], stopped: Path | None = None
) -> Parts:
    """Divide the samples; near-copies stay together.

    Args:
        data: all samples.
        division: how they are divided.
        image_size: side of the network's input in pixels.
        earlier: runs whose weights or decision are used; they must not have been trained on a test sample.
        stopped: the folder of a run that is resumed, with its split.json.
    """
    samples, pictures = data.found.samples, data.pictures
    if stopped:
        parts, group_of = load_split(stopped, samples)
        groups = np.array([group_of.get(s.name, -1 - i) for i, s in enumerate(samples)])
    else:
        groups = group_samples(samples, [image for image, _ in pictures])
        parts = split_samples(samples, groups, division)
    seen = [code for run in earlier for code in seen_before(run, samples, groups, parts["test"])]
    record = split_record(samples, groups, parts, division, seen)
    if stopped:
        check_same_split(stopped, record)
    print(f"split {division.split}: " + ", ".join(f"{len(members)} {part} images" for part, members in parts.items()))
    judged = parts["test"] if division.choose_on == "test" else parts["val"]
    return Parts(
        found=data.found,
        record=record,
        appearance=appearance_limits([pictures[i][0] for i in parts["train"]]),
        train=resize_samples([pictures[i] for i in parts["train"]], image_size),
        val=resize_samples([pictures[i] for i in judged], image_size) if judged else None,
        val_folders=[samples[i].folder for i in judged],
        weights=weigh_scores(samples, parts["train"], judged),
        test=[samples[i] for i in parts["test"]],
        pictures=[pictures[i] for i in parts["test"]],
        groups=groups[parts["test"]],
        leaked=len(near_copies_in_training(parts, groups)),
    )


def weigh_scores(
    samples: Sequence[Sample], train: Sequence[int], judged: Sequence[int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weight of each training and validation image in the lesion score's loss; None, None if all have weight 1.

    The images of a folder without normal training images have weight 0. Otherwise the network would learn to recognise
    the hospital, as a sign of a lesion.
    """
    both = {samples[i].folder for i in train if samples[i].label == "normal"}
    if not both or both == {samples[i].folder for i in train}:
        return None, None
    print(f"the lesion score is learned from {', '.join(sorted(both))} only: the other folders hold no normal image")
    return tuple(np.array([samples[i].folder in both for i in part], np.float32) for part in (train, judged))
