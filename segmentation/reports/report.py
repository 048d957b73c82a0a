"""The report of a run on its test images: the figures, and report.html, which contains everything."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import keras
import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from dataset import LABELS, Sample, read_each, read_sample, resize_image, resize_mask
from segmentation.common.errors import RunError
from segmentation.common.files import write_text
from segmentation.reports import figures
from segmentation.reports.overlays import data_uri, jpeg
from segmentation.runs.recorder import monitored
from segmentation.runs.schemas import read_config, read_history, read_metrics, read_split
from segmentation.runs.split_record import hash_samples, load_split
from segmentation.scoring.calibration import collect_pixels
from segmentation.scoring.decision import Decision, Prediction, doubtful_mask, load_decision, to_mask
from segmentation.scoring.prediction import predict_pictures, score_samples
from segmentation.scoring.scores import FLATTERED, further_scores, score_image, summarise

REPORT_COLUMNS = (
    ("name", "image"),
    ("label", "class"),
    ("area", "lesion %"),
    ("dice", "Dice"),
    ("dice_lesion_given", "Dice, presence given"),
    ("lesion_score", "lesion score"),
    ("iou", "IoU"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("hd95", "HD95 px"),
    ("assd", "ASSD px"),
    ("fp", "FP px"),
)


read_again = lru_cache(maxsize=16)(read_sample)  # the pictures of a figure, each needed more than once


class Scored(NamedTuple):
    """As `figures.Case`, but the picture is read when it is drawn: all at once would need too much memory."""

    score: Mapping
    sample: Sample
    probability: np.ndarray
    decision: Decision
    lesion_score: float | None
    image = property(lambda self: read_again(self.sample)[0])
    reference = property(lambda self: read_again(self.sample)[1])
    prediction = property(lambda self: to_mask(*self._drawn))
    doubtful = property(lambda self: doubtful_mask(*self._drawn))
    _drawn = property(lambda self: (self.probability, self.image.shape, self.decision, self.lesion_score))


class Drawn(NamedTuple):
    """The data behind a run's figures."""

    cases: list[Scored] | list[figures.Case]
    background: float  # share of background pixels in the masks of the validation set
    decision: Decision
    metrics: dict  # metrics.json, with the summary of the cases' scores
    prediction: Prediction  # the network's outputs for all cases


def load_cases(model: keras.Model, run: Path, samples: list[Sample], decision: Decision) -> Drawn:
    """Predict on the run's test images; their scores are those of metrics.json, or new ones for another decision."""
    finished = (run / "metrics.json").exists()
    metrics = read_metrics(run / "metrics.json") if finished else describe_unfinished(model, run)
    parts, groups = load_split(run, samples, hash_samples(samples))
    test = [samples[i] for i in parts["test"]]
    prediction = predict_pictures(model, (image for image, _ in read_each(test)), decision)
    if finished and decision == load_decision(run / "decision.json") and holds_all_scores(metrics["images"]):
        by_name = {score["name"]: score for score in metrics["images"]}
        if set(by_name) != {sample.name for sample in test}:
            raise RunError(f"{run / 'metrics.json'}: holds scores of other images than split.json. Copy the run again.")
        scores = [by_name[sample.name] for sample in test]
    else:
        scores = score_samples(prediction, test, read_each(test), [groups[s.name] for s in test], decision)
        print(f"scored anew with {decision}: lesion Dice {summarise(scores)['lesions']['dice']:.3f}")
    metrics["summary"] = summarise(scores)
    cases = [
        Scored(row, sample, probability, decision, score)
        for row, sample, (probability, score) in zip(scores, test, prediction.each(), strict=True)
    ]
    size = prediction.probability.shape[1:]
    judged = [samples[i] for i in parts["val"] or parts["test"]]  # without a validation set, the test set
    background = 1 - float(np.mean([resize_mask(mask, size).mean() for _, mask in read_each(judged)]))
    return Drawn(cases, background, decision, metrics, prediction)


def holds_all_scores(images: Sequence[Mapping]) -> bool:
    """Whether no score was added to `score_image` since these images were scored."""
    one = np.ones((1, 1), bool)
    return score_image(one, one).keys() <= images[0].keys()


def describe_unfinished(model: keras.Model, run: Path) -> dict:
    """The content of metrics.json, as far as it is known for an unfinished run."""
    history, record, unknown = read_history(run / "history.csv"), read_split(run), "not finished"
    choose_on = record.get("choose_on", "validation")
    best = int(np.argmax([row.get(monitored(choose_on), row["epoch"]) for row in history]))
    known = {"data": read_config(run).get("data", unknown), "split": record.get("split", unknown)}
    known |= {"choose_on": choose_on}
    known |= {"parameters": model.count_params(), "best_epoch": best, "environment": {}}
    return known | {"near_copies_in_training": unknown, "minutes": unknown, "gmac": unknown}


