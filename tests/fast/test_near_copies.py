"""Near-copies: pictures of one frame are tied, whatever was done to them, and strangers are not."""

import cv2
import numpy as np
import pytest
from phantoms import make_phantom

from segmentation.data import near_copies as search
from segmentation.data.near_copies import FINE, SLIDING, WHOLE, group_pairs, near_copies

COPIES = {
    "gain": lambda p: cv2.convertScaleAbs(p, alpha=0.85, beta=10),
    "gain and slight crop": lambda p: cv2.convertScaleAbs(p[3:-5, 7:-2], alpha=1.1, beta=-8),
    "size": lambda p: cv2.resize(p, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
    "overlay": lambda p: cv2.putText(p.copy(), "LT 3:00", (40, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2),
    "crop of a fifth": lambda p: p[: int(p.shape[0] * 0.8), int(p.shape[1] * 0.2) :],
}


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(("benign", "malignant", "normal")[i % 3], (0, i))[0] for i in range(12)]


def coarse(picture):
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 15)


def indices(pairs):
    return {(p.a, p.b) for p in pairs}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_among_strangers(change, phantoms):
    assert indices(near_copies([*phantoms, COPIES[change](phantoms[4])])) == {(4, 12)}


def test_whole_alone_finds_the_same_shading(phantoms):
    shading = np.linspace(20, 230, 350)[:, None]
    grains = (cv2.resize(p - coarse(p), (450, 350)) for p in phantoms[:2])
    (pair,) = near_copies([(shading + 0.5 * grain).clip(0, 255).astype(np.uint8) for grain in grains])
    assert 0.95 < pair.whole < 0.999 and pair.fine < FINE and pair.sliding < SLIDING


def test_fine_alone_finds_another_shading(phantoms, monkeypatch):
    monkeypatch.setattr(search, "NEIGHBOURS", 1)  # it needs no neighbour
    picture, other = phantoms[0], cv2.resize(phantoms[1], phantoms[0].shape[::-1])
    shaded = (coarse(other) + picture - coarse(picture)).clip(0, 255).astype(np.uint8)
    (pair,) = near_copies([*phantoms, cv2.resize(shaded, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)])
    assert pair.whole < WHOLE and 0.36 < pair.fine < 0.99 and pair.sliding < SLIDING


@pytest.mark.parametrize(("label", "top", "left"), [("malignant", 0, 0.12), ("normal", 0.25, 0.25)])
def test_sliding_alone_finds_a_crop(label, top, left):
    picture = make_phantom(label, 5)[0]
    height, width = picture.shape
    (pair,) = near_copies([picture, picture[int(height * top) : int(height * (0.85 + top)), int(width * left) :]])
    assert pair.whole < WHOLE and pair.fine < FINE and pair.sliding > SLIDING


@pytest.mark.parametrize(("rows", "columns", "tied"), [(48, 60, True), (24, 30, False)])
def test_small_pictures_must_agree_better(rows, columns, tied):
    """Two crops that overlap by 25/36 and agree there at 0.8: 0.56 on all, which few pixels reach by chance."""
    rng = np.random.default_rng(0)
    down, right = rows // 6, columns // 6
    grid = rng.normal(size=(rows + down, columns + right))
    other = 0.8 * grid[down:, right:] + 0.6 * rng.normal(size=(rows, columns))
    parts = ((128 + 30 * part).clip(0, 255).astype(np.uint8) for part in (grid[:rows, :columns], other))
    pairs = near_copies([np.kron(part, np.ones((8, 8), np.uint8)) for part in parts])
    assert indices(pairs) == ({(0, 1)} if tied else set())
    assert all(p.whole < WHOLE and p.fine < FINE and p.sliding > 0.5 for p in pairs)


def test_a_small_part_is_not_tied(phantoms, monkeypatch):
    height, width = phantoms[4].shape
    pictures = [phantoms[4], phantoms[4][int(height * 0.6) :, int(width * 0.6) :]]
    assert near_copies(pictures) == []
    monkeypatch.setattr(search, "SLIDING", 0.15)
    monkeypatch.setattr(search, "EVEN", 0.1)
    assert indices(near_copies(pictures)) == {(0, 1)}  # it is the thresholds that keep them apart


def test_strangers_with_the_same_layers_are_not_tied(monkeypatch):
    rng = np.random.default_rng(0)
    layers, *grains = (cv2.GaussianBlur(rng.normal(size=(400, 480)), (0, 0), 8) for _ in range(3))
    layers = layers[:, :1] / layers[:, :1].std()
    pictures = [(128 + 42 * layers + 30 * grain / grain.std()).clip(0, 255).astype(np.uint8) for grain in grains]
    pictures[1] = pictures[1][60:, :400]
    assert near_copies(pictures) == []
    monkeypatch.setattr(search, "EVEN", 0)
    assert indices(near_copies(pictures)) == {(0, 1)}  # it is the even magnitudes that keep them apart


def test_constant_pictures_are_copies_of_nothing(phantoms):
    constant = [np.full((200 + 10 * i, 300), grey, np.uint8) for i, grey in enumerate((0, 0, 77, 77, 137, 255))]
    assert near_copies(constant) == []
    pairs = near_copies([*constant, *phantoms[:3], COPIES["gain"](phantoms[1])])
    assert indices(pairs) == {(7, 9)} and np.isfinite(pairs).all()


def test_pictures_may_be_few_and_of_any_shape(phantoms):
    assert near_copies([]) == [] == near_copies(iter(phantoms[:1]))
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (2, 3), (7, 2000), (2000, 7), (1500, 2000)]
    assert near_copies([rng.integers(0, 256, shape, np.uint8) for shape in shapes]) == []


# ---------------------------------------------------------------- the search


@pytest.fixture(scope="module")
def planted(phantoms):
    """12 phantoms, then a copy of each of the first ten."""
    changes = list(COPIES.values())
    return phantoms + [changes[i % len(changes)](phantoms[i]) for i in range(10)]


def test_few_neighbours_are_as_good_as_all(planted, monkeypatch):
    found = []
    for neighbours in (5, len(planted)):
        monkeypatch.setattr(search, "NEIGHBOURS", neighbours)
        monkeypatch.setattr(search, "_ROWS", 3 * neighbours)
        found.append(near_copies(planted))
    assert indices(found[0]) == indices(found[1]) == {(i, 12 + i) for i in range(10)}
    np.testing.assert_allclose(*found, atol=5e-4)


def test_pairs_of_pairs_share_a_group():
    assert group_pairs(6, [(0, 1), (1, 4)]).tolist() == [0, 0, 1, 2, 0, 3]
    assert group_pairs(3, []).tolist() == [0, 1, 2] and group_pairs(0, []).tolist() == []
