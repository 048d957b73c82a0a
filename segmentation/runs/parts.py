"""Read the data of a training, and divide them into training, validation and test set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dataset import Sample, read_each, resize_image, resize_mask
from segmentation.data.appearance import appearance, appearance_limits
from segmentation.data.collection import Collection, collect
from segmentation.data.splits import Division, group_samples, near_copies_in_training, split_samples
from segmentation.runs.split_record import Hashes, check_same_split, hash_picture, load_split, seen_before, split_record


class Data(NamedTuple):
    """All samples, and what is kept of their pictures: at most 0.25 MB each at 224x224."""

    found: Collection
    images: np.ndarray  # (N, image_size, image_size) uint8
    masks: np.ndarray  # the same, in {0, 1}
    hashes: list[Hashes]
    statistics: list[dict[str, float]]  # from `appearance`
    groups: np.ndarray | None  # near-copy group of each; None for a run that is resumed, whose split.json has them


class Parts(NamedTuple):
    """The three sets, at the network's resolution."""

    found: Collection
    record: dict  # for split.json
    appearance: dict  # range of the training images' statistics, to warn of pictures unlike them
    train: tuple[np.ndarray, np.ndarray]  # images and masks, (N, image_size, image_size) uint8
    val: tuple[np.ndarray, np.ndarray] | None  # the same; None without a validation set
    val_folders: list[str]  # folder of each validation image
    weights: tuple[np.ndarray | None, np.ndarray | None]  # of each training and validation image, for the lesion score
    test: list[Sample]  # their pictures are read again to be scored at the original resolution
    test_images: np.ndarray
    groups: np.ndarray  # near-copy group of each test sample
    leaked: int  # test samples with a near-copy in training or validation


def load_data(folders: Sequence[Path], image_size: int, resumed: bool = False) -> Data:
    """Find all samples and read each picture once, so that damaged files are reported before training.

    Args:
        folders: as in `collect`.
        image_size: side of the network's input in pixels.
        resumed: whether the near-copies are known from a split.json.
    """
    found = collect(folders)
    count, size = len(found.samples), (image_size, image_size)
    images, masks = (np.empty((count, *size), np.uint8) for _ in range(2))
    hashes, statistics = [], []

    def look() -> Iterator[np.ndarray]:
        for i, (image, mask) in enumerate(read_each(found.samples, bar="reading")):
            images[i], masks[i] = resize_image(image, size), resize_mask(mask, size)
            hashes.append(hash_picture(image, mask))
            statistics.append(appearance(image))
            yield image

    groups = None
    if resumed:
        for _ in look():
            pass
    else:
        groups = group_samples(found.samples, look())
    return Data(found, images, masks, hashes, statistics, groups)


def split_data(data: Data, division: Division, earlier: Sequence[Path], stopped: Path | None = None) -> Parts:
    """Divide the samples; near-copies stay together.

    Args:
        data: all samples.
        division: how they are divided.
        earlier: runs whose weights or decision are used; they must not have been trained on a test sample.
        stopped: the folder of a run that is resumed, with its split.json.
    """
    samples, hashes, groups = data.found.samples, data.hashes, data.groups
    if stopped:
        parts, group_of = load_split(stopped, samples, hashes, whole=True)
        groups = np.array([group_of.get(s.name, -1 - i) for i, s in enumerate(samples)])
    else:
        parts = split_samples(samples, groups, division)
    seen = [code for run in earlier for code in seen_before(run, samples, hashes, groups, parts["test"])]
    record = split_record(samples, hashes, groups, parts, division) | ({"seen_before": seen} if seen else {})
    if stopped:
        check_same_split(stopped, record)
    counts = {f"{part} images": len(members) for part, members in parts.items()}
    counts["in no part"] = len(samples) - sum(counts.values())
    print(f"split {division.split}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    judged = parts["test"] if division.choose_on == "test" else parts["val"]
    return Parts(
        found=data.found,
        record=record,
        appearance=appearance_limits([data.statistics[i] for i in parts["train"]]),
        train=(data.images[parts["train"]], data.masks[parts["train"]]),
        val=(data.images[judged], data.masks[judged]) if judged else None,
        val_folders=[samples[i].folder for i in judged],
        weights=weigh_scores(samples, parts["train"], judged),
        test=[samples[i] for i in parts["test"]],
        test_images=data.images[parts["test"]],
        groups=groups[parts["test"]],
        leaked=len(near_copies_in_training(parts, groups)),
    )


def weigh_scores(
    samples: Sequence[Sample], train: Sequence[int], judged: Sequence[int]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Weight of each training and validation image in the lesion score's loss; None, None if all have weight 1.

    The images of a folder without normal training images, or with no others, have weight 0. Otherwise the network would
    learn to recognise the hospital, as a sign of a lesion.
    """
    folders = [
        {samples[i].folder for i in train if (samples[i].label == "normal") is normal} for normal in (True, False)
    ]
    both = set.intersection(*folders)
    if not both and all(folders):
        print("note: no folder holds lesion and normal images: the lesion score may learn to tell the folders apart")
    if not both or both == set.union(*folders):
        return None, None
    print(f"the lesion score is learned from {', '.join(sorted(both))} only: no other folder holds both kinds of image")
    return tuple(np.array([samples[i].folder in both for i in part], np.float32) for part in (train, judged))
