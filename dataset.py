"""BUSI, or your own images/ and masks/, from disk to arrays; augmentation.py makes batches of them.

python dataset.py --data-dir data        # audit: what is in the folder, and what is wrong with it
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.contrib.concurrent import thread_map

CLASSES = ("benign", "malignant", "normal")
LABELS = (*CLASSES, "lesion")  # the last one in folders without classes
BUSI_COUNTS = {"benign": (437, 454), "malignant": (210, 211), "normal": (133, 133)}  # images, mask files
PHANTOM_MARKER = "phantoms.json"  # written by phantoms.py: these pictures are simulated
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000  # a header can promise any size: refuse before decoding

_IMAGE_NAME = re.compile(r"^(?P<name>.+?)(?P<mask>_mask(_\d+)?)?\.png$", re.IGNORECASE)


class DataError(Exception):
    """The data cannot be used; the message names the files and says what to do."""


class Sample(NamedTuple):
    """One image with every mask that belongs to it."""

    name: str  # "benign (4)"
    label: str  # one of LABELS
    image: Path
    masks: tuple[Path, ...]  # merged when read; may be empty for a normal image


# ---------------------------------------------------------------- find


def has_classes(root: Path) -> bool:
    """Whether a folder is laid out as BUSI is."""
    return all((root / label).is_dir() for label in CLASSES)


def has_pairs(root: Path) -> bool:
    """Whether a folder holds images/ and masks/, the other common layout."""
    return (root / "images").is_dir() and (root / "masks").is_dir()


def data_kind(root: Path) -> str:
    """ "phantom", "busi" (the published counts) or "custom": stands in every file of a run."""
    if (root / PHANTOM_MARKER).exists():
        return "phantom"
    if has_pairs(root):
        return "custom"
    counts = {label: _count_files(root / label) for label in CLASSES}
    return "busi" if counts == BUSI_COUNTS else "custom"


def _count_files(folder: Path) -> tuple[int, int]:
    matches = [m for m in map(_IMAGE_NAME.match, os.listdir(folder)) if m]
    return sum(not m["mask"] for m in matches), sum(bool(m["mask"]) for m in matches)


def list_samples(root: Path) -> tuple[list[Sample], list[str]]:
    """Pair images with their masks by file name, in either layout.

    Returns:
        The samples, by class and number, and one line for each file that cannot be paired.
    """
    if has_pairs(root):
        return _list_pairs(root)
    samples, problems = [], []
    for label in CLASSES:
        images: dict[str, Path] = {}
        masks: dict[str, list[Path]] = {}
        for path in sorted((root / label).iterdir()):
            if path.is_dir() or path.name.startswith("."):
                continue
            problems += _unnameable(path)
            if (match := _IMAGE_NAME.match(path.name)) is None:
                problems.append(f"{path}: not a .png file of BUSI's naming. Remove or rename it.")
            elif match["mask"]:
                masks.setdefault(match["name"], []).append(path)
            else:
                images[match["name"]] = path
        for name in sorted(images, key=_natural):
            first_is_there = any(path.stem.lower().endswith("_mask") for path in masks.get(name, ()))
            if not first_is_there and (label != "normal" or name in masks):  # _mask_1 alone: a file was lost
                problems.append(f"{images[name]}: has no mask file {name}_mask.png. Add it, or remove the image.")
            else:
                samples.append(Sample(name, label, images[name], tuple(masks.get(name, ()))))
        problems += [
            f"{path}: mask without an image {name}.png. Add the image, or remove the mask."
            for name in sorted(set(masks) - set(images), key=_natural)
            for path in masks[name]
        ]
    names = [s.name for s in samples]
    problems += [
        f"{s.image}: the name {s.name!r} occurs in two classes. Rename one." for s in samples if names.count(s.name) > 1
    ]
    return samples, problems


def _list_pairs(root: Path) -> tuple[list[Sample], list[str]]:
    """images/ and masks/ with files of one name, of any suffix; an image with an empty mask, or none, is "normal"."""
    problems = []
    found: dict[str, dict[str, Path]] = {"images": {}, "masks": {}}
    for part, files in found.items():
        for path in sorted((root / part).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                problems += _unnameable(path)
                if path.stem in files:
                    problems.append(f"{path}: {files[path.stem].name} has the same name. Keep one of the two.")
                files[path.stem] = path
    images, masks = found["images"], found["masks"]
    problems += [
        f"{masks[name]}: mask without an image of that name. Add the image, or remove the mask."
        for name in sorted(set(masks) - set(images), key=_natural)
    ]
    samples = []
    for name in sorted(images, key=_natural):
        paths = (masks[name],) if name in masks else ()
        try:
            lesion = bool(paths) and read_mask(paths, read_gray(images[name]).shape).any()
            samples.append(Sample(name, "lesion" if lesion else "normal", images[name], paths))
        except DataError as error:
            problems.append(str(error))
    return samples, problems


def _unnameable(path: Path) -> list[str]:
    """A line about a file name that is no text, as another system may have left it: no figure could show it."""
    try:
        path.name.encode()
        return []
    except UnicodeEncodeError:
        return [f"{path}: its name holds bytes that are no text. Rename it."]


def _natural(name: str) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find_samples(root: Path) -> list[Sample]:
    """Every sample below `root`, which has either layout, sorted.

    Raises:
        DataError: a file has no partner, or there is no image at all; every such file is listed.
    """
    samples, problems = list_samples(root)
    if problems:
        raise DataError("\n".join(problems))
    if not any(s.label != "normal" for s in samples):
        raise DataError(f"{root}: holds no image of a lesion. See data/README.md for the expected files.")
    if has_pairs(root):
        if bare := sum(not s.masks for s in samples):
            print(f"note: {bare} of {len(samples)} images in {root} have no mask file and count as normal.")
        return samples
    images, masks = len(samples), sum(len(s.masks) for s in samples)
    expected = tuple(sum(n) for n in zip(*BUSI_COUNTS.values(), strict=True))
    if not (root / PHANTOM_MARKER).exists() and (images, masks) != expected:
        print(f"note: {root} holds {images} images and {masks} masks; BUSI has {expected[0]} and {expected[1]}.")
    return samples


# ---------------------------------------------------------------- read


def read_gray(path: Path) -> np.ndarray:
    """Grey picture, (H, W) uint8, upright (EXIF); colours by luma, 16 bits scaled to 8.

    Pillow, not OpenCV: OpenCV returns a truncated JPEG as if it were whole.

    Raises:
        DataError: the file is missing, no picture, damaged, or larger than MAX_PIXELS.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(
                    f"{path}: {picture.width}x{picture.height} pixels are more than "
                    f"{MAX_PIXELS // 1_000_000} million. Shrink it first."
                )
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith(("I", "F")):  # 16 bits: Pillow's own conversion clips at 255
                values = np.asarray(picture, np.float32)
                return (
                    (values / (65535 if values.max(initial=0) > 255 else 255) * 255)
                    .round()
                    .clip(0, 255)
                    .astype(np.uint8)
                )
            return np.asarray(picture.convert("L"))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, struct.error, ...
        reason = str(error).split("'")[0].strip() or type(error).__name__
        raise DataError(f"{path}: cannot be read as {', '.join(FORMATS)} ({reason}). Replace the file.") from error


