"""What would fail after hours of training is refused before the data are read."""

import re
import shutil
from types import SimpleNamespace

import pytest
from conftest import assert_one_clear_line, run_here

import train_model
from segmentation.common import files
from segmentation.common.errors import RunError
from segmentation.reports import tensorboard_log
from segmentation.runs.finished import RUN_FILES
from train_model import TrainingConfig, main

TINY = dict(encoder="none", start_from="random", image_size=32, depth=1, base_filters=2)


@pytest.fixture(autouse=True)
def before_data(monkeypatch):
    """Whatever comes to reading the data has come too far."""
    monkeypatch.setattr(train_model, "load_data", lambda *_: pytest.fail("the data are read"))


@pytest.mark.parametrize("blocked", ["models", "models/attention_unet"])
def test_a_file_where_the_folder_should_be(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(OSError, match=blocked):
        main(TrainingConfig(**TINY, models_dir=tmp_path / "models"))


@pytest.mark.parametrize("name", [".lock", *RUN_FILES[:-1]])
def test_a_training_writes_through_no_link(tmp_path, name):
    run, target = tmp_path / "attention_unet", tmp_path / "of the user"
    run.mkdir()
    target.write_text("mine")
    (run / name).symlink_to(target)
    with pytest.raises((RunError, OSError), match=str(run)):  # of .lock the system says that it is a link
        main(TrainingConfig(**TINY, models_dir=tmp_path))
    assert target.read_text() == "mine"


@pytest.mark.parametrize("flag", ["start_from", "decision_from"])
def test_a_run_to_build_upon_is_looked_at(finished_run, tmp_path, flag):
    needed = ["config.json", "split.json", "best.keras", "metrics.json"]
    for missing in needed + ["decision.json"] * (flag == "decision_from"):
        other = shutil.copytree(finished_run, tmp_path / "other", dirs_exist_ok=True)
        (other / missing).unlink()
        with pytest.raises(RunError, match=f"{re.escape(str(other / missing))}: no such file. Only a finished run"):
            main(TrainingConfig(**TINY | {flag: other}, models_dir=tmp_path / "models"))


def test_settings_that_a_resumed_run_would_ignore(tmp_path):
    for flags in (["--epochs=60"], ["--epochs", "20"], ["--no-tta"]):  # of which 20 is the default
        result = run_here("train_model.py", "--resume", "models/a", *flags, cwd=tmp_path)
        assert_one_clear_line(result, "--resume takes all settings from the run.")
    result = run_here("train_model.py", "paper", "--resume", "models/a", cwd=tmp_path)
    assert_one_clear_line(result, "--resume takes all settings from the run.")
    result = run_here("train_model.py", "--resume", "models/a", "--finish", "--data_dir", tmp_path, cwd=tmp_path)
    assert_one_clear_line(result, "models/a/config.json: no such file")


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    with pytest.raises(RunError, match="5 MB are free, and up to 20 MB are to be written. Free some space"):
        main(TrainingConfig(**TINY, models_dir=tmp_path))


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(tensorboard_log.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="^--tensorboard needs .* pip install -r requirements-tensorboard.txt$"):
        main(TrainingConfig(**TINY, models_dir=tmp_path, tensorboard=True))


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_an_evaluation_tries_its_outputs_first(tmp_path, ending):
    path = tmp_path / f"scores{ending}"
    command = ["evaluate_model.py", "--run", "nowhere", "--data-dir", "nowhere", "--output", "scores.json"]
    path.write_text("patient,age\n")
    assert_one_clear_line(run_here(*command, cwd=tmp_path), f"{path.name}: exists already, and was not written by")
    assert path.read_text() == "patient,age\n"
    path.unlink()
    path.mkdir()
    assert_one_clear_line(run_here(*command, cwd=tmp_path), f"{path.name}: is a folder")
    (tmp_path / "taken").touch()
    result = run_here(*command[:-1], "taken/scores.json", cwd=tmp_path)
    assert_one_clear_line(result, "taken", "choose a folder")
    assert_one_clear_line(
        run_here(*command[:-1], "x.csv", cwd=tmp_path), "--output is the name of a .json file", code=2
    )
    path.rmdir()
    assert_one_clear_line(run_here(*command, cwd=tmp_path), "nowhere/config.json: no such file")
