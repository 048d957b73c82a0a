"""Per-image segmentation scores, their summaries and confidence intervals, and the paired comparison of two runs.

The rule for empty masks, used everywhere here:
- reference and prediction both empty: Dice = IoU = precision = recall = 1, HD95 = ASSD = 0;
- only one of them empty: Dice = IoU = 0; HD95, ASSD, and precision (nothing predicted) or recall (no lesion) are
  undefined (None).
Every summary counts the undefined values. The main result is the mean over images with a lesion; normal images are
judged by their false positives.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

SCORES = ("dice", "iou", "precision", "recall", "hd95", "assd")
LESION_GIVEN = ("dice_lesion_given", "iou_lesion_given")  # of masks made with lesion presence given; None for normals
NOT_SCORES = ("run", "name", "label", "folder", "group", "height", "width", "diagonal", "tp", "fp", "fn", "tn")
FLATTERED = "FLATTERED: the epoch was chosen on the test images"

# ---------------------------------------------------------------- one image


def _surface_distances(reference: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in pixels from each border pixel of a mask to the border of the other mask, in both directions."""
    from scipy import ndimage  # here, since SciPy is slow to import, and prediction does not need it

    rows, columns = np.nonzero(reference | prediction)
    # The bounding box of both masks; the padding of one pixel keeps pixels at its edge border pixels.
    window = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    borders = []
    for mask in (reference, prediction):
        inside = np.pad(mask[window], 1)
        borders.append(inside & ~ndimage.binary_erosion(inside))
    to_reference, to_prediction = (ndimage.distance_transform_edt(~border) for border in borders)
    return to_prediction[borders[0]], to_reference[borders[1]]


def overlap(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float | int | None]:
    """Pixel counts, and the scores that follow from them: `score_image` without the distances.

    Args:
        reference, prediction: (H, W), lesion where not zero.

    Returns:
        tp, fp, fn, tn in pixels; dice, iou, precision, recall in [0, 1], or None if undefined (see the top of this
        file).

    Raises:
        ValueError: the shapes differ.
    """
    reference, prediction = np.asarray(reference, bool), np.asarray(prediction, bool)
    if reference.shape != prediction.shape:
        raise ValueError(f"reference is {reference.shape}, prediction {prediction.shape}")
    tp = int(np.count_nonzero(reference & prediction))
    fp, fn = int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp
    return {"tp": tp, "fp": fp, "fn": fn, "tn": reference.size - tp - fp - fn, **overlap_scores(tp, fp, fn)}


