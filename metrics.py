"""Loss, training metrics, and the scores of a segmentation, image by image.

The rule for empty masks, used everywhere here:
- reference and prediction both empty: Dice = IoU = precision = recall = 1, HD95 = ASSD = 0;
- only one of them empty: Dice = IoU = 0, HD95 and ASSD are undefined (None), as is the one of
  precision (nothing predicted) and recall (nothing to find) that would divide by zero.
Undefined values are counted in every summary. The headline is the mean over images with a lesion;
normals are judged by their false positives.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import ops
from scipy import ndimage, stats

SCORES = ("dice", "iou", "precision", "recall", "hd95", "assd")
KNOWN = ("dice_known", "iou_known")  # of the mask drawn where a lesion is known to be there; not of normals
FLATTERED = "FLATTERED: the epoch was chosen on the test images"

# ---------------------------------------------------------------- training


@keras.saving.register_keras_serializable("attention_unet")
class BceDiceLoss(keras.losses.Loss):
    """Binary cross-entropy + dice_weight * (1 - soft Dice), each a mean over images.

    Soft Dice per image (Milletari et al. 2016, V-Net, section 3), with 1 pixel added above and below
    so that an image without a lesion has a gradient too. dice_weight=0 is plain cross-entropy.

    Inputs: references in {0, 1} and probabilities in [0, 1], both (B, H, W, 1).
    """

    def __init__(self, dice_weight: float = 1.0, name: str = "bce_dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dice_weight = dice_weight

    def call(self, y_true, y_pred):
        """Loss of each image, (B,)."""
        bce = ops.mean(keras.losses.binary_crossentropy(y_true, y_pred), axis=(1, 2))
        overlap = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        total = ops.sum(y_true + y_pred, axis=(1, 2, 3))
        return bce + self.dice_weight * (1 - (2 * overlap + 1) / (total + 1))

    def get_config(self):
        return {**super().get_config(), "dice_weight": self.dice_weight}


@keras.saving.register_keras_serializable("attention_unet")
class LesionDice(keras.metrics.Mean):
    """Mean of the per-image Dice over images with a lesion, at a threshold; others have weight 0."""

    def __init__(self, threshold: float = 0.5, name: str = "dice", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: references and probabilities, both (B, H, W, 1)."""
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred > self.threshold, "float32")
        lesion = ops.sum(y_true, axis=(1, 2, 3))
        overlap = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        dice = 2 * overlap / ops.maximum(lesion + ops.sum(y_pred, axis=(1, 2, 3)), 1)
        weight = ops.cast(lesion > 0, "float32")
        super().update_state(dice, weight if sample_weight is None else weight * ops.reshape(sample_weight, (-1,)))

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


def training_metrics() -> list[keras.metrics.Metric]:
    """Pixel accuracy, pooled foreground IoU and per-image lesion Dice, for `compile`."""
    return [
        keras.metrics.BinaryAccuracy(name="accuracy"),
        keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5, name="iou"),
        LesionDice(name="dice"),
    ]


# ---------------------------------------------------------------- one image


