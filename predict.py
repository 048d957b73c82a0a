"""From a network and pictures of any size to lesion masks and their scores."""

from collections.abc import Sequence

import cv2
import keras
import numpy as np
from tqdm import tqdm

from dataset import Sample, resize_image
from metrics import score_image


def predict_probability(model: keras.Model, images: np.ndarray, tta: bool = False, batch_size: int = 16) -> np.ndarray:
    """Lesion probability of each picture.

    Args:
        model: takes (B, S, S, 1), grey values 0 to 255.
        images: (N, S, S) uint8.
        tta: average with the prediction of the mirrored picture.

    Returns:
        (N, S, S) float32.
    """
    x = images[..., None].astype(np.float32)
    probability = model.predict(x, batch_size=batch_size, verbose=0)[..., 0]
    if tta:
        mirrored = model.predict(x[:, :, ::-1], batch_size=batch_size, verbose=0)[..., 0]
        probability = (probability + mirrored[:, :, ::-1]) / 2
    return probability


def to_mask(
    probability: np.ndarray, shape: tuple[int, int], threshold: float = 0.5, largest_component: bool = False
) -> np.ndarray:
    """Binary mask (H, W) bool at the original size from a probability map of any size.

    The probability is enlarged, not the mask: the outline stays smooth.
    """
    mask = cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR) > threshold
    if largest_component and mask.any():
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        mask = labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    return mask


def score_samples(
    model: keras.Model,
    samples: Sequence[Sample],
    pictures: Sequence[tuple[np.ndarray, np.ndarray]],
    groups: Sequence[int],
    image_size: int,
    threshold: float = 0.5,
    tta: bool = False,
    largest_component: bool = False,
) -> list[dict]:
    """Score a network image by image, each at its original resolution.

    Args:
        samples: BUSI images.
        pictures: image and mask of each, as `read_sample` returns them.
        groups: near-duplicate group of each.

    Returns:
        One dict an image: name, label, group, height, width, diagonal, and the scores of `score_image`.
    """
    size = (image_size, image_size)
    probabilities = predict_probability(model, np.stack([resize_image(image, size) for image, _ in pictures]), tta)
    scores = []
    progress = tqdm(samples, desc="scoring", unit="image", leave=False)
    for sample, (image, reference), group, probability in zip(progress, pictures, groups, probabilities, strict=True):
        mask = to_mask(probability, image.shape, threshold, largest_component)
        scores.append(
            {
                "name": sample.name,
                "label": sample.label,
                "group": int(group),
                "height": image.shape[0],
                "width": image.shape[1],
                "diagonal": float(np.hypot(*image.shape)),
                **score_image(reference, mask),
            }
        )
    return scores


# ---------------------------------------------------------------- does a picture look like the training data?


def appearance(image: np.ndarray) -> dict[str, float]:
    """Five numbers that say what kind of picture this is; (H, W) uint8."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32)
    grain = fine - cv2.GaussianBlur(fine, (0, 0), 2)
    rows, columns = np.abs(np.diff(fine, axis=0)).mean(), np.abs(np.diff(fine, axis=1)).mean()
    return {
        "brightness": float(small.mean()),
        "contrast": float(small.std()),
        "grain": float(grain.std() / max(fine.std(), 1.0)),  # speckle against structure
        "depth": float(small[:21].mean() - small[-21:].mean()),  # ultrasound fades downwards
        "layering": float(np.log((rows + 0.1) / (columns + 0.1))),  # tissue lies in layers
    }


def appearance_limits(images: Sequence[np.ndarray]) -> dict[str, list[float]]:
    """Range of each of `appearance`'s numbers over training images, widened by a tenth at both ends."""
    rows = [appearance(image) for image in images]
    limits = {}
    for key in rows[0]:
        low, high = min(row[key] for row in rows), max(row[key] for row in rows)
        limits[key] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return limits


def unlike_training(image: np.ndarray, limits: dict[str, list[float]]) -> list[str]:
    """Names of the numbers that lie outside the training images' range; none for a familiar picture."""
    values = appearance(image)
    return [key for key, (low, high) in limits.items() if key in values and not low <= values[key] <= high]
