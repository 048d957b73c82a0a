import weakref

import cv2
import numpy as np
import pytest
from conftest import BUSI, busi_pairs, needs_busi
from scipy import fft

from dataset import find_samples, read_samples
from segmentation import near_copies as search
from segmentation.data.near_copies import EVEN, FINE, SLIDING, WHOLE, Pair, group_pairs, near_copies
from segmentation.data.phantoms import make_phantom

COPIES = {
    "gain": lambda p: cv2.convertScaleAbs(p, alpha=0.85, beta=10),
    "gain and slight crop": lambda p: cv2.convertScaleAbs(p[3:-5, 7:-2], alpha=1.1, beta=-8),
    "size": lambda p: cv2.resize(p, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
    "overlay": lambda p: cv2.putText(p.copy(), "LT 3:00", (40, 60), cv2.FONT_HERSHEY_SIMPLEX, 1, 255, 2),
    "crop of a fifth": lambda p: p[: int(p.shape[0] * 0.8), int(p.shape[1] * 0.2) :],
}


def draw(count, seed=0):
    labels = ["benign", "malignant", "normal"]
    return [make_phantom(labels[i % 3], (seed, i))[0] for i in range(count)]


@pytest.fixture(scope="module")
def phantoms():
    return draw(50)


@pytest.fixture(scope="module")
def planted(phantoms):
    """50 phantoms, then 10 copies of the first ten."""
    changes = list(COPIES.values())
    return phantoms + [changes[i % len(changes)](phantoms[i]) for i in range(10)]


def coarse(picture):
    return cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 15)


def indices(pairs):
    return {(p.a, p.b) for p in pairs}


