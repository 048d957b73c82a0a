"""From a folder of image and mask pairs to batches for training: find, read, resize, augment, `tf.data`.

    samples = find_samples(Path("Dataset_BUSI_with_GT"))       # or a folder that holds images/ and masks/
    images, masks = resize_samples(read_samples(samples), 224)
    model.fit(make_dataset(images, masks, batch_size=8, training=True), steps_per_epoch=-(-len(images) // 8))

This file imports nothing else of the project: copy it into your own.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.contrib.concurrent import thread_map

CLASSES = ("benign", "malignant", "normal")
LABELS = (*CLASSES, "lesion")  # the last one in folders without classes
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


def detect_layout(root: Path) -> str | None:
    """ "pairs" for a folder of images/ and masks/, "classes" for BUSI's benign/, malignant/ and normal/, else None."""
    layouts = {"pairs": ("images", "masks"), "classes": CLASSES}
    return next((name for name, parts in layouts.items() if all((root / part).is_dir() for part in parts)), None)


def list_samples(root: Path) -> tuple[list[Sample], list[str]]:
    """Pair images with their masks by file name, in either layout: the samples, and a line for each unpaired file."""
    if detect_layout(root) == "pairs":
        return _list_pairs(root)
    samples, problems = [], []
    for label in CLASSES:
        images, masks = {}, defaultdict(list)
        for path in sorted(p for p in (root / label).iterdir() if not p.is_dir() and not p.name.startswith(".")):
            problems += _unnameable(path)
            if (match := _IMAGE_NAME.match(path.name)) is None:
                problems.append(f"{path}: not a .png file of BUSI's naming. Remove or rename it.")
            elif match["mask"]:
                masks[match["name"]].append(path)
            else:
                images[match["name"]] = path
        for name in sorted(images, key=_natural):
            first_is_there = any(path.stem.lower().endswith("_mask") for path in masks[name])
            if not first_is_there and (label != "normal" or masks[name]):  # _mask_1 alone: a file was lost
                problems.append(f"{images[name]}: has no mask file {name}_mask.png. Add it, or remove the image.")
            else:
                samples.append(Sample(name, label, images[name], tuple(masks[name])))
        problems += _lone(path for name in sorted(set(masks) - set(images), key=_natural) for path in masks[name])
    counts = Counter(s.name for s in samples)
    twice = [s for s in samples if counts[s.name] > 1]
    return samples, [*problems, *(f"{s.image}: the name {s.name!r} occurs in two classes. Rename one." for s in twice)]


def _list_pairs(root: Path) -> tuple[list[Sample], list[str]]:
    """images/ and masks/ with files of one name, of any suffix; an image with an empty mask, or none, is "normal"."""
    problems, images, masks = [], {}, {}
    for part, files in (("images", images), ("masks", masks)):
        for path in sorted((root / part).iterdir()):
            if path.suffix.lower() in SUFFIXES:
                problems += _unnameable(path)
                if path.stem in files:
                    problems.append(f"{path}: {files[path.stem].name} has the same name. Keep one of the two.")
                files[path.stem] = path
    problems += _lone(masks[name] for name in sorted(set(masks) - set(images), key=_natural))
    samples = []
    for name in sorted(images, key=_natural):
        paths = (masks[name],) if name in masks else ()
        try:
            lesion = bool(paths) and read_mask(paths, read_gray(images[name]).shape).any()
            samples.append(Sample(name, "lesion" if lesion else "normal", images[name], paths))
        except DataError as error:
            problems.append(str(error))
    return samples, problems


def _lone(masks: Iterable[Path]) -> list[str]:
    return [f"{path}: mask without an image of its name. Add the image, or remove the mask." for path in masks]


def _unnameable(path: Path) -> list[str]:
    """A line about a file name that is no text, as another system may have left it: no figure could show it."""
    is_text = path.name.encode(errors="replace").decode() == path.name
    return [] if is_text else [f"{path}: its name holds bytes that are no text. Rename it."]


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
    if detect_layout(root) == "pairs" and (bare := sum(not s.masks for s in samples)):
        print(f"note: {bare} of {len(samples)} images in {root} have no mask file and count as normal.")
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
                size, limit = f"{picture.width}x{picture.height}", f"{MAX_PIXELS // 1_000_000} million"
                raise DataError(f"{path}: {size} pixels are more than {limit}. Shrink it first.")
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith(("I", "F")):  # 16 bits: Pillow's own conversion clips at 255
                values = np.asarray(picture, np.float32)
                top = 65535 if values.max(initial=0) > 255 else 255
                return (values / top * 255).round().clip(0, 255).astype(np.uint8)
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
            sizes = f"mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}"
            raise DataError(f"{path}: {sizes}. Export the mask again at the image's size.")
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


def try_reading(read: Callable, item):
    """What `read` makes of an item, or the line of the DataError that it raises."""
    try:
        return read(item)
    except DataError as error:
        return str(error)


