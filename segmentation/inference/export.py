"""A trained network in files for other programs, and the comparison that shows that they say the same."""

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

WRITERS = {"onnx": ("onnx", "tf2onnx")}  # packages that a format is written with, beside TensorFlow and what runs it
EXACT = ("onnx", "litert", "openvino")  # these compute in float32, as Keras does
MOST_DIFFERENCE, MOST_DICE = 1e-3, 0.005  # of a probability where the numbers are float32; of the mean Dice
DECISION = (
    "A pixel is lesion where the calibrated probability, enlarged to the picture's size, is above the threshold, times "
    "its highest value in the picture if threshold_of_highest is true; an "
    "area whose highest probability is below min_peak is dropped, and everything where the calibrated lesion score is "
    "below min_score. With mirrored averaging, the uncalibrated outputs of the picture and of its mirror image, turned "
    "back, are averaged first, and the mean p is calibrated: 1 / (1 + exp(-scale * log(p / (1 - p)) - offset))."
)
OUTPUTS = {
    "lesion": "lesion probability of each pixel, calibrated",
    f"lesion{RAW}": "the same as the network gives it",
    "lesion_score": "how likely the picture holds a lesion, calibrated",
    f"lesion_score{RAW}": "the same as the network gives it",
}
LARGEST_LOGIT = float(np.log((1 - MARGIN) / MARGIN))
CALIBRATION_PICTURES = 128  # of the training part, evenly spaced; int8 is scaled to what the layers hold of them


# ---------------------------------------------------------------- write


def with_calibration(model: keras.Model, decision: Decision) -> keras.Model:
    """The network that is exported: its outputs, and the same with the decision's calibration.

    Args:
        model: as `load_run` returns it.
        decision: with the calibration of the run.

    Returns:
        A model that shares the other's layers: (B, S, S, 1) -> a dict with `OUTPUTS`, the last two where the network
        has a lesion score. Mirrored averaging is not inside: it would take twice as long, and not everybody wants it.
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
    """What the layer of that name hands to its sigmoid."""
    layer = model.get_layer(name)
    linear = type(layer).from_config(layer.get_config() | {"activation": "linear", "name": f"{name}_logit"})
    logit = linear(layer.input)
    linear.set_weights(layer.get_weights())
    return logit


def write_network(model: keras.Model, kind: Format, path: Path, pictures: np.ndarray | None = None) -> None:
    """Write one format.

    Args:
        model: what `with_calibration` returns.
        kind: the format.
        path: the first of its `EXPORT_FILES`; another lies beside it.
        pictures: (N, S, S) uint8, for litert-int8 alone: the layers' ranges are measured on them.
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
    elif kind == "openvino":
        import_openvino()
    with without_notes(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras and tf2onnx, about NumPy
        model.export(str(path), format=kind.removesuffix("-int8"), verbose=False, **options)


# ---------------------------------------------------------------- compare


class Agreement(NamedTuple):
    """How far a file is from Keras on the same pictures."""

    largest_difference: float  # of a probability or a lesion score, calibrated or not
    changed_pixels: float  # share of all mask pixels, at the pictures' own size
    dice: float  # mean over the pictures with a lesion, with the run's decision
    dice_keras: float

    def problem(self, kind: str) -> str:
        """What lies beyond the stated bound; "" if nothing does."""
        if kind in EXACT and self.largest_difference > MOST_DIFFERENCE:
            return f"differs from Keras by {self.largest_difference:.2g}; at most {MOST_DIFFERENCE} is allowed"
        if abs(self.dice - self.dice_keras) > MOST_DICE:
            return f"has Dice {self.dice:.4f}, and Keras {self.dice_keras:.4f}; at most {MOST_DICE} apart is allowed"
        return ""


def compare(
    network: ExportedNetwork,
    model: Network,
    decision: Decision,
    pictures: Sequence[tuple[np.ndarray, np.ndarray]],
    expected: Prediction,
) -> Agreement:
    """Run a file on pictures, beside Keras.

    Args:
        network: the file.
        model: the Keras network.
        decision: of the run.
        pictures: image and mask of each, (H, W) uint8.
        expected: what `predict_pictures` returns of them for the Keras network.
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
    # What is calibrated inside the file, too, which the engines do not use.
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
    """What export.json says to people and other programs, but for the hashes.

    Args:
        stored: config.json.
        decision: of the run.
        outputs: names of the files' outputs.
    """
    size = stored["network"]["input_shape"][0]
    data = {"busi": "BUSI", "phantom": "simulated pictures"}.get(stored.get("data"), stored.get("data", "not known"))
    return {
        "use": "For research and teaching only. Not a medical device.",
        "input": {
            "name": "image",
            "shape": ["batch", size, size, 1],
            "type": "float32",
            "range": [0, 255],
            "picture": "grey; resized to this size without keeping its aspect, averaging areas where it shrinks",
        },
        "outputs": {name: OUTPUTS[name] for name in outputs},
        "decision": {
            "threshold": decision.threshold,
            "threshold_of_highest": "lesion_score" in outputs,
            "min_peak": decision.min_peak,
            "min_score": decision.min_score if "lesion_score" in outputs else None,
            "mirrored_averaging": decision.tta,
            "largest_component": decision.largest_component,
            "scale": decision.scale,
            "offset": decision.offset,
            "score_scale": decision.score_scale,
            "score_offset": decision.score_offset,
            "how": DECISION,
        },
        "data": data,
        "licence": f"The code has an MIT licence. The network has the terms of what it was trained with: {data}, and "
        "ImageNet if its encoder started from ImageNet weights, which is for research, not for commercial use.",
    }
