"""The figures of a run: overlays, attention, curves, distributions, calibration.

This module reads and writes no files. Colours have the same meaning in every figure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from sklearn.metrics import roc_curve

from segmentation.reports.overlays import FALSE_NEGATIVE, FALSE_POSITIVE, PREDICTION, REFERENCE, draw_overlay
from segmentation.scoring.calibration import Pixels, judge_calibration, reliability
from segmentation.scoring.decision import Decision
from segmentation.scoring.scores import overlap

CLASS_COLOURS = {"benign": "#0072B2", "malignant": "#CC79A7", "normal": "#777777", "lesion": "#0072B2"}


class Case(NamedTuple):
    """One scored image."""

    score: Mapping  # a row of metrics.json
    image: np.ndarray  # (H, W) uint8
    reference: np.ndarray  # (H, W), lesion where not zero
    prediction: np.ndarray  # (H, W) bool
    probability: np.ndarray  # (S, S) float32, at the network's size
    doubtful: np.ndarray | None = None  # (H, W) bool, from `doubtful_mask`


def overlay_of(case: Case) -> np.ndarray:
    """`draw_overlay` of a case."""
    return draw_overlay(case.image, case.prediction, case.reference, doubtful=case.doubtful)


def caption(score: Mapping) -> str:
    """Two lines: name and, if there is one, lesion score of an image; then its scores."""
    name = score["name"]
    if score.get("lesion_score") is not None:
        name += f"  lesion score {score['lesion_score']:.2f}"
    if score["label"] == "normal":
        area = 100 * score["fp"] / (score["height"] * score["width"])
        found = f"false positive on {area:.1f} % of the image" if score["fp"] else "nothing found"
        return f"{name}\n{found}"
    distance = "undefined" if score["hd95"] is None else f"{score['hd95']:.0f} px"
    return f"{name}\nDice {score['dice']:.2f}  IoU {score['iou']:.2f}  HD95 {distance}"


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=REFERENCE, lw=2, label="reference"),
        Line2D([], [], color=PREDICTION, lw=2, label="prediction"),
        Patch(facecolor="none", edgecolor=FALSE_POSITIVE, hatch="////", label="false positive"),
        Patch(facecolor="none", edgecolor=FALSE_NEGATIVE, hatch="\\\\\\\\", label="false negative"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def overlay_grid(cases: Sequence[Case], title: str, rows: Sequence[str] = ()) -> Figure:
    """Cases as overlays with captions; `rows` names the rows."""
    columns = 4
    count = -(-len(cases) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.95 * count + 0.9), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(count, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    for axis, case in zip(axes.flat, cases, strict=False):
        axis.imshow(overlay_of(case))
        axis.set_title(caption(case.score), fontsize=9, parse_math=False)
    for axis, name in zip(axes[:, 0], rows, strict=False):
        axis.set_ylabel(name, fontsize=11)
    _legend(figure)
    return figure


def attention_grid(cases: Sequence[Case], alphas: Mapping[str, np.ndarray], title: str) -> Figure:
    """One row per case: its overlay, then the attention coefficients of each gate over the image.

    Args:
        alphas: layer name -> (N, h, w) in [0, 1], in the order of `cases`.
    """
    figure = Figure(figsize=(3.1 * (1 + len(alphas)), 2.7 * len(cases) + 1.5), layout="constrained")
    figure.suptitle(title)
    # The colour bars get a row of their own: elsewhere they would shift their columns against the overlays.
    axes = figure.subplots(len(cases) + 1, 1 + len(alphas), squeeze=False, height_ratios=[1] * len(cases) + [0.05])
    for axis in (*axes[:-1].flat, axes[-1, 0]):
        axis.set_axis_off()
    for row, case in enumerate(cases):
        axes[row, 0].imshow(overlay_of(case))
        axes[row, 0].set_title(caption(case.score), fontsize=9, parse_math=False)
    for column, (name, maps) in enumerate(alphas.items(), start=1):
        low, high = float(maps.min()), float(maps.max())
        for row, case in enumerate(cases):
            axes[row, column].imshow(case.image, cmap="gray", vmin=0, vmax=255)
            alpha = cv2.resize(maps[row], case.image.shape[::-1], interpolation=cv2.INTER_LINEAR)
            drawn = axes[row, column].imshow(alpha, cmap="viridis", vmin=low, vmax=max(high, low + 1e-6), alpha=0.65)
        grid = f"{maps.shape[1]}x{maps.shape[2]}"
        axes[0, column].set_title(f"gate at level {name.split('_')[1]}, alpha on {grid}", fontsize=9)
        figure.colorbar(drawn, cax=axes[-1, column], orientation="horizontal", label="alpha")
    _legend(figure)
    return figure


def curves(history: Sequence[Mapping[str, float]], best: int, baseline: float, judged: str = "validation") -> Figure:
    """Loss, Dice, IoU, accuracy and learning rate of each epoch, in training and on the images that `judged` names."""
    figure = Figure(figsize=(12, 6.2), layout="constrained")
    epochs = [int(row["epoch"]) + 1 for row in history]
    panels = (("loss", "loss"), ("dice", "Dice per lesion image"), ("iou", "IoU, pixels pooled"),
              ("accuracy", "pixel accuracy"), ("learning_rate", "learning rate"))  # fmt: skip
    axes = figure.subplots(2, 3).flat
    lines = {}  # for the legend
    for axis, (key, label) in zip(axes, panels, strict=False):
        training = axis.plot(epochs, [row[key] for row in history], color="0.55", ls="--")
        lines.setdefault("training (augmented)", *training)
        if f"val_{key}" in history[0]:
            lines.setdefault(judged, *axis.plot(epochs, [row[f"val_{key}"] for row in history], color="black"))
        lines[f"epoch kept, {best + 1}"] = axis.axvline(best + 1, color="black", lw=0.8, ls=":")
        axis.set(title=label, xlabel="epoch")
    lines["accuracy of predicting\nno lesion anywhere"] = axes[3].axhline(baseline, color="0.3", lw=0.9, ls="-.")
    axes[5].set_axis_off()
    axes[5].legend(lines.values(), lines.keys(), loc="center", frameon=False, fontsize=11)
    return figure


def _boxes(axis, groups: Mapping[str, Sequence[float]], colours: Sequence[str]) -> None:
    labels = [f"{name}\n(n = {len(values)})" for name, values in groups.items()]
    axis.boxplot(list(groups.values()), tick_labels=labels, showfliers=False, widths=0.55,
                 medianprops={"color": "black", "lw": 2})  # fmt: skip
    rng = np.random.default_rng(0)
    for position, (values, colour) in enumerate(zip(groups.values(), colours, strict=True), start=1):
        axis.scatter(position + rng.uniform(-0.18, 0.18, len(values)), values, s=14, color=colour, alpha=0.6, lw=0)
    axis.set(ylabel="Dice", ylim=(-0.03, 1.03))


def distributions(scores: Sequence[Mapping]) -> Figure:
    """Per-image Dice by class and by lesion size."""
    lesions = [s for s in scores if s["label"] != "normal"]
    area = np.array([100 * (s["tp"] + s["fn"]) / (s["height"] * s["width"]) for s in lesions])
    dice = np.array([s["dice"] for s in lesions])
    figure = Figure(figsize=(13, 4), layout="constrained")
    by_class, by_size, scatter = figure.subplots(1, 3)
    labels = [label for label in CLASS_COLOURS if any(s["label"] == label for s in lesions)]
    _boxes(by_class, {label: [s["dice"] for s in lesions if s["label"] == label] for label in labels},
           [CLASS_COLOURS[label] for label in labels])  # fmt: skip
    by_class.set_title("by class")
    small, large = np.quantile(area, [1 / 3, 2 / 3])
    groups = {f"below {small:.1f} %": dice[area < small], f"to {large:.1f} %": dice[(area >= small) & (area < large)],
              f"above {large:.1f} %": dice[area >= large]}  # fmt: skip
    _boxes(by_size, groups, ["0.45"] * 3)
    by_size.set_title("by lesion area (thirds)")
    for label in labels:
        chosen = np.array([s["label"] == label for s in lesions])
        scatter.scatter(area[chosen], dice[chosen], s=18, color=CLASS_COLOURS[label], alpha=0.7, lw=0, label=label)
    scatter.set(
        xscale="log",
        xlabel="lesion area, % of the image",
        ylabel="Dice",
        ylim=(-0.03, 1.03),
        title="against lesion area",
    )
    scatter.xaxis.set_major_formatter("{x:g}")
    scatter.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def lesion_score(scores: Sequence[Mapping], summary: Mapping, decision: Decision) -> Figure:
    """ROC curve of the lesion score, and its sensitivity and specificity against the cut-off.

    Args:
        scores: per-image scores of metrics.json.
        summary: the lesion score's part of `scores.summarise`.
        decision: the run's; its cut-offs are drawn as points and lines.
    """
    lesion = np.array([s["label"] != "normal" for s in scores])
    score = np.array([s["lesion_score"] for s in scores])
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    roc, sweep = figure.subplots(1, 2)
    rates = roc_curve(lesion, score, drop_intermediate=False)
    false_positives, sensitivity, points = (values[::-1] for values in rates)
    points[-1] = 1  # instead of infinity, the threshold at which no image is marked
    roc.plot([0, 1], [0, 1], color="0.6", ls="--")
    roc.plot(false_positives, sensitivity, color="black")
    low, high = summary["auc_interval"]
    roc.set(xlabel="false-positive rate (1 - specificity)", ylabel="sensitivity", aspect="equal")
    roc.set(title=f"AUC {summary['auc']:.3f} ({low:.3f} to {high:.3f})")
    sweep.step(points, sensitivity, color="black", label="sensitivity")
    sweep.step(points, 1 - false_positives, color=CLASS_COLOURS["normal"], lw=2.5, label="specificity")
    cut_offs = {"minimum score": (decision.min_score, PREDICTION), "doubtful score": (decision.doubtful_score, "white")}
    for name, (cut_off, filled) in cut_offs.items():
        own = (score[~lesion] >= cut_off).mean(), (score[lesion] >= cut_off).mean()
        roc.plot(*own, "o", color=PREDICTION, mfc=filled, label=f"{name} {cut_off:.2f}")
        sweep.axvline(cut_off, color="black", lw=0.8)
    roc.legend(frameon=False, loc="lower right")
    sweep.set(xlabel="cut-off of the lesion score", ylim=(-0.02, 1.02), title="lines: the run's two cut-offs")
    sweep.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def threshold_curves(probability: np.ndarray, reference: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
    """Dice, IoU and sensitivity (means over lesion images) and false-positive area (mean over normal images, or NaN
    without any) at each threshold, at the network's resolution. The arrays are (N, S, S)."""
    lesion = reference.any(axis=(1, 2))
    curves = {"dice": [], "iou": [], "sensitivity": [], "false_positive_area": []}
    for threshold in thresholds:
        predicted = probability > threshold
        scores = [overlap(r, p) for r, p in zip(reference[lesion], predicted[lesion], strict=True)]
        for curve, key in (("dice", "dice"), ("iou", "iou"), ("sensitivity", "recall")):
            curves[curve].append(np.mean([score[key] for score in scores]))
        curves["false_positive_area"].append(predicted[~lesion].mean() if (~lesion).any() else np.nan)
    return {name: np.array(values) for name, values in curves.items()}


