"""From a folder of images and masks to training batches: find, read, resize, augment, and make a `tf.data` pipeline.

    samples = find_samples(Path("data/mine"))
    images, masks = resize_samples(read_each(samples), 224)
    model.fit(make_dataset(images, masks, batch_size=8, training=Stream(seed=0)), steps_per_epoch=-(-len(images) // 8))

Two kinds of folders are read, and nothing about them is guessed: BUSI as it is published, and the plain form that
import_data.py makes of all others. This file imports nothing else of the project, so you can copy it into your own.
"""

import csv
import hashlib
import os
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

CLASSES = ("benign", "malignant", "normal")
LABELS = (*CLASSES, "lesion")  # "lesion" where the data have no classes
MAX_PIXELS = 50_000_000  # larger images are refused before they are decoded, which could fill the memory
# What Pillow calls pictures that lose nothing as 8 bits of grey.
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


class DataError(Exception):
    """The data cannot be used; the message names the files and says what to do."""


class Sample(NamedTuple):
    """One image and all of its masks."""

    name: str  # "benign (4)"
    label: str  # one of LABELS
    image: Path
    masks: tuple[Path, ...]  # merged when read; may be empty for a normal image
    patient: str = ""  # this and what follows come from meta.csv
    split: str = ""  # train, val or test
    fold: str = ""
    folder: str = ""  # the hospital; or the data folder, if several are used together
    sha256: str = ""  # of the image's pixels


# ---------------------------------------------------------------- find


def find_samples(root: Path) -> list[Sample]:
    """Find the images of a folder and their masks.

    - BUSI: benign/, malignant/ and normal/, each with NAME.png, NAME_mask.png and perhaps NAME_mask_1.png, ...
    - The plain form: images/NAME.png, masks/NAME.png, and meta.csv, which names every image and its class, and may have
      the columns patient, split, fold, hospital and sha256.

    Raises:
        DataError: it is another folder, holds no lesion, or has files without a partner; the message lists them.
    """
    if is_plain(root):
        samples, problems = _list_plain(root)
    elif is_busi(root):
        samples, problems = _list_busi(root)
    else:
        raise DataError(f"{root}: {how_to_import(root)}")
    again = Counter(sample.name for sample in samples)
    problems += [f"{s.image}: the name {s.name!r} occurs twice. Rename one." for s in samples if again[s.name] > 1]
    if problems:
        raise DataError("\n".join(problems))
    if not any(sample.label != "normal" for sample in samples):
        raise DataError(f"{root}: holds no image of a lesion.")
    return samples


def is_plain(root: Path) -> bool:
    """Whether a folder is in the plain form."""
    return (root / "meta.csv").is_file() and (root / "images").is_dir()


def is_busi(root: Path) -> bool:
    """Whether a folder has those of BUSI's classes."""
    return any((root / label).is_dir() for label in CLASSES)


def how_to_import(root: Path) -> str:
    """What to do with a folder of another kind."""
    return f"is neither BUSI nor imported. Import it first: python import_data.py {root} --output data/mine"


def _list_busi(root: Path) -> tuple[list[Sample], list[str]]:
    samples, problems = [], []
    for label in CLASSES:
        images, masks = {}, defaultdict(dict)
        for path in sorted((root / label).glob("[!.]*"), key=natural_order):
            found = re.fullmatch(r"(.+?)(_mask(?:_(\d+))?)?\.png", path.name)
            if found and found[2]:
                masks[found[1]][int(found[3] or 0)] = path
            elif found:
                images[found[1]] = path
            elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm"):
                problems.append(f"{path}: is no .png as in BUSI; {how_to_import(root)}")
        problems += [f"{min(masks[name].values())}: mask without an image." for name in masks if name not in images]
        for name, image in images.items():
            own = masks[name]
            if (own or label != "normal") and 0 not in own:
                problems.append(f"{image}: has no mask file {name}_mask.png. Add it, or remove the image.")
            samples.append(Sample(name, label, image, tuple(own[k] for k in sorted(own))))
    return samples, problems


