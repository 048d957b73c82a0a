"""Train an Attention U-Net to segment lesions in breast ultrasound (BUSI), and score it on unseen images.

    python train_model.py                                 # BUSI in data/, else downloaded, else the sample
    python train_model.py --data-dir ~/BUSI --epochs 100  # every setting below is a flag
    python train_model.py --data-dir ~/BUSI ~/BUS-BRA     # train on several folders together
    python train_model.py paper                           # the paper's network, from random weights
    python train_model.py --resume models/attention_unet  # go on with a stopped run

The default takes 8 to 20 minutes on 2 CPU cores on BUSI, and 4 on the sample. Then: python visualize_results.py
"""

import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from segmentation.common import startup  # noqa: F401  # isort: skip

import keras
import numpy as np
import tensorflow as tf
import tyro
from pydantic import model_validator

from attention_unet import GATES, multiply_adds
from dataset import Stream, make_dataset, read_each
from segmentation.common.checks import AnyPath, FolderName, Folders, Real, Seed, Text, Whole, checked
from segmentation.common.errors import RunError, one_clear_line
from segmentation.common.files import check_space, write_json
from segmentation.common.machine import describe_machine
from segmentation.data.augmentation import augmenter
from segmentation.data.splits import ChooseOn, Division, Normals, count_folds
from segmentation.network.encoders import Encoder, check_channels, load_imagenet
from segmentation.network.losses import add_presence, has_lesion_score, score_loss, training_loss, training_metrics
from segmentation.network.optimizer import Precision, convolution_policy, make_optimizer
from segmentation.reports.tensorboard_log import TensorBoardLog
from segmentation.runs.finished import BUS_BRA, check_finished
from segmentation.runs.parts import Parts, load_data, split_data
from segmentation.runs.recorder import RunRecorder, bytes_to_write, monitored
from segmentation.runs.run_folder import begin, build_network, load_run, open_run, take_weights
from segmentation.runs.schemas import read_config
from segmentation.scoring.decision import Decision, load_decision, save_decision
from segmentation.scoring.prediction import predict_pictures, predict_raw, score_samples
from segmentation.scoring.scores import result_line, summarise
from segmentation.scoring.threshold import choose_decision, describe_min_scores


@checked
class TrainingConfig:
    """All settings, each with the reason for its default; docs/settings.md has more about some."""

    # Data
    data_dir: Folders = ()  # folders of images with masks; if none: data/, then a download of BUSI, then data/sample
    image_size: Whole[1, 4096] = 224  # pixels, a multiple of 32; 256 is hardly better and takes 1.5 times as long
    split: Text = "grouped"  # keeps near-copies in one set; docs/settings.md lists the other splits; or a CSV file
    fold: Whole[0, 100] = 0  # which fold is the test set, if the split has folds
    split_seed: Seed = 0  # of the split only, so that trainings with different seeds can share one split
    normals: Normals = "both"  # sets that hold normal images; a network trained without them marks nearly every image
    choose_on: ChooseOn = "validation"  # set that chooses epoch and decision; nothing: train on it (docs/settings.md)
    # Network
    encoder: Encoder = "efficientnet_lite0"  # 0.03 Dice better than none, the paper's encoder, which is not pretrained
    start_from: Literal["bus-bra", "imagenet", "random"] | AnyPath = "bus-bra"  # initial weights; or a finished run's
    base_filters: Whole[1, 256] = 8  # channels of the finest decoder level, doubled at each coarser one; the paper: 16
    depth: Whole[1, 8] = 4  # number of poolings of encoder none, as in the paper; the other encoders have 5
    gates: Literal[GATES] = "paper"  # full: on the skip's own grid, the finest skip too; none: a U-Net; Dice is equal
    lesion_score: Real[0, 1000] = 0.3  # loss weight of a second output, whether the image holds a lesion; 0: one output
    precision: Precision = "auto"  # of the 3x3 convolutions in training; auto: bfloat16 if the CPU has it, 8 % faster
    # Training
    epochs: Whole[1, 100_000] = 20  # validation Dice did not rise after epoch 15
    batch_size: Whole[1, 10_000] = 8  # larger batches are hardly faster on a CPU; lower it if memory runs out
    learning_rate: Real[1e-9, 1e30] = 1.5e-3  # peak, after 3 epochs of warm-up; then cosine decay; 5e-4 is no better
    ema: Real[0, 0.9999] = 0.99  # momentum of the weight average: about 100 steps, at most two epochs; 0: off
    dice_weight: Real[0, 1000] = 1.0  # weight of soft Dice, added to binary cross-entropy; 0: cross-entropy alone
    augmentation: Real[0, 3] = 1.0  # strength; 0: only the left-right flip and `scanners`; 1.5 is no better
    scanners: Real[0, 2] = 1.0  # frequency of augmentations that imitate other machines: +0.03 Dice elsewhere; 0: off
    seed: Seed = 0  # of the initial weights, the order of the images and the augmentation
    # From probability to mask
    decision_from: AnyPath | None = None  # use the decision of this run of the same settings with a validation set
    tta: bool = True  # average the predictions of the image and its mirror image: +0.005 validation Dice
    # Files
    tensorboard: bool = False  # also write TensorBoard logs to the run's folder; needs one more package
    models_dir: AnyPath = Path("models")  # folder in which the runs' folders are made
    run: FolderName = "attention_unet"  # name of the run's folder; if it holds a finished run, -2, -3, ... is added
    resume: AnyPath | None = None  # folder of a stopped run to go on with, with its settings; data_dir may have moved
    finish: bool = False  # with resume: train no further; choose the decision and score with the best epoch so far

    @model_validator(mode="after")
    def fit_together(self):
        """Refuse settings that contradict each other."""
        if self.finish and not self.resume:
            raise ValueError("--finish scores a stopped run: name its folder with --resume")
        count_folds(self.split)
        depth = check_channels(self.encoder, self.base_filters, self.depth)
        if self.image_size % 2**depth or self.image_size < 2 ** (depth + 1):
            allowed = f"a multiple of {2**depth} (2**depth) from {2 ** (depth + 1)} on"
            raise ValueError(f"--image-size must be {allowed}, got {self.image_size}")
        if self.encoder == "none" and self.start_from in ("bus-bra", "imagenet"):
            raise ValueError(
                "--encoder none has no pretrained weights: add --start-from random, or take the preset paper"
            )
        return self

    @property
    def division(self) -> Division:
        """How the images are divided."""
        return Division(self.split, self.fold, self.normals, self.choose_on, self.split_seed)