def calibration(pixels: Pixels, threshold: float, of_highest: bool) -> Figure:
    """Reliability diagram of the test images, and their scores against the threshold.

    Args:
        pixels: from `calibration.collect_pixels`.
        threshold: the run's own threshold, drawn as a line.
        of_highest: whether it is a share of an image's highest probability.
    """
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    diagram, sweep = figure.subplots(1, 2)
    probability, reference, _ = pixels
    mean, observed, _ = reliability(probability, reference)
    diagram.plot([0, 1], [0, 1], color="0.6", ls="--")
    diagram.plot(mean, observed, "o-", color="black")
    diagram.set(xlabel="predicted probability", ylabel="share of lesion pixels", title="reliability, test")
    diagram.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    label = "ECE over all pixels {all_pixels:.3f}\nover predicted-lesion pixels {predicted_lesion:.3f}"
    diagram.text(0.03, 0.97, label.format(**judge_calibration(pixels)), va="top", transform=diagram.transAxes)
    share = probability
    if of_highest:
        share = probability / np.maximum(probability.max(axis=(1, 2), keepdims=True), 1e-6)
    thresholds = np.linspace(0.05, 0.95, 19)
    test = threshold_curves(share, reference, thresholds)
    for key, style, label in (("dice", "-", "Dice"), ("iou", "--", "IoU"), ("sensitivity", ":", "sensitivity")):
        sweep.plot(thresholds, test[key], color="black", ls=style, label=label)
    if np.isfinite(test["false_positive_area"]).all():
        sweep.plot(thresholds, test["false_positive_area"], color=CLASS_COLOURS["normal"], lw=2.5,
                   label="false-positive area\non normals")  # fmt: skip
    sweep.axvline(threshold, color="black", lw=0.8)
    label = "threshold, as a share of the picture's highest probability" if of_highest else "threshold"
    sweep.set(xlabel=label, ylim=(0, 1), title=f"test scores; the run uses {threshold:.2f}")
    sweep.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
