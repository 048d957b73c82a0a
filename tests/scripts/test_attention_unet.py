"""The network: its outputs, its gates against the paper's equation, other encoders, and a copy in plain Keras."""

import keras
import numpy as np
import pytest

from attention_unet import (
    GATES,
    BatchNormalization,
    attention_gate,
    build_attention_unet,
    in_plain_keras,
    multiply_adds,
)

TINY = dict(input_shape=(32, 48, 1), base_filters=2, depth=3)


def strided_encoder(image):
    """An encoder as somebody may write it: skips of strides 2 and 4, and features of stride 8."""
    skips, x = [], keras.layers.Rescaling(1 / 255)(image)
    for channels in (3, 5, 6):
        skips.append(keras.layers.Conv2D(channels, 3, strides=2, padding="same", activation="relu")(x))
        x = skips[-1]
    return skips[:-1], x


VARIANTS = [
    *({"gates": gates} for gates in GATES),
    *({"gates": gates, "encoder": strided_encoder} for gates in GATES),
    {"depth": 1},
    {"input_shape": (32, 48, 3)},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_output_is_a_probability_map_and_every_weight_learns(variant):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = build_attention_unet(**{**TINY, **variant})
    image = np.random.default_rng(0).uniform(0, 255, (2, *model.input.shape[1:])).astype(np.float32)
    with tf.GradientTape() as tape:
        output = model(image, training=True)
        loss = tf.reduce_mean((output - 0.3) ** 2)
    assert output.shape == (2, 32, 48, 1)
    assert 0 <= float(tf.reduce_min(output)) <= float(tf.reduce_max(output)) <= 1
    for weight, gradient in zip(model.trainable_weights, tape.gradient(loss, model.trainable_weights), strict=True):
        assert gradient is not None, weight.path


@pytest.mark.parametrize("encoder", [None, strided_encoder])
def test_the_lesion_score_is_a_second_output_and_leaves_the_first_as_it_is(encoder):
    keras.utils.set_random_seed(0)
    plain = build_attention_unet(**TINY, encoder=encoder)
    both = build_attention_unet(**TINY, encoder=encoder, lesion_score=True)
    own = [layer for layer in both.layers if not layer.name.startswith(("score_", "lesion_score"))]
    for layer, other in zip(own, plain.layers, strict=True):
        layer.set_weights(other.get_weights())
    image = np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 1)).astype(np.float32)
    found = both(image)
    assert np.array_equal(found["lesion"], plain(image))
    assert np.allclose(found["lesion_score"], 0.5) and found["lesion_score"].shape == (2, 1)
    features = both.get_layer("score_mean").input
    assert features.shape[1:] == ((4, 6, 16) if encoder is None else (8, 12, 5))
    assert both.get_layer("lesion_score").kernel.shape == (2 * features.shape[-1], 1)  # mean and maximum


def test_multiply_adds_by_hand():
    fine = 9 * 1 * 2 + 9 * 2 * 2 + 9 * 4 * 2 + 9 * 2 * 2 + 2 * 1  # encoder, decoder and output, at 32x32
    coarse = 9 * 2 * 4 + 9 * 4 * 4 + 4 * 2  # bottleneck and what goes up, at 16x16; one level has no gate
    model = build_attention_unet((32, 32, 1), base_filters=2, depth=1)
    assert multiply_adds(model) == 32 * 32 * fine + 16 * 16 * coarse
    assert build_attention_unet((128, 128, 1)).count_params() == 1_968_132  # of the paper's size


def gate_shapes(model):
    return {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers if layer.name.endswith("_alpha")}


def test_gates_are_where_the_paper_has_them():
    # Coarse: alpha on the grid of the gating signal, half the skip's; the finest skip is not gated.
    paper = build_attention_unet(**TINY)
    assert gate_shapes(paper) == {"gate_3_alpha": (4, 6, 1), "gate_2_alpha": (8, 12, 1)}
    assert gate_shapes(build_attention_unet(**TINY, gates="full")) == {
        "gate_3_alpha": (8, 12, 1),
        "gate_2_alpha": (16, 24, 1),
        "gate_1_alpha": (32, 48, 1),
    }
    plain = build_attention_unet(**TINY, gates="none")
    assert not any("gat" in layer.name for layer in plain.layers)
    # As in the official code.
    theta, phi = paper.get_layer("gate_2_theta"), paper.get_layer("gate_2_phi")
    assert theta.kernel_size == theta.strides == (2, 2) and not theta.use_bias
    assert phi.kernel_size == (1, 1) and phi.use_bias
    assert paper.get_layer("gate_2_alpha_up").interpolation == "bilinear"
    # The gating signal of gate 2 is the decoder's level 3, not the encoder's.
    assert paper.get_layer("gate_2_phi").input is paper.get_layer("decoder_3_relu2").output
    assert paper.get_layer("gate_3_phi").input is paper.get_layer("gating_relu").output


