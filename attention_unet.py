"""Attention U-Net (Oktay et al. 2018, arXiv:1804.03999), from stock Keras layers.

A U-Net whose skip connections pass through attention gates: a gate looks at the skip (x) and at
the coarser level (the gating signal g), and scales x by one attention coefficient alpha in [0, 1]
per position. Faithful to the authors' code (ozan-oktay/Attention-Gated-Networks,
`unet_CT_single_att_dsv_3D.py`, `grid_attention_layer.py`), in two dimensions.
"""

import keras
from keras import layers

GATE_GRIDS = ("coarse", "full")


def conv_block(x, filters: int, name: str, dropout: float = 0.0):
    """Two 3x3 convolutions, each with batch normalisation and ReLU: (B, H, W, C) -> (B, H, W, filters)."""
    for i in (1, 2):
        # The normalisation has an offset of its own, so the convolution needs no bias.
        x = layers.Conv2D(
            filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv{i}"
        )(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn{i}")(x)
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
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_w_bn")(w)


def build_attention_unet(
    input_shape: tuple[int, int, int] = (256, 256, 1),
    base_filters: int = 16,
    depth: int = 4,
    gate_grid: str = "coarse",
    gate_finest: bool = False,
    deep_supervision: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """Build the network.

    Args:
        input_shape: (height, width, channels); height and width divisible by 2**depth. The network
            takes grey values 0 to 255 and rescales them itself.
        base_filters: channels of the finest level; each coarser level doubles them.
        depth: number of 2x2 poolings, so depth + 1 levels (the paper: 4).
        gate_grid: where alpha is computed, "coarse" (the paper) or "full".
        gate_finest: gate the finest skip too; the paper does not (section 2.3: its features are
            low-level and not yet worth filtering).
        deep_supervision: fuse 1x1-convolved outputs of every decoder level into the prediction
            (the official code's `dsv`: one loss on the fused map, not one loss a level).
        dropout: share of channels dropped at the end of the two coarsest encoder levels.

    Returns:
        A functional model (B, H, W, channels) -> lesion probability (B, H, W, 1), float32. Level 1
        is the finest; the gates' coefficients are the layers `gate_{level}_alpha`.

    Raises:
        ValueError: an argument is out of range; the message holds the number.
    """
    height, width, _ = input_shape
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

    skips = []
    for level in range(1, depth + 1):
        x = conv_block(x, base_filters * 2 ** (level - 1), f"encoder_{level}", dropout if level == depth else 0.0)
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"pool_{level}")(x)
    x = conv_block(x, base_filters * 2**depth, "bottleneck", dropout)

    # The official code passes the bottleneck through a 1x1 convolution before it gates anything.
    g = layers.Conv2D(base_filters * 2**depth, 1, use_bias=False, name="gating_conv")(x)
    g = layers.ReLU(name="gating_relu")(layers.BatchNormalization(momentum=0.9, name="gating_bn")(g))

    decoded = []
    for level in range(depth, 0, -1):
        skip = skips[level - 1]
        if level > 1 or gate_finest:
            skip = attention_gate(skip, g, f"gate_{level}", gate_grid)
        # Channels are reduced on the coarse grid, as the official `UnetUp` does: a 1x1 convolution and
        # a bilinear upsampling commute, and this order costs a quarter.
        x = layers.Conv2D(skip.shape[-1], 1, use_bias=False, name=f"up_{level}_conv")(x)
        x = layers.UpSampling2D(2, interpolation="bilinear", name=f"up_{level}")(x)
        x = layers.Concatenate(name=f"concat_{level}")([skip, x])
        g = x = conv_block(x, base_filters * 2 ** (level - 1), f"decoder_{level}")
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
    outputs = layers.Conv2D(1, 1, activation="sigmoid", dtype="float32", name="lesion")(x)
    return keras.Model(inputs, outputs, name="attention_unet")
