"""Score trained runs, or the masks of another program, on ultrasound images with reference masks.

    python evaluate_model.py --run models/attention_unet --data-dir other_hospital/
    python evaluate_model.py --run models/a models/b --data-dir data/ --unseen-only    # the mean of two networks
    python evaluate_model.py --masks their_masks/ --data-dir data/    # 'benign (1).png' is the mask of 'benign (1)'

data/README.md says which folders are read. Several folders are scored together, and each alone.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from segmentation.common import environment  # noqa: F401  # isort: skip

import cv2
import numpy as np
import tyro
from pydantic import model_validator

from dataset import DataError, Sample, hash_pixels, read_each
from segmentation.common.checks import AnyPath, Folders, Real, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_output, json_holds, write_json
from segmentation.common.machine import describe_machine
from segmentation.data.collection import Collection, collect
from segmentation.data.splits import group_samples
from segmentation.inference.engines import open_network
from segmentation.runs.finished import check_min_score, open_decision
from segmentation.runs.split_record import hashes_seen, note_same_names
from segmentation.scoring.calibration import collect_pixels, judge_calibration
from segmentation.scoring.decision import Decision, Prediction, override_decision
from segmentation.scoring.other_masks import pair_masks, read_masks
from segmentation.scoring.prediction import predict_pictures, score_mask, score_samples
from segmentation.scoring.score_table import is_score_table, write_scores
from segmentation.scoring.scores import result_line, summarise


@checked
class EvaluationConfig:
    """What to score, and how."""

    data_dir: Folders  # folders of images with masks
    run: tuple[AnyPath, ...] = ()  # folders of runs; of several runs, the mean of their probabilities is scored
    masks: AnyPath | None = None  # folder with another program's masks, one for each image; instead of --run
    unseen_only: bool = False  # leave out the training and validation images of the runs
    tta: bool = False  # average with the mirrored picture, even if the runs do not
    threshold: Real[0, 1] | None = None  # above which a pixel is lesion (docs/settings.md); by default the runs' own
    min_score: Real[0, 1] | None = None  # lesion score below which a mask is emptied; by default the runs' own
    largest_component: bool = False  # keep only the largest lesion
    output: AnyPath = Path("evaluation.json")  # summaries; a .csv file beside it gets the per-image scores

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse settings that contradict each other, and an output that is not a JSON file."""
        if bool(self.run) == bool(self.masks):
            raise ValueError("give either --run, at least one folder, or --masks")
        for name in ("unseen_only", "tta", "threshold", "min_score", "largest_component"):
            if self.masks and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"--{name.replace('_', '-')} is for --run: masks are scored as they are")
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
    machine = describe_machine()
    found = collect(config.data_dir)
    scores, result = score_masks(config.masks, found) if config.masks else score_runs(config, decisions, found)
    summary = summarise(scores)
    write_scores(table, scores)
    write_json(config.output, found.describe() | result | {"environment": machine, "summary": summary})
    left_out = len(found.samples) - len(scores)
    print(f"{len(scores)} images scored, {left_out} left out; summary in {config.output}, scores in {table}")
    print(result_line(found.source, summary, result["near_copies_in_training"] or 0))
    if errors := result.get("calibration_error"):
        line = "calibration error: {all_pixels:.3f} over all pixels, {predicted_lesion:.3f} over the masks"
        print(line.format(**errors))
    return summary["lesions"]["dice"]


def look(samples: list[Sample], note: Callable[[np.ndarray], object]) -> tuple[list, np.ndarray]:
    """What `note` says of each image, and its near-copy group; each picture is read once, and let go."""
    notes = []

    def images() -> Iterator[np.ndarray]:
        for image, _ in read_each(samples, bar="reading"):
            notes.append(note(image))
            yield image

    groups = group_samples(samples, images())
    return notes, groups


def score_masks(folder: Path, found: Collection) -> tuple[list[dict], dict]:
    """Score masks that another program drew.

    Returns:
        The scores of every image, and the other keys of evaluation.json.
    """
    paths = pair_masks(folder, found.samples)
    shapes, groups = look(found.samples, np.shape)
    masks = read_masks(paths, shapes)
    print("note: whether the program was trained on these images, or on near-copies of them, is not known here")
    scores = list(map(score_mask, found.samples, groups, read_each(found.samples), masks))
    return scores, {"masks": folder, "runs": [], "decision": None, "near_copies_in_training": None}


