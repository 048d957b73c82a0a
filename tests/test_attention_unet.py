import os

import keras
import numpy as np
import pytest
from conftest import REPOSITORY

from attention_unet import BatchNormalization, attention_gate, build_attention_unet, multiply_adds

TINY = dict(input_shape=(32, 48, 1), base_filters=2, depth=3)
VARIANTS = [
    {},
    {"gate_grid": "full"},
    {"gate_grid": "none"},
    {"gate_finest": True},
    {"deep_supervision": True},
    {"dropout": 0.5, "gate_finest": True, "deep_supervision": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_a_probability_map_and_every_weight_learns(variant):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = build_attention_unet(**TINY, **variant)
    image = np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 1)).astype(np.float32)
    with tf.GradientTape() as tape:
        output = model(image, training=True)
        loss = tf.reduce_mean((output - 0.3) ** 2)
    assert output.shape == (2, 32, 48, 1)
    assert 0 <= float(tf.reduce_min(output)) <= float(tf.reduce_max(output)) <= 1
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        assert gradient is not None, weight.path


def test_parameter_count_of_the_default():
    assert build_attention_unet((128, 128, 1)).count_params() == 1_968_132


def test_multiply_adds_by_hand():
    fine = 9 * 1 * 2 + 9 * 2 * 2 + 9 * 4 * 2 + 9 * 2 * 2 + 2 * 1  # encoder, decoder and output, at 32x32
    coarse = 9 * 2 * 4 + 9 * 4 * 4 + 4 * 2  # bottleneck and what goes up, at 16x16; one level has no gate
    model = build_attention_unet((32, 32, 1), base_filters=2, depth=1)
    assert multiply_adds(model) == 32 * 32 * fine + 16 * 16 * coarse


def gates(model):
    return {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers if layer.name.endswith("_alpha")}


def test_gates_are_where_the_paper_has_them():
    # Coarse: alpha on the grid of the gating signal, half the skip's; the finest skip is not gated.
    assert gates(build_attention_unet(**TINY)) == {"gate_3_alpha": (4, 6, 1), "gate_2_alpha": (8, 12, 1)}
    assert gates(build_attention_unet(**TINY, gate_grid="full", gate_finest=True)) == {
        "gate_3_alpha": (8, 12, 1),
        "gate_2_alpha": (16, 24, 1),
        "gate_1_alpha": (32, 48, 1),
    }
    plain = build_attention_unet(**TINY, gate_grid="none", gate_finest=True)
    assert not any("gat" in layer.name for layer in plain.layers)


def test_gate_layers_follow_the_official_code():
    model = build_attention_unet(**TINY)
    theta, phi = model.get_layer("gate_2_theta"), model.get_layer("gate_2_phi")
    assert theta.kernel_size == theta.strides == (2, 2) and not theta.use_bias
    assert phi.kernel_size == (1, 1) and phi.use_bias
    assert model.get_layer("gate_2_alpha_up").interpolation == "bilinear"
    # The gating signal of gate 2 is the decoder's level 3, not the encoder's.
    assert model.get_layer("gate_2_phi").input is model.get_layer("decoder_3_relu2").output
    assert model.get_layer("gate_3_phi").input is model.get_layer("gating_relu").output


@pytest.mark.parametrize("grid", ["coarse", "full"])
def test_gate_computes_the_papers_equation(grid):
    x, g = keras.Input((4, 4, 2)), keras.Input((2, 2, 3))
    out = attention_gate(x, g, "gate", grid)
    model = keras.Model([x, g], [out, keras.Model([x, g], out).get_layer("gate_alpha").output])
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(1, 4, 4, 2)).astype("float32"), np.tile(rng.normal(size=3), (1, 2, 2, 1)).astype("float32")
    if grid == "coarse":
        theta = np.einsum("aibjc,ijcd->abd", u[0].reshape(2, 2, 2, 2, 2), model.get_layer("gate_theta").kernel.numpy())
    else:
        theta = u[0] @ model.get_layer("gate_theta").kernel.numpy()[0, 0]
    phi = v[0, 0, 0] @ model.get_layer("gate_phi").kernel.numpy()[0, 0]  # g is constant: upsampling changes nothing
    psi = model.get_layer("gate_alpha").kernel.numpy()[0, 0]
    alpha = 1 / (1 + np.exp(-(np.maximum(theta + phi, 0) @ psi)))
    assert np.allclose(model([u, v])[1].numpy()[0], alpha, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (250, 256, 1)}, "multiple of 16"),
        ({"input_shape": (16, 16, 1)}, "from 32"),
        ({"depth": 0}, "at least 1"),
        ({"gate_grid": "fine"}, "gate_grid"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_attention_unet(**arguments)


def test_a_saved_model_needs_attention_unet_and_nothing_else(tmp_path):
    import subprocess
    import sys

    model = build_attention_unet(**TINY)
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 48, 1)).astype(np.float32)
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", image)
    load = "keras.saving.load_model('m.keras')(numpy.load('x.npy'))"
    code = f"import attention_unet, keras, numpy; numpy.save('y.npy', {load})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, env=environment)
    assert np.allclose(np.load(tmp_path / "y.npy"), model(image).numpy(), atol=1e-6)


def test_fused_normalisation_computes_what_keras_does():
    """Outputs, gradients and the statistics kept for inference, over some steps."""
    import tensorflow as tf

    x = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 7)).astype(np.float32)
    ours, stock = (kind(momentum=0.9, epsilon=1e-3) for kind in (BatchNormalization, keras.layers.BatchNormalization))
    for step in (1, 2, 3):
        gradients = []
        for layer in (ours, stock):
            image = tf.Variable(x * step)
            with tf.GradientTape() as tape:
                output = layer(image, training=True)
                loss = tf.reduce_sum(output**3)
            gradients.append([output, *tape.gradient(loss, [image, layer.gamma, layer.beta])])
        for a, b in zip(*gradients, strict=True):
            assert np.allclose(a, b, atol=2e-4, rtol=1e-4)
    for a, b in zip(ours.get_weights(), stock.get_weights(), strict=True):
        assert np.allclose(a, b, rtol=1e-5)
    assert np.allclose(ours(x), stock(x), atol=1e-5)
    ours.trainable = stock.trainable = False  # frozen: the kept statistics, also in training
    assert np.allclose(ours(x, training=True), stock(x, training=True), atol=1e-5)
    assert np.allclose(ours.moving_mean, stock.moving_mean, rtol=1e-5)
