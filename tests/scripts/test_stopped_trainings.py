"""A training that is stopped or runs into a full disk goes on, and ends as if nothing had been."""

import json
import resource
import shutil
import signal
import zipfile

import numpy as np
import pytest
from conftest import SETTINGS, TINY, assert_one_clear_line, run_here, step_by_step, train_here

from segmentation.runs.run_folder import load_run


def assert_equal_runs(a, b):
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()
    with zipfile.ZipFile(a / "best.keras") as one, zipfile.ZipFile(b / "best.keras") as other:
        assert one.testzip() is None and other.testzip() is None
    weights = [load_run(run)[0].get_weights() for run in (a, b)]
    assert all(np.array_equal(x, y) for x, y in zip(*weights, strict=True))
    results = [json.loads((run / "metrics.json").read_text()) for run in (a, b)]
    assert results[0]["summary"] == results[1]["summary"] and results[0]["images"] == results[1]["images"]
    assert (
        results[0]["minutes"] is None and results[1]["minutes"] > 0
    )  # a resumed run's would be those of its last part
    assert not (a / "backup.npz").exists()


@pytest.fixture
def stopped(stopped_run, tmp_path):
    """A copy under its path in the working directory, as its settings have it."""
    return shutil.copytree(stopped_run, tmp_path / "models" / "attention_unet")


def test_the_same_command_goes_on_with_a_stopped_training(stopped, finished_run, lesion_data, tmp_path):
    """The stop was when two of four epochs were done."""
    assert (stopped / "history.csv").read_text().count("\n") == 3 and not list(stopped.glob(".writing*"))
    result = run_here("train_model.py", "--data-dir", lesion_data, *SETTINGS, cwd=tmp_path)
    assert_one_clear_line(result, "going on with it", "resuming", "2 of 4 epochs are done", code=0)
    assert_equal_runs(stopped, finished_run)
    assert_one_clear_line(run_here("train_model.py", "--resume", stopped, cwd=tmp_path), "this run is finished")


def test_a_stopped_training_can_be_scored_as_it_is(stopped, tmp_path):
    """--finish: no further epoch, but the decision and the scores of the best network so far."""
    history = (stopped / "history.csv").read_bytes()
    with step_by_step():
        result = run_here("train_model.py", "--resume", stopped, "--finish", cwd=tmp_path)
    assert_one_clear_line(result, "of 2 was kept", "test (custom): lesion Dice", code=0)
    metrics = json.loads((stopped / "metrics.json").read_text())
    assert metrics["epochs"] == 2 and metrics["images"] and (stopped / "history.csv").read_bytes() == history


def test_a_full_disk_is_one_line_and_keeps_the_good_files(lesion_data, tmp_path):
    """No file may have more than 12 kB."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with step_by_step():
            resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
            result = run_here("train_model.py", "--data-dir", lesion_data, *SETTINGS, cwd=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert_one_clear_line(result, "best.keras: File too large", "ulimit -f", "All saved files are complete")
    left = {path.name for path in (tmp_path / "models" / "attention_unet").iterdir()}
    assert left == {".lock", "config.json", "split.json", "history.csv"}


def test_a_loss_that_is_no_number_stops_the_training(lesion_data, tmp_path):
    result = train_here(lesion_data, tmp_path, "--learning-rate", "1e30")
    assert_one_clear_line(result, "became", "--learning-rate")
    if (tmp_path / "models" / "attention_unet" / "best.keras").exists():
        load_run(tmp_path / "models" / "attention_unet")  # refuses such weights


def test_a_run_of_another_network_or_that_has_seen_the_test_is_refused(finished_run, lesion_data, tmp_path):
    """As the source of a decision, and as a start."""
    fold = ("--split", "grouped-cv", "--fold", "1")
    refused = train_here(lesion_data, tmp_path, "--decision-from", finished_run, *fold)
    assert_one_clear_line(refused, "was trained on", "test images or on near-copies", "--fold")
    refused = train_here(lesion_data, tmp_path, "--start-from", finished_run, "--base-filters", "4")
    assert_one_clear_line(refused, "is another network than this one", "--base-filters")
    wrong = train_here(finished_run, tmp_path, *TINY)
    assert_one_clear_line(wrong, "is neither BUSI nor imported")
