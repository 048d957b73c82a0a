"""Augmented training images: image and mask move together, and other scanners are imitated."""

import cv2
import numpy as np
import pytest

from dataset import augment
from segmentation.data import augmentation
from segmentation.data.augmentation import CHANGES, augmenter, imitate_scanner


def rngs(count):
    return map(np.random.default_rng, range(count))


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """A dark lesion in speckled tissue, (80, 120)."""
    image = np.random.default_rng(0).normal(130, 20, (80, 120)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((80, 120), np.uint8)
    mask[30:60, 40:80] = 1
    image[mask > 0] //= 4
    return image, mask


def test_image_and_mask_move_together():
    disc = cv2.circle(np.zeros((96, 96), np.uint8), (40, 50), 18, 1, -1)
    for rng in rngs(30):
        image, mask = augment(disc * 255, disc, rng)
        assert set(np.unique(mask)) <= {0, 1}
        bright = image > (int(image.max()) + int(image.min())) / 2
        assert (bright & (mask > 0)).sum() / (bright | (mask > 0)).sum() > 0.9
        assert image.shape == mask.shape == (96, 96) and image.dtype == mask.dtype == np.uint8


def test_strength_0_is_at_most_a_flip():
    image = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
    mask = (image > 128).astype(np.uint8)
    seen = set()
    for rng in rngs(8):
        new, new_mask = augment(image, mask, rng, strength=0)
        flipped = not np.array_equal(new_mask, mask)
        assert np.abs(new.astype(int) - (image[:, ::-1] if flipped else image)).max() <= 1
        seen.add(flipped)
    assert seen == {True, False}


def test_scanners_of_strength_0_are_the_other_augmentation_alone(pair):
    for some, others in zip(rngs(10), rngs(10), strict=True):
        expected, found = augment(*pair, some, 0.5), augmenter(0.5, 0)(*pair, others)
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_most_training_images_show_another_machine(pair):
    plain, changed = ([augmenter(1, scanners)(*pair, rng)[0] for rng in rngs(100)] for scanners in (0, 1))
    # None of the changes is made to one image in 21.
    assert 88 <= sum(not np.array_equal(a, b) for a, b in zip(plain, changed, strict=True)) <= 100


def test_a_seed_is_all_the_chance_there_is_and_the_source_stays_as_it_is(pair):
    before = [part.copy() for part in pair]
    first, again, other = (augmenter(1, 1)(*pair, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])
    for rng in rngs(30):
        imitate_scanner(*pair, rng, 2.0)
    assert all(np.array_equal(a, b) for a, b in zip(before, pair, strict=True))


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=lambda change: change.__name__)
def test_every_change_is_one_and_leaves_the_lesion_where_it_is(change, pair):
    changed = 0
    for rng in rngs(40):
        image, mask = change(*(part.copy() for part in pair), rng)
        assert image.shape == mask.shape == pair[0].shape and image.dtype == mask.dtype == np.uint8
        changed += not np.array_equal(image, pair[0])
        if change is not augmentation.add_frame:
            assert np.array_equal(mask, pair[1])
    assert changed > 30


def test_no_lesion_is_marked_under_the_frame(pair):
    framed = 0
    for rng in rngs(40):
        image, mask = augmentation.add_frame(pair[0].copy(), np.ones_like(pair[1]), rng)
        assert np.array_equal(image[mask > 0], pair[0][mask > 0])
        hidden = image[mask == 0]
        assert not hidden.size or (hidden.min() == hidden.max() < 40)
        assert mask[10:70, 15:105].all()  # an eighth of a side at most
        framed += bool(hidden.size)
    assert framed > 25


def test_gain_follows_the_depth_and_the_dynamic_range_rises_from_black():
    flat, ramp = np.full((100, 60), 100, np.uint8), np.arange(256, dtype=np.uint8)[None].repeat(2, axis=0)
    images = [augmentation.change_gain(flat, flat, rng)[0].astype(float) for rng in rngs(30)]
    down, across = (np.mean([image.mean(axis=axis).std() for image in images]) for axis in (1, 0))
    assert down > 2 * across > 0
    for rng in rngs(20):
        curve = augmentation.change_dynamic_range(ramp, ramp, rng)[0][0].astype(int)
        assert (np.diff(curve) >= 0).all() and curve[0] == 0 and curve[-1] >= 254


def test_resolution_falls_and_edges_sharpen(pair):
    def fine(image: np.ndarray) -> float:
        return float(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)).mean())

    assert np.mean([fine(augmentation.lower_resolution(*pair, rng)[0]) for rng in rngs(20)]) < 0.7 * fine(pair[0])
    assert min(fine(augmentation.enhance_edges(*pair, rng)[0]) for rng in rngs(20)) > fine(pair[0])
