"""Recognise pictures unlike the training images, by the range of five image statistics over the training set."""

from collections.abc import Sequence

import cv2
import numpy as np


def appearance(image: np.ndarray) -> dict[str, float]:
    """Five statistics of a picture, (H, W) uint8."""
    small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA).astype(np.float32)
    grain = fine - cv2.GaussianBlur(fine, (0, 0), 2)
    rows, columns = np.abs(np.diff(fine, axis=0)).mean(), np.abs(np.diff(fine, axis=1)).mean()
    return {
        "brightness": float(small.mean()),
        "contrast": float(small.std()),
        "grain": float(grain.std() / max(fine.std(), 1.0)),  # speckle relative to all fine structure
        "depth": float(small[:21].mean() - small[-21:].mean()),  # brightness decreases with depth
        "layering": float(np.log((rows + 0.1) / (columns + 0.1))),  # tissue lies in layers
    }


def appearance_limits(rows: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Range of each statistic over the training images, widened by a tenth at both ends; `rows` of `appearance`."""
    limits = {}
    for key in rows[0]:
        low, high = min(row[key] for row in rows), max(row[key] for row in rows)
        limits[key] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return limits


def unlike_training(image: np.ndarray, limits: dict[str, list[float]]) -> list[str]:
    """Names of the statistics that lie outside the training images' range."""
    values = appearance(image)
    return [key for key, (low, high) in limits.items() if key in values and not low <= values[key] <= high]
