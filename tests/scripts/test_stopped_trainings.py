"""Nothing lost, and nothing run from a file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import REPOSITORY, TINY, assert_one_clear_line, run_here, run_script

from attention_unet import build_attention_unet
from segmentation.common import files
from segmentation.common.errors import RunError
from segmentation.data.splits import hashes_seen
from segmentation.inference.engines import BUS_BRA
from segmentation.runs.recorder import RunRecorder
from segmentation.runs.run_folder import build_network, load_run, settings_of
from segmentation.runs.schemas import read_history, read_metrics
from segmentation.scoring.decision import load_decision
from train_model import TrainingConfig

NETWORK = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 2, "gates": "paper", "encoder": "none"}

# A run of an earlier commit: names that are others today, and settings that are no more, at their defaults.
EARLIER_NAMES = {
    "near_copies_in_training": "twins_in_training",
    "dice_lesion_given": "dice_known",
    "iou_lesion_given": "iou_known",
    "lesion_given": "lesion_known",
}
EARLIER_NETWORK = {"gate_grid": "coarse", "gate_finest": False, "deep_supervision": False, "dropout": 0.0}
EARLIER_SETTINGS = EARLIER_NETWORK | {
    "pretrained": True,
    "start_from": None,
    "split_seed": None,
    "phantom_images": 160,
    "phantom_epochs": 16,
    "patience": 25,
    "clip_norm": 1.0,
    "weight_decay": 1e-4,
    "threshold": None,
    "largest_component": False,
}


@pytest.fixture
def run(tmp_path):
    files.write_json(tmp_path / "config.json", {"network": NETWORK, "config": {}})
    build_network(**NETWORK).save(tmp_path / "best.keras")
    return tmp_path


# ---------------------------------------------------------------- files


def test_a_failed_write_keeps_the_good_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"good": 1})

    def half(temporary):
        temporary.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, half)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"bad": float("nan")})
    assert files.read_json(path) == {"good": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "flags.json"

    def first(temporary):
        temporary.write_text('{"writer": 1}')
        files.write_json(path, {"writer": 2})  # begins and ends while the first is still writing

    files.write_atomic(path, first)
    assert files.read_json(path) == {"writer": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["flags.json"]


# ---------------------------------------------------------------- models run no code


@pytest.mark.parametrize("encoder", ["none", "efficientnet_v2_b0"])
def test_a_run_is_rebuilt_from_its_config(tmp_path, encoder):
    network = NETWORK | {"encoder": encoder, "input_shape": [64, 64, 1]}
    files.write_json(tmp_path / "config.json", {"network": network, "config": {}})
    built = build_network(**network)
    built.save(tmp_path / "best.keras")
    model, config = load_run(tmp_path)
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype(np.float32)
    assert np.array_equal(model(x), built(x))
    assert np.array_equal(model(x), keras.saving.load_model(tmp_path / "best.keras")(x))
    assert config["network"] == network | {"input_shape": (64, 64, 1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "lambda x: x"}, '"network.activation" is not known here'),
        ({"base_filters": "16"}, "\"network.base_filters\" must be a valid integer, got '16'"),
        ({"base_filters": True}, '"network.base_filters" must be a valid integer, got True'),
        ({"input_shape": [10**9, 32, 1]}, '"network.input_shape.0" must be at most 4096'),
        ({"depth": 10**6}, '"network.depth" must be at most 8'),
        ({"gates": ["paper"]}, "\"network.gates\" must be 'paper', 'full' or 'none'"),
        ({"gate_grid": ["coarse"]}, "gates of grid .* are not in this version"),
        ({"encoder": "resnet; rm -rf"}, '"network.encoder" must be'),
        ({"dropout": 0.5}, "'dropout' was 0.5, which this version no longer has"),
        ({"dropout": float("inf")}, "Infinity is not a finite number"),
        ({"input_shape": [32, 32, 3]}, '"network.input_shape.2" must be 1, got 3'),
        ({"base_filters": 256, "depth": 8}, "65536 channels, and no more than 2048 are loaded"),
    ],
)
def test_config_keys_and_types_are_checked(run, change, words):
    (run / "config.json").write_text(json.dumps({"network": {**NETWORK, **change}}))
    with pytest.raises(RunError, match=words):
        load_run(run)


@pytest.mark.parametrize(
    "change", [{"appearance": 3}, {"appearance": {"grain": 3}}, {"appearance": {"grain": ["a", "b"]}}]
)
def test_what_a_report_reads_is_checked_too(run, change):
    (run / "config.json").write_text(json.dumps({"network": NETWORK} | change))
    with pytest.raises(RunError, match='"appearance.*" must be a valid'):
        load_run(run)


SHIPPED = REPOSITORY / "models" / "attention_unet_busi" / "metrics.json"


def with_earlier_names(text: str) -> str:
    for new, old in EARLIER_NAMES.items():
        text = text.replace(new, old)
    return text


def today(metrics: dict) -> dict:
    """metrics.json of an earlier commit, as it is to be read: the summary is made anew where it is needed."""
    names = {old: new for new, old in EARLIER_NAMES.items()}

    def renamed(values):
        return {names.get(key, key): value for key, value in values.items()}

    return {**renamed(metrics), "images": [renamed(score) for score in metrics["images"]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": None}, '"images" must be a valid list, got None'),
        ({"environment": "x"}, '"environment" must be a valid dictionary'),
        ({"minutes": "22"}, '"minutes" must be a valid number'),
        ({"images": [{}]}, '"images.0.name" is missing'),
        ({"images": []}, "no scored image with a lesion"),
    ],
)
def test_what_a_report_reads_of_the_scores_is_checked(tmp_path, change, words):
    (tmp_path / "metrics.json").write_text(json.dumps(json.loads(SHIPPED.read_text()) | change))
    with pytest.raises(RunError, match=words):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "change",
    [
        {"dice": "0.8"},
        {"hd95": float("inf")},
        {"tp": -1},
        {"label": "x"},
        {"width": 0},
        {"iou": None},
        {"dice_known": ""},
        {"dice_lesion_given": ""},
    ],
)
def test_each_score_is_checked(tmp_path, change):
    metrics = json.loads(SHIPPED.read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    read, expected = read_metrics(tmp_path / "metrics.json"), today(metrics)
    assert read == {key: expected[key] for key in read} and len(read) == 10  # what a report shows; the rest follows
    metrics["images"][7] |= change
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match=r'"images\.7[.\"]|Infinity is not a finite number'):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "text", ["epoch,dice\na,b\n", "epoch,dice\n0\n", "epoch,dice\n0,1,2\n", "epoch\n0\n", "a\0b\n\0"]
)
def test_a_damaged_history(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(RunError, match="history.csv"):
        read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"network": 3}', '{"network": {}}', "[" * 100_000])
def test_damaged_config(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match="config.json"):
        load_run(run)


def poisoned_lambda(folder, name):
    owned = str(folder / "owned")
    function = keras.layers.Lambda(lambda x: (__import__("pathlib").Path(owned).touch(), x)[1])
    model = keras.Sequential([keras.Input((32, 32, 1)), function])
    model.save(folder / name)
    (folder / "owned").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("damage", ["lambda", "lambda in HDF5", "half", "garbage", "other network", "missing"])
def test_foreign_weights_are_refused_and_run_nothing(run, damage):
    path = run / "best.keras"
    if damage == "lambda":
        poisoned_lambda(run, "best.keras")
    elif damage == "lambda in HDF5":
        poisoned_lambda(run, "evil.h5")
        (run / "evil.h5").replace(path)
    elif damage == "half":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "garbage":
        path.write_bytes(b"\x80\x04cos\nsystem\n")
    elif damage == "other network":
        build_attention_unet((32, 32, 1), base_filters=3, depth=2).save(path)
    else:
        path.unlink()
    with pytest.raises(RunError, match="best.keras"):
        load_run(run)
    assert not (run / "owned").exists()


def test_a_pickle_in_a_backup_is_refused(run):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(run / "owned"),)

    np.savez(run / "backup.npz", v0=np.array([Evil()], dtype=object))
    model = build_network(**NETWORK)
    model.compile("adam", "binary_crossentropy")
    with pytest.raises(RunError, match="backup.npz"):
        RunRecorder(run, "val_dice", 3).restore(model)
    assert not (run / "owned").exists()


def stored_settings(run, stored):
    """The settings as they come back from a config.json."""
    files.write_json(run / "config.json", {"config": stored})
    return settings_of(run, TrainingConfig)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"epochs": "3"}, "\"config.epochs\" must be a valid integer, got '3'"),
        ({"epochs": 0}, '"config.epochs" must be at least 1, got 0'),
        ({"epochs": True}, '"config.epochs" must be a valid integer, got True'),
        ({"exec": 1}, '"config.exec" is not known here'),
        ({"split": "secret"}, "\"config.split\" must be 'grouped', .*, got 'secret'"),
        ({"data_dir": 5}, '"config.data_dir.0" is not a valid path .*, got 5'),
        ({"start_from": 5}, '"config.start_from" must be .*, got 5'),
        ({"image_size": 33}, "--image-size must be a multiple of 32"),
        ([], '"config" holds no JSON object'),
    ],
)
def test_stored_settings_are_checked(tmp_path, stored, words):
    with pytest.raises(RunError, match=f"config.json: .*{words}"):
        stored_settings(tmp_path, stored)


def test_stored_settings_round_trip(tmp_path):
    for start_from in ("bus-bra", "imagenet", "random", Path("models/earlier")):
        config = TrainingConfig(data_dir=(Path("x"),), epochs=3, learning_rate=1, augmentation=2, start_from=start_from)
        assert stored_settings(tmp_path, asdict(config)) == config


# ---------------------------------------------------------------- runs of earlier commits


def make_earlier(run: Path, **changes) -> Path:
    """Rewrite the files of a run to what an earlier commit would have written."""
    stored = json.loads((run / "config.json").read_text())
    for part, earlier in (("network", EARLIER_NETWORK), ("config", EARLIER_SETTINGS)):
        del stored[part]["gates"]
        stored[part] |= earlier | {key: value for key, value in changes.items() if key in earlier}
    (run / "config.json").write_text(json.dumps(stored))
    for name in ("metrics.json", "decision.json"):
        if (run / name).exists():
            (run / name).write_text(with_earlier_names((run / name).read_text()))
    return run


@pytest.mark.parametrize(
    ("grid", "finest", "gates"),
    [("coarse", False, "paper"), ("full", True, "full"), ("none", False, "none"), ("none", True, "none")],
)
def test_gates_of_earlier_runs(tmp_path, grid, finest, gates):
    build_network(**NETWORK | {"gates": gates}).save(tmp_path / "best.keras")
    files.write_json(tmp_path / "config.json", {"network": NETWORK, "config": asdict(TrainingConfig())})
    model, _ = load_run(make_earlier(tmp_path, gate_grid=grid, gate_finest=finest))
    x = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 1)).astype(np.float32)
    assert np.array_equal(model(x), keras.saving.load_model(tmp_path / "best.keras")(x))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deep_supervision": True}, "'deep_supervision' was True, which this version no longer has"),
        ({"dropout": 0.2}, "'dropout' was 0.2, which this version no longer has"),
        ({"gate_finest": True}, "gates of grid 'coarse' with gate_finest True are not in this version"),
        ({"gate_grid": "full"}, "gates of grid 'full' with gate_finest False are not in this version"),
    ],
)
def test_networks_of_earlier_runs_that_are_no_more_are_refused_by_name(run, change, words):
    files.write_json(run / "config.json", {"network": NETWORK, "config": asdict(TrainingConfig())})
    with pytest.raises(RunError, match=f"config.json: .*{words}"):
        load_run(make_earlier(run, **change))


@pytest.mark.parametrize(
    ("earlier", "settings"),
    [
        ({}, {"start_from": "imagenet"}),
        ({"pretrained": False}, {"start_from": "random"}),
        ({"encoder": "none"}, {"encoder": "none", "start_from": "random"}),
        ({"pretrained": False, "start_from": "models/a"}, {"start_from": Path("models/a")}),
        ({"seed": 4}, {"seed": 4, "split_seed": 4}),
        ({"seed": 4, "split_seed": 0}, {"seed": 4, "split_seed": 0}),
        ({"choose_on": "rule"}, {"choose_on": "decision"}),
        ({"gate_grid": "full", "gate_finest": True}, {"gates": "full"}),
    ],
)
def test_settings_of_earlier_runs(tmp_path, earlier, settings):
    then = {"start_from": "imagenet", "lesion_score": 0.0, "scanners": 0.0}
    assert stored_settings(tmp_path, EARLIER_SETTINGS | earlier) == TrainingConfig(**then | settings)


@pytest.mark.parametrize(
    "change",
    [
        {"phantom_images": 40},
        {"phantom_epochs": 1},
        {"patience": 3},
        {"clip_norm": 0.5},
        {"weight_decay": 0.0},
        {"threshold": 0.4},
        {"largest_component": True},
        {"deep_supervision": True},
        {"dropout": 0.2},
    ],
)
def test_retired_settings_are_refused_by_name(tmp_path, change):
    name, value = next(iter(change.items()))
    with pytest.raises(RunError, match=f"setting '{name}' was {value}, which this version no longer has"):
        stored_settings(tmp_path, EARLIER_SETTINGS | change)


def test_the_shipped_runs_are_what_their_cards_say():
    busi, bus_bra = (settings_of(run, TrainingConfig) for run in (SHIPPED.parent, BUS_BRA))
    assert busi == TrainingConfig(data_dir=busi.data_dir)
    start = {"start_from": "imagenet", "lesion_score": 0.0, "split": "table", "choose_on": "nothing"}
    assert bus_bra == TrainingConfig(**start, data_dir=bus_bra.data_dir, run="attention_unet_bus_bra")
    for run in (SHIPPED.parent, BUS_BRA):
        model, _ = load_run(run)
        assert model.count_params() == read_metrics(run / "metrics.json")["parameters"]
        assert keras.saving.load_model(run / "best.keras").count_params() == model.count_params()  # plain Keras
        assert not Path(json.loads((run / "config.json").read_text())["root"]).is_absolute()
    assert hashes_seen(BUS_BRA) < hashes_seen(SHIPPED.parent)
    assert sum(path.stat().st_size for run in (SHIPPED.parent, BUS_BRA) for path in run.rglob("*")) < 25 * 2**20


def test_an_earlier_run_opens_in_every_script(phantom_data, uninterrupted, tmp_path):
    old = make_earlier(Path(shutil.copytree(uninterrupted, tmp_path / "models" / "old")))
    assert "dice_known" in (old / "metrics.json").read_text() and "lesion_known" in (old / "decision.json").read_text()
    weights = [load_run(run)[0].get_weights() for run in (old, uninterrupted)]
    assert all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))
    assert load_decision(old / "decision.json") == load_decision(uninterrupted / "decision.json")
    metrics = json.loads((uninterrupted / "metrics.json").read_text())
    assert today(json.loads((old / "metrics.json").read_text()))["images"] == metrics["images"]

    assert_one_clear_line(run_here("visualize_results.py", "--run", old, cwd=tmp_path), "test images in", code=0)
    given = metrics["summary"]["lesions"]["dice_lesion_given"]
    assert f"Dice with lesion presence given: {given:.3f}" in (old / "report.html").read_text()
    evaluate = ["evaluate_model.py", "--run", old, "--data-dir", phantom_data, "--unseen-only"]
    assert_one_clear_line(run_here(*evaluate, cwd=tmp_path), "test (phantom): lesion Dice", code=0)
    assert json.loads((tmp_path / "evaluation.json").read_text())["summary"] == metrics["summary"]
    compare = ["compare_runs.py", old, uninterrupted, "--key", "dice_lesion_given"]
    assert_one_clear_line(run_here(*compare, cwd=tmp_path), "difference +0.0000", code=0)
    train = ["train_model.py", "--data-dir", phantom_data, *TINY, "--epochs", "1", "--run", "new"]
    flags = ["--start-from", old, "--decision-from", old, "--learning-rate", "1e-9", "--ema", "0"]
    assert_one_clear_line(run_here(*train, *flags, "--choose-on", "nothing", cwd=tmp_path), code=0)
    new = tmp_path / "models" / "new"
    assert load_decision(new / "decision.json") == load_decision(old / "decision.json")
    for a, b in zip(load_run(old)[0].trainable_weights, load_run(new)[0].trainable_weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


# ---------------------------------------------------------------- training that is interrupted

SETTINGS = [*TINY, "--epochs", "5", "--ema", "0.9"]


def run_behind(code, data, settings):
    """Command that runs `code`, then the training, in one process."""
    code += "; import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return [sys.executable, "-c", code, str(REPOSITORY / "train_model.py"), "--data-dir", str(data), *settings]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def start(data, cwd, settings=SETTINGS):
    """A training in the background, in a process of its own."""
    # A shell's background jobs, and so their children, ignore Ctrl-C; this one must not.
    command = run_behind("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)", data, settings)
    return subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_epochs(process, history, epochs):
    deadline = time.time() + 200
    while time.time() < deadline and process.poll() is None:
        if history.exists() and len(history.read_text().splitlines()) > epochs:
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def uninterrupted(phantom_data, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("uninterrupted")
    assert_one_clear_line(run_script("train_model.py", "--data-dir", phantom_data, *SETTINGS, cwd=cwd), code=0)
    return cwd / "models" / "attention_unet"


def assert_equal_runs(a, b):
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()
    with zipfile.ZipFile(a / "best.keras") as one, zipfile.ZipFile(b / "best.keras") as other:
        assert one.testzip() is None and other.testzip() is None
    weights = [load_run(run)[0].get_weights() for run in (a, b)]
    assert all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))
    summaries = [json.loads((run / "metrics.json").read_text())["summary"] for run in (a, b)]
    assert summaries[0] == summaries[1]


def stopped_by(number, data, cwd):
    """A training that this signal stopped after two epochs or more: its folder, exit code and output."""
    run = cwd / "models" / "attention_unet"
    process = start(data, cwd)
    wait_for_epochs(process, run / "history.csv", 2)
    process.send_signal(number)
    output = process.communicate()[0]
    return run, process.returncode, output


@pytest.fixture(scope="module")
def killed(phantom_data, tmp_path_factory):
    """The folder of a training that was killed; `copy_killed` makes one to go on with."""
    run, code, output = stopped_by(signal.SIGKILL, phantom_data, tmp_path_factory.mktemp("killed"))
    assert code == -9 and "Traceback" not in output
    return run


def copy_killed(killed, cwd):
    """The same folder elsewhere, under its path in the working directory, as its settings have it."""
    return Path(shutil.copytree(killed, cwd / "models" / "attention_unet"))


def assert_goes_on(run, uninterrupted, again, call):
    """The same training goes on, ends as if nothing had been, and is then finished."""
    cwd = run.parent.parent
    assert_one_clear_line(call("train_model.py", *again, cwd=cwd), "resuming", code=0)
    assert_equal_runs(uninterrupted, run)
    minutes = [json.loads((r / "metrics.json").read_text())["minutes"] for r in (uninterrupted, run)]
    assert minutes[0] > 0 and minutes[1] is None  # and not those of its last part alone
    assert not (run / "backup.npz").exists()
    assert_one_clear_line(run_here("train_model.py", "--resume", run, cwd=cwd), "this run is finished")


@pytest.mark.parametrize(("number", "code", "by_flag"), [(signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)])
def test_a_signal_stops_a_training_that_can_go_on(phantom_data, tmp_path, uninterrupted, number, code, by_flag):
    run, ended, output = stopped_by(number, phantom_data, tmp_path)
    assert ended == code and "Traceback" not in output and "--resume" in output
    again = ["--resume", run] if by_flag else ["--data-dir", phantom_data, *SETTINGS]
    assert_goes_on(run, uninterrupted, again, run_here)


def test_a_killed_training_goes_on(killed, uninterrupted, tmp_path):
    run = copy_killed(killed, tmp_path)
    assert_goes_on(run, uninterrupted, ["--resume", run], run_script)


def test_what_was_begun_by_an_earlier_commit_is_finished_by_this_one(killed, uninterrupted, phantom_data, tmp_path):
    run = copy_killed(killed, tmp_path)
    stored = json.loads((make_earlier(run) / "config.json").read_text())
    del stored["split_sha256"]
    files.write_json(run / "config.json", stored)
    assert_goes_on(run, uninterrupted, ["--data-dir", phantom_data, *SETTINGS], run_here)


def test_two_trainings_into_one_folder(phantom_data, tmp_path):
    endless = [*TINY, "--epochs", "100000"]
    process = start(phantom_data, tmp_path, endless)
    try:
        wait_for_epochs(process, tmp_path / "models" / "attention_unet" / "history.csv", 1)
        second = run_here("train_model.py", "--data-dir", phantom_data, *endless, cwd=tmp_path)
        assert_one_clear_line(second, "another training is writing here")
        other = run_here("train_model.py", "--data-dir", phantom_data, *endless, "--seed", "9", cwd=tmp_path)
        assert_one_clear_line(other, "another training is writing here")
    finally:
        process.kill()
        process.communicate()


def test_a_nan_loss_stops_and_keeps_the_best(phantom_data, tmp_path):
    result = run_here("train_model.py", "--data-dir", phantom_data, *TINY, "--learning-rate", "1e30", cwd=tmp_path)
    assert_one_clear_line(result, "the loss became", "--learning-rate")
    run = tmp_path / "models" / "attention_unet"
    if (run / "best.keras").exists():
        assert all(np.isfinite(w).all() for w in load_run(run)[0].get_weights())


def run_on_a_full_disk(data, cwd, largest_file, settings=SETTINGS):
    """Run with every write beyond `largest_file` bytes failing, as on a full disk."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, -1))"
    )
    command = run_behind(code, data, settings)
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("largest_file", [50_000, 120_000])  # backup.npz, best.keras fail
def test_a_full_disk_keeps_the_best(killed, phantom_data, tmp_path, uninterrupted, largest_file):
    run = copy_killed(killed, tmp_path)
    before = load_run(run)[0].get_weights()
    result = run_on_a_full_disk(phantom_data, tmp_path, largest_file)
    if result.returncode:  # no later epoch may have been a new best: then 120 kB is enough
        assert_one_clear_line(result, "File too large", "All saved files are complete")
    after = load_run(run)[0].get_weights()
    if largest_file < 120_000:
        assert result.returncode == 1
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert not list(run.glob(".writing*"))
    if result.returncode:
        again = run_here("train_model.py", "--data-dir", phantom_data, *SETTINGS, cwd=tmp_path)
        assert_one_clear_line(again, code=0)
    assert_equal_runs(uninterrupted, run)


