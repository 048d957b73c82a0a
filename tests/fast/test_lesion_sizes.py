"""Measured sizes against those worked out by hand, within a pixel."""

import numpy as np
import pytest

from segmentation.scoring.measure import measure


def grid(shape, angle, pixel=(1.0, 1.0)):
    """Distances along and across a direction from the middle, in units of a pixel of this size."""
    y, x = ((np.arange(side) - side / 2 + 0.5) * size for side, size in zip(shape, pixel, strict=True))
    y, x = np.meshgrid(y, x, indexing="ij")
    turn = np.deg2rad(angle)
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def rectangle(rows, columns, angle=0.0, shape=(400, 400)):
    along, across = grid(shape, angle)
    return (np.abs(along) < columns / 2) & (np.abs(across) < rows / 2)


def ellipse(short, long, angle=0.0, shape=(400, 400), pixel=(1.0, 1.0)):
    along, across = grid(shape, angle, pixel)
    return (along / long) ** 2 + (across / short) ** 2 < 0.25


LINE = np.zeros((20, 20), bool)
LINE[5, 5:15] = True
# The longest axis of a rectangle is its diagonal: 50. Across it lie two corners, each 30 * 40 / 50 away.
BOX = rectangle(30, 40, shape=(100, 300))
SEVERAL = BOX.copy()
SEVERAL[2:8, 2:8] = SEVERAL[90:92, 200:290] = True  # two smaller areas
TALL, FLAT = (0.3, 0.1), (0.12, 0.05)  # mm from row to row and from column to column
SIZES = {  # mask, size of a pixel, area, longest, across and how far these two may be off
    "a pixel": (LINE & (np.arange(20) == 5), None, 1, 1, 1, 0),
    "a line": (LINE, None, 10, 10, 1, 0),
    "a line in mm": (LINE.T, TALL, 0.3, 3, 0.1, 1e-6),
    "a rectangle": (BOX, None, 1200, 50, 48, 1),
    "a rectangle in mm": (BOX, (0.1, 0.1), 12, 5, 4.8, 0.1),
    "a rectangle of pixels that are no squares": (rectangle(15, 40, shape=(101, 100)), (0.2, 0.1), 12, 5, 4.8, 0.2),
    "the largest of three": (SEVERAL, None, 1200, 50, 48, 1),
    "a rectangle up to the border": (np.ones((30, 40), bool), None, 1200, 50, 48, 1),
    "a disc": (ellipse(150, 150), None, np.pi * 75 * 75, 150, 150, 1),
    "a hole": (ellipse(120, 200) & ~ellipse(40, 60), None, np.pi * (60 * 100 - 20 * 30), 200, 120, 1.2),
    "corners that touch": (np.eye(10, dtype=bool), None, 10, 162**0.5, 2**0.5, 1),
    # 60 pixels wide and 40 high, but 6 mm wide and 12 mm high: the longest axis is upright.
    "another axis than in pixels": (ellipse(40, 60), TALL, np.pi * 6 * 3, 12, 6, 0.3),
    "nothing": (np.zeros((5, 5), bool), None, 0, 0, 0, 0),
    "nothing in mm": (np.zeros((5, 5), bool), TALL, 0, 0, 0, 0),
}
for angle in (0, 15, 45, 77, 120):  # the two ends of the axis across are rounded each by itself
    SIZES[f"ellipse, {angle}"] = (ellipse(120, 200, angle), None, np.pi * 60 * 100, 200, 120, 1.2)
    SIZES[f"rectangle, {angle}"] = (rectangle(90, 200, angle), None, 18000, 219.3, 164.2, 2)
    mask = ellipse(12, 20, angle, (300, 600), FLAT)
    SIZES[f"ellipse in mm, {angle}"] = (mask, FLAT, np.pi * 6 * 10, 20, 12, 0.12)


@pytest.mark.parametrize("case", SIZES)
def test_sizes_are_those_worked_out_by_hand(case):
    mask, spacing, area, longest, across, off = SIZES[case]
    sizes = measure(mask, spacing)
    squares, unit = ("px", "px") if spacing is None else ("mm2", "mm")
    assert sizes[f"area_{squares}"] == pytest.approx(area, rel=0.005)
    assert (sizes[f"longest_{unit}"], sizes[f"across_{unit}"]) == pytest.approx((longest, across), abs=off)
    assert sizes["area_px"] == mask.sum() or case == "the largest of three"


def test_the_axis_may_leave_the_lesion():
    y, x = np.mgrid[:200, :200] - 100
    half_ring = (np.hypot(x, y) < 80) & (np.hypot(x, y) > 70) & (y > 0)
    assert measure(half_ring)["longest_px"] == pytest.approx(160, abs=1)


@pytest.mark.parametrize("value", [np.uint8(255), np.float32(0.2), np.int16(-1)])
def test_any_value_but_0_is_lesion(value):
    assert measure(np.full((30, 40), value))["area_px"] == 1200