PRESETS = {
    "default": TrainingConfig(),
    # Oktay et al. 2018, in two dimensions. Each value was chosen on validation images (docs/experiments.md).
    "paper": TrainingConfig(
        encoder="none",
        start_from="random",
        base_filters=16,
        lesion_score=0,
        scanners=0,
        image_size=128,
        learning_rate=1e-3,
        epochs=40,
    ),
}
MIN_NORMALS = 10  # normal training images that a lesion score needs
SAMPLE_EPOCHS = 6  # most epochs on the sample, which stands in for missing data: a first look


def main(config: TrainingConfig) -> float:
    """Train and score one network. Returns the mean Dice over the test images with a lesion.

    Raises:
        DataError, RunError: the data or the run folder cannot be used; the message says what to do.
    """
    started = time.time()
    with open_run(config, config.models_dir / config.run, config.resume) as (run, config, goes_on):
        # Everything that can fail comes first, not after hours of training.
        board = TensorBoardLog(run) if config.tensorboard else None
        machine = describe_machine()
        convolutions = prepare_machine(config.seed, config.precision)
        earlier = [path for path in (first_weights(config), config.decision_from) if isinstance(path, Path)]
        decision = given_decision(config.decision_from, config.tta)
        network = network_arguments(config)
        model = build(network, convolutions, first_weights(config))
        check_space(run, bytes_to_write(model.count_params(), averaged=config.ema > 0))

        data = load_data(config.data_dir, config.image_size, goes_on)
        data = split_data(data, config.division, earlier, stopped=run if goes_on else None)
        model = keep_lesion_score(model, data.train[1])
        check_decision(config.decision_from, model)
        if not goes_on:
            network["lesion_score"] = has_lesion_score(model)
            stored = data.found.describe() | {"network": network, "config": asdict(config)}
            begin(run, stored | {"convolutions": convolutions, "appearance": data.appearance}, data.record)
        recorder = fit(run, model, data, config, board)

        model, _ = load_run(run)
        decision = decide(run, model, data, decision, config)
        scores = score(model, data, decision)
        minutes = None if recorder.first_epoch else round((time.time() - started) / 60, 2)  # unknown for a resumed run
        made = describe_training(model, data, recorder, config)
        return save(run, made | {"minutes": minutes, "environment": machine, "decision": asdict(decision)}, scores)


