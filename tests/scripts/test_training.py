"""What a training writes and prints, and what its settings change, in trainings of few steps."""

import csv
import importlib
import json
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, step_by_step, train_here
from folders import write_hospital

import train_model
from attention_unet import build_attention_unet
from dataset import Stream, find_samples, make_dataset, read_sample
from segmentation.common.errors import RunError
from segmentation.data.augmentation import augmenter
from segmentation.data.find_data import SAMPLE
from segmentation.network.losses import BceDiceLoss, LesionDice, training_metrics
from segmentation.runs import run_folder
from segmentation.runs.finished import BUS_BRA
from segmentation.runs.run_folder import load_run
from segmentation.runs.schemas import read_history, read_metrics
from segmentation.runs.split_record import hashes_seen
from train_model import TrainingConfig

SMALL = dict(encoder="none", start_from="random", image_size=32, depth=1, gates="full", base_filters=2, batch_size=64)


def read(run, name):
    return json.loads((run / name).read_text())


def test_a_run_leaves_all_its_files(finished_run):
    assert {p.name for p in finished_run.iterdir()} - {".lock"} == {
        "best.keras", "config.json", "decision.json", "history.csv", "metrics.json", "split.json",
    }  # fmt: skip
    metrics, images = read(finished_run, "metrics.json"), read(finished_run, "split.json")["images"]
    assert metrics["epochs"] == 4 and metrics["near_copies_in_training"] == 0 and metrics["minutes"] > 0
    assert {s["name"] for s in metrics["images"]} == {n for n, row in images.items() if row["part"] == "test"}
    with (finished_run / "history.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert {"accuracy", "iou", "dice", "loss", "val_dice", "val_iou", "learning_rate"} <= set(rows[0])
    assert metrics["best_epoch"] == np.argmax([float(row["val_dice"]) for row in rows]) > 0


def test_a_log_has_one_line_an_epoch_and_ends_with_the_result(finished_run):
    lines = (finished_run.parent.parent / "printed").read_text().splitlines()
    epochs = [line for line in lines if re.match(r" +\d/4 ", line)]
    val_dice, best = [row["val_dice"] for row in read_history(finished_run / "history.csv")], -1.0
    assert len(epochs) == 4 and max(map(len, lines[:-1])) <= 110 and max(map(len, epochs)) <= 100
    for line, dice in zip(epochs, val_dice, strict=True):
        assert line.endswith("best") == (dice > best) and f"{dice:.4f}" in line
        best = max(best, dice)
    assert any("no lesion score: there are" in line for line in lines)
    metrics = read(finished_run, "metrics.json")
    assert f"epoch {metrics['best_epoch'] + 1} of 4 was kept" in lines[-2]
    assert lines[-1].startswith(
        f"test (custom): lesion Dice {metrics['summary']['lesions']['dice']:.3f} (95 % interval"
    )
    assert "LEAKY" not in lines[-1] and "FLATTERED" not in lines[-1]


def test_scores_are_at_the_original_resolution(finished_run, lesion_data):
    samples = {s.name: s for s in find_samples(lesion_data)}
    for score in read(finished_run, "metrics.json")["images"]:
        _, mask = read_sample(samples[score["name"]])
        assert (score["height"], score["width"]) == mask.shape
        assert score["tp"] + score["fn"] == mask.sum()
        assert score["tp"] + score["fp"] + score["fn"] + score["tn"] == mask.size


def test_a_network_opens_without_this_project(finished_run, tmp_path, monkeypatch):
    """best.keras by Keras alone, and a network as it is with a copy of attention_unet.py beside it."""
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    own = build_attention_unet((32, 32, 1), base_filters=2, depth=1)
    own.save(tmp_path / "own.keras")
    shutil.copy(REPOSITORY / "attention_unet.py", tmp_path)
    expected = load_run(finished_run)[0](x), own(x)
    ours = {"segmentation", *(path.stem for path in REPOSITORY.glob("*.py"))}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        monkeypatch.setitem(sys.modules, name, None)  # so that importing it fails
    registered = keras.saving.get_custom_objects()
    for name in list(registered):
        monkeypatch.delitem(registered, name)
    assert np.allclose(keras.saving.load_model(finished_run / "best.keras")(x), expected[0], atol=1e-6)
    with pytest.raises(Exception, match="BatchNormalization"):
        keras.saving.load_model(tmp_path / "own.keras")
    monkeypatch.delitem(sys.modules, "attention_unet")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.import_module("attention_unet").__file__ == str(tmp_path / "attention_unet.py")
    assert np.allclose(keras.saving.load_model(tmp_path / "own.keras")(x), expected[1], atol=1e-6)
    with zipfile.ZipFile(finished_run / "best.keras") as archive:
        config = archive.read("config.json").decode()
    assert set(re.findall(r'"registered_name": "([^"]*)"', config)) <= {"Functional"}
    assert "quantization_config" not in config  # Keras 3.8 does not know it


def test_it_can_learn():
    """Loss, network, optimizer and batches together know four lesions by heart."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 150, (4, 32, 32), np.uint8), np.zeros((4, 32, 32), np.uint8)
    for i in range(4):
        masks[i, 4 * i : 4 * i + 12, 8:20] = 1
    images += 60 * masks
    model = build_attention_unet((32, 32, 1), base_filters=4, depth=1, gates="full")
    model.compile(keras.optimizers.Adam(1e-2), BceDiceLoss(), metrics=training_metrics(), jit_compile=False)
    data = make_dataset(images, masks, 4, Stream(change=augmenter(0, 0)))
    model.fit(data, steps_per_epoch=80, verbose=0, shuffle=False)
    dice = LesionDice()
    for x, y in make_dataset(images, masks, 4):
        dice.update_state(y, model(x))
    assert float(dice.result()) > 0.9


def test_a_training_traces_its_network_once(finished_run):
    """In training and in validation: a second tracing costs the default network 14 s."""
    assert (finished_run.parent.parent / "traces").read_text() == "2"


def test_a_run_with_a_lesion_score_on_a_leaky_split(lesion_data, tmp_path, monkeypatch, capsys):
    changes, streams = [], []
    monkeypatch.setattr(train_model, "MIN_NORMALS", 2)
    monkeypatch.setattr(train_model, "Stream", lambda *settings: streams.append(settings) or Stream(*settings))
    monkeypatch.setattr(train_model, "augmenter", lambda *strengths: changes.append(strengths) or augmenter(*strengths))
    settings = dict(split="all-random", augmentation=0.7, scanners=0.4, seed=5, choose_on="decision")
    with step_by_step():
        dice = train_model.main(
            TrainingConfig(**SMALL, **settings, data_dir=(lesion_data,), models_dir=tmp_path, epochs=1)
        )
    assert changes == [(0.7, 0.4)] and [seed for seed, *_ in streams] == [5]
    told, run = capsys.readouterr().out, tmp_path / "attention_unet"
    assert "LEAKY:" in told and "AUC of the lesion score" in told
    assert read(run, "split.json")["seed"] == 0  # the split has a seed of its own
    printed = re.search(r"--min-score on the \d+ validation images: (\S+) has sensitivity", told)[1]
    assert 0 <= read(run, "decision.json")["min_score"] - float(printed) < 0.001
    assert dice == read(run, "metrics.json")["summary"]["lesions"]["dice"]
    model, stored = load_run(run)
    assert stored["network"]["lesion_score"] and set(model.output) == {"lesion", "lesion_score"}
    (row,) = read_history(run / "history.csv")
    assert {"dice", "val_dice", "iou", "accuracy", "lesion_score_auc", "val_lesion_score_loss"} <= set(row)
    assert all(0 <= score["lesion_score"] <= 1 for score in read_metrics(run / "metrics.json")["images"])


def test_without_data_or_network_it_says_so_and_trains_on_the_sample(tmp_path, monkeypatch, capsys):
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_model, "SAMPLE_EPOCHS", 1)  # fewer than asked
    with step_by_step():
        train_model.main(TrainingConfig(**SMALL, epochs=9))
    told = capsys.readouterr().out
    assert "1 epochs in place of 9, as the sample stands in" in told
    assert "NO BUSI: training on 160 lesion images of BUS-BRA" in told and "test (sample)" in told
    run = tmp_path / "models" / "attention_unet"
    assert read(run, "metrics.json")["epochs"] == 1 and read(run, "config.json")["data"] == "sample"


def test_a_training_on_the_sample_itself_is_as_long_as_asked(tmp_path, monkeypatch):
    def record(run, monitor, epochs, steps):
        raise RunError(f"{epochs} epochs")

    monkeypatch.setattr(train_model, "SAMPLE_EPOCHS", 1)
    monkeypatch.setattr(train_model, "RunRecorder", record)
    data = SimpleNamespace(found=SimpleNamespace(source="sample"), train=([0],))
    network = build_attention_unet((32, 32, 1), base_filters=2, depth=1)
    with pytest.raises(RunError, match="2 epochs"):
        train_model.fit(tmp_path, network, data, TrainingConfig(**SMALL, data_dir=(SAMPLE,), epochs=2), None)


def test_the_default_network_starts_from_bus_bra_and_trains(lesion_data, tmp_path, monkeypatch):
    def kernels(model):
        return {name: model.get_layer(name).kernel.numpy() for name in ("stem_conv", "lesion")}

    def built(*arguments):
        model = build(*arguments)
        first.update(kernels(model))
        return model

    def loaded(run):
        networks[run], config = load_run(run)
        return networks[run], config

    build, first, networks = train_model.build, {}, {}
    monkeypatch.setattr(train_model, "build", built)
    for module in (train_model, run_folder):  # what was trained, and what it starts from
        monkeypatch.setattr(module, "load_run", loaded)
    config = TrainingConfig(data_dir=(lesion_data,), models_dir=tmp_path, image_size=64, epochs=1, batch_size=64)
    with step_by_step():
        train_model.main(replace(config, learning_rate=1e-6, ema=0.0, tta=False))
    shipped, trained = networks[BUS_BRA], kernels(networks[tmp_path / "attention_unet"])
    assert shipped.count_params() == read_metrics(BUS_BRA / "metrics.json")["parameters"]
    for name, kernel in kernels(shipped).items():
        assert np.array_equal(kernel, first[name]) and 0 < np.abs(trained[name] - kernel).max() < 1e-3
    assert hashes_seen(BUS_BRA) < hashes_seen(
        tmp_path / "attention_unet"
    )  # what the weights have seen is not tested on


def test_imagenet_weights_are_one_setting_away(monkeypatch):
    asked = []
    monkeypatch.setattr(train_model, "build_network", lambda **arguments: arguments)
    monkeypatch.setattr(train_model, "load_imagenet", lambda *arguments: asked.append(arguments))
    config = TrainingConfig(start_from="imagenet")
    network = train_model.network_arguments(config)
    model = train_model.build(network, "float32", train_model.first_weights(config))
    assert asked == [(model, "efficientnet_lite0")] and model == network | {"convolutions": "float32"}


def test_a_training_starts_from_another_run_on_ones_own_pictures(finished_run, tmp_path):
    """The weights are that run's, and what it has seen stays known as seen; one more training takes the next number."""
    own = write_hospital(tmp_path / "own", count=42, seed=8, normals=2)
    flags = ("--start-from", finished_run, "--decision-from", finished_run, "--choose-on", "nothing", "--epochs", "1")
    assert_one_clear_line(train_here(own, tmp_path, *flags, "--learning-rate", "1e-9", "--ema", "0"), code=0)
    new = tmp_path / "models" / "attention_unet"
    assert load_run(new)[1]["config"]["start_from"] == str(finished_run)
    for a, b in zip(*(load_run(run)[0].trainable_weights for run in (finished_run, new)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    trained_on = [row for row in read(new, "split.json")["images"].values() if row["part"] != "test"]
    assert hashes_seen(new) - hashes_seen(finished_run) == {row["image_sha256"] for row in trained_on}
    assert read(new, "decision.json") == read(finished_run, "decision.json")


def test_a_decision_of_a_network_without_a_lesion_score_fits_none_with_one(finished_run, tmp_path, monkeypatch):
    """Its threshold is a probability, and there it would be a share of the highest one."""
    monkeypatch.setattr(train_model, "MIN_NORMALS", 2)
    own = write_hospital(tmp_path / "own", count=42, seed=8, normals=6)
    with pytest.raises(RunError, match="its decision does not fit: only one of the two networks has a lesion score"):
        train_model.main(
            TrainingConfig(**SMALL, data_dir=(own,), models_dir=tmp_path, epochs=1, decision_from=finished_run)
        )


def test_what_the_epoch_is_chosen_on(finished_run, lesion_data, tmp_path):
    """Two train on the validation images too, and alike; one keeps its last epoch, the other looks at the test."""
    decision = ("--decision-from", finished_run, "--choose-on", "nothing")
    last = train_here(lesion_data, tmp_path, "--epochs", "2", "--no-tta", *decision, "--run", "nothing")
    best = train_here(lesion_data, tmp_path, "--epochs", "2", "--no-tta", "--choose-on", "test", "--run", "test")
    assert_one_clear_line(last, "epoch 2 of 2 was kept", code=0)
    assert_one_clear_line(best, "FLATTERED: the epoch was chosen on the test images", code=0)
    assert "FLATTERED" not in last.stdout
    runs = [tmp_path / "models" / name for name in ("nothing", "test")]
    last_rows, best_rows = [read_history(run / "history.csv") for run in runs]
    assert "val_dice" not in last_rows[0] and [row["loss"] for row in last_rows] == [row["loss"] for row in best_rows]
    # Chosen or not, what is kept are the averaged weights.
    weights = [load_run(run)[0].get_weights() for run in runs]
    kept = read(runs[1], "metrics.json")["best_epoch"]
    assert (kept == 1) == all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    decisions = [read(run, "decision.json") for run in runs]
    assert decisions[1]["threshold"] == 0.5 and decisions[1]["scale"] == 1
    assert decisions[1] != decisions[0] == read(finished_run, "decision.json") | {"tta": False}
    parts = [{row["part"] for row in read(run, "split.json")["images"].values()} for run in runs]
    assert parts == [{"train", "test"}] * 2
    assert len(hashes_seen(runs[1])) > len(hashes_seen(runs[0]))  # its test images are no longer unseen
