"""Augmentations that imitate other ultrasound machines.

A network that is trained on the images of one machine generalises badly to others. These augmentations follow
`dataset.augment`; docs/experiments.md has their effect on another hospital's images.

Each takes an image (H, W) uint8, its mask (H, W) uint8 in {0, 1} and a random generator, may write into both arrays,
and returns a pair of the same shapes.
"""

from collections.abc import Callable

import cv2
import numpy as np

from dataset import augment


def augmenter(strength: float, scanners: float) -> Callable:
    """The augmentation of training images: `dataset.augment` of that strength, then `imitate_scanner`."""

    def change(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator):
        return imitate_scanner(*augment(image, mask, rng, strength), rng, scanners)

    return change


def imitate_scanner(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The same lesion as another machine might show it: a new pair of the same shapes.

    Args:
        image: (H, W) uint8.
        mask: (H, W) uint8 in {0, 1}.
        rng: the only source of randomness.
        strength: multiplies the probability of each augmentation; 0 turns all off.
    """
    for share, change in CHANGES:
        if rng.random() < share * strength:
            image, mask = change(image.copy(), mask.copy(), rng)
    return image, mask


def change_gain(image, mask, rng):
    """Random gain along the depth, as the time-gain compensation sliders set it, and weakly across the width."""
    gain = np.exp(rng.normal(0, 0.25, (5, 1)) + rng.normal(0, 0.08, (5, 3))).astype(np.float32)
    gain = cv2.resize(gain, image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (image * gain).clip(0, 255).astype(np.uint8), mask


def change_dynamic_range(image, mask, rng):
    """A random monotonic curve of grey values; everything below a random floor is black."""
    knots = np.r_[0, np.cumsum(np.exp(rng.normal(0, 0.5, 6)))]
    curve = np.interp(np.linspace(0, 6, 256), np.arange(7), knots / knots[-1])
    floor = rng.uniform(0, 0.12)
    return cv2.LUT(image, ((curve - floor) / (1 - floor) * 255).clip(0, 255).astype(np.uint8)), mask


def lower_resolution(image, mask, rng):
    """Lower the axial and the lateral resolution, each by a random factor up to 2.5."""
    small = tuple(int(side / np.exp(rng.uniform(0, 0.9))) for side in image.shape[::-1])
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), image.shape[::-1]), mask


def enhance_edges(image, mask, rng):
    """Unsharp masking, which ultrasound machines call edge enhancement."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 3))
    amount = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0), mask


def add_speckle(image, mask, rng):
    """Multiplicative speckle of a random grain, wider than deep, as it is away from the focus."""
    height, width = image.shape
    deep = rng.uniform(1, 3)
    grid = max(1, int(width / (deep * rng.uniform(1, 2.5)))), max(1, int(height / deep))
    grain = rng.normal(1, rng.uniform(0.06, 0.2), grid[::-1]).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    return (image * grain).clip(0, 255).astype(np.uint8), mask


def add_frame(image, mask, rng):
    """A dark frame, as around the sector of a curved probe or in a screenshot; the mask is 0 under it."""
    shade = int(rng.integers(0, 40)) if rng.random() < 0.3 else 0
    for turn in range(4):
        rows = int(rng.uniform(0, 0.12) * image.shape[0]) if rng.random() < 0.4 else 0
        np.rot90(image, turn)[:rows], np.rot90(mask, turn)[:rows] = shade, 0
    return image, mask


def add_text(image, mask, rng):
    """One to three words in bright letters, mostly near the top."""
    height, width = image.shape
    for _ in range(rng.integers(1, 4)):
        word = "".join(chr(letter) for letter in rng.integers(43, 91, rng.integers(1, 8)))
        left = int(rng.uniform(0, 0.9) * width)
        top = int((rng.uniform(0.03, 0.15) if rng.random() < 0.7 else rng.uniform(0.1, 1)) * height)
        size, shade = rng.uniform(0.25, 0.5), int(rng.integers(140, 256))
        cv2.putText(image, word, (left, top), cv2.FONT_HERSHEY_SIMPLEX, size, shade)
    return image, mask


# Probability of each augmentation, in the order in which they are applied.
CHANGES = (
    (0.5, change_gain),
    (0.5, change_dynamic_range),
    (0.4, lower_resolution),
    (0.2, enhance_edges),
    (0.3, add_speckle),
    (0.3, add_frame),
    (0.2, add_text),
)
