"""What can fail after hours is tried in the first second, and nothing is silently wrong afterwards."""

import io
import json
import os
import shutil
import subprocess
import zipfile
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_here, run_script
from conftest import TINY as TINY_FLAGS

import train_model
from dataset import DataError, Sample
from segmentation.common import files, run_folder
from segmentation.common.checks import check
from segmentation.common.errors import RunError
from segmentation.common.files import write_json
from segmentation.data.splits import split_samples
from segmentation.runs.recorder import RunRecorder, bytes_to_write
from segmentation.runs.run_folder import FILES, build_network, commit, environment, load_run
from segmentation.runs.schemas import Network, read_metrics
from segmentation.scoring.decision import Decision, save_decision
from segmentation.scoring.prediction import predict_raw
from train_model import TrainingConfig, main

TINY = {"encoder": "none", "start_from": "random", "image_size": 32, "depth": 2, "base_filters": 2, "batch_size": 8}
NETWORK = {"input_shape": (32, 32, 1), "base_filters": 2, "depth": 2, "gates": "paper", "encoder": "none"}


@pytest.fixture
def before_data(monkeypatch):
    """Whatever comes to reading the data has come too far."""

    def too_far(*_):
        raise AssertionError("the data are read")

    monkeypatch.setattr(train_model, "load_data", too_far)


@pytest.fixture(scope="module")
def trained(phantom_data, tmp_path_factory):
    """A finished run."""
    models = tmp_path_factory.mktemp("models")
    main(TrainingConfig(**TINY, epochs=2, data_dir=(phantom_data,), models_dir=models))
    return models / "attention_unet"