def score_runs(config: EvaluationConfig, decisions: list[Decision], found: Collection) -> tuple[list[dict], dict]:
    """Score the mean of the runs on the images that no run has seen.

    Returns:
        As `score_masks`.

    Raises:
        DataError, RunError: the data or a run cannot be used, or the runs have seen the images.
    """
    samples, where = found.samples, ", ".join(map(str, config.data_dir))
    hashes, groups = look(samples, hash_pixels)
    seen = seen_by(config.run, hashes)
    if any(seen) and not config.unseen_only:
        raise DataError(
            f"{where}: {sum(seen)} of {len(samples)} images were trained on, or an epoch was chosen on them, "
            f"{samples[seen.index(True)].name!r} first. Scores on them mean nothing; --unseen-only leaves them out."
        )
    seen_groups = {group for group, was_seen in zip(groups, seen, strict=True) if was_seen}
    chosen = [i for i, was_seen in enumerate(seen) if not was_seen]
    if not any(samples[i].label != "normal" for i in chosen):
        raise DataError(f"{where}: no unseen image with a lesion is left.")
    # Near-copies are sought in these folders only: without any training image here, nothing is known about them.
    leaked = sum(groups[i] in seen_groups for i in chosen) if any(seen) else None
    for run in config.run:
        note_same_names(run, [samples[i].name for i in chosen])

    unseen = [samples[i] for i in chosen]
    prediction, decision = predict_mean(config, decisions, unseen)
    scores = score_samples(prediction, unseen, read_each(unseen), groups[chosen], decision)
    errors = judge_calibration(collect_pixels(prediction, (mask for _, mask in read_each(unseen)), decision))
    result = {"runs": list(config.run), "decision": asdict(decision), "near_copies_in_training": leaked}
    return scores, result | {"calibration_error": errors}


def seen_by(runs: tuple[Path, ...], hashes: list[str]) -> list[bool]:
    """Whether each image was trained on, or an epoch chosen on it, in any of the runs; `hashes` are of its pixels."""
    used = set().union(*map(hashes_seen, runs))
    return [code in used for code in hashes]


def predict_mean(config: EvaluationConfig, own: list[Decision], samples: list[Sample]) -> tuple[Prediction, Decision]:
    """Mean of the runs' calibrated probabilities, at the largest network's resolution, and of their lesion scores; and
    the mean of their decisions.

    Raises:
        RunError: a run cannot be loaded, or only some of the runs have a lesion score.
    """
    found, decisions = [], []
    asked = {name: getattr(config, name) for name in ("threshold", "tta", "min_score")}
    for run, decision in zip(config.run, own, strict=True):
        model, stored = open_network(run, "keras")
        check_min_score(run, stored, config.min_score)
        decisions.append(override_decision(decision, **asked))
        found.append(predict_pictures(model, (image for image, _ in read_each(samples)), decisions[-1]))
    maps, scores = ([getattr(f, part) for f in found] for part in ("probability", "score"))
    if len({score is None for score in scores}) > 1:
        raise RunError("only some of these networks have a lesion score: they cannot be averaged.")
    side = max(m.shape[1] for m in maps)
    mean = np.zeros((len(maps[0]), side, side), np.float32)
    for probability in maps:
        for total, small in zip(mean, probability, strict=True):
            total += cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)
    mean /= len(maps)
    # The maps are calibrated already, so this decision has no calibration.
    together = Decision(
        threshold=float(np.mean([d.threshold for d in decisions])),
        min_peak=float(np.mean([d.min_peak for d in decisions])),
        min_score=float(np.mean([d.min_score for d in decisions])),
        doubtful_score=float(np.mean([d.doubtful_score for d in decisions])),
        largest_component=config.largest_component or all(d.largest_component for d in decisions),
        tta=all(d.tta for d in decisions),
    )
    score = None if scores[0] is None else np.mean(scores, axis=0)
    return Prediction(mean, score), together


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(EvaluationConfig, description=__doc__))
