"""Phantom data, tiny runs and helpers that the tests of both folders share.

fast/ needs no training and no process that imports TensorFlow; scripts/ trains, and runs the real scripts.
"""

import csv
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from segmentation.common.environment import set_environment

set_environment()  # as the scripts do it: otherwise a training in this process computes other last digits than a script

from folders import write_hospital
from phantoms import write_phantoms

import dataset
from segmentation.data.near_copies import Pair


def find_real(variable: str, name: str) -> Path:
    """Where a real set may be: the folder that the environment variable names, else data/`name`."""
    return Path(os.environ.get(variable) or REPOSITORY / "data" / name).absolute()


BUSI = find_real("BUSI_DIR", "Dataset_BUSI_with_GT")
BUSBRA = find_real("BUSBRA_DIR", "BUS-BRA")
needs_busi = pytest.mark.skipif(not BUSI.is_dir(), reason=f"no BUSI in {BUSI}; BUSI_DIR names its folder")
needs_busbra = pytest.mark.skipif(not BUSBRA.is_dir(), reason=f"no BUS-BRA in {BUSBRA}; BUSBRA_DIR names its folder")

# These take longest and begin first, but for two that end together. export_formats comes last: for a reason that is not
# known, SIGTERM crashes Python in a process that has exported all formats.
LONGEST = ("training", "cross_validation", "browser_page", "stopped_trainings", "page_safety")
LONGEST += ("tour_notebook", "report_page", "real_sets", "stopped_folds", "recorder", "shell_and_home")
LONGEST += ("shipped_network", "import_rows", "encoders", "attention_unet", "training_on_two_folders")
LONGEST += ("masks_of_others", "run_networks", "tensorboard_log")