def search_all(pictures):
    """Every pair slid over, in plain words: what `near_copies` must find without doing so."""
    area = cv2.INTER_AREA

    def unit(rows):
        rows = np.stack(rows).reshape(len(rows), -1).astype(float)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def high_pass(picture, sigma):
        return picture.astype(np.float32) - cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma)

    def texture(picture):
        small = high_pass(cv2.resize(picture, (picture.shape[1] // 8, picture.shape[0] // 8), interpolation=area), 3)
        canvas = np.zeros((96, 144))
        canvas[: small.shape[0], : small.shape[1]] = ((small - small.mean()) / small.std()).clip(-3, 3)
        return canvas / np.linalg.norm(canvas)

    def even(texture):
        spectrum = fft.fft2(texture)
        flat = fft.ifft2(spectrum / np.abs(spectrum) ** 0.5).real
        return flat / np.linalg.norm(flat)

    def slide(a, b):
        return fft.ifft2(fft.fft2(a) * fft.fft2(b).conj()).real.max()

    thumbnails = [cv2.resize(p, (128, 128), interpolation=area) for p in pictures]
    whole = unit([cv2.resize(t, (32, 32), interpolation=area) for t in thumbnails])
    fine = unit([cv2.resize(high_pass(t, 6), (64, 64), interpolation=area) for t in thumbnails])
    textures = [texture(p) for p in pictures]
    pairs = []
    for b in range(len(pictures)):
        for a in range(b):
            pair = Pair(a, b, whole[a] @ whole[b], fine[a] @ fine[b], slide(textures[a], textures[b]))
            pixels = min((pictures[i].shape[0] // 8) * (pictures[i].shape[1] // 8) for i in (a, b))
            rise = max(1, (1500 / pixels) ** 0.5)
            cropped = pair.sliding > SLIDING * rise and slide(even(textures[a]), even(textures[b])) > EVEN * rise
            if pair.whole > WHOLE or pair.fine > FINE or cropped:
                pairs.append(pair)
    return sorted(pairs)


# ---------------------------------------------------------------- what is a near-copy


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_found_among_strangers(phantoms, change):
    pairs = near_copies([*phantoms[:12], COPIES[change](phantoms[4])])
    assert indices(pairs) == {(4, 12)}


def test_whole_alone_finds_the_same_shading(phantoms):
    shading = np.linspace(20, 230, 350)[:, None]
    grains = (cv2.resize(p - coarse(p), (450, 350)) for p in phantoms[:2])
    (pair,) = near_copies([(shading + 0.5 * grain).clip(0, 255).astype(np.uint8) for grain in grains])
    assert 0.95 < pair.whole < 0.999 and pair.fine < FINE and pair.sliding < SLIDING


def test_fine_alone_finds_another_shading(phantoms, monkeypatch):
    monkeypatch.setattr(search, "NEIGHBOURS", 1)  # it needs no neighbour
    picture, other = phantoms[0], cv2.resize(phantoms[1], phantoms[0].shape[::-1])
    shaded = (coarse(other) + picture - coarse(picture)).clip(0, 255).astype(np.uint8)
    (pair,) = near_copies([*phantoms[:12], cv2.resize(shaded, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)])
    assert pair.whole < WHOLE and 0.36 < pair.fine < 0.99 and pair.sliding < SLIDING


def test_sliding_alone_finds_the_crop():
    picture = make_phantom("malignant", 5)[0]
    (pair,) = near_copies([picture, picture[: int(picture.shape[0] * 0.85), int(picture.shape[1] * 0.12) :]])
    assert pair.whole < WHOLE and pair.fine < FINE and pair.sliding > SLIDING


@pytest.mark.parametrize(("rows", "columns", "tied"), [(48, 60, True), (24, 30, False)])
def test_small_pictures_must_agree_better(rows, columns, tied):
    """Two crops that overlap by 25/36 and agree there at 0.8: 0.56 on all, which few pixels reach by chance."""
    rng = np.random.default_rng(0)
    down, right = rows // 6, columns // 6
    grid = rng.normal(size=(rows + down, columns + right))
    other = 0.8 * grid[down:, right:] + 0.6 * rng.normal(size=(rows, columns))
    pictures = [
        np.kron((128 + 30 * g).clip(0, 255).astype(np.uint8), np.ones((8, 8), np.uint8))
        for g in (grid[:rows, :columns], other)
    ]
    pairs = near_copies(pictures)
    assert indices(pairs) == ({(0, 1)} if tied else set())
    assert all(p.whole < WHOLE and p.fine < FINE and p.sliding > 0.5 for p in pairs)


def test_a_crop_is_found_whose_thumbnail_is_another():
    picture = make_phantom("normal", 5)[0]
    height, width = picture.shape
    (pair,) = near_copies([picture, picture[height // 4 :, width // 4 :]])
    assert pair.whole < 0.5 and pair.fine < FINE and pair.sliding > SLIDING


def test_a_small_part_is_not_tied(phantoms):
    height, width = phantoms[4].shape
    part = phantoms[4][int(height * 0.6) :, int(width * 0.6) :]
    assert search._slide(search._describe([phantoms[4], part]).spectra, np.array([[0, 1]]))[0] > 0.3
    assert near_copies([phantoms[4], part]) == []


def test_strangers_with_the_same_layers_are_not_tied():
    rng = np.random.default_rng(0)
    layers, *grains = (cv2.GaussianBlur(rng.normal(size=(400, 480)), (0, 0), 8) for _ in range(3))
    layers = layers[:, :1] / layers[:, :1].std()
    pictures = [(128 + 42 * layers + 30 * grain / grain.std()).clip(0, 255).astype(np.uint8) for grain in grains]
    pictures[1] = pictures[1][60:, :400]
    assert search._slide(search._describe(pictures).spectra, np.array([[0, 1]]))[0] > SLIDING
    assert near_copies(pictures) == []


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_to_compare(count):
    assert near_copies(draw(count)) == [] == near_copies(iter(draw(count)))


def test_constant_pictures_are_copies_of_nothing():
    constant = [np.full((200 + 10 * i, 300), grey, np.uint8) for i, grey in enumerate((0, 0, 77, 77, 137, 255))]
    assert near_copies(constant) == []
    pairs = near_copies([*constant, *draw(3), COPIES["gain"](draw(3)[1])])
    assert indices(pairs) == {(7, 9)} and np.isfinite(pairs).all()


def test_any_shape():
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (2, 3), (7, 2000), (2000, 7), (1500, 2000)]
    assert near_copies([rng.integers(0, 256, shape, np.uint8) for shape in shapes]) == []


# ---------------------------------------------------------------- the search


def test_neighbours_are_as_good_as_all(planted, monkeypatch):
    monkeypatch.setattr(search, "NEIGHBOURS", 5)
    monkeypatch.setattr(search, "_ROWS", 16)
    expected = search_all(planted)
    assert indices(expected) >= {(i, 50 + i) for i in range(10)}
    found = near_copies(planted)
    assert indices(found) == indices(expected)
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_a_crop_is_the_nearest_neighbour(phantoms):
    features = search._describe([*phantoms, *(COPIES["crop of a fifth"](p) for p in phantoms[:20])])
    alike = features.magnitudes @ features.magnitudes.T
    np.fill_diagonal(alike, -1)
    assert alike[50:].argmax(axis=1).tolist() == list(range(20))


def test_few_pairs_are_slid_over(planted, monkeypatch):
    monkeypatch.setattr(search, "NEIGHBOURS", 5)
    same = [np.full((80, 90), 9, np.uint8)] * 60  # all are equally near
    for pictures in (planted, same):
        pairs, *_ = search._select(search._describe(pictures))
        assert len(pairs) <= 60 * 6


def test_a_generator_keeps_one_picture_in_memory(planted):
    alive = weakref.WeakSet()

    class Picture(np.ndarray):
        __hash__ = object.__hash__

    def read():
        for picture in planted:
            copy = picture.copy().view(Picture)
            alive.add(copy)
            assert len(alive) <= 2  # the last one is let go when the next has been read
            yield copy
            del copy

    assert near_copies(read()) == near_copies(planted)


# ---------------------------------------------------------------- groups


def test_pairs_of_pairs_share_a_group():
    groups = group_pairs(6, [Pair(0, 1, 1, 1, 1), Pair(1, 4, 1, 1, 1)])
    assert groups[0] == groups[1] == groups[4]
    assert len(set(groups)) == 4


def test_without_pairs_everyone_is_alone():
    assert group_pairs(3, []).tolist() == [0, 1, 2]
    assert group_pairs(0, []).tolist() == []


# ---------------------------------------------------------------- BUSI


@needs_busi
def test_the_pairs_of_busi():
    """busi_near_copies.csv: what sliding every picture over every other found."""
    samples = find_samples(BUSI)
    pairs = near_copies(image for image, _ in read_samples(samples))
    known = {(pair.a, pair.b): pair for pair in busi_pairs(samples)}
    assert len(known) == 261 and indices(pairs) == set(known)
    for pair in pairs:
        np.testing.assert_allclose(pair, known[pair.a, pair.b], atol=6e-4)
