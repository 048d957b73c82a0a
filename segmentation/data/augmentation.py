"""What differs from one ultrasound machine to another, imitated on training images.

A network that sees pictures of one machine alone learns its habits. These changes are made after `dataset.augment`;
what they are worth in another hospital is in docs/experiments.md.

Each takes an image (H, W) uint8, its mask (H, W) uint8 in {0, 1} and a source of chance, may write into both, and
returns a pair of the same shapes.
"""

from collections.abc import Callable

import cv2
import numpy as np

from dataset import augment


def augmenter(strength: float, scanners: float) -> Callable:
    """The change that training images go through: `dataset.augment` of that strength, then `imitate_scanner`."""

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
        rng: the only source of chance.
        strength: factor of how often each change is made; 0 is never.
    """
    for share, change in CHANGES:
        if rng.random() < share * strength:
            image, mask = change(image.copy(), mask.copy(), rng)
    return image, mask


def change_gain(image, mask, rng):
    """Gain that follows the depth, as the sliders for time-gain compensation set it, and a little the width."""
    gain = np.exp(rng.normal(0, 0.25, (5, 1)) + rng.normal(0, 0.08, (5, 3))).astype(np.float32)
    gain = cv2.resize(gain, image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (image * gain).clip(0, 255).astype(np.uint8), mask


def change_dynamic_range(image, mask, rng):
    """Another rising curve from echo to grey value; what is darker than a floor is black."""
    knots = np.r_[0, np.cumsum(np.exp(rng.normal(0, 0.5, 6)))]
    curve = np.interp(np.linspace(0, 6, 256), np.arange(7), knots / knots[-1])
    floor = rng.uniform(0, 0.12)
    return cv2.LUT(image, ((curve - floor) / (1 - floor) * 255).clip(0, 255).astype(np.uint8)), mask


def lower_resolution(image, mask, rng):
    """Fewer pixels along the beam and across it, each by a factor of its own up to 2.5."""
    small = tuple(int(side / np.exp(rng.uniform(0, 0.9))) for side in image.shape[::-1])
    return cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), image.shape[::-1]), mask


def enhance_edges(image, mask, rng):
    """What machines call edge enhancement: an unsharp mask."""
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 3))
    amount = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + amount, soft, -amount, 0), mask


def add_speckle(image, mask, rng):
    """Multiplied speckle of another size, wider than it is deep, as away from the focus."""
    height, width = image.shape
    deep = rng.uniform(1, 3)
    grid = max(1, int(width / (deep * rng.uniform(1, 2.5)))), max(1, int(height / deep))
    grain = rng.normal(1, rng.uniform(0.06, 0.2), grid[::-1]).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    return (image * grain).clip(0, 255).astype(np.uint8), mask


def add_frame(image, mask, rng):
    """A dark frame, as around the sector of a curved probe or in a screenshot; no lesion is marked under it."""
    shade = int(rng.integers(0, 40)) if rng.random() < 0.3 else 0
    for turn in range(4):
        rows = int(rng.uniform(0, 0.12) * image.shape[0]) if rng.random() < 0.4 else 0
        np.rot90(image, turn)[:rows], np.rot90(mask, turn)[:rows] = shade, 0
    return image, mask


def add_text(image, mask, rng):
    """One to three words in bright letters, mostly near the upper border."""
    height, width = image.shape
    for _ in range(rng.integers(1, 4)):
        word = "".join(chr(letter) for letter in rng.integers(43, 91, rng.integers(1, 8)))
        left = int(rng.uniform(0, 0.9) * width)
        top = int((rng.uniform(0.03, 0.15) if rng.random() < 0.7 else rng.uniform(0.1, 1)) * height)
        size, shade = rng.uniform(0.25, 0.5), int(rng.integers(140, 256))
        cv2.putText(image, word, (left, top), cv2.FONT_HERSHEY_SIMPLEX, size, shade)
    return image, mask


# How many of the images each change is made to, in this order.
CHANGES = (
    (0.5, change_gain),
    (0.5, change_dynamic_range),
    (0.4, lower_resolution),
    (0.2, enhance_edges),
    (0.3, add_speckle),
    (0.3, add_frame),
    (0.2, add_text),
)
