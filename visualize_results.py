"""See what a trained network does, where it fails, and what its gates look at.

python visualize_results.py                                # newest run: figures and report.html of its test images
python visualize_results.py --run models/attention_unet    # another run
python visualize_results.py --images scan.png folder/      # predict on your own images, into predictions/
"""

import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import quiet  # noqa: F401  # isort: skip

import cv2
import jinja2
import keras
import numpy as np
import tyro
from tqdm import tqdm

import figures
from dataset import LABELS, DataError, find_samples, read_samples, resize_image, resize_mask
from decision import Decision, load_decision, to_mask
from download import find_data
from errors import one_clear_line
from files import RunError
from metrics import FLATTERED, summarise
from own_images import predict_images
from predict import predict_pictures, score_samples
from rebuild import load_run
from runs import read_history, read_metrics
from splits import load_split

SHIPPED = "attention_unet_busi"  # a network trained on BUSI comes with the repository; models/README.md
COLUMNS = (
    ("name", "image"),
    ("label", "class"),
    ("area", "lesion %"),
    ("dice", "Dice"),
    ("dice_known", "Dice, lesion known"),
    ("iou", "IoU"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("hd95", "HD95 px"),
    ("assd", "ASSD px"),
    ("fp", "FP px"),
)


@dataclass(frozen=True)
class Config:
    """What to show."""

    run: Path | None = None  # the run's folder; without it the newest finished one in --models-dir
    models_dir: Path = Path("models")  # where runs are looked for
    data_dir: Path | None = None  # the run's data, if it has moved
    images: tuple[Path, ...] = ()  # own pictures or folders of them: predict instead of reporting
    output: Path = Path("predictions")  # where predictions on own images go
    threshold: float | None = None  # probability above which a pixel is lesion; without it the run's own
    tta: bool = False  # average with the mirrored picture, also if the run did not
    largest_component: bool = False  # keep only the largest lesion, also if the run did not
    lesion_known: bool = False  # each picture has a lesion, you know: mark the likeliest pixels, never none

    def __post_init__(self):
        """Refuse values that cannot work."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must be between 0 and 1, got {self.threshold}")
        if self.threshold is not None and self.lesion_known:
            raise ValueError("--lesion-known sets a threshold of its own in every picture: leave --threshold out")


def newest_run(models_dir: Path) -> Path:
    """Folder of the run that was finished last; without one, of the network that comes with the repository.

    Raises:
        RunError: there is neither.
    """
    finished = sorted(models_dir.glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    runs = [path.parent for path in finished if path.parent.name != SHIPPED]
    if runs:
        return runs[-1]
    shipped = Path(__file__).parent / "models" / SHIPPED
    if not (shipped / "metrics.json").exists():
        raise RunError(f"{models_dir}: no finished run here. First: python train_model.py")
    print(f"no finished run in {models_dir}: using the network that comes with the repository, {shipped}")
    return shipped


def decision_for(config: Config, run: Path) -> Decision:
    """The run's own decision, with what the command line changes."""
    own = load_decision(run / "decision.json")
    if config.threshold is not None:
        own = replace(own, threshold=config.threshold, min_peak=0.0)  # the least peak was chosen for the other one
    largest = own.largest_component or config.largest_component
    return replace(own, tta=own.tta or config.tta, largest_component=largest, lesion_known=config.lesion_known)


def main(config: Config) -> int:
    """Report on a run, or predict on own images.

    Returns:
        1 if one of the own images could not be read, else 0.
    """
    run = config.run or newest_run(config.models_dir)
    model, stored = load_run(run)
    if config.images:
        return predict_images(model, stored, config.images, config.output, decision_for(config, run))
    metrics = read_metrics(run / "metrics.json")
    root = find_data(config.data_dir) if config.data_dir else Path(stored.get("root", "data"))
    if not root.is_dir():
        raise DataError(f"{root}: the run's data is not here. Say where it is with --data-dir.")
    decision = decision_for(config, run)
    cases, background = load_cases(model, run, root, decision, metrics)
    (run / "figures").mkdir(exist_ok=True)
    drawn = dict(draw_figures(model, run, cases, background, decision.threshold, metrics))
    for name, figure in tqdm(drawn.items(), desc="drawing", unit="figure", leave=False):
        figure.savefig(run / "figures" / f"{name}.png", dpi=110)
    write_report(run, cases, stored, metrics, list(drawn))
    print(f"{len(drawn)} figures in {run / 'figures'}, all {len(cases)} test images in {run / 'report.html'}")
    return 0


def load_cases(model: keras.Model, run: Path, root: Path, decision: Decision, metrics: dict):
    """Predict on the run's test images, with the scores of metrics.json, or new ones for another decision.

    Returns:
        The test images with all that is drawn of them, and the share of background in the masks that the epoch
        was chosen on.
    """
    samples = find_samples(root)
    parts, groups = load_split(run / "split.json", samples)
    test = [samples[i] for i in parts["test"]]
    pictures = read_samples(test)
    probabilities = predict_pictures(model, [image for image, _ in pictures], decision)
    if decision == load_decision(run / "decision.json"):
        by_name = {score["name"]: score for score in metrics["images"]}
        if set(by_name) != {sample.name for sample in test}:
            raise RunError(f"{run / 'metrics.json'}: holds scores of other images than split.json. Copy the run again.")
        scores = [by_name[sample.name] for sample in test]
    else:
        scores = score_samples(probabilities, test, pictures, [groups[s.name] for s in test], decision)
        print(f"scored anew with {decision}: lesion Dice {summarise(scores)['lesions']['dice']:.3f}")
    metrics["summary"] = summarise(scores)
    cases = [
        figures.Case(score, image, reference, to_mask(p, image.shape, decision), p)
        for score, (image, reference), p in zip(scores, pictures, probabilities, strict=True)
    ]
    size = probabilities.shape[1:]
    judged = [samples[i] for i in parts["val"] or parts["test"]]  # a run that chose on nothing has no validation
    return cases, 1 - float(np.mean([resize_mask(mask, size).mean() for _, mask in read_samples(judged)]))


def draw_figures(
    model: keras.Model, run: Path, cases: list[figures.Case], background: float, threshold: float, metrics: dict
):
    """Names and figures of a run."""
    lesions = sorted((c for c in cases if c.score["label"] != "normal"), key=lambda c: -c.score["dice"])
    middle = max(len(lesions) // 2 - 2, 0)
    chosen = lesions[:4], lesions[middle : middle + 4], lesions[-4:]
    kind = "Simulated images: " if metrics["data"] == "phantom" else "Test images: "
    yield (
        "overlays",
        figures.overlay_grid(
            [c for row in chosen for c in row],
            f"{kind}best, median and worst of {len(lesions)} images with a lesion",
            4,
            ("best", "median", "worst"),
        ),
    )
    missed = [c for c in lesions if c.score["tp"] == 0]
    if missed:
        yield "missed_lesions", figures.overlay_grid(missed, f"{kind}all {len(missed)} missed lesions", 4)
    alarms = sorted((c for c in cases if c.score["label"] == "normal" and c.score["fp"]), key=lambda c: -c.score["fp"])
    if alarms:
        yield (
            "false_positives_on_normals",
            figures.overlay_grid(alarms, f"{kind}all {len(alarms)} normal images with a false positive", 4),
        )
    shown = [lesions[0], lesions[len(lesions) // 2], lesions[-1], *alarms[:1]]
    if alphas := attention(model, shown):
        what = "best, median and worst lesion image" + (", and a normal one" if alarms else "")
        yield "attention", figures.attention_grid(shown, alphas, f"{kind}attention coefficients: {what}")
    history = read_history(run / "history.csv")
    if history:
        judged = "the test images" if metrics.get("choose_on") == "test" else "validation"
        yield "curves", figures.curves(history, metrics["best_epoch"], background, judged)
    yield "distributions", figures.distributions([c.score for c in cases])
    probability = np.stack([c.probability for c in cases])
    reference = np.stack([resize_mask((c.reference > 0).astype(np.uint8), probability.shape[1:]) for c in cases])
    yield "calibration", figures.calibration(probability, reference, threshold)


def attention(model: keras.Model, cases: Sequence[figures.Case]) -> dict[str, np.ndarray]:
    """Coefficients of each gate, finest last: layer name -> (N, h, w); empty for a network without gates."""
    names = [layer.name for layer in model.layers if layer.name.endswith("_alpha")]
    if not names:
        return {}
    size = model.input_shape[1:3]
    images = np.stack([resize_image(c.image, size) for c in cases])[..., None].astype(np.float32)
    maps = keras.Model(model.input, [model.get_layer(name).output for name in names]).predict(images, verbose=0)
    maps = maps if isinstance(maps, list) else [maps]
    return {name: alpha[..., 0] for name, alpha in zip(names, maps, strict=True)}


def data_uri(content: bytes, kind: str) -> str:
    """The file as part of a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(rgb: np.ndarray) -> str:
    """A picture as part of a page."""
    return data_uri(cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes(), "jpeg")


def write_report(run: Path, cases: Sequence[figures.Case], stored: dict, metrics: dict, names: Sequence[str]) -> None:
    """One HTML file with everything in it; opens from disk, asks no network."""
    rows = []
    for case in tqdm(cases, desc="overlays", unit="image", leave=False):
        full = figures.draw_overlay(case.image, case.prediction, case.reference)
        small = cv2.resize(full, (round(full.shape[1] * 112 / full.shape[0]), 112), interpolation=cv2.INTER_AREA)
        score = case.score
        area = 100 * (score["tp"] + score["fn"]) / (score["height"] * score["width"])
        rows.append({"dice_known": None, **score, "area": area, "thumbnail": jpeg(small), "full": jpeg(full)})
    lesions, accuracy = metrics["summary"]["lesions"], metrics["summary"]["accuracy"]
    known = ""
    if "dice_known" in lesions:
        known = f" Dice where a lesion is known to be there: {lesions['dice_known']:.3f}."
    headline = (
        f"Lesion Dice {lesions['dice']:.3f} (95 % interval {lesions['dice_interval'][0]:.3f} to "
        f"{lesions['dice_interval'][1]:.3f}), IoU {lesions['iou']:.3f}, {lesions['missed']} of {lesions['images']} "
        f"lesion images missed.{known} Pixel accuracy {accuracy['pixels']:.3f}; predicting no lesion anywhere gets "
        f"{accuracy['all_background']:.3f}."
    )
    if metrics.get("choose_on") == "test":
        headline = f"{FLATTERED}. {headline}"
    about = {
        "data": metrics["data"],
        "split": metrics["split"],
        "test images with a near-copy in training": metrics["twins_in_training"],
        "parameters": metrics["parameters"],
        "multiply-adds of an image, billions": metrics.get("gmac", "not known: an older run"),
        "minutes": "not known: resumed" if metrics["minutes"] is None else metrics["minutes"],
        **metrics["environment"],
        **stored.get("config", {}),
    }
    pictures = [
        (name.replace("_", " ").capitalize(), data_uri((run / "figures" / f"{name}.png").read_bytes(), "png"))
        for name in names
    ]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (Path(__file__).parent / "report.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        title=f"Attention U-Net, run {run.name}",
        kind=metrics["data"],
        headline=headline,
        figures=pictures,
        rows=rows,
        columns=COLUMNS,
        labels=[c for c in LABELS if any(r["label"] == c for r in rows)],
        about=about.items(),
    )
    (run / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    with one_clear_line():
        sys.exit(main(tyro.cli(Config, description=__doc__)))
