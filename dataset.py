"""From a folder of images and masks to training batches: find, read, resize, augment, and make a `tf.data` pipeline.

    samples = find_samples(Path("scans"))  # scans/images/7.png with scans/masks/7.png, and so on
    images, masks = resize_samples(read_samples(samples), 224)
    model.fit(make_dataset(images, masks, batch_size=8, training=Stream(seed=0)), steps_per_epoch=-(-len(images) // 8))

This file imports nothing else of the project, so you can copy it into your own. Other modules add folder layouts and
file formats through `LAYOUTS` and `READERS`, as segmentation/importing/layouts.py does.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps
from tqdm.contrib.concurrent import thread_map

CLASSES = ("benign", "malignant", "normal")
LABELS = (*CLASSES, "lesion")  # "lesion" where the data have no classes
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000  # larger images are refused before they are decoded, which could fill the memory


class DataError(Exception):
    """The data cannot be used; the message names the files and says what to do."""


class MaskReading(NamedTuple):
    """How the masks of a folder encode lesions: as the pixels that differ enough from the background."""

    background: tuple[float, ...] = (0.0,)  # grey value, or red, green and blue
    difference: float = 127.0  # more than this, in any colour, is lesion; half range tolerates JPEG and soft edges
    values: tuple[float, ...] = ()  # if the user gives any: only these grey values are lesion


HALF_RANGE = MaskReading()


class Sample(NamedTuple):
    """One image and all of its masks."""

    name: str  # "benign (4)"
    label: str  # one of LABELS
    image: Path
    masks: tuple[Path, ...]  # merged when read; may be empty for a normal image
    reading: MaskReading = HALF_RANGE
    white: float | None = None  # value of white in images of more than 8 bits; None: the format's largest value
    patient: str = ""  # patient and published fold come from a table beside the data
    fold: str = ""
    folder: str = ""  # the data folder, if several are used together


# Each takes a folder and the grey values of lesions, and returns samples and problems, or None for another layout.
LAYOUTS: list[Callable] = []
READERS: dict[str, Callable[[Path], np.ndarray]] = {}  # from a file ending such as ".dcm" to a reader of grey values


# ---------------------------------------------------------------- find
def list_samples(root: Path, mask_values: Sequence[float] = ()) -> tuple[list[Sample], list[str]]:
    """Find the samples of a folder in one of `LAYOUTS`, or in images/ and masks/, and list the files without a partner.

    `mask_values` are the grey values of lesion pixels, if the user gives any.
    """
    for find in (*LAYOUTS, list_pairs):
        if (found := find(root, mask_values)) is not None:
            return found
    raise DataError(f"{root}: found no images with masks here. See data/README.md for what is read.")


def list_pairs(root: Path, mask_values: Sequence[float] = ()) -> tuple[list[Sample], list[str]] | None:
    """The simplest layout: images/ and masks/ with files of the same name; None if one of the folders is missing."""
    if not ((root / "images").is_dir() and (root / "masks").is_dir()):
        return None
    files = [sorted(p for p in (root / part).iterdir() if p.suffix.lower() in SUFFIXES) for part in ("images", "masks")]
    images, masks = ({path.stem: path for path in paths} for paths in files)
    problems = [f"{masks[name]}: mask without an image of its name." for name in sorted(set(masks) - set(images))]
    kept = {*images.values(), *masks.values()}
    problems += [f"{path}: another file has its name." for paths in files for path in paths if path not in kept]
    reading = MaskReading(values=tuple(mask_values))

    def make(name: str) -> Sample:
        paths = (masks[name],) if name in masks else ()
        lesion = any(find_lesion(read_values(path, as_mask=True), reading).any() for path in paths)
        return Sample(name, "lesion" if lesion else "normal", images[name], paths, reading)

    made = list(thread_map(partial(try_reading, make), images, max_workers=os.cpu_count(), leave=False))
    return [s for s in made if isinstance(s, Sample)], [*problems, *(line for line in made if isinstance(line, str))]


def find_samples(root: Path, mask_values: Sequence[float] = ()) -> list[Sample]:
    """As `list_samples`, but raises a DataError that lists all files without a partner, or if there is no lesion."""
    samples, problems = list_samples(root, mask_values)
    if problems:
        raise DataError("\n".join(problems))
    if not any(s.label != "normal" for s in samples):
        raise DataError(f"{root}: holds no image of a lesion. See data/README.md for the expected files.")
    normals = [s for s in samples if s.label == "normal" and not s.masks]
    if bare := [s.name for s in normals if "normal" not in map(str.casefold, s.image.parts)]:
        print(f"note: {len(bare)} of {len(samples)} images have no mask file and count as normal: {', '.join(bare)}")
    return samples


# ---------------------------------------------------------------- read
def read_values(path: Path, as_mask: bool = False, page: int = 0) -> np.ndarray:
    """Read the values of an image file, turned upright by EXIF: (H, W) of any dtype; of a colour mask (H, W, 3).

    Pillow is used, since OpenCV returns a truncated JPEG without an error.

    Raises:
        DataError: the file is missing, not an image, damaged, holds NaN, or has more than MAX_PIXELS.
    """
    try:
        if read := READERS.get(path.suffix.lower()):
            return read(path)
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                size, limit = f"{picture.width}x{picture.height}", f"{MAX_PIXELS // 1_000_000} million"
                raise DataError(f"{path}: {size} pixels are more than {limit}. Shrink it first.")
            picture.seek(page)
            deep = picture.mode.startswith(("I", "F"))
            if not deep and any(";16" in str(tile[3]) for tile in picture.tile):  # Pillow would drop the lower 8 bits
                raise DataError(f"{path}: holds colours of 16 bits. Save it as grey, or with 8 bits.")
            picture = ImageOps.exif_transpose(picture)
            if deep:  # Pillow's own conversion clips at 255
                values = np.asarray(picture)
                if not np.isfinite(values).all():
                    raise DataError(f"{path}: holds pixels that are NaN or infinite.")
                return values
            if as_mask and picture.mode not in ("1", "L"):
                return merge_alpha(np.asarray(picture.convert("RGBA")))
            return np.asarray(picture.convert("L"))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except Exception as error:  # a damaged file makes Pillow raise OSError, SyntaxError, struct.error, ...
        reason = str(error).split("'")[0].strip() or type(error).__name__
        raise DataError(f"{path}: cannot be read as {', '.join(FORMATS)} ({reason}). Replace the file.") from error


def merge_alpha(picture: np.ndarray) -> np.ndarray:
    """Flatten a mask (H, W, 4) onto a black background: grey values (H, W), or colours (H, W, 3)."""
    colours, alpha = picture[..., :3], picture[..., 3]
    if np.ptp(alpha):
        frame = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        if not colours[alpha > 0].any() and np.median(frame) == 0:  # black on transparent: alpha is the mask
            return alpha
        colours = (colours * (alpha[..., None] / 255)).round().astype(np.uint8)
    elif not alpha.any() and (colours == colours[0, 0]).all():  # nothing was drawn
        return alpha
    return colours[..., 0] if (colours[..., :1] == colours[..., 1:]).all() else colours


def read_gray(path: Path, white: float | None = None, page: int = 0) -> np.ndarray:
    """Read a grey image, (H, W) uint8; colours by luma; more than 8 bits scaled: `white` (DICOM: 65535) becomes 255."""
    values = read_values(path, page=page)
    if values.dtype == np.uint8:
        return values
    if white is None or path.suffix.lower() in READERS:
        white = 65535 if values.max(initial=0) > 255 else 255
    if values.min(initial=0) < -0.05 * white:  # an image filter may overshoot a little
        raise DataError(f"{path}: holds values down to {values.min():g}. Export it with black as 0.")
    return (values.astype(np.float32) / white * 255).round().clip(0, 255).astype(np.uint8)


def read_mask(paths: Sequence[Path], shape: tuple[int, int], reading: MaskReading = HALF_RANGE) -> np.ndarray:
    """Union of an image's masks, (H, W) uint8 in {0, 1}, all 0 without paths; each mask must have this `shape`."""
    union = np.zeros(shape, np.uint8)
    for path in paths:
        values = read_values(path, as_mask=True)
        if values.shape[:2] != shape:
            sizes = f"mask is {values.shape[1]}x{values.shape[0]}, its image {shape[1]}x{shape[0]}"
            raise DataError(f"{path}: {sizes}. Export the mask again at the image's size.")
        union |= find_lesion(values, reading)
    return union