def test_a_read_only_folder(phantom_data, tmp_path):
    blocked = tmp_path / "models"
    blocked.write_text("a file where the folder should be")  # root ignores permissions, but not this
    result = run_here("train_model.py", "--data-dir", phantom_data, *SETTINGS, cwd=tmp_path)
    assert_one_clear_line(result, "models")


def test_the_best_epoch_is_read_from_the_history(tmp_path):
    recorder = RunRecorder(tmp_path, "val_dice", steps_per_epoch=1)
    recorder.history = [{"val_dice": v} for v in (0.0, 0.2, 0.5, 0.5, 0.4)]
    assert recorder.best_epoch() == 2


def test_random_states_go_on_where_they_were(tmp_path):
    """Some encoders of keras.applications drop channels at random; a resumed run must draw what would have come."""

    def build():
        inputs = keras.Input((4,))
        model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5, seed=3)(inputs)))
        # A history has these columns.
        model.compile("sgd", "mse", metrics=[keras.metrics.MeanSquaredError(n) for n in ("dice", "iou", "accuracy")])
        return model

    x, y = np.ones((8, 4), np.float32), np.zeros((8, 1), np.float32)
    weights = []
    for run, epochs in (("whole", (3,)), ("resumed", (2, 3))):
        (tmp_path / run).mkdir()
        for last in epochs:
            keras.utils.set_random_seed(0)
            model, recorder = build(), RunRecorder(tmp_path / run, "epoch", steps_per_epoch=2)
            first = recorder.restore(model)
            settings = {"batch_size": 4, "initial_epoch": first, "epochs": last, "shuffle": False, "verbose": 0}
            model.fit(x, y, callbacks=[recorder], **settings)
        weights.append(model.get_weights())
    assert first == 1  # the backup was made when the second epoch began
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_run_works_where_it_is_copied_to(run, tmp_path_factory):
    """A run folder holds no absolute path: it works where it is copied to."""
    copy = shutil.copytree(run, tmp_path_factory.mktemp("copy é") / "run")
    assert load_run(copy)[1]["network"] == NETWORK | {"input_shape": (32, 32, 1)}
