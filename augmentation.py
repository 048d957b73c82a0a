"""Batches in `tf.data`, each image and its mask changed together, as another patient, probe or setting would."""

import cv2
import numpy as np


def augment(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float = 1.0):
    """One random change of an image and its mask.

    Flip (left-right only: shadows fall downwards), rotation, scale, shear, translation and a smooth
    elastic deformation in one interpolation; then gamma, contrast, blur and speckle on the image.

    Args:
        image: (H, W) uint8.
        mask: (H, W) uint8 in {0, 1}.
        rng: the only source of chance.
        strength: 0 leaves the flip alone, 1 is the default recipe.

    Returns:
        New image (H, W) uint8 and new mask (H, W) uint8 in {0, 1}.
    """
    height, width = image.shape
    flip = -1.0 if rng.random() < 0.5 else 1.0
    angle, shear = np.deg2rad(rng.uniform(-15, 15) * strength), np.deg2rad(rng.uniform(-8, 8) * strength)
    zoom = np.exp(rng.uniform(-0.25, 0.25) * strength)
    shift = rng.uniform(-0.1, 0.1, 2) * strength
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[flip, np.tan(shear)], [0, 1]]) / zoom  # output -> input, in units of the picture

    # A coarse random field, enlarged, is a smooth deformation; 4 points a side bend a lesion's outline.
    field = rng.normal(0, 0.012 * strength, (4, 4, 2)).astype(np.float32)
    bend = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(
        np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    )
    u = matrix[0, 0] * x + matrix[0, 1] * y + shift[0] + bend[..., 0]
    v = matrix[1, 0] * x + matrix[1, 1] * y + shift[1] + bend[..., 1]
    map_x, map_y = ((u + 0.5) * (width - 1)).astype(np.float32), ((v + 0.5) * (height - 1)).astype(np.float32)
    # Both reflect: a lesion mirrored into the picture is a lesion in the mask too.
    image = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = cv2.remap(mask, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)

    if rng.random() < 0.2 * strength:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    gamma = np.exp(rng.uniform(-0.35, 0.35) * strength)
    gain = 1 + rng.uniform(-0.25, 0.25) * strength
    offset = rng.uniform(-0.1, 0.1) * strength
    curve = np.linspace(0, 1, 256) ** gamma * gain + offset
    image = cv2.LUT(image, (curve * 255).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3 * strength:  # speckle multiplies; its grain is coarser than a pixel
        grain = cv2.resize(rng.normal(1, 0.12, (height // 2, width // 2)).astype(np.float32), (width, height))
        image = (image * grain).clip(0, 255).astype(np.uint8)
    return image, mask


def make_dataset(
    images: np.ndarray,
    masks: np.ndarray,
    batch_size: int,
    *,
    training: bool = False,
    seed: int = 0,
    strength: float = 1.0,
    first_epoch: int = 0,
):
    """Batches for `fit`, `evaluate` and `predict`.

    Training: one endless stream (give `fit` steps_per_epoch = ceil(N / batch_size)), reshuffled and
    augmented anew in every epoch. Every draw is a function of (seed, epoch, image): two runs with one
    seed are equal, and a resumed run starts at `first_epoch` as if it had never stopped. `tf.random`
    inside `map` would repeat the same draws every epoch.
    Evaluation: every image once, in order.

    Args:
        images: (N, H, W) uint8.
        masks: (N, H, W) uint8 in {0, 1}.

    Returns:
        tf.data.Dataset of (image, mask), each (B, H, W, 1) float32, in 0..255 and {0, 1}.
    """
    import tensorflow as tf

    def to_batch(image, mask):
        return tf.cast(image, tf.float32)[..., None], tf.cast(mask, tf.float32)[..., None]

    if not training:
        data = tf.data.Dataset.from_tensor_slices((images, masks))
        return data.batch(batch_size).map(to_batch).prefetch(tf.data.AUTOTUNE)

    cv2.setNumThreads(1)  # the batches are made in parallel already, beside a busy network

    def make_batch(epoch: np.ndarray, indices: np.ndarray):
        pairs = [
            augment(images[i], masks[i], np.random.default_rng((seed, int(epoch), int(i))), strength) for i in indices
        ]
        return np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs])

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(images)), seed=tf.stack([tf.cast(seed, tf.int64), epoch])
        )
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size).map(lambda indices: (epoch, indices))

    def load(epoch, indices):
        image, mask = tf.numpy_function(make_batch, (epoch, indices), (tf.uint8, tf.uint8), stateful=False)
        shape = (None, *images.shape[1:])
        return to_batch(tf.ensure_shape(image, shape), tf.ensure_shape(mask, shape))

    epochs = tf.data.Dataset.range(first_epoch, 2**31)
    return epochs.flat_map(epoch_batches).map(load, num_parallel_calls=2, deterministic=True).prefetch(4)