def draw_figures(model: keras.Model, run: Path, drawn: Drawn) -> Iterator[tuple[str, Figure]]:
    """Draw the figures of a run; yields their names and the figures."""
    cases, background, decision, metrics, prediction = drawn
    lesions = sorted((c for c in cases if c.score["label"] != "normal"), key=lambda c: -c.score["dice"])
    middle = max(len(lesions) // 2 - 2, 0)
    chosen = lesions[:4], lesions[middle : middle + 4], lesions[-4:]
    title = f"Test images: best, median and worst of {len(lesions)} images with a lesion"
    yield "overlays", figures.overlay_grid([c for row in chosen for c in row], title, ("best", "median", "worst"))
    missed = [c for c in lesions if c.score["tp"] == 0]
    if missed:
        yield "missed_lesions", figures.overlay_grid(missed, f"Test images: all {len(missed)} missed lesions")
    alarms = sorted((c for c in cases if c.score["label"] == "normal" and c.score["fp"]), key=lambda c: -c.score["fp"])
    if alarms:
        title = f"Test images: all {len(alarms)} normal images with a false positive"
        yield "false_positives_on_normals", figures.overlay_grid(alarms, title)
    shown = [lesions[0], lesions[len(lesions) // 2], lesions[-1], *alarms[:1]]
    if alphas := attention(attention_network(model), [case.image for case in shown]):
        what = "best, median and worst lesion image" + (", and a normal one" if alarms else "")
        yield "attention", figures.attention_grid(shown, alphas, f"Test images: attention coefficients: {what}")
    history = read_history(run / "history.csv")
    if history:
        judged = "the test images" if metrics.get("choose_on") == "test" else "validation"
        yield "curves", figures.curves(history, metrics["best_epoch"], background, judged)
    yield "distributions", figures.distributions([c.score for c in cases])
    if "lesion_score" in metrics["summary"]:
        yield (
            "lesion_score",
            figures.lesion_score([c.score for c in cases], metrics["summary"]["lesion_score"], decision),
        )
    pixels = collect_pixels(prediction, (c.reference for c in cases), decision)
    yield "calibration", figures.calibration(pixels, decision.threshold, of_highest=prediction.score is not None)


def attention_network(model: keras.Model) -> keras.Model | None:
    """A network whose outputs are the attention coefficients of `model`, finest last; None if it has no gates."""
    names = [layer.name for layer in model.layers if layer.name.endswith("_alpha")]
    return keras.Model(model.input, [model.get_layer(name).output for name in names]) if names else None


def attention(network: keras.Model | None, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Attention coefficients of each gate, finest last: layer name -> (N, h, w); empty without gates.

    Args:
        network: from `attention_network`.
        images: (H, W) uint8 of any sizes.
    """
    if network is None:
        return {}
    small = np.stack([resize_image(image, network.input_shape[1:3]) for image in images])
    maps = network.predict_on_batch(small[..., None].astype(np.float32))
    maps = maps if isinstance(maps, list) else [maps]
    return {name: alpha[..., 0] for name, alpha in zip(network.output_names, maps, strict=True)}


def score_sentence(summary: dict) -> str:
    """AUC of the lesion score, for the headline; "" if the network has no lesion score."""
    if "lesion_score" not in summary:
        return ""
    auc, (low, high) = (summary["lesion_score"][key] for key in ("auc", "auc_interval"))
    return f" AUC of the lesion score {auc:.3f} (95 % interval {low:.3f} to {high:.3f})."


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """The image scaled to a height of 112 pixels, or to a width of 224 if it would be wider."""
    height, width = rgb.shape[:2]
    scale = min(112 / height, 224 / width)
    return cv2.resize(rgb, (max(round(width * scale), 1), max(round(height * scale), 1)), interpolation=cv2.INTER_AREA)


def write_report(run: Path, drawn: Drawn, stored: dict, names: Sequence[str]) -> None:
    """Write report.html, one file that contains everything and loads nothing from a network.

    Args:
        run: the run's folder.
        drawn: from `load_cases`.
        stored: the run's config.json.
        names: of the figures in figures/.
    """
    cases, metrics = drawn.cases, drawn.metrics
    further = further_scores([case.score for case in cases])
    rows = []
    for case in tqdm(cases, desc="overlays", unit="image", leave=False):
        full = figures.overlay_of(case)
        score = case.score
        area = 100 * (score["tp"] + score["fn"]) / (score["height"] * score["width"])
        rows.append(
            {
                "dice_lesion_given": None,
                "lesion_score": None,
                **dict.fromkeys(further),
                **score,
                "area": area,
                "thumbnail": jpeg(thumbnail(full)),
                "full": jpeg(full),
            }
        )
    lesions, accuracy = metrics["summary"]["lesions"], metrics["summary"]["accuracy"]
    given = ""
    if "dice_lesion_given" in lesions:
        given = f" Dice with lesion presence given: {lesions['dice_lesion_given']:.3f}."
    headline = (
        f"Lesion Dice {lesions['dice']:.3f} (95 % interval {lesions['dice_interval'][0]:.3f} to "
        f"{lesions['dice_interval'][1]:.3f}), IoU {lesions['iou']:.3f}, {lesions['missed']} of {lesions['images']} "
        f"lesion images missed.{given} Pixel accuracy {accuracy['pixels']:.3f}; predicting no lesion anywhere gets "
        f"{accuracy['all_background']:.3f}."
    )
    headline += score_sentence(metrics["summary"])
    if metrics.get("choose_on") == "test":
        headline = f"{FLATTERED}. {headline}"
    run_table = {
        "data": metrics["data"],
        "split": metrics["split"],
        "test images with a near-copy in training": metrics["near_copies_in_training"],
        "parameters": metrics["parameters"],
        "multiply-adds of an image, billions": metrics.get("gmac"),
        "minutes": "unknown, since the run was resumed" if metrics.get("minutes") is None else metrics["minutes"],
        **metrics["environment"],
        **stored.get("config", {}),
    }
    pictures = [
        (name.replace("_", " ").capitalize(), data_uri((run / "figures" / f"{name}.png").read_bytes(), "png"))
        for name in names
    ]
    source = (Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    # By its hash, a browser runs this script only, even if a file name should get past the escaping.
    script = re.search("<script>(.*)</script>", source, re.DOTALL).group(1)
    page = template.render(
        title=f"Attention U-Net, run {run.name}",
        headline=headline,
        figures=pictures,
        rows=rows,
        columns=[*REPORT_COLUMNS, *((name, name) for name in further)],
        labels=[c for c in LABELS if any(r["label"] == c for r in rows)],
        run_table=run_table.items(),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_text(run / "report.html", page)