def _surface_distances(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels from each border pixel of one mask to the other's border, both ways."""
    rows, columns = np.nonzero(reference | prediction)
    # Everything of both masks lies in this box; one pixel more keeps the outermost border a border.
    window = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    borders = []
    for mask in (reference, prediction):
        inside = np.pad(mask[window], 1)
        borders.append(inside & ~ndimage.binary_erosion(inside))
    to_reference, to_prediction = (ndimage.distance_transform_edt(~border) for border in borders)
    return to_prediction[borders[0]], to_reference[borders[1]]


def overlap(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float | int | None]:
    """Counts of pixels, and the scores that follow from them: `score_image` without the distances.

    Args:
        reference, prediction: (H, W), lesion where not zero.

    Returns:
        tp, fp, fn, tn in pixels; dice, iou, precision, recall in [0, 1], None where the rule at the top of this
        file leaves one undefined.

    Raises:
        ValueError: the shapes differ.
    """
    reference, prediction = np.asarray(reference, bool), np.asarray(prediction, bool)
    if reference.shape != prediction.shape:
        raise ValueError(f"reference is {reference.shape}, prediction {prediction.shape}")
    tp = int(np.count_nonzero(reference & prediction))
    fp, fn = int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp
    score: dict[str, float | int | None] = {"tp": tp, "fp": fp, "fn": fn, "tn": reference.size - tp - fp - fn}
    if tp + fp + fn == 0:
        return score | {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    return score | {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
    }


def score_image(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float | int | None]:
    """Score one binary prediction.

    Args:
        reference, prediction: (H, W), lesion where not zero.

    Returns:
        What `overlap` returns; hd95 (the larger of the two directed 95th percentiles of the border distances) and
        assd (mean of all border distances both ways) in pixels; None where the rule at the top of this file leaves
        them undefined.

    Raises:
        ValueError: the shapes differ.
    """
    score = overlap(reference, prediction)
    if score["tp"] + score["fp"] + score["fn"] == 0:
        return score | {"hd95": 0.0, "assd": 0.0}
    if not (score["tp"] + score["fp"] and score["tp"] + score["fn"]):
        return score | {"hd95": None, "assd": None}
    one, other = _surface_distances(np.asarray(reference, bool), np.asarray(prediction, bool))
    hd95 = float(max(np.percentile(one, 95), np.percentile(other, 95)))
    return score | {"hd95": hd95, "assd": float(np.concatenate([one, other]).mean())}


# ---------------------------------------------------------------- many images


def bootstrap_interval(values: Sequence[float], groups: Sequence, repeats: int = 2000, seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean, resampling whole groups (Davison and Hinkley 1997, 3.8).

    Near-copies of one image rise and fall together; resampling images would count them as
    independent and make the interval too narrow.
    """
    _, index = np.unique(np.asarray(groups, str), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (repeats, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(v) for v in np.percentile(means, [2.5, 97.5])]


def summarise(scores: Sequence[Mapping]) -> dict[str, dict]:
    """Named summaries of per-image scores.

    Args:
        scores: what `score_image` returns, each with `label`, `group` and `diagonal` (of the image, in
            pixels) beside it.

    Returns:
        `lesions`, each lesion class, and `all`: number of images, mean of every score, count of undefined
            ones, 95 % intervals of Dice and IoU; HD95 also with an undefined one counted as the diagonal, and as a
            share of the diagonal, whatever the resolution, without the normals that have a false positive; of
            lesions also the means and intervals of `KNOWN`, where the scores have them;
        `pooled`: Dice and IoU of the lesion images' pixels taken together (not comparable with the above);
        `normals`: share of images with any false-positive pixel, mean false-positive area (share of the image);
        `accuracy`: over all pixels, beside what predicting no lesion at all would get.
    """
    lesions = [s for s in scores if s["label"] != "normal"]
    normals = [s for s in scores if s["label"] == "normal"]
    summary = {"lesions": _means(lesions)}
    for label in sorted({s["label"] for s in lesions}):
        summary[label] = _means([s for s in lesions if s["label"] == label])
    summary["all"] = _means(scores)
    tp, fp, fn = (sum(s[key] for s in lesions) for key in ("tp", "fp", "fn"))
    summary["pooled"] = {"dice": 2 * tp / max(2 * tp + fp + fn, 1), "iou": tp / max(tp + fp + fn, 1)}
    if normals:
        positive = [float(s["fp"] > 0) for s in normals]
        summary["normals"] = {
            "images": len(normals),
            "false_positive_rate": float(np.mean(positive)),
            "false_positive_rate_interval": bootstrap_interval(positive, [s["group"] for s in normals]),
            "false_positive_area": float(np.mean([s["fp"] / (s["fp"] + s["tn"]) for s in normals])),
        }
    pixels = sum(s["tp"] + s["fp"] + s["fn"] + s["tn"] for s in scores)
    summary["accuracy"] = {
        "pixels": sum(s["tp"] + s["tn"] for s in scores) / max(pixels, 1),
        "all_background": sum(s["fp"] + s["tn"] for s in scores) / max(pixels, 1),
    }
    return summary


def _means(scores: Sequence[Mapping]) -> dict:
    if not scores:
        return {"images": 0}
    defined = {key: [s[key] for s in scores if s[key] is not None] for key in SCORES}
    out: dict = {"images": len(scores), "missed": sum(s["tp"] == 0 and s["fn"] > 0 for s in scores)}
    out |= {key: float(np.mean(values)) if values else None for key, values in defined.items()}
    out["undefined"] = {key: len(scores) - len(values) for key, values in defined.items()}
    out["hd95_or_diagonal"] = float(np.mean([s["diagonal"] if s["hd95"] is None else s["hd95"] for s in scores]))
    # A false positive on a normal has no distance; the published tables that hold HD95 leave it out.
    counted = [s for s in scores if s["label"] != "normal" or not s["fp"]]
    relative = [1.0 if s["hd95"] is None else s["hd95"] / s["diagonal"] for s in counted]
    out["hd95_of_diagonal"] = float(np.mean(relative)) if relative else None
    for key in ("dice", "iou"):
        out[f"{key}_interval"] = bootstrap_interval(defined[key], [s["group"] for s in scores])
    for key in KNOWN:
        if None not in (values := [s.get(key) for s in scores]):
            out[key] = float(np.mean(values))
            out[f"{key}_interval"] = bootstrap_interval(values, [s["group"] for s in scores])
    return out


def result_line(kind: str, summary: dict, twins: int, chosen_on_test: bool = False) -> str:
    """The one line to quote, from what `summarise` returns; `twins` is the number of leaked test images."""
    lesions = summary["lesions"]
    low, high = lesions["dice_interval"]
    line = (
        f"test ({kind}): lesion Dice {lesions['dice']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"IoU {lesions['iou']:.3f}, {lesions['images']} images, {lesions['missed']} missed"
    )
    if "dice_known" in lesions:
        line += f"; Dice where a lesion is known to be there: {lesions['dice_known']:.3f}"
    if "normals" in summary:
        line += (
            f"; false positives on {summary['normals']['false_positive_rate']:.0%} of "
            f"{summary['normals']['images']} normals"
        )
    if twins:
        line += f"; LEAKY: {twins} test images have a near-copy in training or validation"
    if chosen_on_test:
        line += f"; {FLATTERED}"
    return line


def compare_runs(a: Sequence[Mapping], b: Sequence[Mapping], key: str = "dice") -> dict:
    """Paired comparison of two runs on the images that both scored.

    Args:
        a, b: per-image scores with `name`, `label` and `group`; with `run`, as cross_validate.py names it, where
            several are put together: an image's mean over the seeds is then compared, within its fold.

    Returns:
        Of the lesion images: images, mean of a and of b, their difference b - a with its 95 % interval (groups
        resampled), and the p-value of Wilcoxon's signed-rank test over images. Where both scored normals,
        "normals" holds the same of the share of them with a false positive, without the test, and "all" of Dice
        or IoU over all images, empty masks by the rule at the top of this file.

    Raises:
        ValueError: the runs share fewer than 6 lesion images.
    """
    lesions, normals = ([s for s in a if (s["label"] == "normal") is normal] for normal in (False, True))
    shared, groups = _pairs(lesions, b, lambda s: s[key])
    if len(shared) < 6:
        raise ValueError(f"the runs share {len(shared)} scored lesion images; at least 6 are needed to compare them")
    result = _paired(shared, groups)
    difference = [y - x for x, y in shared]
    result["wilcoxon_p"] = float(stats.wilcoxon(difference).pvalue) if any(difference) else 1.0
    marked, groups = _pairs(normals, b, lambda s: s["fp"] > 0)
    if marked:
        result["normals"] = _paired(marked, groups)
        if key in ("dice", "iou"):  # the others are not defined of every empty mask
            result["all"] = _paired(*_pairs(a, b, lambda s: s[key]))
    return result


def _pairs(a: Sequence[Mapping], b: Sequence[Mapping], value: Callable) -> tuple[list[tuple[float, float]], list]:
    """Mean over the seeds of each image that both scored, in a and in b, and its group; undefined ones are left out."""
    sides: tuple[dict, dict] = {}, {}
    for scores, side in zip((a, b), sides, strict=True):
        for s in scores:
            side.setdefault((re.sub(r"-seed\d+$", "", s.get("run") or ""), s["name"]), []).append(s)
    pairs, groups = [], []
    for image in filter(sides[1].__contains__, sides[0]):
        x, y = ([value(s) for s in side[image]] for side in sides)
        if None not in x + y:
            pairs.append((np.mean(x), np.mean(y)))
            groups.append(sides[0][image][0]["group"])
    return pairs, groups


def _paired(values: Sequence[tuple[float, float]], groups: Sequence[int]) -> dict:
    """Means of a and b over the images, and of b - a with its interval."""
    a, b = np.array(values, float).T
    interval = bootstrap_interval(b - a, groups)
    return {"images": len(a), "a": a.mean(), "b": b.mean(), "difference": (b - a).mean(), "interval": interval}
