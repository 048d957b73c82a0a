"""Train an Attention U-Net to segment lesions in breast ultrasound (BUSI), and score it on unseen images.

    python train_model.py                                 # BUSI in data/, else downloaded, else phantoms
    python train_model.py --data-dir ~/BUSI --epochs 100  # any setting below is also a flag
    python train_model.py --resume models/attention_unet  # go on with a run that was stopped

Default settings on BUSI: about 20 minutes on 2 CPU cores; on phantoms 4. Then: python visualize_results.py
"""

import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import quiet  # noqa: F401  # isort: skip

import keras
import numpy as np
import tensorflow as tf
import tyro

from attention_unet import ENCODER_DEPTH, build_attention_unet, multiply_adds
from augmentation import make_dataset
from averaging import AveragingAdamW
from dataset import Sample, data_kind, find_samples, read_samples, resize_samples
from decision import Decision, choose_decision, load_decision, save_decision
from download import find_data
from errors import one_clear_line
from files import write_json
from metrics import BceDiceLoss, result_line, summarise, training_metrics
from phantoms import write_phantoms
from precision import Precision, convolution_policy
from predict import appearance_limits, predict_pictures, predict_probability, score_samples
from pretrained import load_pretrained
from rebuild import load_run, start_from
from runs import RunRecorder, environment, lock, open_run
from splits import (
    ChooseOn,
    Normals,
    SplitKind,
    group_pairs,
    load_split,
    near_duplicates,
    seen_before,
    split_record,
    split_samples,
    twins_in_training,
)

Encoder = Literal[
    "none", "efficientnet_lite0", "efficientnet_lite2", "densenet121", "efficientnet_v2_b0", "resnet50_v2"
]


