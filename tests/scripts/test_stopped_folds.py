"""Trainings that cross_validate.py starts: they end when it ends, and nobody else writes where they write."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, TINY

from segmentation.common.files import lock_folder
from segmentation.runs.workers import why_failed

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

# In the place of train_model.py: tells of itself and of a process that it started, and stops with an epoch saved.
STAND_IN = """
import os, signal, subprocess, sys, time
from pathlib import Path
run = Path(sys.argv[sys.argv.index("--models-dir") + 1]) / sys.argv[sys.argv.index("--run") + 1]
def stop(number, frame):
    time.sleep(0.5)  # the step that it is in
    run.with_suffix(".saved").touch()
    sys.exit(143)
if "--stubborn" in sys.argv:
    stop = signal.SIG_IGN
elif os.environ.get("STOP_WITH_PROCESS"):
    from segmentation.common.environment import stop_with
    stop_with(int(os.environ["STOP_WITH_PROCESS"]))
signal.signal(signal.SIGTERM, stop)
helper = subprocess.Popen(["sleep", "600"])
print("begun", flush=True)
run.with_suffix(".begun").write_text(f"{os.getpid()} {helper.pid}")
for count in range(6000):
    print("epoch", count, flush=True)
    time.sleep(0.1)
"""


def start(cwd: Path, *flags: str) -> subprocess.Popen:
    """cross_validate.py with the stand-in for train_model.py, in a process group of its own."""
    (cwd / "train_model.py").write_text(STAND_IN)
    # A shell's background jobs, and so their children, ignore Ctrl-C; this one must not.
    code = "import runpy, signal, sys; from pathlib import Path; from segmentation.runs import workers as jobs\n"
    code += "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    code += "jobs.HERE = Path(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(REPOSITORY / "cross_validate.py"), *flags]
    return subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def begun(cwd: Path) -> list[tuple[int, int]]:
    """Numbers of each training's process and of its helper's."""
    files = sorted((cwd / "models" / "cross_validation").glob("*.begun"))
    return [(int(words[0]), int(words[1])) for path in files if len(words := path.read_text().split()) == 2]


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text() if Path("/proc").is_dir() else ""
        os.kill(number, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return ") Z " not in state  # a container may leave its dead about


@pytest.fixture
def processes(tmp_path):
    """Whatever a test leaves running is killed."""
    started = []
    yield started
    for process in started:
        process.kill()
        process.communicate()
    for number in (n for pair in begun(tmp_path) for n in pair):
        if is_alive(number):
            os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "whole_group"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGHUP, False)]
)
def test_a_signal_stops_the_trainings_and_starts_none(tmp_path, processes, number, whole_group):
    """Ctrl-C in a terminal goes to the group, `kill` to the one process."""
    processes.append(process := start(tmp_path, "--jobs", "2"))
    wait_until(lambda: len(begun(tmp_path)) == 2)
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == CODES[number], errors
    assert "stopped. To go on, repeat the command." in errors and "Traceback" not in output + errors
    trainings = begun(tmp_path)
    assert len(trainings) == 2  # of five: no other was begun
    assert not any(is_alive(number) for pair in trainings for number in pair)
    assert len(list((tmp_path / "models" / "cross_validation").glob("*.saved"))) == 2


def test_a_second_ctrl_c_does_not_wait(tmp_path, processes):
    processes.append(process := start(tmp_path, "--folds", "0", "--stubborn"))
    wait_until(lambda: begun(tmp_path))
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.5)
    process.communicate(timeout=10)
    assert process.returncode == 130 and not any(map(is_alive, begun(tmp_path)[0]))


def test_a_second_start_is_refused_and_the_training_ends_when_its_starter_is_killed(tmp_path, processes):
    """The log stays the first one's own, and is not written through a link that lies in its place."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    log = tmp_path / "models" / "cross_validation" / "grouped-cv-fold0-seed0.log"
    log.parent.mkdir(parents=True)
    log.symlink_to(precious)
    processes.append(process := start(tmp_path, "--folds", "0"))
    wait_until(lambda: begun(tmp_path))
    before = log.read_text()
    processes.append(second := start(tmp_path, "--folds", "0"))
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1 and "another cross-validation" in errors and "cross_validation:" in errors
    wait_until(lambda: len(log.read_text()) > len(before), 5)
    assert log.read_text().startswith(before) and precious.read_text() == "mine"
    process.kill()
    training, _ = begun(tmp_path)[0]
    wait_until(lambda: not is_alive(training), 5)
    assert list(log.parent.glob("*.saved"))


def test_a_start_is_refused_while_a_training_of_an_earlier_one_lives(tmp_path, processes):
    processes.append(process := start(tmp_path, "--folds", "0", "--stubborn"))
    wait_until(lambda: begun(tmp_path))
    process.kill()
    process.communicate()
    assert is_alive(begun(tmp_path)[0][0])
    log = tmp_path / "models" / "cross_validation" / "grouped-cv-fold0-seed0.log"
    before = log.read_text()
    processes.append(second := start(tmp_path, "--folds", "0", "--stubborn"))
    _, errors = second.communicate(timeout=30)
    assert second.returncode == 1 and "or a training that it started, is writing here" in errors
    assert log.read_text().startswith(before)


BAR = "\rscoring:  50%|#####     | 3/6 [00:00<00:00, 10.1image/s]"


@pytest.mark.parametrize(
    ("code", "log", "reason"),
    [
        (1, f"reading\nerror: a.png: is damaged. Replace the file.\n{BAR}{BAR}", "a.png: is damaged."),
        (1, "error: a: one\nb: two\n", "a: one"),  # several lines, the first is enough
        (-9, f"Epoch 3/20\n\x1b[1m3/9\x1b[0m ━━━━━━ 2s 95ms/step - loss: 0.8{BAR}", "killed by signal 9"),
        (1, f"Traceback (most recent call last):\n  x\nValueError: no\n{BAR}", "ValueError: no"),
        (1, f"Epoch 3/20\n{BAR}", "Epoch 3/20"),
        (2, "╭─ Parsing error ─╮\n│ Unrecognized │\n│ --epoch │\n╰────╯", "Unrecognized; --epoch"),
        (1, BAR, "exit code 1"),
    ],
)
def test_the_reason_of_a_failure_is_never_a_progress_bar(code, log, reason):
    assert reason in why_failed(code, log)
    assert not re.search(r"%\||/step|image/s", why_failed(code, log))


def test_a_real_training_is_stopped_whole_and_leaves_a_readable_log(phantom_data, tmp_path, processes):
    flags = ["--splits", "grouped", "--data-dir", str(phantom_data), *TINY, "--epochs", "15"]
    command = [sys.executable, str(REPOSITORY / "cross_validate.py"), *flags]
    processes.append(process := subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE))
    folder = tmp_path / "models" / "cross_validation"
    run = folder / "grouped-fold0-seed0"
    wait_until(lambda: (run / "history.csv").exists() and len((run / "history.csv").read_text().splitlines()) > 2, 200)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    log = run.with_suffix(".log").read_text()
    assert "stopped. All saved files are complete" in log
    assert not re.search(r"[\r\b\x1b]", log)  # no bars, no colours
    rows = len((run / "history.csv").read_text().splitlines()) - 1
    assert len(re.findall("val_dice: ", log)) - rows in (0, 1) and rows < 15  # one line an epoch
    time.sleep(1)
    assert len((run / "history.csv").read_text().splitlines()) == rows + 1  # nobody writes on
    with lock_folder(folder, "test"), lock_folder(run, "test"):  # both are free for the same command
        assert not list(folder.rglob(".writing-*"))
