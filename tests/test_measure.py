"""Measured sizes against those worked out by hand, within a pixel."""

import numpy as np
import pytest

from segmentation.scoring.measure import measure


def rectangle(rows, columns, angle=0.0, shape=(400, 400)):
    """A mask of the pixels whose centre lies in a rectangle of this size, turned by `angle` degrees."""
    y, x = (grid - side / 2 + 0.5 for grid, side in zip(np.mgrid[: shape[0], : shape[1]], shape, strict=True))
    turn = np.deg2rad(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (np.abs(along) < columns / 2) & (np.abs(across) < rows / 2)


def ellipse(short, long, angle=0.0, shape=(400, 400), pixel=(1.0, 1.0)):
    """A mask of an ellipse of these two diameters, in units of a pixel of the size `pixel`."""
    y, x = (
        (grid - side / 2 + 0.5) * size
        for grid, side, size in zip(np.mgrid[: shape[0], : shape[1]], shape, pixel, strict=True)
    )
    turn = np.deg2rad(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return (along / long) ** 2 + (across / short) ** 2 < 0.25


def test_a_3_4_5_rectangle():
    sizes = measure(rectangle(30, 40, shape=(100, 100)))
    # The longest axis of a rectangle is its diagonal: 50. Across it lie two corners, each 30 * 40 / 50 away.
    assert sizes == {"area_px": 1200, "longest_px": pytest.approx(50, abs=1), "across_px": pytest.approx(48, abs=1)}


def test_one_pixel_and_lines_of_ten():
    mask = np.zeros((20, 20), bool)
    mask[5, 5] = True
    assert measure(mask) == {"area_px": 1, "longest_px": 1.0, "across_px": 1.0}
    mask[5, 5:15] = True
    assert measure(mask) == {"area_px": 10, "longest_px": 10.0, "across_px": 1.0}
    assert measure(mask.T, (0.3, 0.1)) == pytest.approx(
        {"area_px": 10, "longest_px": 10, "across_px": 1, "area_mm2": 0.3, "longest_mm": 3, "across_mm": 0.1}
    )


@pytest.mark.parametrize("angle", [0, 15, 30, 45, 77, 90, 120])
def test_turned_ellipses_are_measured_within_a_pixel(angle):
    sizes = measure(ellipse(120, 200, angle))
    assert sizes["longest_px"] == pytest.approx(200, abs=1)
    assert sizes["across_px"] == pytest.approx(120, abs=1.2)  # its two ends are rounded each by itself
    assert sizes["area_px"] == pytest.approx(np.pi * 60 * 100, rel=0.002)


@pytest.mark.parametrize("angle", [0, 10, 30, 45, 60, 90])
def test_turned_rectangles_are_measured_within_a_pixel(angle):
    sizes = measure(rectangle(90, 200, angle))
    diagonal = (90**2 + 200**2) ** 0.5
    assert sizes["longest_px"] == pytest.approx(diagonal, abs=1)
    assert sizes["across_px"] == pytest.approx(2 * 90 * 200 / diagonal, abs=2)  # a pixel at each of its two ends


def test_a_disc_has_one_size_in_every_direction():
    sizes = measure(ellipse(150, 150))
    assert sizes["longest_px"] == pytest.approx(150, abs=1)
    assert sizes["across_px"] == pytest.approx(150, abs=1)


def test_millimetres_of_square_pixels():
    sizes = measure(rectangle(30, 40, shape=(100, 100)), (0.1, 0.1))
    assert sizes["area_mm2"] == pytest.approx(12.0)
    assert sizes["longest_mm"] == pytest.approx(5.0, abs=0.1)
    assert sizes["across_mm"] == pytest.approx(4.8, abs=0.1)


def test_millimetres_of_pixels_that_are_no_squares():
    sizes = measure(rectangle(15, 40, shape=(101, 100)), (0.2, 0.1))  # 3 mm high and 4 mm wide
    assert sizes["area_mm2"] == pytest.approx(12.0)
    assert sizes["longest_mm"] == pytest.approx(5.0, abs=0.2)
    assert sizes["across_mm"] == pytest.approx(4.8, abs=0.2)
    assert sizes["longest_px"] == pytest.approx((15**2 + 40**2) ** 0.5, abs=1)


def test_the_axis_is_sought_in_millimetres():
    """60 pixels wide and 40 high, but 6 mm wide and 12 mm high: the longest axis is upright."""
    sizes = measure(ellipse(40, 60), (0.3, 0.1))
    assert sizes["longest_px"] == pytest.approx(60, abs=1)
    assert sizes["longest_mm"] == pytest.approx(12, abs=0.3)
    assert sizes["across_mm"] == pytest.approx(6, abs=0.3)


@pytest.mark.parametrize("angle", [0, 20, 45, 70])
def test_an_ellipse_in_millimetres_is_the_same_at_any_angle(angle):
    sizes = measure(ellipse(12, 20, angle, shape=(300, 600), pixel=(0.12, 0.05)), (0.12, 0.05))
    assert sizes["longest_mm"] == pytest.approx(20, abs=0.12)
    assert sizes["across_mm"] == pytest.approx(12, abs=0.12)
    assert sizes["area_mm2"] == pytest.approx(np.pi * 6 * 10, rel=0.005)


def test_the_axis_may_leave_the_lesion():
    """Half a ring: the axis may leave the lesion, as that between two calipers does."""
    y, x = np.mgrid[:200, :200] - 100
    half_ring = (np.hypot(x, y) < 80) & (np.hypot(x, y) > 70) & (y > 0)
    assert measure(half_ring)["longest_px"] == pytest.approx(160, abs=1)


def test_only_the_largest_area_is_measured():
    mask = rectangle(30, 40, shape=(100, 300)).astype(np.uint8)
    mask[2:8, 2:8] = 1
    mask[90:92, 200:290] = 1
    assert measure(mask) == measure(rectangle(30, 40, shape=(100, 300)))


def test_pixels_that_touch_at_a_corner_are_one_area():
    assert measure(np.eye(10, dtype=bool))["area_px"] == 10
    assert measure(np.eye(10, dtype=bool))["longest_px"] == pytest.approx(162**0.5, abs=1)


def test_any_value_but_0_is_lesion_and_the_border_is_no_obstacle():
    for value, dtype in ((255, np.uint8), (1, np.uint8), (True, bool), (0.2, np.float32), (-1, np.int16)):
        mask = np.full((30, 40), value, dtype)
        assert measure(mask)["longest_px"] == pytest.approx(50, abs=1)


def test_an_empty_mask_has_no_size():
    assert measure(np.zeros((5, 5), bool)) == {"area_px": 0, "longest_px": 0.0, "across_px": 0.0}
    sizes = measure(np.zeros((5, 5), bool), (0.1, 0.1))
    assert sizes["area_mm2"] == sizes["longest_mm"] == sizes["across_mm"] == 0.0


def test_holes_do_not_change_the_axes():
    whole, holed = ellipse(120, 200), ellipse(120, 200) & ~ellipse(40, 60)
    assert measure(holed)["longest_px"] == measure(whole)["longest_px"]
    assert measure(holed)["area_px"] < measure(whole)["area_px"]
