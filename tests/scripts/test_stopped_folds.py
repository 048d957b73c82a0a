"""Trainings that cross_validate.py starts end when it ends, and nobody else writes where they write.

In the place of train_model.py is a stand-in, which stops with an epoch saved, or is stubborn.
"""

import os
import signal
import subprocess

import pytest
from conftest import REPOSITORY, start_python

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")

# It tells of itself and of a process that it started.
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
run.with_suffix(".begun").write_text(f"{os.getpid()} {helper.pid}")
for count in range(6000):
    print("epoch", count, flush=True)
    time.sleep(0.1)
"""
START = (
    "import runpy, sys; from pathlib import Path; from segmentation.runs import workers; workers.REPOSITORY = Path()\n"
)
START += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture
def start(tmp_path):
    """`start(*flags)` is cross_validate.py with the stand-in; whatever a test leaves running is killed."""
    started = []
    (tmp_path / "train_model.py").write_text(STAND_IN)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def start_one(*flags: str) -> subprocess.Popen:
        command = ["-c", START, REPOSITORY / "cross_validate.py", *flags]
        started.append(start_python(*command, cwd=tmp_path, env=environment, start_new_session=True))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()
    for number in (n for pair in begun(tmp_path) for n in pair if is_alive(n)):
        os.kill(number, signal.SIGKILL)


def begun(cwd) -> list[tuple[int, int]]:
    """Numbers of each training's process and of its helper's."""
    files = sorted((cwd / "models" / "cross_validation").glob("*.begun"))
    return [(int(words[0]), int(words[1])) for path in files if len(words := path.read_text().split()) == 2]


def is_alive(number: int) -> bool:
    state = subprocess.run(["ps", "-o", "state=", "-p", str(number)], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")  # a container may leave its dead about


@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGINT, True), (signal.SIGHUP, False)])
def test_a_signal_stops_the_trainings_and_starts_none(start, tmp_path, wait_until, number, to_group):
    """Ctrl-C in a terminal goes to the group, `kill` to the one process."""
    process = start("--jobs", "2")
    wait_until(lambda: len(begun(tmp_path)) == 2)
    (os.killpg if to_group else os.kill)(process.pid, number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    assert "stopped. To go on, repeat the command." in errors and "Traceback" not in output + errors
    trainings = begun(tmp_path)
    assert len(trainings) == 2  # of five: no other was begun
    assert not any(is_alive(number) for pair in trainings for number in pair)
    assert len(list((tmp_path / "models" / "cross_validation").glob("*.saved"))) == 2


def test_a_second_ctrl_c_does_not_wait(start, tmp_path, wait_until):
    process = start("--folds", "0", "--stubborn")
    wait_until(lambda: begun(tmp_path))
    os.kill(process.pid, signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130 and not any(map(is_alive, begun(tmp_path)[0]))


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_second_start_is_refused_and_a_training_ends_with_its_starter(start, tmp_path, wait_until, stubborn):
    """Unless it is stubborn: then the folder stays locked, though who locked it was killed."""
    flags = ["--folds", "0", *["--stubborn"] * stubborn]
    process = start(*flags)
    wait_until(lambda: begun(tmp_path))
    ((training, _),) = begun(tmp_path)
    if stubborn:
        process.kill()
        process.wait()
        assert is_alive(training)
    log = tmp_path / "models" / "cross_validation" / "grouped-cv-fold0-seed0.log"
    wait_until(lambda: "epoch" in log.read_text())
    before = log.read_text()
    second = start(*flags)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1 and "another cross-validation, or a training that it started, is writing" in errors
    assert log.read_text().startswith(before)  # the log stays the first one's own
    if not stubborn:
        process.kill()
        wait_until(lambda: not is_alive(training), 10)
        assert list(log.parent.glob("*.saved"))
