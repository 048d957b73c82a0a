"""Attention U-Net (Oktay et al. 2018, arXiv:1804.03999), in Keras.

A U-Net whose skip connections pass through attention gates: a gate looks at the skip (x) and at
the coarser level (the gating signal g), and scales x by one attention coefficient alpha in [0, 1]
per position. Faithful to the authors' code (ozan-oktay/Attention-Gated-Networks,
`unet_CT_single_att_dsv_3D.py`, `grid_attention_layer.py`), in two dimensions.
"""

import math

import keras
from keras import layers

GATE_GRIDS = ("coarse", "full", "none")
# Channels and repeats of the seven stages.
ENCODERS = {
    "efficientnet_lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
# From 0 to 255 to ImageNet's colours with mean 0 and standard deviation 1.
_IMAGENET = {"scale": [0.017125, 0.017507, 0.017429], "offset": [-2.1179, -2.0357, -1.8044]}
# Class in keras.applications, its own arguments, and what it expects in place of 0 to 255.
APPLICATIONS = {
    "densenet121": ("DenseNet121", {}, _IMAGENET),
    "efficientnet_v2_b0": ("EfficientNetV2B0", {"include_preprocessing": False}, _IMAGENET),
    "resnet50_v2": ("ResNet50V2", {}, {"scale": 1 / 127.5, "offset": -1.0}),
}
ENCODER_DEPTH = 5  # poolings of all of these


@keras.saving.register_keras_serializable("attention_unet")
class BatchNormalization(layers.BatchNormalization):
    """Keras' layer on TensorFlow's fused operation: the same numbers, 2 to 5 times faster on a CPU.

    Keras 3 computes moments, scale and offset one after the other. Other backends get Keras' own code.
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
            variance *= (count - 1) / count  # the operation returns the unbiased one, Keras keeps the other
            for kept, seen in ((self.moving_mean, mean), (self.moving_variance, variance)):
                kept.assign(kept * self.momentum + seen * (1 - self.momentum))
        return outputs


def conv_block(x, filters: int, name: str, dropout: float = 0.0, dtype: str | None = None):
    """Two 3x3 convolutions, each with batch normalisation and ReLU: (B, H, W, C) -> (B, H, W, filters).

    `dtype` is the policy of the convolutions alone; the normalisation casts back to its own.
    """
    for i in (1, 2):
        # The normalisation has an offset of its own, so the convolution needs no bias.
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
    return layers.SpatialDropout2D(dropout, name=f"{name}_dropout")(x) if dropout else x


def attention_gate(x, g, name: str, grid: str = "coarse"):
    """Additive attention gate (Oktay et al. 2018, section 2.2, equations 1 and 2).

    alpha = sigmoid(psi(relu(theta(x) + phi(g)))), output = BN(W(alpha * x)).

    Args:
        x: skip connection, (B, H, W, C).
        g: gating signal from the next coarser level, (B, H/2, W/2, C_g).
        name: prefix of the layer names; the coefficients are the output of `{name}_alpha`.
        grid: "coarse" computes alpha on g's grid and upsamples it (the paper); "full" upsamples
            phi(g) and computes alpha on x's grid (most reimplementations; 4 times the work).

    Returns:
        The gated skip, (B, H, W, C). The `{name}_alpha` layer has one channel, in [0, 1].
    """
    channels = x.shape[-1]
    inter = max(channels // 2, 1)
    stride = 2 if grid == "coarse" else 1
    theta = layers.Conv2D(inter, stride, strides=stride, use_bias=False, name=f"{name}_theta")(x)
    phi = layers.Conv2D(inter, 1, name=f"{name}_phi")(g)
    if grid == "full":
        phi = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_phi_up")(phi)
    q = layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([theta, phi]))
    # Computed in float32 under mixed precision: alpha is looked at, not only multiplied with.
    alpha = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name=f"{name}_alpha")(q)
    if grid == "coarse":
        alpha = layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_alpha_up")(alpha)
    gated = layers.Multiply(name=f"{name}_multiply")([x, alpha])
    w = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_w")(gated)
    return BatchNormalization(momentum=0.9, name=f"{name}_w_bn")(w)


# ---------------------------------------------------------------- pretrained encoder


def efficientnet_lite(x, name: str):
    """EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation, ReLU6) as an encoder.

    Layer names are those of keras.applications; `pretrained.py` fills them with ImageNet weights.

    Args:
        x: (B, H, W, 1), grey values 0 to 255; H and W multiples of 32.
        name: a key of `ENCODERS`.

    Returns:
        Skips of strides 2, 4, 8 and 16, finest first, and the features of stride 32.
    """
    # The three colours are normalised alike, so one channel and a summed stem equal a repeated grey.
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="encoder_rescale")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = layers.ReLU(6, name="stem_relu")(_encoder_norm(x, "stem_bn"))
    skips = []
    stages = zip(*ENCODERS[name], (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), strict=True)
    for stage, (channels, repeats, kernel, stride) in enumerate(stages, start=1):
        if stage in (2, 3, 4, 6):  # what the next stride would lose
            skips.append(x)
        for repeat in range(repeats):
            x = _inverted_bottleneck(
                x, channels, kernel, 1 if repeat else stride, 1 if stage == 1 else 6, f"block{stage}{'abcdef'[repeat]}"
            )
    return skips, x


def _encoder_norm(x, name: str):
    # Keras' default momentum of 0.99 would hardly leave ImageNet's statistics in 60 steps an epoch.
    return BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)


def _inverted_bottleneck(x, filters: int, kernel: int, stride: int, expand: int, name: str):
    """1x1 expansion, depthwise convolution, linear 1x1 projection, and a residual where the shapes allow."""
    inputs = x
    if expand > 1:
        x = layers.Conv2D(x.shape[-1] * expand, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = layers.ReLU(6, name=f"{name}_expand_relu")(_encoder_norm(x, f"{name}_expand_bn"))
    x = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_dwconv")(x)
    x = layers.ReLU(6, name=f"{name}_relu")(_encoder_norm(x, f"{name}_bn"))
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _encoder_norm(x, f"{name}_project_bn")
    if stride == 1 and inputs.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([x, inputs])
    return x


def application(name: str, **arguments) -> keras.Model:
    """The network of keras.applications without its classifier; random weights unless `weights` says otherwise."""
    which, own, _ = APPLICATIONS[name]
    return getattr(keras.applications, which)(**{"include_top": False, "weights": None, **own, **arguments})


def application_encoder(x, name: str):
    """A network of keras.applications as an encoder: as `efficientnet_lite`, for a key of `APPLICATIONS`."""
    x = layers.Concatenate(name="encoder_rgb")([x, x, x])
    x = layers.Rescaling(**APPLICATIONS[name][2], name="encoder_rescale")(x)
    height = x.shape[1]
    model = application(name, input_tensor=x)
    last = {}  # of each stride, what the next stride would lose
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # as in `_encoder_norm`
        if len(layer.output.shape) == 4:
            last[height / layer.output.shape[1]] = layer.output
    return [last[2**level] for level in range(1, ENCODER_DEPTH)], last[2**ENCODER_DEPTH]


# ---------------------------------------------------------------- network


def build_attention_unet(
    input_shape: tuple[int, int, int] = (256, 256, 1),
    base_filters: int = 16,
    depth: int = 4,
    gate_grid: str = "coarse",
    gate_finest: bool = False,
    deep_supervision: bool = False,
    dropout: float = 0.0,
    encoder: str = "none",
    convolutions: str | None = None,
) -> keras.Model:
    """Build the network.

    Args:
        input_shape: (height, width, channels); height and width divisible by 2**depth. The network
            takes grey values 0 to 255 and rescales them itself.
        base_filters: channels of the finest level; each coarser level doubles them.
        depth: number of 2x2 poolings, so depth + 1 levels (the paper: 4).
        gate_grid: where alpha is computed, "coarse" (the paper) or "full"; "none" is a U-Net without gates.
        gate_finest: gate the finest skip too; the paper does not (section 2.3: its features are
            low-level and not yet worth filtering).
        deep_supervision: fuse 1x1-convolved outputs of every decoder level into the prediction
            (the official code's `dsv`: one loss on the fused map, not one loss a level).
        dropout: share of channels dropped at the end of the two coarsest levels of encoder "none".
        encoder: "none" for the paper's own, or a key of `ENCODERS` or `APPLICATIONS` under the same gates and
            decoder, with random weights (`pretrained.load_pretrained` fills them); its depth is always 5.
        convolutions: dtype policy of the 3x3 convolutions of encoder "none" and of the decoder; without it
            Keras' global one. Weights are float32 under "mixed_bfloat16" too, and fit either.

    Returns:
        A functional model (B, H, W, channels) -> lesion probability (B, H, W, 1), float32. Level 1
        is the finest; the gates' coefficients are the layers `gate_{level}_alpha`.

    Raises:
        ValueError: an argument is out of range; the message holds the number.
    """
    height, width, _ = input_shape
    if encoder != "none":
        if encoder not in ENCODERS | APPLICATIONS:
            raise ValueError(f"encoder must be none or one of {(*ENCODERS, *APPLICATIONS)}, got {encoder!r}")
        depth = ENCODER_DEPTH
    if depth < 1 or base_filters < 1:
        raise ValueError(f"depth and base_filters must be at least 1, got {depth} and {base_filters}")
    if height % 2**depth or width % 2**depth or min(height, width) < 2 ** (depth + 1):
        raise ValueError(
            f"an image of {height}x{width} cannot be halved {depth} times: use a multiple "
            f"of {2**depth} from {2 ** (depth + 1)} on"
        )
    if gate_grid not in GATE_GRIDS:
        raise ValueError(f"gate_grid must be one of {GATE_GRIDS}, got {gate_grid!r}")

    inputs = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)

    if encoder == "none":
        skips = []
        for level in range(1, depth + 1):
            share = dropout if level == depth else 0.0
            x = conv_block(x, base_filters * 2 ** (level - 1), f"encoder_{level}", share, convolutions)
            skips.append(x)
            x = layers.MaxPooling2D(2, name=f"pool_{level}")(x)
        x = conv_block(x, base_filters * 2**depth, "bottleneck", dropout, convolutions)
    else:
        # These encoders begin with a stride, so the finest skip needs a small branch of its own.
        skips = [conv_block(x, base_filters, "encoder_1", dtype=convolutions)]
        coarser, x = (efficientnet_lite if encoder in ENCODERS else application_encoder)(inputs, encoder)
        skips += coarser

    # The official code passes the bottleneck through a 1x1 convolution before it gates anything.
    g = layers.Conv2D(base_filters * 2**depth, 1, use_bias=False, name="gating_conv")(x)
    g = layers.ReLU(name="gating_relu")(BatchNormalization(momentum=0.9, name="gating_bn")(g))

    decoded = []
    for level in range(depth, 0, -1):
        skip = skips[level - 1]
        if gate_grid != "none" and (level > 1 or gate_finest):
            skip = attention_gate(skip, g, f"gate_{level}", gate_grid)
        # Channels are reduced on the coarse grid, as the official `UnetUp` does: a 1x1 convolution and
        # a bilinear upsampling commute, and this order costs a quarter.
        x = layers.Conv2D(skip.shape[-1], 1, use_bias=False, name=f"up_{level}_conv")(x)
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"concat_{level}")([skip, x])
        g = x = conv_block(x, base_filters * 2 ** (level - 1), f"decoder_{level}", dtype=convolutions)
        decoded.append(x)

    if deep_supervision:
        # Four channels a level, as `UnetDsv3` has at two classes; one would leave the fusion nothing to choose.
        maps = [
            layers.Conv2D(4, 1, name=f"dsv_{level}")(y) for level, y in zip(range(depth, 0, -1), decoded, strict=True)
        ]
        maps = [
            m
            if level == 1
            else layers.UpSampling2D(2 ** (level - 1), interpolation="bilinear", name=f"dsv_{level}_up")(m)
            for level, m in zip(range(depth, 0, -1), maps, strict=True)
        ]
        x = layers.Concatenate(name="dsv_concat")(maps)
    # The first guess is the usual share of lesion, a tenth, and not a half (Lin et al. 2017, section 4.1).
    prior = keras.initializers.Constant(-2.2)
    outputs = layers.Conv2D(1, 1, activation="sigmoid", bias_initializer=prior, dtype="float32", name="lesion")(x)
    return keras.Model(inputs, outputs, name="attention_unet")


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one image through the convolutions, nearly all there are; papers often call them FLOPs."""
    convolutions = [x for x in model.layers if isinstance(x, (layers.Conv2D, layers.DepthwiseConv2D))]
    return sum(math.prod(x.output.shape[1:3]) * math.prod(x.kernel.shape) for x in convolutions)