# The smallest network that has a gate, and three steps an epoch on the phantoms.
TINY = ["--encoder", "none", "--start-from", "random", "--image-size", "32", "--depth", "1", "--gates", "full"]
TINY += ["--base-filters", "2", "--batch-size", "16"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in order; --no-loadscope-reorder in pyproject.toml keeps them in it."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    order |= {"test_extensions": len(LONGEST) + 1, "test_export_formats": len(LONGEST) + 2}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


# ---------------------------------------------------------------- data and runs


def make_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all workers of pytest-xdist."""
    base = factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not (base / f"{name}.made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (base / f"{name}.made").touch()
    return folder


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory) -> Path:
    """48 phantoms, some of them near-copies. Read only: use `broken_data` to change files."""

    def draw(folder: Path) -> None:
        write_phantoms(folder / "phantoms", images=48, seed=3, near_copy_share=0.4)

    return make_once(tmp_path_factory, "data é (1)", draw) / "phantoms"


@pytest.fixture(scope="session")
def lesion_data(tmp_path_factory) -> Path:
    """48 small pictures, two of each patient and 6 normal: training on them is quicker than on phantoms. Read only."""
    return make_once(tmp_path_factory, "lesions é", lambda folder: write_hospital(folder, 48, seed=3, normals=6))


@pytest.fixture
def broken_data(phantom_data, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(phantom_data, tmp_path / "broken"))


# Of the two runs below. With these numbers the third epoch is the best, so that a resumed run writes its network anew.
SETTINGS = [*TINY, "--epochs", "4", "--ema", "0.9", "--learning-rate", "1", "--dice-weight", "100"]


@pytest.fixture(scope="session")
def finished_run(lesion_data, tmp_path_factory) -> Path:
    """The folder of a run that is finished. Read only: copy it to change files.

    What was printed is in `printed`, and how often TensorFlow traced the loss in `traces`.
    """

    def train(folder: Path) -> None:
        from segmentation.network.losses import BceDiceLoss
        from segmentation.runs.recorder import RunRecorder

        call, begin, traces = BceDiceLoss.call, RunRecorder.on_epoch_begin, []

        def begin_and_copy(self, epoch, logs=None):
            begin(self, epoch, logs)
            if epoch == 2:
                shutil.copytree(self.run, folder / "stopped")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(BceDiceLoss, "call", lambda *arguments: traces.append(1) or call(*arguments))
            patch.setattr(RunRecorder, "on_epoch_begin", begin_and_copy)
            result = run_here("train_model.py", "--data-dir", lesion_data, *SETTINGS, cwd=folder)
        assert_one_clear_line(result, code=0)
        (folder / "printed").write_text(result.stdout)
        (folder / "traces").write_text(str(len(traces)))

    return make_once(tmp_path_factory, "finished", train) / "models" / "attention_unet"


@pytest.fixture(scope="session")
def stopped_run(finished_run) -> Path:
    """The files of the same run when two of its four epochs were done, as a stop leaves them. Read only."""
    return finished_run.parent.parent / "stopped"


def busi_pairs(samples: list[dataset.Sample]) -> list[Pair]:
    """BUSI's near-copies as `near_copies` finds them, which test_near_copies.py shows; the search takes ten seconds."""
    index = {s.name: i for i, s in enumerate(samples)}
    with (Path(__file__).parent / "busi_near_copies.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return [Pair(index[r["a"]], index[r["b"]], *(float(r[key]) for key in Pair._fields[2:])) for r in rows]


# ---------------------------------------------------------------- scripts

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def restore_signals() -> None:
    """Undo what nohup and a shell's background do: they start programs that ignore Ctrl-C and SIGHUP."""
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def default_signals() -> Iterator[None]:
    """As `restore_signals`, in this process and for a while."""
    before = [signal.getsignal(number) for number in STOPS]
    for number in STOPS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)


def start_python(*arguments: str | Path, cwd: Path, **settings) -> subprocess.Popen:
    """Python in a process that runs beside the test, with pipes for what it prints."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": restore_signals}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=cwd, **pipes | settings)


def run_script(script: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run one of the project's scripts as a user would."""
    with start_python(REPOSITORY / script, *arguments, cwd=cwd, env={**os.environ, **environment}) as process:
        try:
            output, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture(scope="session")
def wait_until() -> Callable:
    """`wait_until(condition, seconds)` returns as soon as the condition holds, and fails if that takes too long."""

    def wait(condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)

    return wait


def run_here(script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    """As `run_script`, but in this process, which saves importing TensorFlow: the command line, what is printed, the
    one clear line and the exit code are the same. For signals, streams, the environment and what is imported, take
    `run_script`."""
    path = REPOSITORY / script
    code, output, errors = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(cwd), redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
    if isinstance(code, str):  # as Python does it: printed, and 1
        print(code, file=errors)
        code = 1
    return subprocess.CompletedProcess(sys.argv, code, output.getvalue(), errors.getvalue())


@contextmanager
def step_by_step() -> Iterator[None]:
    """Keras computes each step at once. A training of a few steps takes far less time than to trace its network."""
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Even though the `tf.config")  # of tf.data, which stays as it is
        tf.config.run_functions_eagerly(True)
        try:
            yield
        finally:
            tf.config.run_functions_eagerly(False)


def train_here(data: Path, cwd: Path, *flags: str | Path) -> subprocess.CompletedProcess:
    """A tiny training in this process, step by step: its numbers may differ from a traced one's in the last digit. An
    epoch has one step on `lesion_data`."""
    with step_by_step():
        return run_here("train_model.py", "--data-dir", data, *TINY, "--batch-size", "64", *flags, cwd=cwd)


def assert_one_clear_line(result: subprocess.CompletedProcess, *words: str, code: int = 1) -> None:
    """No traceback, the exit code, and every word in what was printed."""
    output = result.stdout + result.stderr
    assert result.returncode == code, output
    assert "Traceback" not in output, output
    for word in words:
        assert word in output, output


CHROMIUM_FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
CHROMIUM_FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,1000"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A real browser, which writes down its console and its requests; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*CHROMIUM_FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get("about:blank")
    browser.get_log("performance")  # what Chromium's own first page asked for
    yield browser
    browser.quit()
