"""Attention U-Net (Oktay et al. 2018, arXiv:1804.03999), in Keras.

    model = build_attention_unet((256, 256, 1), base_filters=16)

A U-Net whose skip connections pass through attention gates: from the skip (x) and the coarser
level (the gating signal g), a gate computes an attention coefficient alpha in [0, 1] for each
position, and multiplies x by it. The gates follow the authors' code (ozan-oktay/Attention-Gated-Networks,
`unet_CT_single_att_dsv_3D.py`, `grid_attention_layer.py`) in two dimensions; docs/network.md lists what differs.

This file imports nothing else of the project, so you can copy it into your own.
"""

import math
from collections.abc import Callable

import keras
from keras import layers

GATES = ("paper", "full", "none")


@keras.saving.register_keras_serializable("attention_unet")
class BatchNormalization(layers.BatchNormalization):
    """Keras' layer with TensorFlow's fused operation: the same results, 2 to 5 times faster on a CPU.

    Keras 3 computes moments, scale and offset one after the other. With other backends, Keras' code is used.
    """

    def call(self, inputs, training=None, mask=None):
        """(B, H, W, C) -> the same shape."""
        if keras.backend.backend() != "tensorflow" or mask is not None or len(inputs.shape) != 4:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        training = bool(training) and self.trainable
        statistics = {} if training else {"mean": self.moving_mean, "variance": self.moving_variance}
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=training, **statistics
        )
        if training:
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], variance.dtype)
            variance *= (count - 1) / count  # TensorFlow's is unbiased, Keras' is not
            for average, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average * self.momentum + batch * (1 - self.momentum))
        return outputs


def conv_block(x, filters: int, name: str, dtype: str | None = None):
    """Two 3x3 convolutions, each with batch normalisation and ReLU: (B, H, W, C) -> (B, H, W, filters).

    `dtype` is the dtype policy of the convolutions only; the normalisation casts back to its own.
    """
    for i in (1, 2):
        # The normalisation has an offset, so the convolution needs no bias.
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=dtype,
            name=f"{name}_conv{i}",
        )(x)
        x = BatchNormalization(momentum=0.9, name=f"{name}_bn{i}")(x)
        x = layers.ReLU(name=f"{name}_relu{i}")(x)
    return x


def attention_gate(x, g, name: str, full: bool = False):
    """Additive attention gate (Oktay et al. 2018, section 2.2, equations 1 and 2).

    alpha = sigmoid(psi(relu(theta(x) + phi(g)))), output = BN(W(alpha * x)).

    Args:
        x: skip connection, (B, H, W, C).
        g: gating signal from the next coarser level, (B, H/2, W/2, C_g).
        name: prefix of the layer names; the coefficients are the output of `{name}_alpha`.
        full: compute alpha at the resolution of x, with phi(g) upsampled, as most reimplementations do (4 times the
            work). The paper computes it at the coarser resolution of g, and upsamples alpha.

    Returns:
        The gated skip, (B, H, W, C). The output of the `{name}_alpha` layer has one channel, in [0, 1].
    """
    channels = x.shape[-1]
    inter = max(channels // 2, 1)
    stride = 1 if full else 2
    theta = layers.Conv2D(inter, stride, strides=stride, use_bias=False, name=f"{name}_theta")(x)
    phi = layers.Conv2D(inter, 1, name=f"{name}_phi")(g)
    if full:
        phi = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_phi_up")(phi)
    q = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([theta, phi]))
    # float32 even under mixed precision, since alpha is shown in figures, too.
    alpha = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name=f"{name}_alpha")(q)
    if not full:
        alpha = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_alpha_up")(alpha)
    gated = layers.Multiply(name=f"{name}_multiply")([x, alpha])
    w = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_w")(gated)
    return BatchNormalization(momentum=0.9, name=f"{name}_w_bn")(w)


def build_attention_unet(  # noqa: PLR0913  each argument is a property of the network
    input_shape: tuple[int, int, int] = (256, 256, 1),
    base_filters: int = 16,
    depth: int = 4,
    gates: str = "paper",
    encoder: Callable | None = None,
    convolutions: str | None = None,
    lesion_score: bool = False,
) -> keras.Model:
    """Build the network.

    Args:
        input_shape: (height, width, channels); height and width divisible by 2**depth. The network takes grey values
            0 to 255 and rescales them itself.
        base_filters: channels of the finest level; each coarser level doubles them.
        depth: number of 2x2 poolings of the paper's own encoder, so depth + 1 levels (the paper: 4).
        gates: "paper" gates every skip but the finest (section 2.3: its features are too low-level), at the coarser
            resolution; "full" gates all skips, at their own resolution, as most reimplementations do; "none" is a
            U-Net.
        encoder: takes the image (B, H, W, channels), and returns its skips of strides 2, 4, 8, ... (finest first) and
            its deepest features, of the next stride; None: the paper's encoder. With an encoder, `depth` is ignored.
        convolutions: dtype policy of the 3x3 convolutions of the paper's encoder and of the decoder; None: Keras'
            global one. The weights are float32 under "mixed_bfloat16" too, so they fit both.
        lesion_score: add a second output, the probability that the image holds a lesion.

    Returns:
        A functional model (B, H, W, channels) -> lesion probability (B, H, W, 1), float32. Level 1 is the finest; the
        attention coefficients are the outputs of the layers `gate_{level}_alpha`. With `lesion_score`, the output is
        {"lesion": that probability, "lesion_score": (B, 1) float32 in [0, 1]}.

    Raises:
        ValueError: an argument is out of range.
    """
    if depth < 1 or base_filters < 1:
        raise ValueError(f"depth and base_filters must be at least 1, got {depth} and {base_filters}")
    if gates not in GATES:
        raise ValueError(f"gates must be one of {GATES}, got {gates!r}")

    inputs = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    if encoder is None:
        _check_size(input_shape, depth)
        skips, x = paper_encoder(x, base_filters, depth, convolutions)
        features = x
    else:
        # Such encoders begin with a stride, so the finest skip comes from a separate block at full resolution.
        finest = conv_block(x, base_filters, "encoder_1", convolutions)
        coarser, x = encoder(inputs)
        skips, depth = [finest, *coarser], len(coarser) + 1
        features = coarser[-1]  # of stride 16, like those of the paper's encoder
        _check_size(input_shape, depth)

    x = attention_decoder(x, skips, base_filters, gates, convolutions)
    # The initial probability is 0.1, the usual share of lesion pixels, instead of 0.5 (Lin et al. 2017, section 4.1).
    prior = keras.initializers.Constant(-2.2)
    outputs = layers.Conv2D(1, 1, activation="sigmoid", bias_initializer=prior, dtype="float32", name="lesion")(x)
    if lesion_score:
        outputs = {"lesion": outputs, "lesion_score": score_picture(features)}
    return keras.Model(inputs, outputs, name="attention_unet")


