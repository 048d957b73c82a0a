"""cross_validate.py: which runs it makes with which flags, and two real ones, of which the first is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY, assert_one_clear_line, run_here, run_script, start_python, step_by_step

import cross_validate
import train_model
from cross_validate import CrossValidationConfig
from segmentation.common.errors import RunError
from segmentation.runs.finished import RUN_FILES
from segmentation.runs.schemas import read_history
from segmentation.runs.workers import LocalTrainer
from segmentation.scoring.score_table import read_scores


@pytest.fixture
def planned(monkeypatch):
    """Name and flags of each run that is asked for; none is made."""
    runs = {}
    monkeypatch.setattr(LocalTrainer, "train", lambda self, run, flags: runs.update({run.name: flags}) or "not made")
    return runs


def test_each_split_fold_and_seed_is_a_run_and_a_preset_is_handed_on(tmp_path, planned, monkeypatch):
    config = CrossValidationConfig(splits=("grouped-cv", "p1-1"), seeds=(7, 8), models_dir=tmp_path)
    with pytest.raises(RunError) as failed:
        cross_validate.main(config, ["paper", "--epochs", "1", "--decision-from", "models/x/{run}"])
    assert str(failed.value).count(".log: the run failed: not made") == 12
    names = [f"grouped-cv-fold{fold}" for fold in range(5)] + ["p1-1-fold0"]
    assert set(planned) == {f"{name}-seed{seed}" for name in names for seed in (7, 8)}
    flags = ["paper", "--epochs", "1", "--decision-from", "models/x/grouped-cv-fold4-seed8"]
    assert planned["grouped-cv-fold4-seed8"] == [*flags, "--split", "grouped-cv", "--fold", "4", "--seed", "8"]
    monkeypatch.setattr(sys, "argv", ["train_model.py", *planned["p1-1-fold0-seed7"]])
    settings = train_model.parse_command_line()  # what train_model.py makes of them
    assert (settings.encoder, settings.epochs, settings.split, settings.seed) == ("none", 1, "p1-1", 7)
    planned.clear()
    some = CrossValidationConfig(splits=("grouped-cv",), folds=(4, 1), models_dir=tmp_path, name="some")
    with pytest.raises(RunError):
        cross_validate.main(some, [])
    assert sorted(planned) == ["grouped-cv-fold1-seed0", "grouped-cv-fold4-seed0"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"splits": ("grouped-cv",), "folds": (5,)}, "--folds of split grouped-cv are 0 to 4"),
        ({"splits": ("p1-1",), "folds": (1,)}, "--folds of split p1-1 are 0 to 0"),
        ({"splits": ("tuning",), "folds": (-1,)}, "must be at least 0"),
        ({"splits": ("by-hospital",)}, "--splits by-hospital needs --folds"),
        ({"seeds": ()}, "need at least one value"),
        ({"splits": ("grouped", "a/grouped.csv")}, "two have the same name"),
    ],
)
def test_folds_and_seeds_that_do_not_exist(settings, words):
    with pytest.raises(ValueError, match=words):
        CrossValidationConfig(**settings)


def test_the_order_of_the_flags_does_not_matter_but_their_values_do(tmp_path, planned):
    config = CrossValidationConfig(splits=("grouped",), models_dir=tmp_path)
    for flags in (["--epochs", "1", "--batch-size", "2"], ["--batch-size", "2", "--epochs", "1"]):
        with pytest.raises(RunError, match="not made"):
            cross_validate.main(config, flags)
    (tmp_path / config.name / "grouped-fold0-seed0").mkdir()
    with pytest.raises(RunError, match=r"other flags \(--batch-size 2 --epochs 1\)"):
        cross_validate.main(config, ["--epochs", "2", "--batch-size", "1"])


def test_flags_that_each_run_gets_from_this_script_are_refused(tmp_path, planned):
    config = CrossValidationConfig(splits=("grouped",), models_dir=tmp_path)
    for flag, words in (("--split", "take --splits"), ("--seed=3", "take --seeds"), ("--resume", "repeat the command")):
        with pytest.raises(RunError, match=f"^{flag.partition('=')[0]} is not for cross_validate.py: {words}.$"):
            cross_validate.main(config, [flag])
    assert not planned


def test_a_split_file_that_was_changed_is_another_cross_validation(tmp_path, planned):
    split = tmp_path / "my.csv"
    split.write_text("image,part\na,train\nb,val\nc,test\n")
    config = CrossValidationConfig(splits=(str(split),), models_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(RunError, match="not made"):
            cross_validate.main(config, [])
        (tmp_path / config.name / "my-fold0-seed0").mkdir(exist_ok=True)
    split.write_text("image,part\na,test\nb,val\nc,train\n")
    with pytest.raises(RunError, match="my.csv: was changed after runs in"):
        cross_validate.main(config, [])


def test_only_its_own_tables_are_replaced(tmp_path, planned):
    for name in ("cross_validation.csv", "cross_validation.json"):
        folder = tmp_path / name.partition(".")[2]
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(RunError, match=f"{name}: exists already"):
            cross_validate.main(CrossValidationConfig(name=folder.name, models_dir=tmp_path), [])
    assert not planned


def test_a_killed_fold_goes_on_with_the_same_command(lesion_data, tmp_path, wait_until, monkeypatch):
    """The rest is trained in this process. test_stopped_folds.py has the folds that are stopped."""
    flags = ["--splits", "grouped", "--data-dir", lesion_data, *TINY, "--batch-size", "64", "--epochs", "7"]
    folder = tmp_path / "models" / "cross_validation"
    run, log = folder / "grouped-fold0-seed0", folder / "grouped-fold0-seed0.log"
    process = start_python(REPOSITORY / "cross_validate.py", *flags, cwd=tmp_path)
    wait_until((run / "config.json").exists, 200)
    (training,) = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    wait_until(lambda: (run / "history.csv").exists() and (run / "history.csv").read_text().count("\n") > 2, 200)
    os.kill(int(training), signal.SIGSTOP)  # it must not end before the kill
    try:
        same = "--models-dir", folder, "--run", run.name
        second = run_here("train_model.py", "--data-dir", lesion_data, *TINY, *same, cwd=tmp_path)
    finally:
        os.kill(int(training), signal.SIGKILL)
    assert_one_clear_line(second, "another training is writing here")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "killed by signal 9" in errors and "Traceback" not in errors, errors
    assert not re.search(r"[\r\b\x1b]", log.read_text())  # no bars, no colours
    # One line an epoch, printed after its row and its network are written.
    rows = len(read_history(run / "history.csv"))
    assert rows - len(re.findall(r"^ +\d/7 .* s ", log.read_text(), re.MULTILINE)) in (0, 1) and rows < 7

    monkeypatch.setattr(LocalTrainer, "train", train_in_this_process)
    finish_and_repeat(flags, run, tmp_path)
    (done,) = re.findall(r"resuming .*: (\d) of 7 epochs are done", log.read_text())
    assert rows - int(done) in (0, 1)  # the state after an epoch is written when the next one begins


def train_in_this_process(self, run, flags):
    with step_by_step():
        result = run_here("train_model.py", *flags, "--models-dir", run.parent, "--run", run.name, cwd=Path.cwd())
    assert_one_clear_line(result, code=0)
    run.with_name(f"{run.name}.log").write_text(result.stdout)
    return ""


def finish_and_repeat(flags, run, cwd):
    again = run_here("cross_validate.py", *flags, cwd=cwd)
    assert_one_clear_line(again, "1 runs in", "1 to be trained", "| grouped-fold0-seed0 |", "| mean |", code=0)
    result = json.loads((run.parent / "cross_validation.json").read_text())
    assert set(result["runs"]) == {run.name} and "images" not in result
    scores = json.loads((run / "metrics.json").read_text())["images"]
    table = [(s["run"], s["name"], s["dice"]) for s in read_scores(run.parent / "cross_validation.csv")]
    assert table == [(run.name, s["name"], s["dice"]) for s in scores]
    assert_one_clear_line(run_here("cross_validate.py", *flags, cwd=cwd), "0 to be trained", code=0)
    other = run_here("cross_validate.py", *flags, "--base-filters", "3", cwd=cwd)
    assert_one_clear_line(other, "holds runs with other flags")


def test_a_fold_as_a_ray_task(lesion_data, tmp_path):
    where = ["--name", "cv", "--splits", "grouped", "--ray", "local", "--data-dir", lesion_data]
    result = run_script("cross_validate.py", *where, *TINY, "--epochs", "1", cwd=tmp_path)
    assert_one_clear_line(result, "| grouped-fold0-seed0 |", code=0)
    files = {path.name for path in (tmp_path / "models" / "cv" / "grouped-fold0-seed0").iterdir()}
    assert files == set(RUN_FILES) - {"backup.npz"}
