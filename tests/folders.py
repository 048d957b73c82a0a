"""Folders of tiny made-up pictures, as people have them. The truth of each is set by hand: `size` of `lesion`."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segmentation.importing.understanding import Wishes, read_case, understand_source

SHAPE = (40, 50)
PICTURES = 10  # in a folder, the last of them without a lesion
SPOT = np.zeros(SHAPE, bool)  # a second lesion, of 35 pixels
SPOT[30:35, 40:47] = True


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


# Each `write_` makes a folder and returns the truth about it, as `read` does: label and lesion pixels by name.


def write_rows(root: Path, rows, draw=white) -> dict:
    """Images that are listed one by one.

    Args:
        rows: name, label, image file, mask files; the second mask holds `SPOT`, and those of a normal image nothing.
        draw: writes a mask.
    """
    found = {}
    for i, (name, label, image, *masks) in enumerate(rows):
        save(root / image, picture(i))
        areas = [area & (label != "normal") for area in (lesion(i), SPOT)[: len(masks)]]
        for area, mask in zip(areas, masks, strict=True):
            (root / mask).parent.mkdir(parents=True, exist_ok=True)
            draw(area, root / mask)
        found[name] = (label, int(sum(area.sum() for area in areas)))
    return found


def write_pairs(root: Path, draw=white, image="images/scan{}.png", mask="masks/scan{}.png") -> dict:
    """Ten images and masks of these names, the last without a lesion."""
    labels = ["lesion"] * (PICTURES - 1) + ["normal"]
    return write_rows(
        root, [(Path(image.format(i)).stem, labels[i], image.format(i), mask.format(i)) for i in range(PICTURES)], draw
    )


def write_plain(root: Path) -> dict:
    """The ten of `write_pairs` in the plain form, which a training reads."""
    found = write_pairs(root)
    rows = [f"{name}.png,{label}" for name, (label, _) in found.items()]
    (root / "meta.csv").write_text("\n".join(["image,class", *rows]))
    return found


def write_classes(root: Path, name="{} ({}).png", mask="{} ({})_mask.png", classes=("benign", "malignant", "normal")):
    """BUSI's layout: a folder for each class, with files of these names."""
    files = [(folder, folder.lower(), i) for folder in classes for i in range(1, 5)]
    return write_rows(
        root, [(name.format(c, i)[:-4], c, f"{d}/{name.format(c, i)}", f"{d}/{mask.format(c, i)}") for d, c, i in files]
    )


def write_hospital(root: Path, count=30, seed=0, normals=0) -> Path:
    """Blobs, each picture its own, with a bright square as lesion; two pictures a patient; five folds by patient."""
    rows = ["image,patient,class,fold"]
    for number in range(count):
        mask = np.zeros((160, 200), bool)
        mask[40:90, 30 + number % 9 : 120] = number >= normals
        blobs = np.random.default_rng((seed, number)).integers(0, 180, (40, 50), np.uint8)
        save(root / "images" / f"scan{number}.png", cv2.resize(blobs, (200, 160)) + mask * np.uint8(51))
        white(mask, root / "masks" / f"scan{number}.png")
        label = "normal" if number < normals else ("benign", "malignant")[number % 4 // 2]
        rows.append(f"scan{number}.png,{number // 2},{label},{number // 2 % 5 + 1}")
    (root / "meta.csv").write_text("\n".join(rows))
    return root


def changed(write, *changes: str):
    """What another writes, then changed: "-x" removes x, "+x" adds a picture (or another file), "x > y" moves."""

    def build(root: Path) -> dict:
        found = write(root)
        for number, change in enumerate(changes):
            old, arrow, new = change.partition(" > ")
            path = root / (new if arrow else change[1:])
            path.parent.mkdir(parents=True, exist_ok=True)
            if arrow:
                (root / old).rename(path)
            elif change[0] == "-":
                path.unlink()
            elif path.suffix in (".png", ".bmp"):
                save(path, picture(100 + number))
            else:
                path.write_text("x")
        return found

    return build


def read(root: Path, **wishes) -> dict:
    """Label and lesion pixels of each image, by name, as import_data.py understands a folder."""
    source = understand_source(root, Wishes(**{"unmasked": "normal", **wishes}))
    for line in source.lines:
        print(line)
    return {case.name: (case.label, int(read_case(case, source).mask.sum())) for case in source.cases}