def prepare_machine(seed: int, precision: Precision) -> str:
    """Seed all random generators. Returns the dtype policy of the 3x3 convolutions in training."""
    keras.utils.set_random_seed(seed)
    gpus = len(tf.config.list_physical_devices("GPU"))
    convolutions = convolution_policy(precision, gpus)
    print(f"training on {gpus or 'no'} GPU, {os.cpu_count()} CPU cores, convolutions in {convolutions}")
    return convolutions


def given_decision(decision_from: Path | None, tta: bool) -> Decision:
    """The decision of the finished run `decision_from`, or without it the default one with a threshold of 0.5."""
    if decision_from:
        check_finished(decision_from, "decision.json")
    given = load_decision(decision_from / "decision.json") if decision_from else Decision()
    return replace(given, tta=tta)


def network_arguments(config: TrainingConfig) -> dict:
    """Arguments of `build_network` except the dtype of the convolutions; stored in config.json."""
    network = {name: getattr(config, name) for name in ("encoder", "base_filters", "depth", "gates")}
    return network | {"input_shape": (config.image_size, config.image_size, 1), "lesion_score": config.lesion_score > 0}


def first_weights(config: TrainingConfig) -> str | Path:
    """The initial weights: "imagenet", "random", or the folder of a finished run."""
    return BUS_BRA if config.start_from == "bus-bra" else config.start_from


def build(network: dict, convolutions: str, start_from: str | Path) -> keras.Model:
    """Build the network with its initial weights."""
    model = build_network(**network, convolutions=convolutions)
    if isinstance(start_from, Path):
        check_finished(start_from)
        take_weights(model, start_from)
    elif start_from == "imagenet":
        load_imagenet(model, network["encoder"])
    return model


def keep_lesion_score(model: keras.Model, masks: np.ndarray) -> keras.Model:
    """Returns the network, without its lesion score if there are fewer than MIN_NORMALS empty masks."""
    if not has_lesion_score(model) or (normals := len(masks) - np.count_nonzero(masks.any(axis=(1, 2)))) >= MIN_NORMALS:
        return model
    print(f"no lesion score: there are {normals} normal images to train on, and it needs at least {MIN_NORMALS}")
    return keras.Model(model.input, model.output["lesion"], name=model.name)


def check_decision(decision_from: Path | None, model: keras.Model) -> None:
    """Check that the decision of another run has the same meaning here: with a lesion score, the threshold is a share.

    Raises:
        RunError: only one of the two networks has a lesion score.
    """
    if decision_from and bool(read_config(decision_from)["network"].get("lesion_score")) != has_lesion_score(model):
        raise RunError(f"{decision_from}: its decision does not fit: only one of the two networks has a lesion score.")