def read_samples(samples: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`read_sample` of every sample, in parallel.

    Raises:
        DataError: one line for every sample that cannot be used, not only the first.
    """
    read = partial(try_reading, read_sample)
    results = thread_map(read, samples, max_workers=os.cpu_count(), desc="reading", unit="image", leave=False)
    if problems := [item for item in results if isinstance(item, str)]:
        raise DataError("\n".join(problems))
    return results


def resize_samples(pictures: Sequence[tuple[np.ndarray, np.ndarray]], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and masks of one size, each (N, image_size, image_size) uint8."""
    size = (image_size, image_size)
    images = np.stack([resize_image(image, size) for image, _ in pictures])
    return images, np.stack([resize_mask(mask, size) for _, mask in pictures])


# ---------------------------------------------------------------- augment and batch


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float = 1.0):
    """One random change of an image (H, W) uint8 and its mask (H, W) uint8 in {0, 1}: a new pair of the same shapes.

    Flip (left-right only: shadows fall downwards), rotation, scale, shear, translation and a smooth elastic deformation
    in one interpolation; then gamma, contrast, blur and speckle on the image. `rng` is the only source of chance.
    `strength` 0 leaves the flip alone, 1 is the default recipe.
    """
    height, width = image.shape
    flip = -1.0 if rng.random() < 0.5 else 1.0
    angle, shear = np.deg2rad(rng.uniform(-15, 15) * strength), np.deg2rad(rng.uniform(-8, 8) * strength)
    zoom = np.exp(rng.uniform(-0.25, 0.25) * strength)
    shift = rng.uniform(-0.1, 0.1, 2) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[flip, np.tan(shear)], [0, 1]]) / zoom  # output -> input, in units of the picture

    # A coarse random field, enlarged, is a smooth deformation.
    field = rng.normal(0, 0.012 * strength, (4, 4, 2)).astype(np.float32)
    bend = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(*(np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in (width, height)))
    u = matrix[0, 0] * x + matrix[0, 1] * y + shift[0] + bend[..., 0]
    v = matrix[1, 0] * x + matrix[1, 1] * y + shift[1] + bend[..., 1]
    map_x, map_y = ((u + 0.5) * (width - 1)).astype(np.float32), ((v + 0.5) * (height - 1)).astype(np.float32)
    # Both reflect: a lesion mirrored into the picture is a lesion in the mask too.
    image = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    if rng.random() < 0.2 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    gamma = np.exp(rng.uniform(-0.35, 0.35) * strength)
    gain, offset = 1 + rng.uniform(-0.25, 0.25) * strength, rng.uniform(-0.1, 0.1) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain + offset
    image = cv2.LUT(image, (curve * 255).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:  # speckle multiplies; its grain is coarser than a pixel
        grain = cv2.resize(rng.normal(1, 0.12, (height // 2, width // 2)).astype(np.float32), (width, height))
        image = (image * grain).clip(0, 255).astype(np.uint8)
    return image, mask


def make_dataset(
    images: np.ndarray, masks: np.ndarray, batch_size: int, *, training=False, seed=0, strength=1.0, first_epoch=0
):
    """Batches for `fit`, `evaluate` and `predict`: (image, mask), each (B, H, W, 1) float32, in 0..255 and {0, 1}.

    Training: one endless stream (give `fit` steps_per_epoch = ceil(N / batch_size)), reshuffled and augmented anew in
    every epoch. Every draw is a function of (seed, epoch, image): two runs with one seed are equal, and a resumed run
    starts at `first_epoch` as if it had never stopped; `tf.random` inside `map` would repeat its draws every epoch.
    Evaluation: every image once, in order.

    Args:
        images: (N, H, W) uint8.
        masks: (N, H, W) uint8 in {0, 1}.
        strength: of `augment`.
    """
    import tensorflow as tf

    def to_batch(image, mask):
        return tf.cast(image, tf.float32)[..., None], tf.cast(mask, tf.float32)[..., None]

    if not training:
        data = tf.data.Dataset.from_tensor_slices((images, masks))
        return data.batch(batch_size).map(to_batch).prefetch(tf.data.AUTOTUNE)

    cv2.setNumThreads(1)  # the batches are made in parallel already, beside a busy network

    def make_batch(epoch: np.ndarray, indices: np.ndarray):
        draws = (np.random.default_rng((seed, int(epoch), int(i))) for i in indices)
        pairs = [augment(images[i], masks[i], rng, strength) for i, rng in zip(indices, draws, strict=True)]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def epoch_batches(epoch):
        stream = tf.stack([tf.cast(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=stream)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(lambda indices: (epoch, indices))

    def load(epoch, indices):
        image, mask = tf.numpy_function(make_batch, (epoch, indices), (tf.uint8, tf.uint8), stateful=False)
        shape = (None, *images.shape[1:])
        return to_batch(tf.ensure_shape(image, shape), tf.ensure_shape(mask, shape))

    epochs = tf.data.Dataset.range(first_epoch, 2**31)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
