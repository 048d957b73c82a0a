"""Folders of tiny made-up pictures, as people have them. The truth of each is set by hand: `size` of `lesion`."""

from pathlib import Path

import numpy as np
from PIL import Image

from dataset import find_samples, read_samples
from segmentation.importing.find_data import find_data

SHAPE = (40, 50)
PICTURES = 10  # in a folder, the last of them without a lesion


def picture(i: int = 0) -> np.ndarray:
    """Speckle, (40, 50) uint8."""
    return np.random.default_rng(i).gamma(2, 20, SHAPE).clip(0, 255).astype(np.uint8)


def lesion(i: int = 0) -> np.ndarray:
    """A rectangle, another for every number, (40, 50) bool."""
    mask = np.zeros(SHAPE, bool)
    mask[6 + i % 4 :][: 10 + i % 3, 9 + i % 7 :][:, : 12 + i % 5] = True
    return mask


def size(i: int = 0) -> int:
    """Pixels of `lesion(i)`."""
    return (10 + i % 3) * (12 + i % 5)


def save(path: Path, array: np.ndarray, **options) -> Path:
    """Write a picture; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def white(mask: np.ndarray, path: Path) -> None:
    """A mask of 0 and 255."""
    save(path, mask.astype(np.uint8) * 255)


def write_pairs(root: Path, draw=white, image="images/scan{}.png", mask="masks/scan{}.png") -> dict:
    """Images and masks of these names; `draw` writes a mask. Returns the truth, as `read` has it."""
    for i in range(PICTURES):
        save(root / image.format(i), picture(i))
        (root / mask.format(i)).parent.mkdir(parents=True, exist_ok=True)
        draw(lesion(i) & (i != PICTURES - 1), root / mask.format(i))
    return truth(Path(image).stem)


def truth(name: str) -> dict:
    """Label and lesion pixels of the pictures that `write_pairs` makes, by their names."""
    return {name.format(i): ("lesion", size(i)) if i < PICTURES - 1 else ("normal", 0) for i in range(PICTURES)}


def write_classes(root: Path, name="{} ({}).png", mask="{} ({})_mask.png", classes=("benign", "malignant", "normal")):
    """BUSI's layout: a folder for each class, with files of these names. Returns the truth, as `read` has it."""
    found = {}
    for k, folder in enumerate(classes):
        label = folder.lower()
        for i in range(1, 5):
            save(root / folder / name.format(label, i), picture(10 * k + i))
            white(lesion(i + k) & (label != "normal"), root / folder / mask.format(label, i))
            found[Path(name.format(label, i)).stem] = (label, 0 if label == "normal" else size(i + k))
    return found


def read(root: Path, **options) -> dict:
    """Label and lesion pixels of each image, by name, as every script reads a folder."""
    samples = find_samples(find_data(root), **options)
    return {s.name: (s.label, int(mask.sum())) for s, (_, mask) in zip(samples, read_samples(samples), strict=True)}