def natural_order(path: Path) -> list:
    """Sort key that puts 9 before 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def _list_plain(root: Path) -> tuple[list[Sample], list[str]]:
    table, samples, problems = root / "meta.csv", [], defaultdict(list)
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [{key: (cell or "").strip() for key, cell in row.items() if key} for row in csv.DictReader(lines)]
    except (OSError, UnicodeError, csv.Error, AttributeError) as error:
        raise DataError(f"{table}: cannot be read as a table ({error}).") from None
    if rows and not {"image", "class"} <= set(rows[0]):
        raise DataError(f"{table}: has no columns image and class; {how_to_import(root)}")
    there = {part: {path.stem: path for path in (root / part).glob("*.png")} for part in ("images", "masks")}
    for row in rows:
        name, label = row["image"].removesuffix(".png"), row["class"]
        image, mask = (files.pop(name, None) for files in there.values())
        if image is None:
            problems["is named by meta.csv, and is not there or named twice"].append(root / "images" / f"{name}.png")
        elif label not in LABELS:
            problems[f"is of class {label!r} in meta.csv, which is none of {', '.join(LABELS)}"].append(image)
        elif mask is None and label != "normal":
            problems["has no mask file"].append(image)
        else:
            more = {key: row.get(key, "") for key in ("patient", "split", "fold", "sha256")}
            masks = () if mask is None else (mask,)
            samples.append(Sample(name, label, image, masks, **more, folder=row.get("hospital", "")))
    for files in there.values():
        problems["is not in meta.csv"] += files.values()
    lines = [f"{min(paths)}: {what}" + (f" ({len(paths)} such files)" if paths[1:] else "") + ". Mend or import it."
             for what, paths in problems.items() if paths]  # fmt: skip
    return samples, lines


# ---------------------------------------------------------------- read


def read_gray(path: Path) -> np.ndarray:
    """Read a PNG file as a grey image, (H, W) uint8; colours by luma.

    Pillow is used, since OpenCV returns a truncated file without an error.

    Raises:
        DataError: the file is missing, no PNG, damaged, has more than 8 bits or more than MAX_PIXELS.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size, limit = f"{picture.width}x{picture.height}", f"{MAX_PIXELS // 1_000_000} million"
                raise DataError(f"{path}: {size} pixels are more than {limit}. Shrink it first.")
            if picture.mode not in EIGHT_BITS:
                raise DataError(f"{path}: has more than 8 bits; {how_to_import(path.parent.parent)}")
            return np.asarray(ImageOps.exif_transpose(picture).convert("L"))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, struct.error, ...
        reason = str(error).split("'")[0].strip() or type(error).__name__
        raise DataError(f"{path}: cannot be read as PNG ({reason}). Replace the file.") from error


def read_mask(paths: Sequence[Path], shape: tuple[int, int]) -> np.ndarray:
    """Union of an image's masks, (H, W) uint8 in {0, 1}, all 0 without paths; each mask must have this `shape`."""
    union = np.zeros(shape, np.uint8)
    for path in paths:
        mask = read_gray(path)
        if mask.shape != shape:
            sizes = f"mask is {mask.shape[1]}x{mask.shape[0]}, its image {shape[1]}x{shape[0]}"
            raise DataError(f"{path}: {sizes}. Export the mask again at the image's size.")
        union |= mask > 127
    return union


def hash_pixels(*pictures: np.ndarray) -> str:
    """What identifies a grey image, or one and its mask, (H, W) uint8, in any file: SHA-256 of sizes and pixels."""
    parts = (f"{picture.shape[0]} {picture.shape[1]} ".encode() + picture.tobytes() for picture in pictures)
    return hashlib.sha256(b"".join(parts)).hexdigest()