def find_lesion(values: np.ndarray, reading: MaskReading) -> np.ndarray:
    """Which pixels of a mask are lesion, (H, W) bool; `values` are (H, W) or (H, W, 3), from `read_values`."""
    values = values.reshape(*values.shape[:2], -1)
    if reading.values:
        return np.isin(values.astype(np.float32), np.float32(reading.values)).all(axis=2)
    return (np.abs(values - np.float32(reading.background)) > reading.difference).any(axis=2)


def read_sample(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Read the image (H, W) uint8 and the merged mask (H, W) uint8 in {0, 1}, at the original size.

    Raises:
        DataError: as `read_gray` and `read_mask`; or a lesion image's mask is empty, or a normal image's is not.
    """
    image = read_gray(sample.image, sample.white)
    mask = read_mask(sample.masks, image.shape, sample.reading)
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


def read_samples(samples: Sequence[Sample]) -> list[tuple[np.ndarray, np.ndarray]]:
    """`read_sample` of every sample; raises a DataError with a line for each sample that cannot be used."""
    read = partial(try_reading, read_sample)  # in threads, as decoding releases the GIL
    results = thread_map(read, samples, max_workers=os.cpu_count(), desc="reading", unit="image", leave=False)
    if problems := [item for item in results if isinstance(item, str)]:
        raise DataError("\n".join(problems))
    return results


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width), by area averaging if it shrinks, so that speckle does not alias."""
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (height, width) by nearest neighbour, so that no new values appear."""
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def resize_samples(pictures: Sequence[tuple[np.ndarray, np.ndarray]], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize images and masks to the same size; returns two arrays, (N, image_size, image_size) uint8."""
    size = (image_size, image_size)
    images = np.stack([resize_image(image, size) for image, _ in pictures])
    return images, np.stack([resize_mask(mask, size) for _, mask in pictures])


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
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
