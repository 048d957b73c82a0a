"""What one mask holds: its values, those inside areas, and whether it is a mere outline."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dataset import read_values

ALIKE = 0.06  # of a mask's range: neighbours that differ by no more lie inside an area, not on an edge
CLEAR = 0.25  # of a mask's range: what differs more from the background is no compression noise
OUTLINE = 0.85  # of a curve's inside; below, the mask is the curve and not the area: no lesion of BUSI has a hole


class Levels(NamedTuple):
    """What one mask holds: pixels of each value, a number or a colour of three."""

    path: Path
    pixels: dict
    border: dict  # along the picture's border alone
    areas: dict  # inside areas: all neighbours are alike
    apart: dict  # in between, and far from what differs most
    closed: bool  # a closed curve with little in it
    thin: bool  # thin lines, far apart
    exact: bool  # not compressed by leaving something out


def _count(codes: np.ndarray) -> dict:
    """Pixels of each value, from grey values (uint8, float32) or colours as one number (int32), in any shape."""
    if codes.dtype == np.uint8:
        counts = np.bincount(codes.ravel())
        return {(float(level),): int(counts[level]) for level in np.flatnonzero(counts)}
    found, counts = np.unique(codes, return_counts=True)
    if codes.dtype == np.float32:
        return {(float(level),): int(n) for level, n in zip(found, counts, strict=True)}
    colours = [tuple(float(code >> shift & 255) for shift in (16, 8, 0)) for code in found.tolist()]
    return {c[:1] if len(set(c)) == 1 else c: int(n) for c, n in zip(colours, counts, strict=True)}


def _codes(values: np.ndarray) -> np.ndarray:
    """One number a pixel, (H, W): what it holds, or its colour; never far more than 32,768 different ones."""
    if values.dtype == np.uint8 and values.ndim == 2:
        return values
    if values.ndim == 2:
        values = values.astype(np.float32)
        step = np.abs(values).max(initial=0) / 255
        return values if len(np.unique(values)) <= 256 else (np.round(values / step) * step).astype(np.float32)
    codes = values.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    if len(np.unique(codes)) <= 256:
        return codes
    return np.round(np.round(values / 255 * 31) / 31 * 255).astype(np.int32) @ np.array([65536, 256, 1], np.int32)


def list_levels(path: Path) -> Levels:
    """What a mask holds."""
    values = read_values(path, as_mask=True)
    codes = _codes(values)
    border = _count(np.concatenate([codes[0], codes[-1], codes[:, 0], codes[:, -1]]))
    ground = max(border, key=border.get)
    differs = np.abs(values.reshape(*values.shape[:2], -1) - np.float32(ground)).max(axis=2)
    exact = path.suffix.lower() not in (".jpg", ".jpeg")
    if not differs.any():
        return Levels(path, _count(codes), border, {}, {}, False, False, exact)
    rows, columns = (np.flatnonzero(differs.any(axis=axis)) for axis in (1, 0))
    part = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    inside, peak = differs[part], differs.max()
    alike = cv2.dilate(inside, np.ones((3, 3))) - cv2.erode(inside, np.ones((3, 3))) <= ALIKE * peak
    strong = (inside > peak / 2).astype(np.uint8)
    apart = (inside >= CLEAR * peak) & (cv2.dilate(strong, np.ones((9, 9))) == 0)
    areas, far = _count(codes[part][alike & (inside > 0)]), _count(codes[part][apart])
    curve = _curve((inside > CLEAR * peak).astype(np.uint8))
    return Levels(path, _count(codes), border, areas, far, *curve, exact)


def _curve(lesion: np.ndarray) -> tuple[bool, bool]:
    """Whether a mask, (H, W) uint8 in {0, 1}, is a closed curve, and whether it is made of thin lines far apart."""
    if lesion.sum() >= OUTLINE * lesion.size:
        return False, False
    outline, _ = cv2.findContours(lesion, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(lesion), outline, -1, 1, cv2.FILLED)
    hull = cv2.contourArea(cv2.convexHull(np.concatenate(outline)))
    thickness = cv2.distanceTransform(np.pad(lesion, 1), cv2.DIST_C, 3).max()
    return lesion.sum() < OUTLINE * filled.sum(), thickness <= 2 and lesion.sum() < hull / 4