def overlap_scores(tp: int, fp: int, fn: int) -> dict[str, float | None]:
    """Dice, IoU, precision and recall from pixel counts, by the rule at the top of this file."""
    if tp + fp + fn == 0:
        return {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    return {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
    }


def score_image(reference: np.ndarray, prediction: np.ndarray) -> dict[str, float | int | None]:
    """Score one binary mask. To add a score, add a key here: tables, reports and comparisons will show it.

    Args:
        reference, prediction: (H, W), lesion where not zero.

    Returns:
        The items of `overlap`; hd95 (the larger of the 95th percentiles of the border distances in either direction)
        and assd (mean of the border distances in both directions) in pixels, or None if undefined (see the top of this
        file).

    Raises:
        ValueError: the shapes differ.
    """
    reference, prediction = np.asarray(reference, bool), np.asarray(prediction, bool)
    hd95, assd = border_distances(reference, prediction)
    return overlap(reference, prediction) | {"hd95": hd95, "assd": assd}


def border_distances(reference: np.ndarray, prediction: np.ndarray) -> tuple[float | None, float | None]:
    """HD95 and ASSD of two masks, (H, W) bool, as `score_image` describes them."""
    if not (reference.any() and prediction.any()):
        return (None, None) if reference.any() or prediction.any() else (0.0, 0.0)
    one, other = _surface_distances(reference, prediction)
    hd95 = float(max(np.percentile(one, 95), np.percentile(other, 95)))
    return hd95, float(np.concatenate([one, other]).mean())


def further_scores(scores: Sequence[Mapping]) -> list[str]:
    """Names of the numeric per-image scores that are not this project's own, in order of appearance."""
    known = (*NOT_SCORES, *SCORES, *LESION_GIVEN, "lesion_score")
    found = dict.fromkeys(key for score in scores for key, value in score.items() if isinstance(value, (int, float)))
    return [key for key in found if key not in known and key.isidentifier()]


# ---------------------------------------------------------------- many images


def bootstrap_interval(values: Sequence[float], groups: Sequence) -> list[float]:
    """95 % bootstrap percentile interval of the mean, resampling whole groups (Davison and Hinkley 1997, 3.8).

    The scores of near-copies are correlated; resampling single images would make the interval too narrow.
    """
    _, index = np.unique(np.asarray(groups, str), return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return [float(v) for v in np.percentile(means, [2.5, 97.5])]


def summarise(scores: Sequence[Mapping]) -> dict[str, dict]:
    """Summarise per-image scores.

    Args:
        scores: one mapping per image, from `score_image`, with `label`, `group` and `diagonal` (of the image, in
            pixels) added.

    Returns:
        `lesions`, each lesion class, and `all`: number of images, mean of every score, number of undefined values,
            95 % intervals of Dice and IoU; HD95 also with undefined values counted as the diagonal, and as a share of
            the diagonal (normal images with a false positive left out); means and intervals of `LESION_GIVEN`, where
            all images have them;
        `folders`, if the scores name any: `lesions` and `normals` of each;
        `pooled`: Dice and IoU of all pixels of the lesion images together (not comparable with the means);
        `normals`: share of images with any false-positive pixel, mean false-positive area (share of the image);
        `lesion_score`: AUC and specificity (`judge_lesion_score`), if all images have a lesion score;
        `accuracy`: pixel accuracy, and that of empty masks (`all_background`).
    """
    lesions = [s for s in scores if s["label"] != "normal"]
    normals = [s for s in scores if s["label"] == "normal"]
    summary = {"lesions": _means(lesions)}
    for label in sorted({s["label"] for s in lesions}):
        summary[label] = _means([s for s in lesions if s["label"] == label])
    summary["all"] = _means(scores)
    folders = sorted({s["folder"] for s in scores if s.get("folder")})
    if folders:
        own = {folder: [s for s in scores if s.get("folder") == folder] for folder in folders}
        summary["folders"] = {folder: _lesions_and_normals(scores) for folder, scores in own.items()}
    tp, fp, fn = (sum(s[key] for s in lesions) for key in ("tp", "fp", "fn"))
    summary["pooled"] = {"dice": 2 * tp / max(2 * tp + fp + fn, 1), "iou": tp / max(tp + fp + fn, 1)}
    if normals:
        summary["normals"] = _false_positives(normals)
        if all(s.get("lesion_score") is not None for s in scores):
            summary["lesion_score"] = judge_lesion_score(scores)
    pixels = sum(s["tp"] + s["fp"] + s["fn"] + s["tn"] for s in scores)
    summary["accuracy"] = {
        "pixels": sum(s["tp"] + s["tn"] for s in scores) / max(pixels, 1),
        "all_background": sum(s["fp"] + s["tn"] for s in scores) / max(pixels, 1),
    }
    return summary


def _lesions_and_normals(scores: Sequence[Mapping]) -> dict:
    """Summaries of one folder's lesion images and, if there are any, its normal images."""
    lesions, normals = ([s for s in scores if (s["label"] == "normal") is normal] for normal in (False, True))
    return {"lesions": _means(lesions)} | ({"normals": _false_positives(normals)} if normals else {})


def _false_positives(normals: Sequence[Mapping]) -> dict:
    positive = [float(s["fp"] > 0) for s in normals]
    return {
        "images": len(normals),
        "false_positive_rate": float(np.mean(positive)),
        "false_positive_rate_interval": bootstrap_interval(positive, [s["group"] for s in normals]),
        "false_positive_area": float(np.mean([s["fp"] / (s["fp"] + s["tn"]) for s in normals])),
    }


def judge_lesion_score(scores: Sequence[Mapping], repeats: int = 2000) -> dict:
    """How well the lesion score separates images with a lesion from normal ones.

    Args:
        scores: per-image scores with `label`, `group` and `lesion_score`, of lesion and normal images.

    Returns:
        auc, the area under the ROC curve, and its 95 % interval (groups resampled); specificity at the cut-offs with
        a sensitivity of 95 and 90 %.
    """
    lesion = np.array([s["label"] != "normal" for s in scores])
    score = np.array([s["lesion_score"] for s in scores])
    _, group = np.unique([str(s["group"]) for s in scores], return_inverse=True)
    # The AUC is the share of pairs, of a lesion and a normal image, in which the lesion has the higher score. As one
    # table of pairs for all resamplings it takes 0.2 s, where as many calls of scikit-learn's take ten.
    higher = np.sign(score[lesion][:, None] - score[~lesion]) / 2 + 0.5
    rng = np.random.default_rng(0)
    drawn = (np.bincount(rng.integers(0, group.max() + 1, group.max() + 1), minlength=group.max() + 1)[group]
             for _ in range(repeats))  # fmt: skip
    weights = [(w[lesion], w[~lesion]) for w in drawn if w[lesion].any() and w[~lesion].any()]
    resampled = [a @ higher @ b / (a.sum() * b.sum()) for a, b in weights]
    ranked = np.sort(score[lesion])[::-1]
    reached = {share: ranked[-(-len(ranked) * share // 100) - 1] for share in (95, 90)}
    return {
        "auc": float(higher.mean()),
        "auc_interval": [float(v) for v in np.percentile(resampled, [2.5, 97.5])],
        **{f"specificity_at_{share}": float((score[~lesion] < s).mean()) for share, s in reached.items()},
    }


def _means(scores: Sequence[Mapping]) -> dict:
    if not scores:
        return {"images": 0}
    keys = (*SCORES, *further_scores(scores))
    defined = {key: [s[key] for s in scores if s.get(key) is not None] for key in keys}
    out: dict = {"images": len(scores), "missed": sum(s["tp"] == 0 and s["fn"] > 0 for s in scores)}
    out |= {key: float(np.mean(values)) if values else None for key, values in defined.items()}
    out["undefined"] = {key: len(scores) - len(values) for key, values in defined.items()}
    out["hd95_or_diagonal"] = float(np.mean([s["diagonal"] if s["hd95"] is None else s["hd95"] for s in scores]))
    # The HD95 of a false positive on a normal image is undefined; published tables leave such images out.
    counted = [s for s in scores if s["label"] != "normal" or not s["fp"]]
    relative = [1.0 if s["hd95"] is None else s["hd95"] / s["diagonal"] for s in counted]
    out["hd95_of_diagonal"] = float(np.mean(relative)) if relative else None
    for key in ("dice", "iou"):
        out[f"{key}_interval"] = bootstrap_interval(defined[key], [s["group"] for s in scores])
    for key in LESION_GIVEN:
        if None not in (values := [s.get(key) for s in scores]):
            out[key] = float(np.mean(values))
            out[f"{key}_interval"] = bootstrap_interval(values, [s["group"] for s in scores])
    return out


def result_line(source: str, summary: dict, near_copies: int, chosen_on_test: bool = False) -> str:
    """One line with the main results, from `summarise`; `near_copies` is the number of leaked test images."""
    lesions = summary["lesions"]
    low, high = lesions["dice_interval"]
    line = (
        f"test ({source}): lesion Dice {lesions['dice']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"IoU {lesions['iou']:.3f}, {lesions['images']} images, {lesions['missed']} missed"
    )
    if "dice_lesion_given" in lesions:
        line += f"; Dice with lesion presence given: {lesions['dice_lesion_given']:.3f}"
    if "normals" in summary:
        line += (
            f"; false positives on {summary['normals']['false_positive_rate']:.0%} of "
            f"{summary['normals']['images']} normals"
        )
    if "lesion_score" in summary:
        low, high = summary["lesion_score"]["auc_interval"]
        line += f"; AUC of the lesion score {summary['lesion_score']['auc']:.3f} ({low:.3f} to {high:.3f})"
    for folder, own in summary.get("folders", {}).items():
        if own["lesions"]["images"]:
            line += f"; {folder}: Dice {own['lesions']['dice']:.3f} on {own['lesions']['images']} lesion images"
    if near_copies:
        line += f"; LEAKY: {near_copies} test images have a near-copy in training or validation"
    if chosen_on_test:
        line += f"; {FLATTERED}"
    return line


def compare_runs(a: Sequence[Mapping], b: Sequence[Mapping], key: str = "dice") -> dict:
    """Paired comparison of two runs on the images that were tested in both.

    Args:
        a, b: per-image scores with `name`, `label` and `group`; scores of several runs also have `run`, as
            cross_validate.py names it: an image's mean over the seeds of its fold is then compared.

    Returns:
        Of the lesion images: number of images, mean of a and of b, their difference b - a with its 95 % interval
        (groups resampled), and the p-value of Wilcoxon's signed-rank test over images. If normal images are shared,
        "normals" has the same, but for the test, for the share of them with a false positive, and "all" for Dice or
        IoU over all images (empty masks by the rule at the top of this file).

    Raises:
        ValueError: the runs share fewer than 6 lesion images, or their images of one name have different pixels.
    """
    from scipy import stats  # as in `_surface_distances`

    check_same_images([*a, *b])
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
        if key in ("dice", "iou"):  # other scores may be undefined for an empty mask
            result["all"] = _paired(*_pairs(a, b, lambda s: s[key]))
    return result


def check_same_images(scores: Sequence[Mapping]) -> None:
    """Check that images of one name are one picture with one reference, as far as the scores tell: by the hash of its
    pixels, and by the lesion pixels of its reference.

    Raises:
        ValueError: they are not.
    """
    known: dict[tuple, object] = {}
    other = []
    for s in scores:
        facts = {"sha256": s.get("sha256"), "reference": s["tp"] + s["fn"] if "tp" in s else None}
        if any(fact and known.setdefault((s["name"], key), fact) != fact for key, fact in facts.items()):
            other.append(s["name"])
    if other:
        count = len(set(other))
        raise ValueError(f"{count} of their images or reference masks differ, though not in name, {other[0]!r} first")


def _pairs(a: Sequence[Mapping], b: Sequence[Mapping], value: Callable) -> tuple[list[tuple[float, float]], list]:
    """Mean over the seeds in a and in b of each shared image, and its group, without undefined values."""
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
    """Means of a, b and b - a over the images, and the interval of the last."""
    a, b = np.array(values, float).T
    interval = bootstrap_interval(b - a, groups)
    return {"images": len(a), "a": a.mean(), "b": b.mean(), "difference": (b - a).mean(), "interval": interval}
