"""Simulated pictures: what their physics and their folder should be."""

import numpy as np
import phantoms
import pytest
from PIL import Image


def test_same_seed_same_picture():
    (a, masks), (b, _), (c, _) = (phantoms.make_phantom("malignant", seed) for seed in (4, 4, 5))
    assert np.array_equal(a, b) and (a.shape != c.shape or not np.array_equal(a, c))
    assert a.dtype == np.uint8 and masks[0].shape == a.shape


def test_speckle_is_fully_developed():
    """The envelope over uniform tissue is Rayleigh-distributed: mean / standard deviation = 1.91."""
    rng = np.random.default_rng(0)
    tissue = phantoms.Tissue(np.zeros((200, 300), np.float32), np.zeros((200, 300), np.float32))
    tissue.attenuation += 0.045  # what the time-gain compensation takes back
    decibel = (phantoms._scan(rng, tissue)[60:120] / 255.0 - 1) * phantoms.DYNAMIC_RANGE_DB
    envelope = 10 ** (decibel / 20)
    assert envelope.mean() / envelope.std() == pytest.approx(1.91, abs=0.12)


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_lesions_are_dark_and_attenuate_as_they_should(label):
    below, inside, around = [], [], []
    for seed in range(5):
        image, (mask, *_) = phantoms.make_phantom(label, (seed, 99))
        rows, columns = np.nonzero(mask)
        bottom, left, right = rows.max() + 8, int(np.quantile(columns, 0.3)), int(np.quantile(columns, 0.7)) + 1
        if bottom + 30 <= image.shape[0]:
            stripe = image[bottom : bottom + 30]
            below.append(stripe[:, left:right].mean() - stripe.mean())
            inside.append(image[mask].mean())
            around.append(image[rows.min() : rows.max() + 1].mean())
    assert np.mean(inside) < np.mean(around) - 15
    assert np.mean(below) < -10 if label == "malignant" else np.mean(below) > 5


def test_the_folder_has_busis_layout(phantom_data):
    files = {p.relative_to(phantom_data).as_posix() for p in phantom_data.rglob("*.png")}
    images = {f for f in files if "_mask" not in f}
    assert len(images) == 48 and "benign/benign (27).png" in images
    with_masks = {f for f in images if f"{f[:-4]}_mask.png" in files}
    assert with_masks == {f for f in images if not f.startswith("normal")}
    assert any("_mask_1" in f for f in files)
    with Image.open(phantom_data / "malignant" / "malignant (1)_mask.png") as mask:
        assert set(np.unique(np.asarray(mask))) == {0, 255}
