"""Export a trained network to files for other programs, and compare their predictions with those of Keras."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from dataset import resize_image
from segmentation.common.startup import without_notes
from segmentation.inference.engines import RAW, ExportedNetwork, Format, import_openvino
from segmentation.scoring.calibration import MARGIN, calibrated, calibrated_score
from segmentation.scoring.decision import Decision, Prediction, to_mask
from segmentation.scoring.prediction import BATCH, Network, predict_pictures
from segmentation.scoring.scores import overlap

WRITERS = {"onnx": ("onnx", "tf2onnx")}  # packages to write a format, beside TensorFlow and the format's runtime
EXACT = ("onnx", "litert", "openvino")  # these compute in float32, as Keras does
MOST_DIFFERENCE, MOST_DICE = 1e-3, 0.005  # largest allowed difference of a probability (`EXACT`), and of the mean Dice
DECISION = (
    "Enlarge the calibrated probability map to the picture's size. A pixel is lesion if its probability is above the "
    "threshold; if threshold_of_highest is true, multiply the threshold by the map's highest value first. Drop "
    "connected components whose highest probability is below min_peak and, if largest_component is true, all but the "
    "largest. If the calibrated lesion score is below min_score, the mask is empty; else, if it is below "
    "doubtful_score, the mask is doubtful. With mirrored averaging, first average the uncalibrated outputs of the "
    "picture and of its mirror image (mirrored back), then calibrate the mean p: 1 / (1 + exp(-scale * "
    "log(p / (1 - p)) - offset))."
)
OUTPUTS = {
    "lesion": "lesion probability of each pixel, calibrated",
    f"lesion{RAW}": "the same without calibration",
    "lesion_score": "probability that the picture holds a lesion, calibrated",
    f"lesion_score{RAW}": "the same without calibration",
}
LARGEST_LOGIT = float(np.log((1 - MARGIN) / MARGIN))
CALIBRATION_PICTURES = 128  # of the training set, evenly spaced; they determine the ranges for int8


# ---------------------------------------------------------------- write


def with_calibration(model: keras.Model, decision: Decision) -> keras.Model:
    """The network to export: its outputs with and without the decision's calibration.

    Args:
        model: from `load_run`.
        decision: has the run's calibration.

    Returns:
        A model that shares the layers of `model`: (B, S, S, 1) -> a dict with `OUTPUTS`, the last two only if the
        network has a lesion score. It does not average with the mirror image, which would double the time.
    """
    calibration = {"lesion": (decision.scale, decision.offset)}
    calibration |= {"lesion_score": (decision.score_scale, decision.score_offset)}
    outputs = {}
    for name, (scale, offset) in calibration.items():
        if name in {layer.name for layer in model.layers}:
            logit = _logit(model, name)
            outputs[name] = ops.sigmoid(scale * ops.clip(logit, -LARGEST_LOGIT, LARGEST_LOGIT) + offset)
            outputs[name + RAW] = ops.sigmoid(logit)
    return keras.Model(model.input, outputs, name=model.name)


def _logit(model: keras.Model, name: str):
    """The input of the sigmoid of the layer of that name."""
    layer = model.get_layer(name)
    linear = type(layer).from_config(layer.get_config() | {"activation": "linear", "name": f"{name}_logit"})
    logit = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return logit


def write_network(model: keras.Model, kind: Format, path: Path, pictures: np.ndarray | None = None) -> None:
    """Write one format.

    Args:
        model: from `with_calibration`.
        kind: the format.
        path: the first of its `EXPORT_FILES`; a second one is written beside it.
        pictures: (N, S, S) uint8, for litert-int8 only: the ranges of the layers' outputs are measured on them.
    """
    options = {"input_signature": [keras.InputSpec(shape=model.input_shape, dtype="float32", name="image")]}
    if kind == "litert-int8":

        def batches() -> Iterator[list[np.ndarray]]:
            for picture in pictures:
                yield [picture[None, ..., None].astype(np.float32)]

        options |= {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": batches}
        options |= {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]}}
    elif kind == "litert":
        options |= {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    elif kind.startswith("openvino"):
        import_openvino()
    with without_notes(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras and tf2onnx warn about NumPy
        model.export(str(path), format=kind.split("-")[0], verbose=False, **options)


# ---------------------------------------------------------------- compare


class Agreement(NamedTuple):
    """Differences between an exported file and Keras on the same pictures."""

    largest_difference: float  # of a probability or a lesion score, calibrated or not
    changed_pixels: float  # share of the masks' pixels, at the pictures' own size
    dice: float  # mean over the pictures with a lesion, with the run's decision
    dice_keras: float

    def problem(self, kind: str) -> str:
        """Which bound is exceeded, in words; "" if none is."""
        if kind in EXACT and self.largest_difference > MOST_DIFFERENCE:
            return f"differs from Keras by {self.largest_difference:.2g}; at most {MOST_DIFFERENCE} is allowed"
        if abs(self.dice - self.dice_keras) > MOST_DICE:
            return f"has Dice {self.dice:.4f}, Keras {self.dice_keras:.4f}; a difference of {MOST_DICE} is allowed"
        return ""


def compare(
    network: ExportedNetwork,
    model: Network,
    decision: Decision,
    pictures: Sequence[tuple[np.ndarray, np.ndarray]],
    expected: Prediction,
) -> Agreement:
    """Compare an exported file with Keras on pictures.

    Args:
        network: the exported file.
        model: the Keras network.
        decision: the run's decision.
        pictures: image and mask of each, (H, W) uint8.
        expected: the Keras network's predictions, from `predict_pictures`.
    """
    images = [image for image, _ in pictures]
    found = predict_pictures(network, images, decision)
    differences = [np.abs(found.probability - expected.probability).max()]
    if expected.score is not None:
        differences.append(np.abs(found.score - expected.score).max())
    masks = [
        [to_mask(p, image.shape, decision, score) for image, (p, score) in zip(images, each.each(), strict=True)]
        for each in (found, expected)
    ]
    changed = sum(np.count_nonzero(a != b) for a, b in zip(*masks, strict=True))
    dice = [
        [
            overlap(reference, mask)["dice"]
            for (_, reference), mask in zip(pictures, own, strict=True)
            if reference.any()
        ]
        for own in masks
    ]
    # Also compare the outputs that are calibrated inside the file, which `ExportedNetwork` does not use.
    batch = np.stack([resize_image(image, model.input_shape[1:3]) for image in images[:BATCH]])[..., None]
    differences += _calibration_differences(network, model, decision, batch.astype(np.float32))
    share = changed / sum(image.size for image in images)
    return Agreement(float(max(differences)), share, float(np.mean(dice[0])), float(np.mean(dice[1])))


def _calibration_differences(network: ExportedNetwork, model: Network, decision: Decision, batch: np.ndarray) -> list:
    found, expected = network.run(batch), model.predict_on_batch(batch)
    expected = expected if isinstance(expected, dict) else {"lesion": expected}
    calibrate = {"lesion": calibrated, "lesion_score": calibrated_score}
    return [np.abs(found[name] - calibrate[name](raw, decision)).max() for name, raw in expected.items()]


# ---------------------------------------------------------------- export.json


def describe_export(stored: dict, decision: Decision, outputs: Sequence[str]) -> dict:
    """The content of export.json for people and other programs, without the hashes.

    Args:
        stored: the run's config.json.
        decision: the run's decision.
        outputs: names of the files' outputs.
    """
    size = stored["network"]["input_shape"][0]
    names = {"busi": "BUSI", "sample": "data/sample, of BUS-BRA"}
    data = names.get(stored.get("data"), stored.get("data", "not known"))
    return {
        "use": "For research and teaching only. Not a medical device.",
        "input": {
            "name": "image",
            "shape": ["batch", size, size, 1],
            "type": "float32",
            "range": [0, 255],
            "picture": "grey; resized to this size without keeping its aspect, by area averaging if both sides shrink",
        },
        "outputs": {name: OUTPUTS[name] for name in outputs},
        "decision": {
            "threshold": decision.threshold,
            "threshold_of_highest": "lesion_score" in outputs,
            "min_peak": decision.min_peak,
            "min_score": decision.min_score if "lesion_score" in outputs else None,
            "doubtful_score": decision.doubtful_score if "lesion_score" in outputs else None,
            "mirrored_averaging": decision.tta,
            "largest_component": decision.largest_component,
            "scale": decision.scale,
            "offset": decision.offset,
            "score_scale": decision.score_scale,
            "score_offset": decision.score_offset,
            "how": DECISION,
        },
        "data": data,
        "licence": f"The code has the MIT licence, the network the terms of its training data: {data}, and ImageNet, "
        "which is for non-commercial research, if its encoder started from ImageNet weights.",
    }
