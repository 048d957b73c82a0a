"""Phantom data and tiny runs that the tests share."""

import csv
import io
import os
import runpy
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

import dataset
import segmentation.importing.layouts  # noqa: F401  BUSI's layout, and all others
from segmentation.data.near_copies import Pair
from segmentation.data.phantoms import write_phantoms


def find_real(variable: str, name: str) -> Path:
    """Where a real set may be: the folder that the environment variable names, else data/`name`."""
    return Path(os.environ.get(variable) or REPOSITORY / "data" / name).absolute()


BUSI = find_real("BUSI_DIR", "Dataset_BUSI_with_GT")
BUSBRA = find_real("BUSBRA_DIR", "BUS-BRA")
needs_busi = pytest.mark.skipif(not BUSI.is_dir(), reason=f"no BUSI in {BUSI}; BUSI_DIR names its folder")
needs_busbra = pytest.mark.skipif(not BUSBRA.is_dir(), reason=f"no BUS-BRA in {BUSBRA}; BUSBRA_DIR names its folder")

# These take longest and begin first, so that all workers end at about the same time.
LONGEST = (
    "run_folder",
    "train_model",
    "processes",
    "cross_validate",
    "run_subsets",
    "first_second",
    "visualize_results",
)
LONGEST += ("outside", "fuzz", "audit", "encoders", "faults")

TINY = ["--encoder", "none", "--start-from", "random", "--image-size", "32", "--depth", "2"]
TINY += ["--base-filters", "2", "--batch-size", "8"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in order; --no-loadscope-reorder in pyproject.toml keeps them in it."""
    order = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory) -> Path:
    """48 phantoms, some of them near-copies. Read only: use `broken_data` to change files."""
    return write_phantoms(tmp_path_factory.mktemp("data é (1)") / "phantoms", images=48, seed=3, near_copy_share=0.4)


@pytest.fixture
def broken_data(phantom_data, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(phantom_data, tmp_path / "broken"))


def busi_pairs(samples: list[dataset.Sample]) -> list[Pair]:
    """BUSI's near-copies as `near_copies` finds them, which test_near_copies.py shows; the search takes ten seconds."""
    index = {s.name: i for i, s in enumerate(samples)}
    with (Path(__file__).parent / "busi_near_copies.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    return [Pair(index[r["a"]], index[r["b"]], *(float(r[key]) for key in Pair._fields[2:])) for r in rows]


def copy_as_pairs(busi: Path, folder: Path) -> Path:
    """The same pictures as images/ and masks/, masks in another format, none for normals."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for sample in dataset.find_samples(busi):
        shutil.copy(sample.image, folder / "images" / f"{sample.name}.png")
        if sample.label != "normal":
            mask = dataset.read_sample(sample)[1] * 255
            Image.fromarray(mask).save(folder / "masks" / f"{sample.name}.bmp")
    return folder


def run_script(script: str, *arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run one of the project's commands as a user would: a script, "train_model.py", or a module that is run with
    `python -m`, "segmentation.audit", which Python must then find from another folder too."""
    if script.endswith(".py"):
        command = [str(REPOSITORY / script)]
    else:
        command = ["-m", script]
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {"PYTHONPATH": os.pathsep.join(paths), **environment}
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_here(script: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    """As `run_script`, but in this process, which saves importing TensorFlow: the command line, what is printed, the
    one clear line and the exit code are the same. For signals, streams, the environment and what is imported, and at
    least once a script, take `run_script`."""
    path = REPOSITORY / (script if script.endswith(".py") else f"{script.replace('.', '/')}.py")
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