@pytest.fixture
def finished(trained, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(trained, tmp_path / "finished")


# ---------------------------------------------------------------- versions and commit


def test_without_git_a_training_ends_as_with_it(phantom_data, tmp_path):
    flags = ["--data-dir", phantom_data, *TINY_FLAGS, "--epochs", "1"]
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_clear_line(run_script("train_model.py", *flags, cwd=tmp_path, PATH=str(empty)), code=0)
    metrics = json.loads((tmp_path / "models" / "attention_unet" / "metrics.json").read_text())
    assert metrics["environment"]["commit"] == "unknown"


def test_a_missing_package_is_said_so(monkeypatch):
    def version(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(run_folder, "version", version)
    assert environment()["opencv-python-headless"] == "not installed"


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_commit_of_another_repository_is_not_ours(tmp_path, monkeypatch):
    def git(folder, *arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    def copy_into(folder):
        (folder / "segmentation").mkdir(parents=True)
        (folder / "segmentation" / "run_folder.py").write_text("")
        return folder

    other = tmp_path / "other"
    other.mkdir()
    git(other, "init")
    git(other, "commit", "--allow-empty", "-m", "theirs")
    assert commit(copy_into(other)) == "unknown"  # copied to their top
    assert commit(copy_into(other / "ours")) == "unknown"  # and into a folder of it
    git(other, "add", "ours")
    assert commit(other / "ours") == "unknown"

    own = copy_into(tmp_path / "own")
    assert commit(own) == "unknown"  # no repository at all
    git(own, "init")
    git(own, "add", ".")
    git(own, "commit", "-m", "ours")
    found = commit(own)
    assert len(found) == 7 and found != "unknown"
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setattr(run_folder, "HERE", own)
    assert environment()["commit"] == found


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--base-filters", "300"], ["--base-filters", "must be at most 256, got 300"]),
        (["--encoder", "none", "--base-filters", "64", "--depth", "6"], ["4096 channels", "more than 2048"]),
        (["--base-filters", "128"], ["4096 channels", "more than 2048"]),
        (["--image-size", "8192"], ["--image-size must be at most 4096, got 8192"]),
        (["--seed", "4294967296"], ["--seed must be at most 4294967295, got 4294967296"]),
        (["--split-seed", "-1"], ["--split-seed must be at least 0, got -1"]),
        (["--learning-rate", "nan"], ["--learning-rate must be a finite number, got nan"]),
        (["--epochs", "0"], ["--epochs must be at least 1, got 0"]),
        (["--run", "../x"], ["--run is the name of a folder in models/, got '../x'"]),
        (["--run", ".."], ["--run is the name of a folder"]),
    ],
)
def test_what_would_be_refused_later_is_refused_at_once(tmp_path, flags, words):
    result = run_here("train_model.py", "--start-from", "random", *flags, cwd=tmp_path)
    text = " ".join(result.stderr.replace("│", " ").split())  # told in a box of several lines
    assert result.returncode == 2 and "Traceback" not in text
    assert all(word in text for word in words), text
    assert not list(tmp_path.iterdir())


def test_what_may_be_trained_may_be_loaded():
    """Every network that the settings allow has a config.json that is read again."""
    allowed = 0
    for encoder, filters, depth, size in product(
        ("none", "efficientnet_lite0", "resnet50_v2"), (1, 8, 64, 65, 256), range(1, 9), (32, 4096)
    ):
        try:
            config = TrainingConfig(
                encoder=encoder, start_from="random", base_filters=filters, depth=depth, image_size=size
            )
        except ValueError:
            continue
        network = {name: getattr(config, name) for name in ("encoder", "base_filters", "depth", "gates")}
        check(Network, json.loads(json.dumps(network | {"input_shape": (size, size, 1)})), "config.json")
        allowed += 1
    assert 40 < allowed < 200


def test_a_network_too_large_to_be_loaded_is_not_trained(tmp_path, monkeypatch, before_data):
    monkeypatch.setattr(run_folder, "MAX_PARAMETERS", 100)
    with pytest.raises(RunError, match="million parameters .* --base-filters"):
        main(TrainingConfig(**TINY, models_dir=tmp_path))
    assert run_folder.MAX_WEIGHTS_BYTES > 4 * 120_000_000  # what is trained is loaded again


def test_too_many_images_for_the_scores_to_be_read_again(tmp_path, monkeypatch, phantom_data):
    monkeypatch.setattr(run_folder, "MAX_BYTES", 10_000)
    with pytest.raises(RunError, match="the scores of 48 images are too many"):
        main(TrainingConfig(**TINY, data_dir=(phantom_data,), models_dir=tmp_path))
    assert not (tmp_path / "attention_unet" / "config.json").exists()


def test_few_groups_of_near_copies_are_said_so():
    samples = [Sample(f"benign ({i})", "benign", None, ()) for i in range(120)]
    with pytest.raises(DataError, match="120 images in 12 groups of near-copies are too few to split"):
        split_samples(samples, np.arange(120) // 10)
    assert split_samples(samples, np.arange(120) // 6)["test"]


# ---------------------------------------------------------------- paths and space


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_is_to_be_written(tmp_path, before_data, name):
    (tmp_path / "attention_unet" / name).mkdir(parents=True)
    if name == "metrics.json":  # looks finished: the next number is taken
        (tmp_path / "attention_unet-2" / "history.csv").mkdir(parents=True)
        name = "history.csv"
    with pytest.raises(RunError, match=f"{name}: is a folder"):
        main(TrainingConfig(**TINY, models_dir=tmp_path))


@pytest.mark.parametrize("blocked", ["models", "models/attention_unet"])
def test_a_file_where_the_folder_should_be(tmp_path, before_data, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(OSError, match=blocked):
        main(TrainingConfig(**TINY, models_dir=tmp_path / "models"))


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_an_evaluation_tries_its_outputs_first(tmp_path, ending):
    (tmp_path / f"scores{ending}").mkdir()
    result = run_here(
        "evaluate_model.py", "--run", "nowhere", "--data-dir", "nowhere", "--output", "scores.json", cwd=tmp_path
    )
    assert_one_clear_line(result, f"scores{ending}: is a folder")


def test_a_full_disk_is_seen_before_training(tmp_path, monkeypatch, before_data):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with pytest.raises(RunError, match="5 MB are free, and up to 20 MB are to be written. Free some space"):
        main(TrainingConfig(**TINY, models_dir=tmp_path))


def test_as_much_space_is_asked_for_as_a_training_needs(phantom_data, tmp_path, monkeypatch):
    most = []
    save = files.write_atomic

    def watch(path, write):
        def measured(temporary):
            write(temporary)
            most.append(sum(file.stat().st_size for file in path.parent.iterdir()))

        save(path, measured)

    monkeypatch.setattr("segmentation.runs.recorder.write_atomic", watch)
    main(TrainingConfig(**TINY, epochs=3, data_dir=(phantom_data,), models_dir=tmp_path))
    model = build_network(**NETWORK)
    assert max(most) < bytes_to_write(model.count_params(), averaged=True)
    assert max(most) > 12 * 4 * model.count_params() / 2  # so the estimate is not far above
    large = 3_700_000
    assert bytes_to_write(large, True) < 200_000_000


@pytest.mark.parametrize("missing", ["metrics.json", "decision.json", "split.json", "config.json", "best.keras"])
@pytest.mark.parametrize("flag", ["decision_from", "start_from"])
def test_a_run_to_build_upon_is_looked_at_first(tmp_path, before_data, flag, missing):
    other = tmp_path / "other"
    other.mkdir()
    for name in FILES:
        if name != missing:
            (other / name).write_text("{}")
    save_decision(other / "decision.json", Decision())
    (other / missing).unlink(missing_ok=True)
    named = missing if missing != "decision.json" or flag == "decision_from" else "config.json"
    with pytest.raises(RunError, match=str(other / named)):
        main(TrainingConfig(**TINY | {flag: other}, models_dir=tmp_path / "models"))


# ---------------------------------------------------------------- numbers that are none


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    model = build_network(**NETWORK)
    write_json(tmp_path / "config.json", {"network": NETWORK})
    model.save(tmp_path / "best.keras")
    load_run(tmp_path)
    weights = model.get_weights()
    weights[3].flat[0] = np.nan
    model.set_weights(weights)
    model.save(tmp_path / "best.keras")
    with pytest.raises(RunError, match=r"best.keras: holds weights that are no finite numbers"):
        load_run(tmp_path)


def test_probabilities_that_are_no_numbers_are_an_error():
    model = SimpleNamespace(predict_on_batch=lambda batch: np.full(batch.shape, np.nan, np.float32))
    with pytest.raises(RunError, match="probabilities contain NaN"):
        predict_raw(model, np.zeros((3, 32, 32), np.uint8))


@pytest.mark.parametrize("damage", ["weights", "score"])
def test_a_network_of_no_numbers_is_never_kept_as_best(tmp_path, damage):
    model = build_network(**NETWORK)
    model.compile("adam", "binary_crossentropy")
    recorder = RunRecorder(tmp_path, "epoch", 1)
    recorder.set_model(model)
    logs = {"loss": 1.0, "dice": 0.0, "iou": 0.0, "accuracy": 0.0}
    recorder.on_epoch_end(0, logs)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if damage == "weights":
        model.weights[0].assign(model.weights[0] * np.inf)
    else:
        logs["val_dice"] = np.nan
    with pytest.raises(RunError, match="became nan in epoch 2.*--learning-rate"):
        recorder.on_epoch_end(1, logs)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- a stranger's backup and history


def npy(shape, content=b""):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": shape, "fortran_order": False, "descr": "<f4"})
    return header.getvalue() + content


def as_zip(content: bytes, compression=zipfile.ZIP_STORED) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", compression) as opened:
        opened.writestr("v0.npy", content)
    return archive.getvalue()


BACKUPS = {
    "0 bytes": b"",
    "a plain .npy": npy((3,), bytes(12)),
    "a 40 TB header": as_zip(npy((10**13,))),
    "a header of 10^400": as_zip(npy((3,)).replace(b"(3,)", b"(" + b"9" * 400 + b",)")),
    "a bomb": as_zip(npy((3, 3, 1, 2), bytes(50_000_000)), zipfile.ZIP_DEFLATED),
    "an empty zip": as_zip(b"")[-22:],
    "half": as_zip(npy((3, 3, 1, 2), bytes(72)))[:60],
    "larger than it can be": bytes(5_000_000),
}


@pytest.mark.parametrize("damage", BACKUPS)
def test_a_strange_backup_is_refused(tmp_path, damage):
    model = build_network(**NETWORK)
    model.compile("adam", "binary_crossentropy")
    (tmp_path / "backup.npz").write_bytes(BACKUPS[damage])
    with pytest.raises(RunError, match=r"backup\.npz: (does not fit this run|larger)") as refused:
        RunRecorder(tmp_path, "val_dice", 3).restore(model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ("epoch,learning_rate,loss,dice,iou,accuracy\n0,1,1,1,1,1\n1,1,1,1,1,1\n", "has no column val_dice"),
        ("epoch,learning_rate,loss,dice,iou,accuracy\n0,1,1,1,1,1\n", "has 1 rows, the backup 2 epochs"),
        ("epoch,learning_rate,loss,dice,iou,accuracy\n0,1,1,1,1,1\n7,1,1,1,1,1\n", "row 2 is of epoch 7"),
        ("epoch,learning_rate,loss,dice,iou\n0,1,1,1,1\n", '"0.accuracy" is missing'),
        ("epoch,learning_rate,loss,dice,iou,accuracy\n0,1,nan,1,1,1\n", '"0.loss" must be a finite number'),
        (None, "has 0 rows, the backup 2 epochs"),
    ],
)
def test_a_strange_history_is_refused_on_resume(tmp_path, history, words):
    model = build_network(**NETWORK)
    model.compile("adam", "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(6)
    recorder = RunRecorder(tmp_path, "val_dice", 3)
    recorder.set_model(model)
    recorder.history = [{}]
    recorder.on_epoch_begin(2)
    if history is not None:
        (tmp_path / "history.csv").write_text(history)
    with pytest.raises(RunError, match=words):
        RunRecorder(tmp_path, "val_dice", 3).restore(model)


# ---------------------------------------------------------------- a stranger's folder


STRANGE = [
    ("config.json", {"config": None}, '"config" must be a valid dictionary'),
    ("config.json", {"root": 5}, '"root" is not a valid path'),
    ("config.json", {"appearance": {"grain": [10**400, 1]}}, '"appearance.grain.0"'),
    ("config.json", {"config": {"epochs": 10**400}}, '"config.epochs" must be a short text, a finite number'),
    ("config.json", {"config": {"x": [[[]]]}}, '"config.x" must be a short text'),
    ("split.json", {"images": {"a": {}}}, '"images.a.part" is missing'),
    ("split.json", {"seen_before": "abc"}, '"seen_before" must be a valid list'),
    ("metrics.json", {"environment": {"a": {}}}, '"environment.a" must be a short text'),
    ("metrics.json", {"minutes": 10**400}, '"minutes"'),
]


@pytest.mark.parametrize(("name", "change", "words"), STRANGE)
def test_a_report_of_a_strangers_run(finished, phantom_data, name, change, words):
    content = json.loads((finished / name).read_text()) | change
    (finished / name).write_text(json.dumps(content))
    result = run_here("visualize_results.py", "--run", finished, "--data-dir", phantom_data, cwd=finished)
    assert_one_clear_line(result, name, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tp": 10**400}, '"images.0.tp" must be at most'),
        ({"tp": 0, "fp": 0, "fn": 0, "tn": 0}, "tp, fp, fn and tn are 0 pixels"),
        ({"name": "benign (2)"}, "two images with the same name"),
        ({"dice": 1.5}, '"images.0.dice" must be at most 1'),
    ],
)
def test_scores_that_no_training_writes(tmp_path, change, words):
    metrics = json.loads((REPOSITORY / "models" / "attention_unet_busi" / "metrics.json").read_text())
    if "name" in change:
        change = {"name": metrics["images"][1]["name"]}
    metrics["images"][0] |= change
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(RunError, match=words):
        read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize(
    "text", ['{"images": ' + "[" * 100_000, '{"images": {"a": {"group": Infinity}}}', "1e400", "NaN"]
)
def test_a_split_that_is_no_json(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(RunError, match="split.json"):
        run_folder.read_split(tmp_path)


def test_nothing_is_written_through_a_link(finished, phantom_data, tmp_path):
    """A folder from somebody else, whose report would land in files of the user's."""
    report = ["visualize_results.py", "--run", finished, "--data-dir", phantom_data]
    (tmp_path / "folder").mkdir()
    (finished / "figures").symlink_to(tmp_path / "folder")
    assert_one_clear_line(run_here(*report, cwd=finished), "figures: is a link")
    assert not list((tmp_path / "folder").iterdir())
    (finished / "figures").unlink()
    (finished / "figures").mkdir()
    (tmp_path / "file").write_text("mine")
    links = [finished / "report.html", finished / "figures" / "overlays.png"]
    for link in links:
        link.symlink_to(tmp_path / "file")
    assert_one_clear_line(run_here(*report, cwd=finished), code=0)
    assert (tmp_path / "file").read_text() == "mine" and not any(link.is_symlink() for link in links)


@pytest.mark.parametrize("name", [".lock", *FILES[:-1]])
def test_a_training_writes_through_no_link(phantom_data, tmp_path, name):
    run, target = tmp_path / "attention_unet", tmp_path / "of the user"
    run.mkdir()
    target.write_text("mine")
    (run / name).symlink_to(target)
    with pytest.raises((RunError, OSError), match=str(run)):  # of .lock the system says that it is a link
        main(TrainingConfig(**TINY, data_dir=(phantom_data,), models_dir=tmp_path))
    assert target.read_text() == "mine"


def test_a_pipe_for_a_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(RunError, match="config.json: is not a regular file"):
        load_run(tmp_path)
    write_json(tmp_path / "aside", {"network": NETWORK})
    (tmp_path / "aside").replace(tmp_path / "config.json")
    os.mkfifo(tmp_path / "best.keras")
    with pytest.raises(RunError, match="best.keras: is not a regular file"):
        load_run(tmp_path)


def test_no_script_of_a_strangers_run_is_in_the_report(finished, phantom_data):
    script = "<script>alert(1)</script>"
    for name, inside in (("config.json", "config"), ("metrics.json", "environment")):
        content = json.loads((finished / name).read_text())
        content[inside][script] = f'"{script}'
        content["data"] = f"{script}"
        (finished / name).write_text(json.dumps(content))
    result = run_here("visualize_results.py", "--run", finished, "--data-dir", phantom_data, cwd=finished)
    assert_one_clear_line(result, code=0)
    page = (finished / "report.html").read_text()
    assert page.count("<script") == 1 and "alert(1)&lt;/script&gt;" in page


# ---------------------------------------------------------------- settings


def test_settings_are_refused_in_one_line():
    for cls, values in ((TrainingConfig, {"epochs": "3"}), (Decision, {"scale": float("nan")})):
        with pytest.raises(ValueError) as refused:
            cls(**values)
        assert "\n" not in str(refused.value) and next(iter(values)) in str(refused.value)
    assert asdict(Decision())["threshold"] == 0.5


def test_the_reason_of_every_setting_is_in_the_help(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = run_here("train_model.py", "--help", cwd=tmp_path)
    source = (REPOSITORY / "train_model.py").read_text().split("PRESETS")[0]
    shown = " ".join(result.stdout.replace("│", " ").split())
    reasons = [
        line.split("  # ")[1].strip() for line in source.splitlines() if "  # " in line and ": " in line.split("#")[0]
    ]
    assert len(reasons) == 30
    assert all(" ".join(reason.split()) in shown for reason in reasons)