def score_picture(features):
    """Probability that an image holds a lesion, from the encoder's features: (B, H, W, C) -> (B, 1), float32 in [0, 1].

    With this output, the lesion map is trained on lesion images only. A map that is also trained on normal images
    becomes too cautious, and misses lesions in another hospital's images.
    """
    pooling = layers.GlobalAveragePooling2D(name="score_mean"), layers.GlobalMaxPooling2D(name="score_most")
    pooled = layers.Concatenate(name="score_pooled")([pool(features) for pool in pooling])
    pooled = layers.Dropout(0.4, name="score_dropout")(pooled)  # there are few normal training images
    # With zeros, every score is 0.5 at first; with random weights, it would be near 0 or 1, as the features are large.
    return layers.Dense(1, activation="sigmoid", kernel_initializer="zeros", dtype="float32", name="lesion_score")(
        pooled
    )


def attention_decoder(x, skips: list, base_filters: int, gates: str, dtype: str | None = None):
    """The decoder: from the deepest features and the skips (finest first) to (B, H, W, base_filters)."""
    # As in the official code, the first gating signal is a 1x1 convolution of the bottleneck.
    g = layers.Conv2D(base_filters * 2 ** len(skips), 1, use_bias=False, name="gating_conv")(x)
    g = layers.ReLU(name="gating_relu")(BatchNormalization(momentum=0.9, name="gating_bn")(g))
    for level in range(len(skips), 0, -1):
        skip = skips[level - 1]
        if gates == "full" or (gates == "paper" and level > 1):
            skip = attention_gate(skip, g, f"gate_{level}", full=gates == "full")
        # A 1x1 convolution and bilinear upsampling commute; convolving first, at the coarser resolution, takes a
        # quarter of the operations.
        x = layers.Conv2D(skip.shape[-1], 1, use_bias=False, name=f"up_{level}_conv")(x)
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"concat_{level}")([skip, x])
        g = x = conv_block(x, base_filters * 2 ** (level - 1), f"decoder_{level}", dtype)
    return x


def paper_encoder(x, base_filters: int, depth: int, dtype: str | None = None):
    """The paper's encoder: skips of strides 1, 2, 4, ... (finest first), and the bottleneck of stride 2**depth."""
    skips = []
    for level in range(1, depth + 1):
        x = conv_block(x, base_filters * 2 ** (level - 1), f"encoder_{level}", dtype)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool_{level}")(x)
    return skips, conv_block(x, base_filters * 2**depth, "bottleneck", dtype)


def _check_size(input_shape: tuple[int, int, int], depth: int) -> None:
    height, width, _ = input_shape
    if height % 2**depth or width % 2**depth or min(height, width) < 2 ** (depth + 1):
        raise ValueError(
            f"an image of {height}x{width} cannot be halved {depth} times: use a multiple "
            f"of {2**depth} from {2 ** (depth + 1)} on"
        )


def in_plain_keras(model: keras.Model) -> keras.Model:
    """A copy with Keras' own layers only, all in float32, with the same weights in the same order.

    When it is saved, `keras.saving.load_model` opens it without this file.
    """

    def plain(layer: layers.Layer) -> layers.Layer:
        own = layers.BatchNormalization if isinstance(layer, BatchNormalization) else type(layer)
        config = layer.get_config() | {"dtype": "float32"}
        return own.from_config(config | ({"seed": 0} if "seed" in config else {}))  # by default, a random one

    # Clone a model that is not compiled: Keras would copy the loss and the optimizer of a compiled one.
    copy = keras.models.clone_model(keras.Model(model.input, model.output, name=model.name), clone_function=plain)
    copy.set_weights(model.get_weights())
    return copy


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of the convolutions for one image, nearly all of the network's; papers often call them FLOPs."""
    convolutions = [x for x in model.layers if isinstance(x, (layers.Conv2D, layers.DepthwiseConv2D))]
    return sum(math.prod(x.output.shape[1:3]) * math.prod(x.kernel.shape) for x in convolutions)
