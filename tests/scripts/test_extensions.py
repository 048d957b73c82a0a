"""Each diff of CONTRIBUTING.md, applied to a copy of the project in which the scripts are then run."""

import csv
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, assert_one_clear_line, run_script, start_python

FLAGS = [
    "--encoder",
    "plain",
    "--start-from",
    "random",
    "--image-size",
    "64",
    "--base-filters",
    "1",
    "--split",
    "my.csv",
]


def apply_diffs(folder: Path) -> int:
    """Apply the diffs of CONTRIBUTING.md to the files that the sentence in front of each names. Returns how many."""
    text, applied = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"), 0
    for name, block in re.findall(r"\*\*, in `([\w/.]+\.py)`.*?```diff\n(.*?)```", text, re.DOTALL):
        content = (folder / name).read_text(encoding="utf-8")
        for hunk in re.split(r"^ +\.\.\.\n", block, flags=re.MULTILINE):
            old, new = (
                "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] in kept) for kept in (" -", " +")
            )
            assert content.count(old) == 1, f"{name} does not hold these lines once:\n{old}"
            content = content.replace(old, new)
        (folder / name).write_text(content, encoding="utf-8")
        applied += 1
    return applied


@pytest.fixture(scope="module")
def extended(tmp_path_factory, phantom_data) -> Path:
    """A copy of the project with all of them, its data in data/phantoms, and a split of its own."""
    folder = tmp_path_factory.mktemp("extended")
    for path in (*REPOSITORY.glob("*.py"), REPOSITORY / "segmentation", REPOSITORY / "data" / "splits"):
        target = folder / path.relative_to(REPOSITORY)
        copy = shutil.copytree if path.is_dir() else shutil.copy
        target.parent.mkdir(exist_ok=True)
        copy(path, target)
    assert apply_diffs(folder) == 5
    shutil.copytree(phantom_data, folder / "data" / "phantoms")
    names = sorted(path.stem for path in phantom_data.rglob("*.png") if "_mask" not in path.name)
    parts = {name: ("test", "train", "val", "train")[i % 4] for i, name in enumerate(names)}
    with (folder / "my.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "part"), *parts.items()])
    return folder


def run(folder: Path, script: str, *arguments: str) -> str:
    """Run a script of the copy. Returns what it printed."""
    result = run_script(folder / script, *arguments, cwd=folder)
    assert_one_clear_line(result, code=0)
    return result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="stops a training by SIGINT")
def test_a_metric_a_score_a_loss_an_augmentation_an_encoder_and_a_split(extended):
    """Train, stop, go on, report, compare with all six."""
    flags = [*FLAGS, "--data-dir", "data/phantoms", "--epochs", "99"]
    history, backup = (extended / "models" / "a" / name for name in ("history.csv", "backup.npz"))
    with start_python(extended / "train_model.py", *flags, "--run", "a", cwd=extended) as training:
        for _ in range(2000):
            if backup.exists() or training.poll() is not None:
                break
            time.sleep(0.1)
        training.send_signal(signal.SIGINT)
        output, errors = training.communicate(timeout=120)
    assert training.returncode == 130 and "--resume models/a --finish" in output, output + errors

    run(extended, "train_model.py", "--resume", "models/a", "--finish")
    with history.open() as file:
        columns = next(csv.reader(file))
    assert {"sensitivity", "val_sensitivity", "dice", "val_dice"} <= set(columns)
    run(extended, "visualize_results.py", "--run", "models/a")
    assert 'data-key="area_error"' in (extended / "models" / "a" / "report.html").read_text(encoding="utf-8")

    epochs = ["--epochs", "1", "--seed", "1", "--run", "b"]
    run(extended, "train_model.py", *FLAGS, "--data-dir", "data/phantoms", *epochs)
    printed = run(extended, "compare_runs.py", "models/a", "models/b", "--key", "area_error")
    assert "area_error on" in printed and "difference" in printed
