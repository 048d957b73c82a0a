"""Predict with a network on images of any size, and score the predictions."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from tqdm import tqdm

from dataset import Sample, hash_pixels, resize_image
from segmentation.common.errors import RunError
from segmentation.scoring.calibration import calibrated, calibrated_score
from segmentation.scoring.decision import Decision, Prediction, to_mask
from segmentation.scoring.scores import LESION_GIVEN, overlap, score_image

BATCH = 16


class Network(Protocol):
    """A Keras model or an exported one (`segmentation.inference.engines`); Keras, slow to import, is not needed."""

    input_shape: tuple  # (None, S, S, 1)

    def predict_on_batch(self, batch: np.ndarray) -> np.ndarray | dict[str, np.ndarray]:
        """Outputs as `build_attention_unet` describes them, for (B, S, S, 1) float32, 0 to 255."""


def predict_raw(model: Network, images: np.ndarray, tta: bool = False, batch_size: int = BATCH) -> Prediction:
    """Lesion probability and lesion score of each image, not calibrated.

    Args:
        model: takes (B, S, S, 1), grey values 0 to 255; see `build_attention_unet`.
        images: (N, S, S) uint8.
        tta: average with the prediction of the mirrored image.

    Raises:
        RunError: a probability is NaN, which would silently become "no lesion" in the mask.
    """
    # The last batch is filled up with zeros: TensorFlow would trace another batch size anew, which takes longer.
    x = np.zeros((-(-len(images) // batch_size) * batch_size, *images.shape[1:], 1), np.float32)
    x[: len(images), ..., 0] = images
    maps, scores = [], []
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        probability, score = _outputs(model, batch)
        if tta:
            mirrored, other = _outputs(model, batch[:, :, ::-1])
            probability, score = (probability + mirrored[:, :, ::-1]) / 2, (score + other) / 2
        maps.append(probability[..., 0])
        scores.append(score)
    probability, score = (np.concatenate(parts)[: len(images)] for parts in (maps, scores))
    if not (np.isfinite(probability).all() and np.isfinite(score).all()):
        raise RunError("the network's probabilities contain NaN. Train it again with a lower --learning-rate.")
    return Prediction(probability, score[:, 0] if score.shape[1] else None)


def _outputs(model: Network, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability (B, S, S, 1) and lesion score (B, 1), or (B, 0) without one."""
    found = model.predict_on_batch(batch)  # starting `predict` takes longer than computing a batch
    return (found["lesion"], found["lesion_score"]) if isinstance(found, dict) else (found, np.empty((len(found), 0)))


def predict_pictures(
    model: Network, images: Iterable[np.ndarray], decision: Decision, batch_size: int = BATCH
) -> Prediction:
    """Calibrated lesion probability, at the network's resolution, and lesion score of images of any size."""
    size = model.input_shape[1:3]
    small = np.stack([resize_image(image, size) for image in images])
    probability, score = predict_raw(model, small, decision.tta, batch_size)
    return Prediction(calibrated(probability, decision), None if score is None else calibrated_score(score, decision))


def score_samples(
    prediction: Prediction,
    samples: Sequence[Sample],
    pictures: Iterable[tuple[np.ndarray, np.ndarray]],
    groups: Sequence[int],
    decision: Decision,
) -> list[dict]:
    """Score the prediction of each image at its original resolution.

    Args:
        prediction: from `predict_pictures`.
        samples: the images.
        pictures: image and mask of each, used one after the other, from `read_each`.
        groups: near-copy group of each.
        decision: how a probability becomes a mask.

    Returns:
        One dict per image: what `score_mask` returns, Dice and IoU with lesion presence given (`scores.LESION_GIVEN`;
        None for a normal image), and "lesion_score" if the network has one.
    """
    scores = []
    with_presence = replace(decision, lesion_given=True)
    progress = tqdm(samples, desc="scoring", unit="image", leave=False)
    for sample, (image, reference), group, (probability, score) in zip(
        progress, pictures, groups, prediction.each(), strict=True
    ):
        given = None, None
        if sample.label != "normal":
            drawn = overlap(reference, to_mask(probability, image.shape, with_presence, score))
            given = drawn["dice"], drawn["iou"]
        mask = to_mask(probability, image.shape, decision, score)
        scores.append(
            score_mask(sample, group, (image, reference), mask)
            | dict(zip(LESION_GIVEN, given, strict=True))
            | ({} if score is None else {"lesion_score": score})
        )
    return scores


def _as_numbers(scores: dict) -> dict:
    """The scores as Python's own numbers, which JSON can hold."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in scores.items()}


def score_mask(sample: Sample, group: int, picture: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> dict:
    """What stands in a table of scores of one image: whose it is, its size, and the scores of `score_image`.

    Args:
        sample: the image.
        group: its near-copy group.
        picture: the image and its reference, (H, W).
        mask: (H, W), lesion where not zero, as in the reference.
    """
    image, reference = picture
    return {
        "name": sample.name,
        "sha256": hash_pixels(image),
        "label": sample.label,
        **({"folder": sample.folder} if sample.folder else {}),
        "group": int(group),
        "height": reference.shape[0],
        "width": reference.shape[1],
        "diagonal": float(np.hypot(*reference.shape)),
        **_as_numbers(score_image(reference, mask)),
    }