def test_an_encoder_of_ones_own_goes_under_the_same_gates():
    """The depth is the encoder's, `depth` is not looked at; the finest skip comes from a branch of the network's."""
    asked = []
    model = build_attention_unet((32, 48, 1), 2, depth=7, encoder=lambda x: asked.append(x) or strided_encoder(x))
    assert asked[0] is model.input  # grey values 0 to 255: rescaling is the encoder's own affair
    assert gate_shapes(model) == {"gate_3_alpha": (4, 6, 1), "gate_2_alpha": (8, 12, 1)}
    skips = {k: model.get_layer(f"gate_{k}_multiply").output.shape[1:] for k in (2, 3)}
    assert skips == {2: (16, 24, 3), 3: (8, 12, 5)}
    assert model.get_layer("concat_1").input[0] is model.get_layer("encoder_1_relu2").output
    assert model.get_layer("encoder_1_conv1").input is model.get_layer("rescale").output
    assert model.get_layer("gating_conv").output.shape[1:] == (4, 6, 2 * 2**3)
    assert [model.get_layer(f"decoder_{k}_conv2").filters for k in (3, 2, 1)] == [8, 4, 2]
    with pytest.raises(ValueError, match="36x48 cannot be halved 3 times: use a multiple of 8 from 16 on"):
        build_attention_unet((36, 48, 1), 2, encoder=strided_encoder)


@pytest.mark.parametrize("full", [False, True])
def test_gate_computes_the_papers_equation(full):
    x, g = keras.Input((4, 4, 2)), keras.Input((2, 2, 3))
    out = attention_gate(x, g, "gate", full)
    model = keras.Model([x, g], [out, keras.Model([x, g], out).get_layer("gate_alpha").output])
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(1, 4, 4, 2)).astype("float32"), np.tile(rng.normal(size=3), (1, 2, 2, 1)).astype("float32")
    if full:
        theta = u[0] @ model.get_layer("gate_theta").kernel.numpy()[0, 0]
    else:
        theta = np.einsum("aibjc,ijcd->abd", u[0].reshape(2, 2, 2, 2, 2), model.get_layer("gate_theta").kernel.numpy())
    phi = v[0, 0, 0] @ model.get_layer("gate_phi").kernel.numpy()[0, 0]  # g is constant: upsampling changes nothing
    psi = model.get_layer("gate_alpha").kernel.numpy()[0, 0]
    alpha = 1 / (1 + np.exp(-(np.maximum(theta + phi, 0) @ psi)))
    assert np.allclose(model([u, v])[1].numpy()[0], alpha, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_shape": (250, 256, 1)}, "multiple of 16"),
        ({"depth": 0}, "at least 1"),
        ({"gates": "fine"}, "gates must be one of .*paper.*, got 'fine'"),
        ({"encoder": strided_encoder, "input_shape": (8, 8, 1)}, "8x8 cannot be halved 3 times"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_attention_unet(**arguments)


def test_fused_normalisation_computes_what_keras_does():
    """Outputs, gradients and the statistics kept for inference, over some steps."""
    import tensorflow as tf

    x = np.random.default_rng(0).normal(3, 2, (4, 6, 5, 7)).astype(np.float32)
    both = (BatchNormalization, keras.layers.BatchNormalization)
    ours, stock = (layer(momentum=0.9, epsilon=1e-3) for layer in both)
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


def test_a_copy_in_plain_keras():
    """No layer of ours, nothing but float32, both outputs, not compiled; and weights that fit either way."""
    network = build_attention_unet(
        (32, 32, 1), base_filters=2, depth=2, convolutions="mixed_bfloat16", lesion_score=True
    )
    network.compile("adam", {"lesion": "binary_crossentropy", "lesion_score": "binary_crossentropy"})
    rng = np.random.default_rng(0)
    network.set_weights([rng.uniform(0.1, 1, w.shape) for w in network.get_weights()])
    plain = in_plain_keras(network)
    assert all(type(layer).__module__.startswith("keras.") for layer in plain.layers)
    assert {layer.dtype_policy.name for layer in plain.layers} == {"float32"} and not plain.compiled
    again = build_attention_unet((32, 32, 1), base_filters=2, depth=2, lesion_score=True)
    again.set_weights(plain.get_weights())
    x = rng.uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    for name, values in again.predict_on_batch(x).items():
        assert np.allclose(plain.predict_on_batch(x)[name], values, atol=1e-6)