def read_mask(paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    """Union of an image's masks, (H, W) uint8 in {0, 1}; no path means no lesion.

    Raises:
        DataError: a mask is unreadable or its size is not `shape`.
    """
    union = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_gray(path)
        if mask.shape != shape:
            raise DataError(
                f"{path}: mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}. "
                "Export the mask again at the image's size."
            )
        union |= mask > 127  # half range: JPEG masks and soft edges hold values between
    return union


def read_sample(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W) uint8 and merged mask (H, W) uint8 in {0, 1}, at the original size.

    Raises:
        DataError: as `read_gray` and `read_mask`; or a lesion image whose mask is empty.
    """
    image = read_gray(sample.image)
    mask = read_mask(sample.masks, image.shape)
    if sample.label != "normal" and not mask.any():
        raise DataError(f"{sample.masks[0]}: mask is empty (no value above 127), but {sample.name} is {sample.label}.")
    if sample.label == "normal" and mask.any():
        raise DataError(f"{sample.masks[0]}: mask holds a lesion, but {sample.name} is normal.")
    return image, mask


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width); area average where it shrinks, so that speckle does not alias."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) by nearest neighbour: no value that was not there before."""
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def read_samples(samples: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`read_sample` of every sample, in parallel.

    Raises:
        DataError: one line for every sample that cannot be used, not only the first.
    """

    def read(sample: Sample) -> tuple[np.ndarray, np.ndarray] | str:
        try:
            return read_sample(sample)
        except DataError as error:
            return str(error)

    # Threads: decoding releases the GIL.
    results = thread_map(read, samples, max_workers=os.cpu_count(), desc="reading", unit="image", leave=False)
    if problems := [item for item in results if isinstance(item, str)]:
        raise DataError("\n".join(problems))
    return results


def resize_samples(pictures: Sequence[tuple[np.ndarray, np.ndarray]], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of one size, each (N, image_size, image_size) uint8."""
    size = (image_size, image_size)
    print(
        f"{len(pictures)} images of {image_size}x{image_size} take {len(pictures) * image_size**2 * 2 / 2**20:.0f} MiB "
        "of memory"
    )
    return (
        np.stack([resize_image(image, size) for image, _ in pictures]),
        np.stack([resize_mask(mask, size) for _, mask in pictures]),
    )


if __name__ == "__main__":
    import sys

    import tyro

    import audit
    from errors import one_clear_line

    with one_clear_line():
        sys.exit(audit.main(tyro.cli(audit.Config, description=__doc__)))
