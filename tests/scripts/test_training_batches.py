"""The batches that a training draws: every draw is a function of seed, epoch and image. This needs TensorFlow."""

from functools import partial

import numpy as np
import pytest

from dataset import Stream, augment, make_dataset


@pytest.fixture
def arrays():
    """Ten pictures, each of another brightness, and masks."""
    rng = np.random.default_rng(1)
    images = np.repeat(np.arange(10, dtype=np.uint8)[:, None, None] * 20, 16 * 16, axis=1).reshape(10, 16, 16)
    return images + rng.integers(0, 9, images.shape, np.uint8), rng.integers(0, 2, images.shape, np.uint8)


def take(data, batches):
    return [(x.numpy(), y.numpy()) for x, y in data.take(batches)]


def equal(some, others):
    pairs = zip(some, others, strict=True)
    return all(np.array_equal(x, u) and np.array_equal(y, v) for (x, y), (u, v) in pairs)


def test_every_epoch_is_augmented_anew_and_repeats_under_its_seed(arrays):
    stream = take(make_dataset(*arrays, 4, Stream(seed=7)), 6)
    assert [len(x) for x, _ in stream] == [4, 4, 2, 4, 4, 2]
    assert equal(stream, take(make_dataset(*arrays, 4, Stream(seed=7)), 6))
    assert not np.array_equal(stream[0][0], take(make_dataset(*arrays, 4, Stream(seed=8)), 1)[0][0])
    first, second = (np.concatenate([x for x, _ in part]) for part in (stream[:3], stream[3:]))
    assert not {x.tobytes() for x in first} & {x.tobytes() for x in second}
    assert equal(stream[3:], take(make_dataset(*arrays, 4, Stream(seed=7, first_epoch=1)), 3))  # of a resumed run


def test_training_sees_every_image_once_an_epoch(arrays):
    batches = take(make_dataset(*arrays, 4, Stream(change=partial(augment, strength=0))), 6)
    for epoch in (batches[:3], batches[3:]):
        assert sorted(round(float(x.mean()) / 20) for x, _ in epoch for x in x) == list(range(10))


def test_evaluation_keeps_the_order_and_drops_nothing(arrays):
    batches = take(make_dataset(*arrays, 4), 9)
    for k in range(2):
        assert np.array_equal(np.concatenate([batch[k] for batch in batches])[..., 0], arrays[k])
