"""Nothing lost, and nothing run from a file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import files
import keras
import numpy as np
import pytest
import rebuild
import runs
from conftest import REPOSITORY, TINY, assert_one_clear_line, run_script
from files import RunError

from attention_unet import build_attention_unet

NETWORK = {"input_shape": [32, 32, 1], "base_filters": 2, "depth": 2, "gate_grid": "coarse", "gate_finest": False,
           "deep_supervision": False, "dropout": 0.0, "encoder": "none"}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    files.write_json(tmp_path / "config.json", {"network": NETWORK, "config": {}})
    build_attention_unet(**{**NETWORK, "input_shape": (32, 32, 1)}).save(tmp_path / "best.keras")
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
    built = build_attention_unet(**network)
    built.save(tmp_path / "best.keras")
    model, config = rebuild.load_run(tmp_path)
    x = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype(np.float32)
    assert np.array_equal(model(x), built(x))
    assert np.array_equal(model(x), keras.saving.load_model(tmp_path / "best.keras")(x))
    assert config["network"] == network


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "lambda x: x"}, "'activation' is not known"),
        ({"base_filters": "16"}, "'base_filters' cannot be '16'"),
        ({"base_filters": True}, "'base_filters' cannot be True"),
        ({"input_shape": [10**9, 32, 1]}, "'input_shape' cannot be"),
        ({"depth": 10**6}, "'depth' cannot be"),
        ({"gate_grid": ["coarse"]}, "'gate_grid' cannot be"),
        ({"encoder": "resnet; rm -rf"}, "'encoder' cannot be"),
        ({"dropout": float("inf")}, "'dropout' cannot be"),
        ({"base_filters": 256, "depth": 8}, "more than 2048 channels"),
    ],
)
def test_config_keys_and_types_are_checked(run, change, words):
    (run / "config.json").write_text(json.dumps({"network": {**NETWORK, **change}}))
    with pytest.raises(RunError, match=words):
        rebuild.load_run(run)


@pytest.mark.parametrize(
    "change", [{"appearance": 3}, {"appearance": {"grain": 3}}, {"appearance": {"grain": ["a", "b"]}}]
)
def test_what_a_report_reads_is_checked_too(run, change):
    (run / "config.json").write_text(json.dumps({"network": NETWORK} | change))
    with pytest.raises(RunError, match="wrong type"):
        rebuild.load_run(run)


SHIPPED = REPOSITORY / "models" / "attention_unet_busi" / "metrics.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": None}, "'images' is missing"),
        ({"environment": "x"}, "'environment' is missing, or of the wrong type"),
        ({"minutes": "22"}, "'minutes'"),
        ({"images": [{}]}, "scores of an image are damaged"),
        ({"images": []}, "no scored image with a lesion"),
    ],
)
def test_what_a_report_reads_of_the_scores_is_checked(tmp_path, change, words):
    (tmp_path / "metrics.json").write_text(json.dumps(json.loads(SHIPPED.read_text()) | change))
    with pytest.raises(RunError, match=words):
        runs.read_metrics(tmp_path / "metrics.json")


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
    ],
)
def test_each_score_is_checked(tmp_path, change):
    metrics = json.loads(SHIPPED.read_text())
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert runs.read_metrics(tmp_path / "metrics.json") == metrics
    metrics["images"][7] |= change
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match="scores of an image are damaged"):
        runs.read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "text", ["epoch,dice\na,b\n", "epoch,dice\n0\n", "epoch,dice\n0,1,2\n", "epoch\n0\n", "a\0b\n\0"]
)
def test_a_damaged_history(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(RunError, match="history.csv"):
        runs.read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"network": 3}', '{"network": {}}', "[" * 100_000])
def test_damaged_config(run, text):
    (run / "config.json").write_text(text)
    with pytest.raises(RunError, match="config.json"):
        rebuild.load_run(run)


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
        rebuild.load_run(run)
    assert not (run / "owned").exists()


def test_a_pickle_in_a_backup_is_refused(run):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(run / "owned"),)

    np.savez(run / "backup.npz", v0=np.array([Evil()], dtype=object))
    model = build_attention_unet(**{**NETWORK, "input_shape": (32, 32, 1)})
    model.compile("adam", "binary_crossentropy")
    with pytest.raises(RunError, match="backup.npz"):
        runs.RunRecorder(run, "val_dice", 5, 3).restore(model)
    assert not (run / "owned").exists()


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"epochs": "3"}, "'epochs' cannot be '3'"),
        ({"epochs": 0}, "--epochs must be greater than 0"),
        ({"exec": 1}, "'exec' is not known"),
        ({"split": "secret"}, "'split' cannot be"),
        ({"data_dir": 5}, "'data_dir' cannot be"),
        ([], 'no "config" object'),
    ],
)
def test_stored_settings_are_checked(tmp_path, stored, words):
    from train_model import Config

    with pytest.raises(RunError, match=words):
        runs.settings_from_json(Config, stored, tmp_path / "config.json")


def test_stored_settings_round_trip(tmp_path):
    from dataclasses import asdict
    from pathlib import Path

    from train_model import Config

    config = Config(data_dir=Path("x"), epochs=3, learning_rate=1, gate_grid="full")
    files.write_json(tmp_path / "c.json", {"config": asdict(config)})
    assert runs.settings_from_json(Config, files.read_json(tmp_path / "c.json")["config"], tmp_path) == config


# ---------------------------------------------------------------- training that is interrupted

SETTINGS = [*TINY, "--epochs", "5", "--dropout", "0.2", "--ema", "0.9"]


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
    weights = [rebuild.load_run(run)[0].get_weights() for run in (a, b)]
    assert all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))
    summaries = [json.loads((run / "metrics.json").read_text())["summary"] for run in (a, b)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("stop", "code", "by_flag"), [(signal.SIGKILL, -9, True), (signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)]
)
def test_resume_equals_no_interruption(phantom_data, tmp_path, uninterrupted, stop, code, by_flag):
    run = tmp_path / "models" / "attention_unet"
    process = start(phantom_data, tmp_path)
    wait_for_epochs(process, run / "history.csv", 2)
    process.send_signal(stop)
    output = process.communicate()[0]
    assert process.returncode == code, output
    assert "Traceback" not in output
    if code > 0:
        assert "--resume" in output
    again = ["--resume", str(run)] if by_flag else ["--data-dir", str(phantom_data), *SETTINGS]
    assert_one_clear_line(run_script("train_model.py", *again, cwd=tmp_path), "resuming", code=0)
    assert_equal_runs(uninterrupted, run)
    minutes = [json.loads((r / "metrics.json").read_text())["minutes"] for r in (uninterrupted, run)]
    assert minutes[0] > 0 and minutes[1] is None  # and not those of its last part alone
    assert not (run / "backup.npz").exists()
    assert_one_clear_line(run_script("train_model.py", "--resume", run, cwd=tmp_path), "this run is finished")


def test_two_trainings_into_one_folder(phantom_data, tmp_path):
    endless = [*TINY, "--epochs", "100000", "--patience", "100000"]
    process = start(phantom_data, tmp_path, endless)
    try:
        wait_for_epochs(process, tmp_path / "models" / "attention_unet" / "history.csv", 1)
        second = run_script("train_model.py", "--data-dir", phantom_data, *endless, cwd=tmp_path)
        assert_one_clear_line(second, "another training is writing here")
        other = run_script("train_model.py", "--data-dir", phantom_data, *endless, "--seed", "9", cwd=tmp_path)
        assert_one_clear_line(other, "unfinished run with another seed (0)")
    finally:
        process.kill()
        process.communicate()


def test_a_nan_loss_stops_and_keeps_the_best(phantom_data, tmp_path):
    result = run_script(
        "train_model.py",
        "--data-dir",
        phantom_data,
        *TINY,
        "--learning-rate",
        "1e30",
        "--clip-norm",
        "1e30",
        cwd=tmp_path,
    )
    assert_one_clear_line(result, "the loss became", "--learning-rate")
    run = tmp_path / "models" / "attention_unet"
    if (run / "best.keras").exists():
        assert all(np.isfinite(w).all() for w in rebuild.load_run(run)[0].get_weights())


def run_on_a_full_disk(data, cwd, largest_file, settings=SETTINGS):
    """Run with every write beyond `largest_file` bytes failing, as on a full disk."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, -1))"
    )
    command = run_behind(code, data, settings)
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("largest_file", [50_000, 120_000])  # backup.npz, best.keras fail
def test_a_full_disk_keeps_the_best(phantom_data, tmp_path, uninterrupted, largest_file):
    run = tmp_path / "models" / "attention_unet"
    process = start(phantom_data, tmp_path)
    wait_for_epochs(process, run / "history.csv", 2)
    process.kill()
    process.communicate()
    before = rebuild.load_run(run)[0].get_weights()
    result = run_on_a_full_disk(phantom_data, tmp_path, largest_file)
    if result.returncode:  # no later epoch may have been a new best: then 120 kB is enough
        assert_one_clear_line(result, "File too large", "Free some space")
    after = rebuild.load_run(run)[0].get_weights()
    if largest_file < 120_000:
        assert result.returncode == 1
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))
    assert not list(run.glob(".writing*"))
    if result.returncode:
        again = run_script("train_model.py", "--data-dir", phantom_data, *SETTINGS, cwd=tmp_path)
        assert_one_clear_line(again, code=0)
    assert_equal_runs(uninterrupted, run)


def test_a_read_only_folder(phantom_data, tmp_path):
    blocked = tmp_path / "models"
    blocked.write_text("a file where the folder should be")  # root ignores permissions, but not this
    result = run_script("train_model.py", "--data-dir", phantom_data, *SETTINGS, cwd=tmp_path)
    assert_one_clear_line(result, "models")


def test_patience_and_best_are_read_from_the_history(tmp_path):
    recorder = runs.RunRecorder(tmp_path, "val_dice", patience=2, steps_per_epoch=1)
    recorder.history = [{"val_dice": v} for v in (float("nan"), 0.2, 0.5, 0.4)]
    assert recorder.best_epoch() == 2 and not recorder.finished(10)
    recorder.history.append({"val_dice": 0.3})
    assert recorder.finished(10)
    recorder.history = [{"val_dice": float("nan")}]
    assert recorder.best_epoch() is None and recorder.finished(1)


def test_a_run_works_where_it_is_copied_to(run, tmp_path_factory):
    """A run folder holds no absolute path: it works where it is copied to."""
    copy = shutil.copytree(run, tmp_path_factory.mktemp("copy é") / "run")
    assert rebuild.load_run(copy)[1]["network"] == NETWORK
