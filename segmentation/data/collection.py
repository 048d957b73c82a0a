"""Everything below one folder of data or several, as one list of samples."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dataset import CLASSES, DataError, Sample, find_samples
from segmentation.data.phantoms import write_phantoms
from segmentation.importing.find_data import find_data
from segmentation.importing.layouts import PHANTOM_MARKER

BUSI_COUNTS = {"benign": (437, 454), "malignant": (210, 211), "normal": (133, 133)}  # images, mask files
PHANTOM_IMAGES = 160  # how many pictures are simulated where BUSI cannot be had


class Collection(NamedTuple):
    """The samples of one folder or of several that are used together."""

    roots: list[Path]
    source: str  # "busi", "custom" or "phantom"; of several folders, each in turn
    drawn: bool  # phantoms, because no data could be had
    samples: list[Sample]

    def describe(self) -> dict:
        """What config.json and evaluation.json say of it.

        "data"; "root", a list where there are several; "white", where there are pictures of more than 8 bits.
        """
        roots = [root.resolve() for root in self.roots]
        white = {sample.white for sample in self.samples} - {None}
        described = {"data": self.source, "root": roots if len(roots) > 1 else roots[0]}
        return described | ({"white": max(white)} if white else {})


def collect(folders: Sequence[Path], mask_values: Sequence[float] = (), seed: int = 0) -> Collection:
    """Samples of every folder; patients of one number in two folders are two, and a name in two folders says which.

    Args:
        folders: as the user named them; none at all stands for `data/`, a download, or phantoms of this `seed`.
        mask_values: grey values that are lesion; without them each folder's masks are understood from what they hold.

    Raises:
        DataError: a folder holds no data or cannot be used, or two are the same.
    """
    if not folders:
        root, drawn = find_or_draw(None, seed)
        samples = find_samples(root, mask_values)
        return Collection([root], data_source(root, samples), drawn, samples)
    roots = [find_data(folder) for folder in folders]
    if len({root.resolve() for root in roots}) < len(roots):
        raise DataError(f"{', '.join(map(str, folders))}: the same folder twice. Name each once.")
    found = [find_samples(root, mask_values) for root in roots]
    source = " + ".join(data_source(root, samples) for root, samples in zip(roots, found, strict=True))
    if len(roots) == 1:
        return Collection(roots, source, False, found[0])
    names = _folder_names(roots)
    counts = Counter(sample.name for samples in found for sample in samples)
    together = [
        sample._replace(
            name=f"{folder}: {sample.name}" if counts[sample.name] > 1 else sample.name,
            patient=sample.patient and f"{folder}: {sample.patient}",
            folder=folder,
        )
        for folder, samples in zip(names, found, strict=True)
        for sample in samples
    ]
    return Collection(roots, source, False, together)


def find_folders(stored: dict, given: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Folders of a run's data.

    Args:
        stored: the run's config.json.
        given: where the user says that they are, if they have moved.
    """
    root = stored.get("root", Path("data"))
    return tuple(given) or (root if isinstance(root, tuple) else (root,))


def _folder_names(roots: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    paths = [root.resolve().parts for root in roots]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def find_or_draw(data_dir: Path | None, seed: int) -> tuple[Path, bool]:
    """As `find_data`, but where no data can be had, phantoms are drawn in `data/` with that seed, and a banner says so.

    Returns:
        The folder, and whether it holds such phantoms.
    """
    root = find_data(data_dir)
    if root is not None:
        return root, False
    line = "!" * 100
    print(
        f"{line}\nNO BREAST ULTRASOUND DATA: training on SIMULATED images (segmentation/data/phantoms.py). The result\n"
        "says nothing about patients. To use BUSI, see data/README.md, then: python train_model.py --data-dir FOLDER\n"
        f"{line}",
        flush=True,
    )
    root = Path("data") / f"phantoms-{PHANTOM_IMAGES}-seed{seed}"
    if not (root / PHANTOM_MARKER).exists():  # written last: the folder is whole
        write_phantoms(root, PHANTOM_IMAGES, seed)
    return root, True


def data_source(root: Path, samples: Sequence[Sample]) -> str:
    """ "phantom", "busi" (the published counts) or "custom": stands in every file of a run."""
    if any((folder / PHANTOM_MARKER).exists() for folder in {root, *(s.image.parent.parent for s in samples)}):
        return "phantom"
    counts = {label: [len(s.masks) for s in samples if s.label == label] for label in CLASSES}
    if {label: (len(masks), sum(masks)) for label, masks in counts.items()} == BUSI_COUNTS:
        return "busi"
    if any((s.name, s.label) == ("benign (1)", "benign") for s in samples):
        images, masks = (sum(n) for n in zip(*BUSI_COUNTS.values(), strict=True))
        here = f"{len(samples)} images and {sum(len(s.masks) for s in samples)} masks"
        print(f"note: {root} holds {here}; BUSI has {images} and {masks}.")
    return "custom"
