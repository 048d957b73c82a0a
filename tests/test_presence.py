"""Pictures without a lesion are recognised as a whole, and their masks emptied."""

import json

import keras
import numpy as np
import pytest
from test_runs import NETWORK, run  # noqa: F401  # a fixture

import presence
import rebuild
from attention_unet import build_attention_unet
from files import RunError
from predict import predict_probability
from presence import Presence


def pictures(count, lesions):
    """Bright pictures hold a lesion, dark ones none; (N, 32, 32) images and masks."""
    rng = np.random.default_rng(0)
    present = np.arange(count) < lesions
    images = (rng.integers(0, 60, (count, 32, 32)) + 150 * present[:, None, None]).astype(np.uint8)
    masks = np.zeros((count, 32, 32), np.uint8)
    masks[:, 8:24, 8:24] = present[:, None, None]
    return images, masks


def eager_network():
    """A network that marks every pixel of every picture."""
    keras.utils.set_random_seed(0)
    model = build_attention_unet((32, 32, 1), base_filters=4, depth=2)
    model.get_layer("lesion").set_weights([np.zeros((1, 1, 4, 1)), np.array([3.0])])
    return model


@pytest.mark.parametrize("tta", [False, True])
def test_normals_are_silenced_and_lesions_kept(tta):
    model = eager_network()
    found = presence.fit_presence(model, pictures(40, 20), pictures(12, 6), tta)
    images, _ = pictures(10, 5)
    plain, gated = (predict_probability(m, images, tta) for m in (model, presence.gate_by_presence(model, found)))
    assert np.array_equal(gated[:5], plain[:5]) and (plain > 0.5).all()
    assert not (gated[5:] > 0.5).any()


@pytest.mark.parametrize("lesions", [0, 12])
def test_nothing_is_fitted_without_both_kinds(lesions):
    assert presence.fit_presence(eager_network(), pictures(20, 10), pictures(12, lesions), False) is None
    assert presence.fit_presence(eager_network(), pictures(12, lesions), pictures(20, 10), False) is None


def test_the_gate_is_a_weighted_sum_of_the_averaged_skip():
    keras.utils.set_random_seed(0)
    model = build_attention_unet((32, 32, 1), base_filters=2, depth=2)
    images = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    skip = keras.Model(model.input, model.get_layer("encoder_2_relu2").output)(images).numpy()
    weights = np.array([1.0, -2.0, 0.5, 0.0])
    sums = skip.mean((1, 2)) @ weights
    between = presence.gate_by_presence(model, Presence(tuple(weights), float(-sums.mean())))(images).numpy()
    assert [bool(m.any()) for m in between] == list(sums > sums.mean())
    with pytest.raises(ValueError, match="3 weights"):
        presence.gate_by_presence(model, Presence((1.0, 1.0, 1.0), 0.0))


def test_threshold_is_the_fewest_normals_at_hardly_any_dice():
    # Two lesions found whole, one missed; two normals with a mask, one of them less likely than any found lesion.
    reference = np.zeros((6, 4, 4), bool)
    reference[:3, :2] = True
    maps = np.where(reference, 0.9, 0.1)[None]
    maps[0, 2] = 0.1  # missed: silencing it costs nothing
    maps[0, 3:5, 0, 0] = 0.9
    logits = np.array([[2.0, 1.0, -1.0, 0.5, 1.5, -2.0]])
    # Between 0.5 and 1: silences one normal. The other would cost a lesion, a third of all Dice.
    assert presence.choose_threshold(logits, maps, reference) == 0.75


@pytest.mark.parametrize(
    "content",
    [
        {"weights": [1.0], "offset": 0.0},  # of another network
        {"weights": [], "offset": 0.0},
        {"weights": [1.0, True], "offset": 0.0},
        {"weights": [1.0, 1e999], "offset": 0.0},
        {"weights": [1.0], "offset": "0"},
        {"weights": [1.0], "offset": 0.0, "more": 1},
        {"offset": 0.0},
    ],
)
def test_a_foreign_presence_file_is_refused(run, content):  # noqa: F811
    (run / "presence.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="presence.json"):
        rebuild.load_run(run)
    rebuild.load_run(run, gated=False)


def test_a_run_with_a_presence_is_rebuilt(run):  # noqa: F811
    presence.save_presence(run / "presence.json", Presence((0.0,) * 4, -1.0))
    assert NETWORK["base_filters"] * 2 == 4  # channels of the coarsest skip
    image = np.full((1, 32, 32, 1), 100, np.float32)
    assert not rebuild.load_run(run)[0](image).numpy().any()
    assert rebuild.load_run(run, gated=False)[0](image).numpy().all()
