"""Score trained runs on ultrasound images with masks that they have not been trained on.

    python evaluate_model.py --run models/attention_unet --data-dir other_hospital/
    python evaluate_model.py --run models/a models/b --data-dir data/ --unseen-only    # the mean of two networks

data/README.md says which folders are read. Several folders are scored together, and each alone.
"""

from dataclasses import asdict
from pathlib import Path

from segmentation.common import startup  # noqa: F401  # isort: skip

import cv2
import numpy as np
import tyro
from pydantic import model_validator

from dataset import DataError, Sample, read_samples
from segmentation.common.checks import AnyPath, Folders, GreyValues, Real, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_output, file_hash, json_holds, write_json
from segmentation.data.collection import collect
from segmentation.data.splits import group_samples
from segmentation.runs.finished import open_decision
from segmentation.runs.run_folder import environment, load_run
from segmentation.runs.schemas import check_min_score
from segmentation.runs.split_record import hashes_seen
from segmentation.scoring.calibration import collect_pixels, judge_calibration
from segmentation.scoring.decision import Decision, Prediction, override_decision
from segmentation.scoring.prediction import predict_pictures, score_samples
from segmentation.scoring.score_table import is_score_table, write_scores
from segmentation.scoring.scores import result_line, summarise


@checked
class EvaluationConfig:
    """What to score, and how."""

    run: tuple[AnyPath, ...]  # folders of runs; of several runs, the mean of their probabilities is scored
    data_dir: Folders  # folders of images with masks
    mask_values: GreyValues = ()  # grey values of lesion pixels; if none: inferred from the masks of each folder
    unseen_only: bool = False  # leave out the training and validation images of the runs
    tta: bool = False  # average with the mirrored picture, even if the runs do not
    threshold: Real[0, 1] | None = None  # probability above which a pixel is lesion; by default the runs' own
    min_score: Real[0, 1] | None = None  # lesion score below which a mask is emptied; by default the runs' own
    largest_component: bool = False  # keep only the largest lesion
    output: AnyPath = Path("evaluation.json")  # summaries; a .csv file beside it gets the per-image scores

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse an empty list of runs, and an output that is not a JSON file."""
        if not self.run:
            raise ValueError("--run needs at least one folder")
        if self.output.suffix != ".json":
            raise ValueError(f"--output is the name of a .json file, got {self.output}")
        return self


def main(config: EvaluationConfig) -> float:
    """Score the images of the folders.

    Returns:
        Mean Dice over the images with a lesion.

    Raises:
        DataError, RunError: the data or a run cannot be used, or a run was trained on some of the images.
    """
    table = config.output.with_suffix(".csv")
    check_output(config.output, json_holds("data", "decision", "runs", "summary"))
    check_output(table, is_score_table)
    decisions = [open_decision(run) for run in config.run]
    machine = environment()
    found = collect(config.data_dir, config.mask_values)
    samples, where = found.samples, ", ".join(map(str, config.data_dir))
    pictures = read_samples(samples)
    seen = seen_by(config.run, samples)
    if any(seen) and not config.unseen_only:
        raise DataError(
            f"{where}: {sum(seen)} of {len(samples)} images were trained on, or an epoch was chosen on them, "
            f"{samples[seen.index(True)].name!r} first. Scores on them mean nothing; --unseen-only leaves them out."
        )
    groups = group_samples(samples, [image for image, _ in pictures])
    seen_groups = {group for group, was_seen in zip(groups, seen, strict=True) if was_seen}
    chosen = [i for i, was_seen in enumerate(seen) if not was_seen]
    if not any(samples[i].label != "normal" for i in chosen):
        raise DataError(f"{where}: no unseen image with a lesion is left.")
    leaked = sum(groups[i] in seen_groups for i in chosen)

    prediction, decision = predict_mean(config, decisions, [pictures[i][0] for i in chosen])
    scores = score_samples(
        prediction, [samples[i] for i in chosen], [pictures[i] for i in chosen], groups[chosen], decision
    )
    summary = summarise(scores)
    errors = judge_calibration(collect_pixels(prediction, [pictures[i][1] for i in chosen], decision))
    result = found.describe() | {"runs": list(config.run), "calibration_error": errors}
    result |= {"near_copies_in_training": leaked, "decision": asdict(decision), "environment": machine}
    write_scores(table, scores)
    write_json(config.output, result | {"summary": summary})
    print(f"{len(chosen)} images scored, {sum(seen)} left out; summary in {config.output}, scores in {table}")
    print(result_line(found.source, summary, leaked))
    print("calibration error: {all_pixels:.3f} over all pixels, {predicted_lesion:.3f} over the masks".format(**errors))
    return summary["lesions"]["dice"]


def seen_by(runs: tuple[Path, ...], samples: list[Sample]) -> list[bool]:
    """Whether each sample was trained on, or an epoch chosen on it, in any of the runs; images are compared by hash."""
    used = set().union(*map(hashes_seen, runs))
    return [file_hash(sample.image) in used for sample in samples]


def predict_mean(
    config: EvaluationConfig, own: list[Decision], images: list[np.ndarray]
) -> tuple[Prediction, Decision]:
    """Mean of the runs' calibrated probabilities, at the largest network's resolution, and of their lesion scores; and
    the mean of their decisions.

    Raises:
        RunError: a run cannot be loaded, or only some of the runs have a lesion score.
    """
    found, decisions = [], []
    asked = {name: getattr(config, name) for name in ("threshold", "tta", "min_score")}
    for run, decision in zip(config.run, own, strict=True):
        model, stored = load_run(run)
        check_min_score(run, stored, config.min_score)
        decisions.append(override_decision(decision, **asked))
        found.append(predict_pictures(model, images, decisions[-1]))
    maps, scores = ([getattr(f, part) for f in found] for part in ("probability", "score"))
    if len({score is None for score in scores}) > 1:
        raise RunError("only some of these networks have a lesion score: they cannot be averaged.")
    side = max(m.shape[1] for m in maps)
    mean = np.mean([[cv2.resize(p, (side, side), interpolation=cv2.INTER_LINEAR) for p in m] for m in maps], axis=0)
    # The maps are calibrated already, so this decision has no calibration.
    together = Decision(
        threshold=float(np.mean([d.threshold for d in decisions])),
        min_peak=float(np.mean([d.min_peak for d in decisions])),
        min_score=float(np.mean([d.min_score for d in decisions])),
        largest_component=config.largest_component or all(d.largest_component for d in decisions),
        tta=all(d.tta for d in decisions),
    )
    score = None if scores[0] is None else np.mean(scores, axis=0)
    return Prediction(mean.astype(np.float32), score), together


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(EvaluationConfig, description=__doc__))
