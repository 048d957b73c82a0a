import cv2
import numpy as np
import pytest

from dataset import augment
from segmentation.data import augmentation as scanners
from segmentation.data.augmentation import CHANGES, augmenter, imitate_scanner


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A dark lesion in speckled tissue, (80, 120)."""
    image = np.random.default_rng(0).normal(130, 20, (80, 120)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((80, 120), np.uint8)
    mask[30:60, 40:80] = 1
    image[mask > 0] //= 4
    return image, mask


def test_strength_0_is_the_other_augmentation_alone(pair):
    for seed in range(20):
        expected = augment(*pair, np.random.default_rng(seed), 0.5)
        found = augmenter(0.5, 0)(*pair, np.random.default_rng(seed))
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_most_training_images_show_another_machine(pair):
    changed = [
        not np.array_equal(augmenter(1, 1)(*pair, np.random.default_rng(seed))[0],
                           augment(*pair, np.random.default_rng(seed))[0])
        for seed in range(100)
    ]  # fmt: skip
    assert 88 <= sum(changed) <= 100  # none is made to one image in 21


def test_a_seed_is_all_the_chance_there_is_and_the_source_stays_as_it_is(pair):
    before = [part.copy() for part in pair]
    first, again, other = (augmenter(1, 1)(*pair, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    for seed in range(30):
        imitate_scanner(*pair, np.random.default_rng(seed), 2.0)
    assert all(np.array_equal(a, b) for a, b in zip(before, pair, strict=True))


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=lambda change: change.__name__)
def test_every_change_is_one_and_leaves_the_lesion_where_it_is(pair, change):
    changed = 0
    for seed in range(40):
        image, mask = change(*(part.copy() for part in pair), np.random.default_rng(seed))
        assert image.shape == mask.shape == pair[0].shape and image.dtype == mask.dtype == np.uint8
        changed += not np.array_equal(image, pair[0])
        if change is not scanners.add_frame:
            assert np.array_equal(mask, pair[1])
    assert changed > 30


def test_no_lesion_is_marked_under_the_frame(pair):
    full = np.ones_like(pair[1])
    framed = 0
    for seed in range(40):
        image, mask = scanners.add_frame(pair[0].copy(), full.copy(), np.random.default_rng(seed))
        assert np.array_equal(image[mask > 0], pair[0][mask > 0])
        hidden = image[mask == 0]
        assert not hidden.size or (hidden.min() == hidden.max() < 40)
        assert mask[10:70, 15:105].all()  # an eighth of a side at most
        framed += bool(hidden.size)
    assert framed > 25


def test_the_gain_follows_the_depth():
    flat, mask = np.full((100, 60), 100, np.uint8), np.zeros((100, 60), np.uint8)
    down, across = [], []
    for seed in range(30):
        image = scanners.change_gain(flat, mask, np.random.default_rng(seed))[0].astype(float)
        down.append(image.mean(axis=1).std())
        across.append(image.mean(axis=0).std())
    assert np.mean(down) > 2 * np.mean(across) > 0


def test_the_dynamic_range_rises_and_darkness_becomes_black():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)
    for seed in range(20):
        curve = scanners.change_dynamic_range(ramp, ramp, np.random.default_rng(seed))[0][0].astype(int)
        assert (np.diff(curve) >= 0).all() and curve[0] == 0 and curve[-1] >= 254


def test_resolution_falls(pair):
    def fine(image: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)).mean())

    lowered = [fine(scanners.lower_resolution(*pair, np.random.default_rng(seed))[0]) for seed in range(20)]
    assert np.mean(lowered) < 0.7 * fine(pair[0])
    sharper = [fine(scanners.enhance_edges(*pair, np.random.default_rng(seed))[0]) for seed in range(20)]
    assert min(sharper) > fine(pair[0])
