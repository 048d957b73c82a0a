"""The samples of one or several data folders as one list."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset import CLASSES, DataError, Sample, find_samples
from segmentation.data.find_data import SAMPLE, find_data

BUSI_COUNTS = {"benign": (437, 454), "malignant": (210, 211), "normal": (133, 133)}  # images, mask files


class Collection(NamedTuple):
    """The samples of one folder or of several that are used together."""

    roots: list[Path]
    source: str  # "busi", "sample" or "custom"; of several folders joined by " + "
    samples: list[Sample]

    def describe(self) -> dict:
        """Entries of config.json and evaluation.json: "data" and "root", a list if there are several folders."""
        roots = [root.resolve() for root in self.roots]
        return {"data": self.source, "root": roots if len(roots) > 1 else roots[0]}


def collect(folders: Sequence[Path]) -> Collection:
    """Find the samples of every folder.

    With several folders, patients get their folder's name as a prefix, and so do image names that occur twice.

    Args:
        folders: as the user named them; if there are none: `data/`, a download, or the sample.

    Raises:
        DataError: a folder holds no data or cannot be used, or is named twice.
    """
    roots = [find_data(folder) for folder in folders or (None,)]
    if len({root.resolve() for root in roots}) < len(roots):
        raise DataError(f"{', '.join(map(str, folders))}: the same folder twice. Name each once.")
    found = [find_samples(root) for root in roots]
    source = " + ".join(data_source(root, samples) for root, samples in zip(roots, found, strict=True))
    if len(roots) == 1:
        return Collection(roots, source, found[0])
    names = _folder_names(roots)
    counts = Counter(sample.name for samples in found for sample in samples)
    together = [
        sample._replace(
            name=f"{folder}: {sample.name}" if counts[sample.name] > 1 else sample.name,
            patient=sample.patient and f"{folder}: {sample.patient}",
            folder=sample.folder or folder,
        )
        for folder, samples in zip(names, found, strict=True)
        for sample in samples
    ]
    return Collection(roots, source, together)


def find_folders(stored: dict, given: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Folders of a run's data.

    Args:
        stored: the run's config.json.
        given: the folders from the command line, which take precedence, as the data may have moved.
    """
    root = stored.get("root", Path("data"))
    return tuple(given) or (root if isinstance(root, tuple) else (root,))


def _folder_names(roots: Sequence[Path]) -> list[str]:
    """Short names of the folders: as many of the last parts of their paths as make them distinct."""
    paths = [root.resolve().parts for root in roots]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def data_source(root: Path, samples: Sequence[Sample]) -> str:
    """Name of the data in a run's files: "sample", "busi" (if the published counts agree) or "custom"."""
    if root.resolve() == SAMPLE.resolve():
        return "sample"
    counts = {label: [len(s.masks) for s in samples if s.label == label] for label in CLASSES}
    if {label: (len(masks), sum(masks)) for label, masks in counts.items()} == BUSI_COUNTS:
        return "busi"
    if any((s.name, s.label) == ("benign (1)", "benign") for s in samples):
        images, masks = (sum(n) for n in zip(*BUSI_COUNTS.values(), strict=True))
        here = f"{len(samples)} images and {sum(len(s.masks) for s in samples)} masks"
        print(f"note: {root} holds {here}; BUSI has {images} and {masks}.")
    return "custom"
