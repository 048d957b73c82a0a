"""Score trained runs on any folder of ultrasound images with masks, unseen ones only.

python evaluate_model.py --run models/attention_unet --data-dir other_hospital/
python evaluate_model.py --run models/a models/b --data-dir data/ --unseen-only    # the mean of two networks

The folder is laid out as BUSI is, or holds images/ and masks/ with files of one name.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import quiet  # noqa: F401  # isort: skip

import cv2
import numpy as np
import tyro

from dataset import DataError, Sample, data_kind, find_samples, read_samples
from decision import Decision, load_decision
from download import find_data
from errors import one_clear_line
from files import write_json
from metrics import result_line, summarise
from predict import predict_pictures, score_samples
from rebuild import load_run
from runs import environment
from splits import file_hash, group_pairs, hashes_seen, near_duplicates


@dataclass(frozen=True)
class Config:
    """What to score, and how."""

    run: tuple[Path, ...]  # folders of finished runs; of several, the mean of their probabilities is scored
    data_dir: Path  # BUSI's layout, or images/ and masks/
    unseen_only: bool = False  # leave out the images that a run was trained or its epoch chosen on
    tta: bool = False  # average with the mirrored picture, also if the runs did not
    threshold: float | None = None  # probability above which a pixel is lesion; without it the runs' own
    largest_component: bool = False  # keep only the largest lesion
    output: Path = Path("evaluation.json")  # summaries and the scores of every image

    def __post_init__(self):
        """Refuse values that cannot work."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold must be between 0 and 1, got {self.threshold}")
        if not self.run:
            raise ValueError("--run needs at least one folder")


def main(config: Config) -> float:
    """Score the images of a folder.

    Returns:
        Mean Dice over the images with a lesion.

    Raises:
        DataError, RunError: the data or a run cannot be used, or the runs have seen the images.
    """
    config.output.parent.mkdir(parents=True, exist_ok=True)  # before the work, should it not be possible
    root = find_data(config.data_dir)
    samples, kind = find_samples(root), data_kind(root)
    pictures = read_samples(samples)
    seen = seen_by(config.run, samples)
    if any(seen) and not config.unseen_only:
        raise DataError(
            f"{config.data_dir}: {sum(seen)} of {len(samples)} images were trained on, or an epoch was chosen on them, "
            f"{samples[seen.index(True)].name!r} first. Scores on them mean nothing; --unseen-only leaves them out."
        )
    groups = group_pairs(len(samples), near_duplicates([image for image, _ in pictures]))
    seen_groups = {group for group, was_seen in zip(groups, seen, strict=True) if was_seen}
    chosen = [i for i, was_seen in enumerate(seen) if not was_seen]
    if not any(samples[i].label != "normal" for i in chosen):
        raise DataError(f"{config.data_dir}: no unseen image with a lesion is left.")
    twins = sum(groups[i] in seen_groups for i in chosen)

    probabilities, decision = predict_mean(config, [pictures[i][0] for i in chosen])
    scores = score_samples(
        probabilities, [samples[i] for i in chosen], [pictures[i] for i in chosen], groups[chosen], decision
    )
    summary = summarise(scores)
    result = {"data": kind, "root": config.data_dir.resolve(), "runs": list(config.run), "twins_in_training": twins}
    result |= {"decision": asdict(decision), "environment": environment()}
    write_json(config.output, result | {"summary": summary, "images": scores})
    print(f"{len(chosen)} images scored, {sum(seen)} left out; all scores in {config.output}")
    print(result_line(kind, summary, twins))
    return summary["lesions"]["dice"]


def seen_by(runs: tuple[Path, ...], samples: list[Sample]) -> list[bool]:
    """Whether any run has seen each sample before its test, by what its image holds, not by its name."""
    used = set().union(*map(hashes_seen, runs))
    return [file_hash(sample.image) in used for sample in samples]


def predict_mean(config: Config, images: list[np.ndarray]) -> tuple[np.ndarray, Decision]:
    """Mean of the runs' calibrated probabilities, at the largest network's size, and the rule to cut them with."""
    maps, decisions = [], []
    for run in config.run:
        model, _ = load_run(run)
        own = load_decision(run / "decision.json")
        if config.threshold is not None:
            own = replace(own, threshold=config.threshold, min_peak=0.0)
        decisions.append(replace(own, tta=own.tta or config.tta))
        maps.append(predict_pictures(model, images, decisions[-1]))
    side = max(m.shape[1] for m in maps)
    mean = np.mean([[cv2.resize(p, (side, side), interpolation=cv2.INTER_LINEAR) for p in m] for m in maps], axis=0)
    # The maps are calibrated already, so the rule has no calibration of its own.
    rule = Decision(
        threshold=float(np.mean([d.threshold for d in decisions])),
        min_peak=float(np.mean([d.min_peak for d in decisions])),
        largest_component=config.largest_component or all(d.largest_component for d in decisions),
        tta=all(d.tta for d in decisions),
    )
    return mean.astype(np.float32), rule


if __name__ == "__main__":
    with one_clear_line():
        main(tyro.cli(Config, description=__doc__))