def read_sample(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Read the image (H, W) uint8 and the merged mask (H, W) uint8 in {0, 1}, at the original size.

    Raises:
        DataError: as `read_gray` and `read_mask`; a lesion image's mask is empty, or a normal image's is not; or the
            image has other pixels than meta.csv says.
    """
    image = read_gray(sample.image)
    if sample.sha256 and hash_pixels(image) != sample.sha256:
        raise DataError(f"{sample.image}: was changed after it was imported. Import the data again.")
    mask = read_mask(sample.masks, image.shape)
    if sample.label != "normal" and not mask.any():
        raise DataError(f"{sample.masks[0]}: mask is empty, but {sample.name} is {sample.label}.")
    if sample.label == "normal" and mask.any():
        raise DataError(f"{sample.masks[0]}: mask holds a lesion, but {sample.name} is normal.")
    return image, mask


def try_reading(read: Callable, item):
    """The result of `read(item)`, or the message of the DataError that it raises."""
    try:
        return read(item)
    except DataError as error:
        return str(error)


def read_each(samples: Sequence[Sample], bar: str = "") -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`read_sample` of every sample, in order; only a few pictures are read ahead of the one that is asked for.

    Args:
        samples: from `find_samples`.
        bar: what a progress bar says; without it there is none.

    Raises:
        DataError: at the end, with a line for each sample that cannot be used.
    """
    threads, problems = os.cpu_count() or 1, []
    left = iter(tqdm(samples, desc=bar, unit="image", leave=False) if bar else samples)
    with ThreadPoolExecutor(threads) as pool:  # decoding releases the GIL

        def begin(count: int) -> list:
            return [pool.submit(try_reading, read_sample, sample) for sample in islice(left, count)]

        waiting = deque(begin(2 * threads))
        while waiting:
            picture = waiting.popleft().result()
            waiting.extend(begin(1))
            if isinstance(picture, str):
                problems.append(picture)
            else:
                yield picture
    if problems:
        raise DataError("\n".join(problems))


def read_samples(samples: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """As `read_each`, with all pictures in memory at once."""
    return list(read_each(samples, bar="reading"))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width), bilinear, or by averaging areas if both sides shrink, where speckle would alias."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) by nearest neighbour, so that no new values appear."""
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def resize_samples(pictures: Iterable[tuple[np.ndarray, np.ndarray]], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize images and masks to the same size; returns two arrays, (N, image_size, image_size) uint8."""
    size = (image_size, image_size)
    images, masks = zip(*((resize_image(i, size), resize_mask(m, size)) for i, m in pictures), strict=True)
    return np.stack(images), np.stack(masks)


# ---------------------------------------------------------------- augment and batch


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float = 1.0):
    """Augment an image (H, W) uint8 and its mask (H, W) uint8 in {0, 1}: a new pair of the same shapes.

    Flip (left-right only: shadows fall downwards), rotation, scale, shear, translation and a smooth elastic deformation
    in one interpolation; then blur, gamma, contrast and speckle on the image. `rng` is the only source of randomness.
    With `strength` 0 there is only the flip; 1 is the default.
    """
    height, width = image.shape
    flip = -1.0 if rng.random() < 0.5 else 1.0
    angle, shear = np.deg2rad(rng.uniform(-15, 15) * strength), np.deg2rad(rng.uniform(-8, 8) * strength)
    zoom = np.exp(rng.uniform(-0.25, 0.25) * strength)
    shift = rng.uniform(-0.1, 0.1, 2) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[flip, np.tan(shear)], [0, 1]]) / zoom  # output -> input, in image widths and heights

    # An enlarged coarse random field is a smooth deformation; 4x4 points are fine enough to bend a lesion's outline.
    field = rng.normal(0, 0.012 * strength, (4, 4, 2)).astype(np.float32)
    bend = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(*(np.linspace(-0.5, 0.5, side, dtype=np.float32) for side in (width, height)))
    u = matrix[0, 0] * x + matrix[0, 1] * y + shift[0] + bend[..., 0]
    v = matrix[1, 0] * x + matrix[1, 1] * y + shift[1] + bend[..., 1]
    map_x, map_y = ((u + 0.5) * (width - 1)).astype(np.float32), ((v + 0.5) * (height - 1)).astype(np.float32)
    # Image and mask are both reflected at the border, so that a mirrored lesion is in the mask too.
    image = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    if rng.random() < 0.2 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    gamma = np.exp(rng.uniform(-0.35, 0.35) * strength)
    gain, offset = 1 + rng.uniform(-0.25, 0.25) * strength, rng.uniform(-0.1, 0.1) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain + offset
    image = cv2.LUT(image, (curve * 255).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:  # multiplicative speckle, coarser than a pixel
        grain = cv2.resize(rng.normal(1, 0.12, (height // 2, width // 2)).astype(np.float32), (width, height))
        image = (image * grain).clip(0, 255).astype(np.uint8)
    return image, mask


class Stream(NamedTuple):
    """How training batches are drawn. All randomness depends on (seed, epoch, image) only."""

    seed: int = 0
    change: Callable = augment  # the augmentation: (image, mask, random generator) -> a new image and mask
    first_epoch: int = 0  # of a resumed run, which then continues as if it had not been stopped


def make_dataset(
    images: np.ndarray,
    masks: np.ndarray,
    batch_size: int,
    training: Stream | None = None,
    weights: np.ndarray | None = None,
):
    """Batches for `fit`, `evaluate` and `predict`: (image, mask), each (B, H, W, 1) float32, in 0..255 and {0, 1}.

    With `training`: an endless stream (give `fit` steps_per_epoch = ceil(N / batch_size)), shuffled and augmented anew
    in every epoch; equal seeds give equal batches. (`tf.random` inside `map` would repeat its draws in every epoch.)
    Without: every image once, in order.

    Args:
        images: (N, H, W) uint8.
        masks: (N, H, W) uint8 in {0, 1}.
        batch_size: images in a batch; the last one of an epoch may be smaller.
        training: how training batches are drawn.
        weights: (N,) float32, weight of each image; batches are then (image, mask, weight), the weight (B,).
    """
    import tensorflow as tf

    def to_batch(image, mask):
        return tf.cast(image, tf.float32)[..., None], tf.cast(mask, tf.float32)[..., None]

    def weigh(batch, indices):
        return batch if weights is None else (*batch, tf.gather(weights, indices))

    if training is None:
        data = tf.data.Dataset.from_tensor_slices((images, masks, np.arange(len(images)))).batch(batch_size)
        return data.map(lambda image, mask, i: weigh(to_batch(image, mask), i)).prefetch(tf.data.AUTOTUNE)

    cv2.setNumThreads(1)  # batches are made in parallel already, while the network is trained

    def make_batch(epoch: np.ndarray, indices: np.ndarray):
        draws = (np.random.default_rng((training.seed, int(epoch), int(i))) for i in indices)
        pairs = [training.change(images[i], masks[i], rng) for i, rng in zip(indices, draws, strict=True)]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def epoch_batches(epoch):
        stream = tf.stack([tf.cast(training.seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=stream)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(lambda indices: (epoch, indices))

    def load(epoch, indices):
        image, mask = tf.numpy_function(make_batch, (epoch, indices), (tf.uint8, tf.uint8), stateful=False)
        shape = (None, *images.shape[1:])
        return weigh(to_batch(tf.ensure_shape(image, shape), tf.ensure_shape(mask, shape)), indices)

    epochs = tf.data.Dataset.range(training.first_epoch, 2**31)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=os.cpu_count(), deterministic=True).prefetch(4)
