"""Trainings in processes of their own, here a stand-in's: why one failed, and what comes back from a Ray cluster."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from segmentation.common.errors import RunError
from segmentation.common.files import write_atomic
from segmentation.runs import workers
from segmentation.runs.finished import RUN_FILES
from segmentation.runs.workers import LocalTrainer, RayTrainer, why_failed

# Leaves the files of a finished run, or of one that failed.
STAND_IN = """
import sys
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--models-dir") + 1]) / sys.argv[sys.argv.index("--run") + 1]
run.mkdir()
for name in sys.argv[sys.argv.index("--files") + 1].split(","):
    (run / name).write_text("new")
sys.exit("error: it failed" if "--fails" in sys.argv else 0)
"""
FINISHED = [name for name in RUN_FILES if name != "backup.npz"]


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "train_model.py").write_text(STAND_IN)
    monkeypatch.setattr(workers, "REPOSITORY", tmp_path)


@pytest.fixture
def ray(monkeypatch):
    """A trainer on a cluster that is this process."""
    module = ModuleType("ray")
    module.init, module.get = lambda *_, **settings: setattr(module, "settings", settings), lambda task: task
    module.exceptions = SimpleNamespace(RayError=KeyError)
    module.remote = lambda **settings: lambda function: SimpleNamespace(remote=function)
    monkeypatch.setitem(sys.modules, "ray", module)
    return RayTrainer("local")


def fill(run, names, text="old"):
    run.mkdir()
    for name in names:
        (run / name).write_text(text)
    return run


def contents(run):
    return {path.name: path.read_text() for path in run.iterdir()}


BAR = "\rscoring:  50%|#####     | 3/6 [00:00<00:00, 10.1image/s]"


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (1, f"reading\nerror: a.png: is damaged. Replace the file.\n{BAR}{BAR}", "a.png: is damaged."),
        (-9, f"Epoch 3/20\n\x1b[1m3/9\x1b[0m ━━━━━━ 2s 95ms/step - loss: 0.8{BAR}", "killed by signal 9"),
        (1, f"Traceback (most recent call last):\n  x\nValueError: no\n{BAR}", "ValueError: no"),
        (2, "╭─ Parsing error ─╮\n│ Unrecognized │\n│ --epoch │\n╰────╯", "Unrecognized; --epoch"),
        (1, BAR, "exit code 1"),
    ],
)
def test_the_reason_of_a_failure_is_never_a_progress_bar(code, log, reason):
    assert reason in why_failed(code, log)
    assert not re.search(r"%\||/step|image/s", why_failed(code, log))


def test_a_log_is_never_written_through_a_link(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run.log").symlink_to(tmp_path / "precious")
    trainer = LocalTrainer()
    assert trainer.train(tmp_path / "run", ["--files", "config.json", "--fails"]) == "it failed"
    assert (tmp_path / "precious").read_text() == "mine" and "it failed" in (tmp_path / "run.log").read_text()
    trainer.stop()
    assert trainer.train(tmp_path / "other", []) == "was not started"


def test_a_run_comes_back_from_ray_in_the_order_of_a_training(ray, tmp_path, monkeypatch):
    """Wherever the copying ends, the files are the first ones of the order: never those of two trainings."""
    for last in range(len(FINISHED) + 1):
        run, written = fill(tmp_path / f"fold{last}", RUN_FILES[:5]), []

        def write(path, content, written=written, last=last):
            if len(written) > last:
                raise KeyboardInterrupt
            written.append(path.name)
            write_atomic(path, content)

        monkeypatch.setattr(workers, "write_atomic", write)
        try:
            assert ray.train(run, ["--files", ",".join(sorted(FINISHED))]) == "" and last == len(FINISHED)
        except KeyboardInterrupt:
            assert last < len(FINISHED)
        assert written == [f"fold{last}.log", *FINISHED[:last]]
        assert contents(run) == dict.fromkeys(FINISHED[:last], "new")


def test_the_weights_that_a_training_starts_from_travel_to_ray_and_no_pictures_do(ray):
    travels = sys.modules["ray"].settings["runtime_env"]
    assert travels["working_dir"] == str(workers.REPOSITORY) and "data/**/*.png" in travels["excludes"]
    kept = {f"!models/attention_unet_{name}" for name in ("hospitals", "bus_bra")}
    assert {"models/*", *kept} <= set(travels["excludes"])


def test_what_failed_on_ray_replaces_nothing(ray, tmp_path):
    flags = ["--files", "config.json,history.csv", "--fails"]
    assert ray.train(tmp_path / "new", flags) == "it failed"
    assert set(contents(tmp_path / "new")) == {"config.json", "history.csv"}
    begun = fill(tmp_path / "begun", ["backup.npz"])
    assert ray.train(begun, flags) == "it failed" and contents(begun) == {"backup.npz": "old"}
    assert "ValueError" in ray.train(tmp_path / "empty", []) and not (tmp_path / "empty").exists()


def test_without_a_cluster_or_ray_it_is_said(monkeypatch, ray):
    def no_cluster(*_, **settings):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(sys.modules["ray"], "init", no_cluster)
    with pytest.raises(RunError, match="--ray 10.0.0.1:6379: no cluster there .nobody answers"):
        RayTrainer("10.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match="--ray needs Ray: pip install ray"):
        RayTrainer("auto")
