"""The size of a lesion: its area, its longest axis, and its extent across that axis, in pixels and in millimetres."""

import cv2
import numpy as np


def measure(mask: np.ndarray, spacing: tuple[float, float] | None = None) -> dict[str, float]:
    """Sizes of the largest connected component of a mask (8 neighbours); 0 if the mask is empty.

    The longest axis joins the two points of the outline that are farthest apart; `across` is the extent perpendicular
    to it. If pixels are not square, the longest axis in millimetres may differ from the one in pixels.
    A pixel extends to the middles of its sides: a line of 10 pixels is 10 long and 1 wide.

    Args:
        mask: (H, W), lesion where not zero.
        spacing: mm from row to row and from column to column.

    Returns:
        area_px, longest_px, across_px; with `spacing` also area_mm2, longest_mm, across_mm.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask != 0).astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + int(areas.argmax()) if count > 1 else 0
    area = int(areas.max(initial=0))
    corners = _hull(labels == largest) if area else np.zeros((1, 2))
    longest, across = _axes(corners)
    sizes = {"area_px": area, "longest_px": longest, "across_px": across}
    if spacing is not None:
        longest, across = _axes(corners * spacing)
        sizes |= {"area_mm2": area * spacing[0] * spacing[1], "longest_mm": longest, "across_mm": across}
    return sizes


def _hull(area: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of an area's pixels, (N, 2) rows and columns."""
    outline = np.argwhere(area & (cv2.erode(area.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) == 0))
    ends = outline[:, None] + np.array([[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    return cv2.convexHull(ends.reshape(-1, 2).astype(np.float32))[:, 0].astype(float)


def _axes(corners: np.ndarray) -> tuple[float, float]:
    """The largest distance between two corners, and the extent of all corners perpendicular to it."""
    distances = np.sqrt(((corners[:, None] - corners) ** 2).sum(axis=2))
    first, second = np.unravel_index(distances.argmax(), distances.shape)
    longest = float(distances[first, second])
    if not longest:
        return 0.0, 0.0
    along = (corners[second] - corners[first]) / longest
    return longest, float(np.ptp(corners @ [-along[1], along[0]]))
