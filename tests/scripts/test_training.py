"""The real script, as a user runs it, with small settings."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import keras
import numpy as np
import pytest
import tyro
from conftest import TINY, assert_one_clear_line, copy_as_pairs, run_here, run_script

import train_model
from attention_unet import build_attention_unet
from dataset import find_samples, make_dataset, read_sample, read_samples, resize_samples
from segmentation.common.errors import RunError
from segmentation.data.augmentation import augmenter
from segmentation.data.phantoms import write_phantoms
from segmentation.data.splits import hashes_seen
from segmentation.inference.engines import BUS_BRA
from segmentation.network.encoders import APPLICATIONS, LITE, Encoder, load_imagenet
from segmentation.network.losses import BceDiceLoss, training_metrics
from segmentation.runs.parts import load_data, split_data
from segmentation.runs.recorder import RunRecorder
from segmentation.runs.run_folder import build_network, load_run
from segmentation.runs.schemas import read_history, read_metrics
from segmentation.scoring.decision import Decision, save_decision
from train_model import PRESETS, TrainingConfig, given_decision


def train(data, cwd, *more):
    return run_here("train_model.py", "--data-dir", data, *TINY, *more, cwd=cwd)


@pytest.fixture(scope="module")
def finished(phantom_data, tmp_path_factory):
    """Two epochs on phantoms: the folder it ran in, and what was printed."""
    cwd = tmp_path_factory.mktemp("first")
    return cwd, train(phantom_data, cwd, "--epochs", "2")


def test_a_run_leaves_all_its_files(finished):
    cwd, result = finished
    assert_one_clear_line(result, code=0)
    run = cwd / "models" / "attention_unet"
    assert {p.name for p in run.iterdir()} - {".lock"} == {
        "best.keras", "config.json", "decision.json", "history.csv", "metrics.json", "split.json",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"] == "phantom" and metrics["epochs"] == 2 and metrics["near_copies_in_training"] == 0
    images = json.loads((run / "split.json").read_text())["images"]
    assert {s["name"] for s in metrics["images"]} == {n for n, row in images.items() if row["part"] == "test"}
    assert {"tp", "fp", "fn", "tn", "dice", "iou", "precision", "recall", "hd95", "assd"} <= set(metrics["images"][0])
    with (run / "history.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {"accuracy", "iou", "dice", "loss", "val_dice", "learning_rate"} <= set(rows[0])
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("test (phantom): lesion Dice 0.") and "LEAKY" not in last


def test_scores_are_at_the_original_resolution(finished, phantom_data):
    metrics = json.loads((finished[0] / "models" / "attention_unet" / "metrics.json").read_text())
    samples = {s.name: s for s in find_samples(phantom_data)}
    for score in metrics["images"]:
        _, mask = read_sample(samples[score["name"]])
        assert score["tp"] + score["fn"] == mask.sum()
        assert score["tp"] + score["fp"] + score["fn"] + score["tn"] == mask.size


def test_best_keras_opens_without_this_project(finished, tmp_path):
    """A fresh process, another folder, Keras alone: the same numbers."""
    cwd, _ = finished
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    code = "import sys, keras, numpy; model = keras.saving.load_model(sys.argv[1]); " \
        "numpy.save('y.npy', model.predict_on_batch(numpy.load('x.npy')))"  # fmt: skip
    run = cwd / "models" / "attention_unet"
    command = [sys.executable, "-I", "-c", code, str(run / "best.keras")]  # -I: neither this folder nor PYTHONPATH
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert np.allclose(np.load(tmp_path / "y.npy"), load_run(run)[0].predict_on_batch(x), atol=1e-6)
    with zipfile.ZipFile(run / "best.keras") as archive:
        registered = set(re.findall(r'"registered_name": "([^"]*)"', archive.read("config.json").decode()))
    assert registered <= {"Functional"}


def test_same_seed_same_history_other_seed_another(finished, phantom_data):
    cwd, _ = finished
    again = train(phantom_data, cwd, "--epochs", "2")  # the finished run is kept: this one is -2
    other = train(phantom_data, cwd, "--epochs", "2", "--run", "other", "--seed", "1")
    assert again.returncode == other.returncode == 0, again.stderr + other.stderr
    histories = [
        (cwd / "models" / run / "history.csv").read_bytes() for run in ("attention_unet", "attention_unet-2", "other")
    ]
    assert histories[0] == histories[1] != histories[2]
    assert len({(cwd / "models" / run / "split.json").read_bytes() for run in ("attention_unet", "other")}) == 1
    weights = [
        keras.saving.load_model(cwd / "models" / run / "best.keras").get_weights()
        for run in ("attention_unet", "attention_unet-2")
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_split_has_a_seed_of_its_own(phantom_data):
    data, tested = load_data((phantom_data,), (), 0), []
    division = {"split": "all-random", "fold": 0, "normals": "both", "choose_on": "validation"}
    for seed in (0, 1):
        parts = split_data(data, None, 32, [], split_seed=seed, **division)
        assert parts.record["seed"] == seed and "split_seed" not in parts.record
        tested.append({sample.name for sample in parts.test})
    assert tested[0] != tested[1]


def test_it_can_learn(phantom_data):
    """Loss, network, optimizer and pipeline together know four lesions by heart after a minute."""
    keras.utils.set_random_seed(0)
    samples = [s for s in find_samples(phantom_data) if s.label != "normal"][:4]
    images, masks = resize_samples(read_samples(samples), 64)
    model = build_attention_unet((64, 64, 1), base_filters=8, depth=3)
    model.compile(keras.optimizers.Adam(3e-3), BceDiceLoss(), metrics=training_metrics(), jit_compile=False)
    data = make_dataset(images, masks, 4, training=True, change=augmenter(0, 0))
    model.fit(data, steps_per_epoch=40, epochs=3, verbose=0, shuffle=False)
    assert model.evaluate(make_dataset(images, masks, 4), verbose=0, return_dict=True)["dice"] > 0.9


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use where Linux says it")
def test_memory_does_not_grow_over_epochs(tmp_path):
    """Sixty short epochs with all that a run writes."""

    def mebibytes() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    rng = np.random.default_rng(0)
    images, masks = rng.integers(0, 255, (16, 64, 64), np.uint8), rng.integers(0, 2, (16, 64, 64), np.uint8)
    model = build_attention_unet((64, 64, 1), base_filters=4, depth=3)
    model.compile(keras.optimizers.Adam(), BceDiceLoss(), metrics=training_metrics(), jit_compile=False)
    data, memory = make_dataset(images, masks, 8, training=True), []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: memory.append(mebibytes()))
    model.fit(
        data,
        validation_data=make_dataset(images, masks, 8),
        steps_per_epoch=2,
        epochs=60,
        verbose=0,
        shuffle=False,
        callbacks=[RunRecorder(tmp_path, "val_dice", 2), watch],
    )
    # The first epochs fill caches. A batch kept by mistake in every epoch would be 0.5 MiB, a network 1.
    assert max(memory[-10:]) - max(memory[20:30]) < 15, memory


def test_main_is_what_folds_and_sweeps_call(phantom_data, tmp_path, monkeypatch):
    traces = []

    class Loss(BceDiceLoss):
        def call(self, y_true, y_pred):
            traces.append(1)
            return super().call(y_true, y_pred)

    monkeypatch.setattr(train_model, "BceDiceLoss", Loss)
    assert set(get_args(Encoder)) == {"none", *LITE, *APPLICATIONS}  # the command line offers all
    small = dict(encoder="none", start_from="random", image_size=32, depth=2, base_filters=2, epochs=1)
    dice = train_model.main(TrainingConfig(data_dir=(phantom_data,), models_dir=tmp_path, tensorboard=True, **small))
    assert len(traces) == 2  # once in training, once in validation; a second tracing costs the default network 14 s
    metrics = json.loads((tmp_path / "attention_unet" / "metrics.json").read_text())
    assert dice == metrics["summary"]["lesions"]["dice"]
    assert list((tmp_path / "attention_unet" / "tensorboard" / "validation").iterdir())


def test_a_run_with_a_lesion_score(phantom_data, tmp_path, monkeypatch, capsys):
    small = dict(
        encoder="none", start_from="random", image_size=32, depth=2, base_filters=2, epochs=2, lesion_score=0.3
    )
    small |= dict(data_dir=(phantom_data,), models_dir=tmp_path, augmentation=0.7, scanners=0.4)
    changes = []
    monkeypatch.setattr(train_model, "augmenter", lambda *strengths: changes.append(strengths) or augmenter(*strengths))
    train_model.main(TrainingConfig(**small, run="without"))
    assert changes == [(0.7, 0.4)]
    assert "normal images to train on, and it needs at least 10" in capsys.readouterr().out
    model, stored = load_run(tmp_path / "without")
    assert not stored["network"]["lesion_score"] and model.output_shape == (None, 32, 32, 1)

    monkeypatch.setattr(train_model, "MIN_NORMALS", 2)
    train_model.main(TrainingConfig(**small, run="with"))
    told = capsys.readouterr().out
    chosen = json.loads((tmp_path / "with" / "decision.json").read_text())["min_score"]
    printed = re.search(r"--min-score on the \d+ validation images: (\S+) has sensitivity 98%", told)[1]
    assert 0 <= chosen - float(printed) < 0.001
    model, stored = load_run(tmp_path / "with")
    assert stored["network"]["lesion_score"] and set(model.output) == {"lesion", "lesion_score"}
    rows = read_history(tmp_path / "with" / "history.csv")
    assert {"dice", "val_dice", "iou", "accuracy", "lesion_score_auc", "val_lesion_score_loss"} <= set(rows[0])
    metrics = read_metrics(tmp_path / "with" / "metrics.json")
    assert all(0 <= row["lesion_score"] <= 1 for row in metrics["images"])
    # A network with a score goes on from one without, and the other way round.
    for name, score in (("without", 0.3), ("with", 0.0)):
        again = {**small, "lesion_score": score, "start_from": tmp_path / name, "epochs": 1, "learning_rate": 1e-9}
        train_model.main(TrainingConfig(**again, run=f"from_{name}", ema=0.0))
        kernels = [load_run(tmp_path / run)[0].get_layer("decoder_1_conv1").kernel for run in (name, f"from_{name}")]
        assert np.allclose(*kernels, atol=1e-6)


def test_without_data_or_network_it_says_so_and_trains_on_phantoms(tmp_path):
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    result = run_script("train_model.py", *TINY, "--epochs", "18", cwd=tmp_path, **nowhere)
    assert_one_clear_line(result, "download failed", "SIMULATED", "test (phantom)", code=0)
    run = tmp_path / "models" / "attention_unet"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["data"] == "phantom" and metrics["epochs"] == train_model.PHANTOM_EPOCHS == 16  # fewer than asked
    assert json.loads((run / "config.json").read_text())["data"] == "phantom"


def test_the_default_network_starts_from_bus_bra_and_trains(phantom_data, tmp_path):
    flags = ["--data-dir", phantom_data, "--image-size", "64", "--epochs", "1", "--learning-rate", "1e-6", "--ema", "0"]
    assert_one_clear_line(run_here("train_model.py", *flags, cwd=tmp_path), "test (phantom)", code=0)
    trained, stored = load_run(tmp_path / "models" / "attention_unet")
    assert stored["config"]["start_from"] == "bus-bra" and stored["config"]["encoder"] == "efficientnet_lite0"
    assert not stored["network"]["lesion_score"]  # these phantoms hold too few normal images
    starts = {start: train_model.first_weights(TrainingConfig(start_from=start)) for start in ("bus-bra", "random")}
    bus_bra, random = (train_model.build(stored["network"], "float32", start) for start in starts.values())
    for name in ("stem_conv", "lesion"):
        shipped = load_run(BUS_BRA)[0].get_layer(name).kernel.numpy()
        start, after, other = (m.get_layer(name).kernel.numpy() for m in (bus_bra, trained, random))
        assert np.array_equal(shipped, start)
        assert 0 < np.abs(after - shipped).max() < 1e-3 < np.abs(other - shipped).max()
    # What the weights have seen is not tested on.
    assert hashes_seen(BUS_BRA) < hashes_seen(tmp_path / "models" / "attention_unet")


def test_imagenet_weights_are_one_setting_away():
    network = train_model.network_arguments(TrainingConfig(image_size=64))
    imagenet = train_model.build(network, "float32", train_model.first_weights(TrainingConfig(start_from="imagenet")))
    load_imagenet(built := build_network(**network), "efficientnet_lite0")
    assert np.array_equal(*(model.get_layer("stem_conv").kernel.numpy() for model in (built, imagenet)))


@pytest.mark.parametrize("change", [{"base_filters": 16}, {"gates": "none"}, {"encoder": "efficientnet_lite2"}])
def test_bus_bra_weights_fit_the_default_network_alone(change):
    config = TrainingConfig(**change, image_size=64)
    with pytest.raises(
        RunError, match="attention_unet_bus_bra: is another network than this one.* --start-from imagenet"
    ):
        train_model.build(train_model.network_arguments(config), "float32", train_model.first_weights(config))


def test_start_from_another_run(finished, tmp_path):
    """On one's own pictures: the weights are that run's, and what it has seen stays known as seen."""
    old = finished[0] / "models" / "attention_unet"
    own = copy_as_pairs(write_phantoms(tmp_path / "new", images=40, seed=8), tmp_path / "own")
    result = train(own, tmp_path, "--start-from", old, "--epochs", "1", "--learning-rate", "1e-9", "--ema", "0")
    assert_one_clear_line(result, code=0)
    new = tmp_path / "models" / "attention_unet"
    (before, _), (after, _) = load_run(old), load_run(new)
    for a, b in zip(before.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert_one_clear_line(run_here("visualize_results.py", cwd=tmp_path), "figures in", code=0)
    assert hashes_seen(old) < hashes_seen(new)
    assert len(hashes_seen(new) - hashes_seen(old)) == sum(
        row["part"] != "test" for row in json.loads((new / "split.json").read_text())["images"].values()
    )


def test_a_run_that_does_not_fit_is_refused(finished, phantom_data, tmp_path):
    """For its decision, one that has seen the test images; as a start, one of another network."""
    old = finished[0] / "models" / "attention_unet"
    refused = train(phantom_data, tmp_path, "--decision-from", old, "--split", "grouped-cv", "--fold", "1")
    assert_one_clear_line(refused, "was trained on", "test images or on near-copies", "--fold")
    refused = train(phantom_data, tmp_path, "--start-from", old, "--base-filters", "4", "--run", "wide")
    assert_one_clear_line(refused, "is another network than this one", "--base-filters")


def test_a_leaky_split_says_so(phantom_data, tmp_path):
    leaky = train(phantom_data, tmp_path, "--epochs", "1", "--split", "all-random")
    assert_one_clear_line(leaky, "LEAKY:", "have a near-copy in training", code=0)


def test_what_the_epoch_is_chosen_on(finished, phantom_data, tmp_path):
    """Both train on the validation images too, and alike; one keeps its last epoch, the other looks at the test."""
    flags, first = ("--epochs", "2", "--no-tta"), finished[0] / "models" / "attention_unet"
    refit = ("--choose-on", "nothing", "--decision-from", first, "--run", "nothing")
    last = train(phantom_data, tmp_path, *flags, *refit)
    best = train(phantom_data, tmp_path, *flags, "--choose-on", "test", "--run", "test")
    assert_one_clear_line(last, "epoch 2 of 2 was kept", code=0)
    assert_one_clear_line(best, "FLATTERED: the epoch was chosen on the test images", code=0)
    assert "FLATTERED" not in last.stdout
    runs = [tmp_path / "models" / name for name in ("nothing", "test")]
    last_rows, best_rows = [read_history(run / "history.csv") for run in runs]
    assert "val_dice" not in last_rows[0] and [row["loss"] for row in last_rows] == [row["loss"] for row in best_rows]
    # Chosen or not, what is kept are the averaged weights.
    kept = int(json.loads((runs[1] / "metrics.json").read_text())["best_epoch"])
    weights = [keras.saving.load_model(run / "best.keras").get_weights() for run in runs]
    assert (kept == 1) == all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    decisions = [json.loads((run / "decision.json").read_text()) for run in runs]
    assert decisions[1]["threshold"] == 0.5 and decisions[1]["scale"] == 1 and not decisions[1]["min_peak"]
    assert decisions[1] != decisions[0] == json.loads((first / "decision.json").read_text()) | {"tta": False}
    parts = [{row["part"] for row in json.loads((run / "split.json").read_text())["images"].values()} for run in runs]
    assert parts == [{"train", "test"}] * 2
    assert len(hashes_seen(runs[1])) > len(hashes_seen(runs[0]))  # its test images are no longer unseen
    # Neither has validation images to draw.
    assert_one_clear_line(run_here("visualize_results.py", "--run", runs[1], cwd=tmp_path), code=0)
    assert "FLATTERED" in (runs[1] / "report.html").read_text()


def test_the_last_epoch_with_a_decision_from_validation(finished, phantom_data, tmp_path):
    """Nothing is learnt at this rate: by validation the first epoch would be kept."""
    flags = ("--epochs", "3", "--learning-rate", "1e-9")
    result = train(phantom_data, tmp_path, *flags, "--choose-on", "decision")
    assert_one_clear_line(result, "epoch 3 of 3 was kept", code=0)
    run = tmp_path / "models" / "attention_unet"
    assert [row["val_dice"] for row in read_history(run / "history.csv")] == [0, 0, 0]
    assert json.loads((run / "decision.json").read_text())["scale"] != 1  # calibrated
    usual = finished[0] / "models" / "attention_unet"
    first, second = (json.loads((folder / "split.json").read_text())["images"] for folder in (usual, run))
    assert first == second


def test_a_decision_that_the_settings_give(tmp_path):
    for name in ("config.json", "split.json", "best.keras", "metrics.json"):
        (tmp_path / name).touch()
    save_decision(tmp_path / "decision.json", Decision(scale=0.8, min_peak=0.7, largest_component=True))
    given = Decision(scale=0.8, min_peak=0.7, largest_component=True)
    assert given_decision(tmp_path, tta=True) == replace(given, tta=True)
    assert given_decision(tmp_path, tta=False) == given
    assert given_decision(None, tta=True) == Decision(tta=True)
    (tmp_path / "decision.json").unlink()
    with pytest.raises(RunError, match="decision.json: no such file. Only a finished run"):
        given_decision(tmp_path, tta=True)


def test_what_is_trained_already_is_not_trained_again(tmp_path):
    """A run that was stopped after its last epoch, before its scores were written."""
    asked = []
    model = SimpleNamespace(output=None, fit=lambda *_, **settings: asked.append(settings))
    recorder = RunRecorder(tmp_path, "x", 7)
    for first_epoch in (3, 4, 0, 2):
        train_model.fit(model, None, None, recorder, first_epoch, epochs=3, averaged=False)
    assert [(settings["initial_epoch"], settings["epochs"]) for settings in asked] == [(0, 3), (2, 3)]
    assert all(settings["steps_per_epoch"] == 7 and settings["callbacks"] == [recorder] for settings in asked)


# ---------------------------------------------------------------- the command line


def test_a_preset_and_the_flags_that_follow(phantom_data, tmp_path):
    flags = ["--epochs", "1", "--image-size", "32", "--data-dir", phantom_data]
    assert_one_clear_line(run_here("train_model.py", "paper", *flags, cwd=tmp_path), "test (phantom)", code=0)
    model, config = load_run(tmp_path / "models" / "attention_unet")
    preset = {"encoder": "none", "start_from": "random", "base_filters": 16, "learning_rate": 1e-3}
    assert config["config"].items() >= (preset | {"epochs": 1, "image_size": 32, "gates": "paper", "ema": 0.99}).items()
    assert model.count_params() == build_attention_unet((32, 32, 1), base_filters=16).count_params()


def test_presets(monkeypatch):
    assert len(fields(TrainingConfig)) <= 29  # a setting that nobody would miss costs everybody who reads on

    def parsed(*arguments):
        monkeypatch.setattr("sys.argv", ["train_model.py", *arguments])
        return train_model.parse_command_line()

    own = {"encoder": "none", "start_from": "random", "base_filters": 16, "lesion_score": 0, "scanners": 0}
    paper = TrainingConfig(**own, image_size=128, learning_rate=1e-3, epochs=40)
    assert parsed() == parsed("default") == TrainingConfig()
    assert parsed("paper") == PRESETS["paper"] == paper
    assert parsed("plain") == TrainingConfig(start_from="imagenet", lesion_score=0, scanners=0)
    assert parsed("paper", "--epochs", "5", "--seed", "2") == replace(paper, epochs=5, seed=2)
    assert parsed("--epochs", "5") == parsed("default", "--epochs", "5") == TrainingConfig(epochs=5)
    assert parsed("--run", "paper") == TrainingConfig(run="paper")  # the first word alone is a preset
    starts = [parsed("--start-from", start).start_from for start in ("bus-bra", "imagenet", "random", "models/a")]
    assert starts == ["bus-bra", "imagenet", "random", Path("models/a")]


@pytest.mark.parametrize("word", ["papper", "models/attention_unet"])
def test_an_unknown_first_word_is_refused(tmp_path, word):
    assert_one_clear_line(run_here("train_model.py", word, "--epochs", "1", cwd=tmp_path), word, code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("preset", "side"), [([], 224), (["paper"], 128)])
def test_help_reads_like_documentation(tmp_path, preset, side):
    result = run_here("train_model.py", *preset, "--help", cwd=tmp_path)
    assert result.returncode == 0
    text = " ".join(result.stdout.replace("│", " ").split())
    for words in ("python train_model.py paper", "--epochs", "--batch-size", "lower it if memory runs out"):
        assert words in text
    assert f"(default: {side})" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--epochs", "many"], "--epochs"),
        (["--image-size", "250"], "--image-size must be a multiple of 32"),
        (["--run", "../x"], "--run is the name of a folder"),
        (["--encoder", "none"], "--encoder none has no pretrained weights"),
        (["--ema", "1"], "--ema must be at most 0.9999, got 1"),
        (["--split-seed", "-1"], "--split-seed must be at least 0, got -1"),
    ],
)
def test_bad_flags_are_named(arguments, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        tyro.cli(TrainingConfig, args=arguments)
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_bad_flags_are_one_clear_line_and_exit_2(tmp_path):
    result = run_script("train_model.py", "--epoch-count", "3", cwd=tmp_path)
    assert_one_clear_line(result, "--epoch-count", code=2)
    without_weights = run_script("train_model.py", "--encoder", "none", cwd=tmp_path)
    assert_one_clear_line(without_weights, "--encoder none has no pretrained weights", "--start-from random", code=2)
    assert not list(tmp_path.iterdir())


def test_bad_data_is_one_clear_line_and_exit_1(broken_data, tmp_path):
    for name in ("benign/benign (1)", "malignant/malignant (1)"):
        (broken_data / f"{name}_mask.png").unlink()
    assert_one_clear_line(train(broken_data, tmp_path), "benign (1).png: has no mask file", "malignant (1).png")