def fit(
    run: Path, model: keras.Model, data: Parts, config: TrainingConfig, board: TensorBoardLog | None
) -> RunRecorder:
    """Train, from the first epoch or from the one at which the run was stopped.

    Returns:
        The recorder, which has written history, best network and backup to the run's folder.
    """
    stands_in = data.found.source == "sample" and not config.data_dir
    epochs = min(config.epochs, SAMPLE_EPOCHS) if stands_in else config.epochs
    if epochs < config.epochs:
        print(f"{epochs} epochs in place of {config.epochs}, as the sample stands in for BUSI")
    steps = -(-len(data.train[0]) // config.batch_size)
    compile_model(model, make_optimizer(config.learning_rate, config.ema, epochs, steps), config)
    recorder = RunRecorder(run, monitored(config.choose_on), epochs, steps)
    if config.finish:
        recorder.take_history()
        return recorder
    recorder.restore(model)

    change = augmenter(config.augmentation, config.scanners)
    watching = [board.show(data.val)] if board else []
    weights = data.weights if has_lesion_score(model) else (None, None)
    stream = Stream(config.seed, change, recorder.first_epoch)
    batches = make_dataset(*data.train, config.batch_size, stream, weights[0])
    judged = make_dataset(*data.val, config.batch_size, weights=weights[1]) if data.val else None
    if has_lesion_score(model):
        batches, judged = (stream and stream.map(add_presence) for stream in (batches, judged))
    # Before the recorder, so that best.keras gets the averaged weights.
    averaging = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if config.ema else []
    if recorder.first_epoch:
        print(f"resuming {run}: {recorder.first_epoch} of {epochs} epochs are done")
    if recorder.first_epoch < epochs:
        model.fit(
            batches,
            validation_data=judged,
            epochs=epochs,
            initial_epoch=recorder.first_epoch,
            steps_per_epoch=steps,
            callbacks=[*averaging, recorder, *watching],
            shuffle=False,
            verbose=0,  # the recorder prints one line an epoch
        )
    return recorder


def compile_model(model: keras.Model, optimizer: keras.optimizers.Optimizer, config: TrainingConfig) -> None:
    """Compile the network with its losses and metrics."""
    loss, metrics, weights, weighted = training_loss(config.dice_weight), training_metrics(), None, None
    if has_lesion_score(model):
        loss, weights = (
            {"lesion": loss, "lesion_score": score_loss()},
            {"lesion": 1.0, "lesion_score": config.lesion_score},
        )
        metrics, weighted = {"lesion": metrics}, {"lesion_score": [keras.metrics.AUC(name="auc")]}
    # XLA is slower on a CPU.
    model.compile(optimizer, loss, weights, metrics, weighted, jit_compile=False)
    model.optimizer.build(model.trainable_variables)  # otherwise TensorFlow traces the first step twice


def decide(run: Path, model: keras.Model, data: Parts, given: Decision, config: TrainingConfig) -> Decision:
    """Write decision.json. Returns the decision: the given one, or one chosen on the validation images."""
    if config.choose_on in ("validation", "decision") and not config.decision_from:
        prediction, masks = predict_raw(model, data.val[0], given.tta), data.val[1]
        given = choose_decision(prediction, masks, given, data.val_folders)
        if prediction.score is not None:
            print(describe_min_scores(prediction.score, masks.any(axis=(1, 2)), given, data.val_folders))
    save_decision(run / "decision.json", given)
    return given


def score(model: keras.Model, data: Parts, decision: Decision) -> list[dict]:
    """Score every test image at its original resolution."""
    prediction = predict_pictures(model, data.test_images, decision)
    return score_samples(prediction, data.test, read_each(data.test), data.groups, decision)


def describe_training(model: keras.Model, data: Parts, recorder: RunRecorder, config: TrainingConfig) -> dict:
    """The content of metrics.json about the training, without the scores."""
    settings = ("split", "fold", "split_seed", "normals", "choose_on", "seed")
    return {
        "data": data.found.source,
        "near_copies_in_training": data.leaked,
        **{name: getattr(config, name) for name in settings},
        "best_epoch": recorder.best_epoch(),
        "epochs": len(recorder.history),
        "parameters": model.count_params(),
        "gmac": round(multiply_adds(model) / 1e9, 3),
    }


def save(run: Path, result: dict, scores: list[dict]) -> float:
    """Write metrics.json, which marks the run as finished. Returns the mean Dice of the lesion images."""
    summary = summarise(scores)
    write_json(run / "metrics.json", result | {"summary": summary, "images": scores})
    (run / "backup.npz").unlink(missing_ok=True)
    print(f"epoch {result['best_epoch'] + 1} of {result['epochs']} was kept; all files are in {run}/")
    leaked, flattered = result["near_copies_in_training"], result["choose_on"] == "test"
    print(result_line(result["data"], summary, leaked, flattered))
    return summary["lesions"]["dice"]


def parse_command_line() -> TrainingConfig:
    """The preset named by the first argument, or the default, with the flags after it."""
    arguments = sys.argv[1:]
    preset = arguments.pop(0) if arguments and arguments[0] in PRESETS else "default"
    config = tyro.cli(TrainingConfig, default=PRESETS[preset], args=arguments, description=__doc__)
    flags = {argument.partition("=")[0].replace("_", "-") for argument in sys.argv[1:] if argument.startswith("--")}
    if config.resume and (sys.argv[1] in PRESETS or flags - {"--resume", "--finish", "--data-dir"}):
        raise RunError("--resume takes all settings from the run. Leave all else out but --finish and --data-dir.")
    return config


if __name__ == "__main__":
    with one_clear_line("All saved files are complete. To go on, repeat the command, or --resume the run's folder."):
        settings = parse_command_line()
        try:
            main(settings)
        except tf.errors.ResourceExhaustedError:
            sys.exit(
                f"error: out of memory at --batch-size {settings.batch_size}, --image-size {settings.image_size}. "
                "Halve the batch size."
            )
