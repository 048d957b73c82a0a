"""CONTRIBUTING.md says how to add things: its diffs are applied to a copy of the project, which then trains, is stopped
and resumed, and compares with all of them at once."""

import json
import os
import re
import shutil

import pytest
from conftest import REPOSITORY, start_python
from folders import write_hospital

from segmentation.runs.schemas import read_history

PARTS = ["*.py", "segmentation", "data/splits"]
# One process, which imports TensorFlow once: the commands one after the other, the first stopped in its second epoch.
DRIVER = """
import json, runpy, signal, sys

def run(*command):
    sys.argv = list(command)
    try:
        code = runpy.run_path(command[0], run_name="__main__") and 0
    except SystemExit as stop:
        code = stop.code or 0
    print("###", command[0], code, flush=True)

from segmentation.common import startup
import tensorflow as tf
from segmentation.network.losses import training_loss, training_metrics
from segmentation.runs.recorder import RunRecorder

begin = RunRecorder.on_epoch_begin

def stop(self, epoch, logs=None):
    begin(self, epoch, logs)
    if epoch == 1:
        signal.raise_signal(signal.SIGTERM)

# As a training traces loss and metrics; the trainings below go step by step, which takes less time than to trace them.
loss, metrics, mask = training_loss(1.0), training_metrics(), tf.eye(8)[None, ..., None]
tf.function(lambda: [loss(mask, mask / 2), *(metric.update_state(mask, mask / 2) for metric in metrics)])()
tf.config.run_functions_eagerly(True)

train = ["train_model.py", *json.loads(sys.argv[1])]
RunRecorder.on_epoch_begin = stop
run(*train, "--run", "a")
RunRecorder.on_epoch_begin = begin
run(*train, "--run", "a")
run("compare_runs.py", "models/a", "models/a", "--key", "area_error")
"""


def apply_diff(root, name: str, diff: str) -> None:
    """Change a file as a diff block of the document says; a line of dots stands for lines that are left out."""
    path = root / name
    for hunk in re.split(r"(?m)^ +\.\.\.\n", diff):
        old, new = (
            "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] in f" {sign}") for sign in "-+"
        )
        text = path.read_text()
        assert text.count(old) == 1, f"{name}: {old}"
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which the commands were run, and what they printed."""
    root = tmp_path_factory.mktemp("project")
    for path in (path for pattern in PARTS for path in REPOSITORY.glob(pattern)):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, root / path.relative_to(REPOSITORY))
    document = (REPOSITORY / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"`(segmentation/[\w/]+\.py)`((?:(?!```).)*?)```diff\n(.*?)```", document, re.DOTALL)
    assert len(blocks) == 5
    for name, _, diff in blocks:
        apply_diff(root, name, diff)
    augmentation = root / "segmentation" / "data" / "augmentation.py"
    marked = augmentation.read_text().replace('"""Electronic noise."""', 'open("noise was added", "w").close()')
    augmentation.write_text(marked)

    write_hospital(root / "scans", count=44, normals=14)
    parts = ["test"] * 2 + ["val"] + ["train"] * 11 + ["train"] * 14 + ["val"] * 6 + ["test"] * 10
    rows = [f"scan{number},{part}" for number, part in enumerate(parts)]
    (root / "my.csv").write_text("\n".join(["image,part", *rows]))
    (root / "drive.py").write_text(DRIVER)
    flags = [
        "--data-dir",
        "scans",
        "--split",
        "my.csv",
        "--encoder",
        "small",
        "--start-from",
        "random",
        "--gates",
        "none",
    ]
    flags += ["--image-size", "64", "--base-filters", "2", "--epochs", "2", "--batch-size", "64", "--scanners", "2"]
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = start_python("-W", "ignore", "drive.py", json.dumps(flags), cwd=root, env=without)
    output, errors = process.communicate(timeout=500)
    return root, output, errors


def test_the_changed_copy_trains_goes_on_and_compares(project):
    root, output, errors = project
    commands = re.findall("^### (.*)", output, re.MULTILINE)
    expected = ["train_model.py 143", "train_model.py 0", "compare_runs.py 0"]
    assert commands == expected, output[-3000:] + errors[-3000:]
    assert "resuming models/a: 1 of 2 epochs are done" in output and "Traceback" not in errors
    assert "stopped. All saved files are complete" in output + errors


def test_the_metric_and_the_loss_are_in_the_history(project):
    rows = read_history(project[0] / "models" / "a" / "history.csv")
    assert len(rows) == 2
    for row in rows:
        assert 0 <= row["sensitivity"] <= 1 and 0 <= row["val_sensitivity"] <= 1
        assert 0 < row["lesion_loss"] < 1  # Tversky; the project's own loss is above 1 at first


def test_the_score_is_in_every_table(project):
    root, output, _ = project
    metrics = json.loads((root / "models" / "a" / "metrics.json").read_text())
    for score in metrics["images"]:
        predicted, reference = score["tp"] + score["fp"], score["tp"] + score["fn"]
        assert score["area_error"] == abs(predicted - reference) / (score["height"] * score["width"])
    lesions = [score["area_error"] for score in metrics["images"] if score["label"] != "normal"]
    mean = sum(lesions) / len(lesions)
    assert abs(metrics["summary"]["lesions"]["area_error"] - mean) < 1e-12
    assert f"area_error on {len(lesions)} lesion images: models/a {mean:.4f}" in output


def test_the_encoder_the_augmentation_and_the_split_are_used(project):
    run = project[0] / "models" / "a"
    assert json.loads((run / "config.json").read_text())["network"]["encoder"] == "small"
    assert (project[0] / "noise was added").exists()
    images = json.loads((run / "split.json").read_text())["images"]
    assert images["scan0"]["part"] == images["scan43"]["part"] == "test" and images["scan2"]["part"] == "val"