@dataclass(frozen=True)
class Config:
    """Every hyperparameter, once, with the reason for its value."""

    # Data
    data_dir: Path | None = None  # BUSI, or images/ and masks/; without it: data/, then Kaggle, then phantoms
    image_size: int = 224  # side in pixels, a multiple of 32; 256 had 0.02 more Dice than 192 for twice the time
    split: SplitKind = "grouped"  # near-copies stay in one part; tuning leaves its test part out; the random ones leak
    fold: int = 0  # which fold is the test, where the split has folds
    split_seed: int | None = None  # of the split alone, to train on one split with several seeds; without it, --seed
    normals: Normals = "both"  # parts that hold images without a lesion; trained without, a network fires on all
    choose_on: ChooseOn = "validation"  # picks epoch and rule; rule: that alone; nothing: trained on; test: flatters
    phantom_images: int = 160  # how many pictures to simulate where BUSI cannot be had
    phantom_epochs: int = 16  # at most this many epochs then: the fallback shows that everything works
    # Network
    encoder: Encoder = "efficientnet_lite0"  # 0.03 Dice over "none", the paper's
    pretrained: bool = True  # an encoder starts from its ImageNet weights; without, from random ones
    start_from: Path | None = None  # a finished run whose weights to start from instead, of the same network
    base_filters: int = 8  # channels of the finest decoder level, doubled at each coarser one; 16 for encoder none
    depth: int = 4  # number of poolings of encoder none, as in the paper; the others have 5
    gate_grid: Literal["coarse", "full", "none"] = "coarse"  # the grid of alpha, coarse in the paper; none is as good
    gate_finest: bool = False  # gate the finest skip too; the paper does not
    deep_supervision: bool = False  # fuse outputs of all decoder levels; +0.005 Dice on validation, within noise
    precision: Precision = "auto"  # of 3x3 convolutions in training; auto: bfloat16 on CPUs that have it, 8 % faster
    dropout: float = 0.0  # share of channels dropped in the two coarsest levels of encoder none; 0.2 did not help
    # Training
    epochs: int = 20  # validation Dice was flat from epoch 15 on; from scratch take 40; 80 spare normals, miss lesions
    batch_size: int = 8  # larger is hardly faster on a CPU; lower it if memory runs out
    learning_rate: float = 1.5e-3  # peak: 3 epochs of warm-up, then a cosine down to 0; 5e-4 was too slow
    weight_decay: float = 1e-4  # decoupled (AdamW); 0 is plain Adam
    clip_norm: float = 1.0  # of each gradient: one odd batch cannot spoil the averages of Adam
    ema: float = 0.99  # weights are averaged over about 100 steps (two epochs at most); 0 is off
    dice_weight: float = 1.0  # soft-Dice term beside binary cross-entropy; 0 is plain cross-entropy
    augmentation: float = 1.0  # strength; 0 leaves only the left-right flip; 1.5 is no better in 20 epochs
    patience: int = 25  # epochs without a better validation Dice before training stops
    seed: int = 0  # of the weights, the order, the augmentation, the phantoms, and the split
    deterministic: bool = False  # force deterministic operations, on a GPU too (slower); a CPU is already
    # Scoring
    threshold: float | None = None  # without it, threshold, calibration and least peak are chosen on validation
    decision_from: Path | None = None  # a run to take them from: these settings, validation images held back
    dice_to_spare: float = 0.01  # validation Dice given up to mark fewer normals: 0.01 marks 43 % of them, 0.05 26 %
    tta: bool = True  # average the prediction with the mirrored picture's: 0.005 Dice on validation
    largest_component: bool = False  # keep only the largest predicted lesion
    # Files
    models_dir: Path = Path("models")  # where run folders are made
    run: str = "attention_unet"  # the run's folder there; a finished run is never overwritten, -2, -3, ... is added
    resume: Path | None = None  # folder of a stopped run; all other settings then come from it

    def __post_init__(self):
        """Refuse values that cannot work, before anything is loaded."""
        sizes = "image_size", "phantom_images", "base_filters", "depth", "batch_size"
        for name in (*sizes, "epochs", "phantom_epochs", "learning_rate", "clip_norm", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be greater than 0, got {getattr(self, name)}")
        limits = {"dropout": 0.9, "ema": 0.9999, "augmentation": 3.0, "weight_decay": 1.0, "dice_to_spare": 1.0}
        limits |= {"threshold": 1.0} if self.threshold is not None else {}
        for name, top in limits.items():
            if not 0 <= getattr(self, name) <= top:
                raise ValueError(f"--{name.replace('_', '-')} must be between 0 and {top}, got {getattr(self, name)}")
        depth = self.depth if self.encoder == "none" else ENCODER_DEPTH
        if self.image_size % 2**depth or self.image_size < 2 ** (depth + 1):
            raise ValueError(
                f"--image-size must be a multiple of {2**depth} (2**depth) from {2 ** (depth + 1)} on, "
                f"got {self.image_size}"
            )
        if min(self.seed, self.split_seed or 0, self.fold, self.dice_weight) < 0:
            raise ValueError("--seed, --split-seed, --fold and --dice-weight must not be negative")
        if Path(self.run).name != self.run or self.run in ("", ".", ".."):
            raise ValueError(f"--run is the name of a folder in models/, got {self.run!r}")


def main(config: Config) -> float:
    """Train and score one network.

    Returns:
        Mean Dice over the test images with a lesion.

    Raises:
        DataError, RunError: the data or the run folder cannot be used; the message says what to do.
    """
    started = time.time()
    run, config = open_run(config, config.models_dir / config.run, config.resume)
    with lock(run):
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        gpus = len(tf.config.list_physical_devices("GPU"))
        convolutions = convolution_policy(config.precision, gpus)
        print(f"training on {gpus or 'no'} GPU, {os.cpu_count()} CPU cores, convolutions in {convolutions}")
        root, kind, epochs = find_or_draw(config)
        samples = find_samples(root)
        pictures = read_samples(samples)
        parts, groups = make_split(config, run, samples, pictures)
        twins = len(twins_in_training(parts, groups))
        sizes = ", ".join(f"{len(members)} {part}" for part, members in parts.items())
        print(f"split {config.split}: {sizes} images")
        network = network_arguments(config)
        about = {"data": kind, "root": root.resolve(), "network": network, "config": asdict(config)}
        about["convolutions"] = convolutions  # in training; predictions are made in float32 on any machine
        # So that predictions on pictures of another kind can be warned of.
        about["appearance"] = appearance_limits([pictures[i][0] for i in parts["train"]])
        write_json(run / "config.json", about)

        decision = given_decision(config)  # before hours of training: its file may be missing
        test = parts["test"]
        used = {"train": parts["train"], "val": test if config.choose_on == "test" else parts["val"]}
        data = {
            part: resize_samples([pictures[i] for i in members], config.image_size)
            for part, members in used.items()
            if members
        }
        unseen = [pictures[i] for i in test]
        del pictures  # the others at their full size: 400 MiB that training can do without
        steps = -(-len(parts["train"]) // config.batch_size)
        model = build_attention_unet(**network, convolutions=convolutions)
        if config.start_from:
            start_from(model, config.start_from)
        elif config.encoder != "none" and config.pretrained:
            load_pretrained(model, config.encoder)
        model.compile(
            optimizer=make_optimizer(config, epochs, steps),
            loss=BceDiceLoss(config.dice_weight),
            metrics=training_metrics(),
            jit_compile=False,  # XLA was slower on the CPU
        )
        model.optimizer.build(model.trainable_variables)  # left to the first step, TensorFlow would trace it twice

        monitor = "epoch" if config.choose_on in ("rule", "nothing") else "val_dice"  # by the epoch, the last is best
        recorder = RunRecorder(run, monitor, config.patience, steps)
        first_epoch = recorder.restore(model)
        if first_epoch:
            print(f"resuming {run}: {first_epoch} of {epochs} epochs are done")
        # Behind the averaging, so that best.keras gets the averaged weights.
        averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema else []
        stream = {"seed": config.seed, "strength": config.augmentation, "first_epoch": first_epoch}
        train = make_dataset(*data["train"], config.batch_size, training=True, **stream)
        if not recorder.finished(epochs):
            model.fit(
                train,
                validation_data=make_dataset(*data["val"], config.batch_size) if "val" in data else None,
                epochs=epochs,
                initial_epoch=first_epoch,
                steps_per_epoch=steps,
                callbacks=[*averaging, recorder],
                shuffle=False,
            )

        model, _ = load_run(run)
        if config.choose_on in ("validation", "rule") and config.threshold is None and config.decision_from is None:
            images, masks = data["val"]
            probabilities = predict_probability(model, images, config.tta)
            decision = choose_decision(probabilities, masks, decision, config.dice_to_spare)
        save_decision(run / "decision.json", decision)
        probabilities = predict_pictures(model, [image for image, _ in unseen], decision)
        scores = score_samples(probabilities, [samples[i] for i in test], unseen, groups[test], decision)
        summary = summarise(scores)
        shown = ("split", "fold", "normals", "seed", "choose_on")
        result = {"data": kind, "twins_in_training": twins} | {name: getattr(config, name) for name in shown}
        result |= {"decision": asdict(decision), "best_epoch": recorder.best_epoch(), "epochs": len(recorder.history)}
        minutes = None if first_epoch else round((time.time() - started) / 60, 2)  # a resumed run's are not known
        result |= {"parameters": model.count_params(), "gmac": round(multiply_adds(model) / 1e9, 3), "minutes": minutes}
        write_json(run / "metrics.json", result | {"environment": environment(), "summary": summary, "images": scores})
        (run / "backup.npz").unlink(missing_ok=True)
    print(f"epoch {recorder.best_epoch() + 1} of {len(recorder.history)} was kept; all files in {run}/")
    print(result_line(kind, summary, twins, config.choose_on == "test"))
    return summary["lesions"]["dice"]


def find_or_draw(config: Config) -> tuple[Path, str, int]:
    """Folder of the data, its kind, and the epochs to train: phantoms where BUSI cannot be had."""
    root = find_data(config.data_dir)
    if root is not None:
        return root, data_kind(root), config.epochs
    rule = "!" * 100
    print(
        f"{rule}\nNO BREAST ULTRASOUND DATA: training on SIMULATED images (phantoms.py). The result says nothing\n"
        f"about patients. To use BUSI, see data/README.md, then: python train_model.py --data-dir FOLDER\n{rule}",
        flush=True,
    )
    root = Path("data") / f"phantoms-{config.phantom_images}-seed{config.seed}"
    if not (root / "phantoms.json").exists():  # written last: the folder is whole
        write_phantoms(root, config.phantom_images, config.seed)
    return root, data_kind(root), min(config.epochs, config.phantom_epochs)


def make_split(config: Config, run: Path, samples: list[Sample], pictures: list) -> tuple[dict, np.ndarray]:
    """Indices of each part and near-duplicate group of each sample; from split.json if the run has one."""
    if (run / "split.json").exists():
        parts, group_of = load_split(run / "split.json", samples)
        return parts, np.array([group_of.get(s.name, -1 - i) for i, s in enumerate(samples)])
    groups = group_pairs(len(samples), near_duplicates([image for image, _ in pictures]))
    about = {name: getattr(config, name) for name in ("fold", "normals", "choose_on")}
    about["seed"] = config.seed if config.split_seed is None else config.split_seed
    parts = split_samples(samples, groups, config.split, **about)
    for earlier in filter(None, (config.start_from, config.decision_from)):
        about.setdefault("seen_before", []).extend(seen_before(earlier, samples, groups, parts["test"]))
    write_json(run / "split.json", split_record(samples, groups, parts, split=config.split, **about))
    return parts, groups


def network_arguments(config: Config) -> dict:
    """Arguments of `build_attention_unet`; config.json keeps them, so that a run can be rebuilt."""
    names = ("base_filters", "depth", "gate_grid", "gate_finest", "deep_supervision", "dropout", "encoder")
    return {"input_shape": (config.image_size, config.image_size, 1)} | {name: getattr(config, name) for name in names}


def make_schedule(config: Config, epochs: int, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Warm-up over three epochs, then a cosine down to 0."""
    warmup = min(3, epochs // 2) * steps
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else config.learning_rate,
        max(epochs * steps - warmup, 1),
        warmup_target=config.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def make_optimizer(config: Config, epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Adam with decoupled weight decay, the schedule, clipping and weight averaging."""
    rate = make_schedule(config, epochs, steps)
    # An average over more than two epochs would lag too far behind in a short run on few images.
    momentum = min(config.ema, 1 - 1 / (2 * steps))
    average = dict(use_ema=True, ema_momentum=momentum) if config.ema else {}
    return AveragingAdamW(rate, weight_decay=config.weight_decay, clipnorm=config.clip_norm, **average)


def given_decision(config: Config) -> Decision:
    """How probabilities become masks, as far as the settings say; the plain rule where they say nothing."""
    given = load_decision(config.decision_from / "decision.json") if config.decision_from else Decision()
    given = replace(given, tta=config.tta, largest_component=config.largest_component)
    return given if config.threshold is None else replace(given, threshold=config.threshold)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what a cluster sends before it kills."""


def _terminate(signum, frame):
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    settings = tyro.cli(Config, description=__doc__)
    with one_clear_line(
        "Free some space or choose another --models-dir; what was saved before is whole. The same command goes on "
        "from there."
    ):
        try:
            main(settings)
        except tf.errors.ResourceExhaustedError:
            sys.exit(
                f"error: out of memory at --batch-size {settings.batch_size}, --image-size {settings.image_size}. "
                "Halve the batch size."
            )
        except KeyboardInterrupt as stop:
            print(
                "\nstopped; finished epochs are saved. The same command, or --resume with the run's folder, goes on.",
                file=sys.stderr,
            )
            sys.exit(143 if isinstance(stop, Terminated) else 130)
