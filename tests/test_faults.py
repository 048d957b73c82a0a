"""Faults at random: kills, full disks, damaged files. The long forms are marked slow:

python -m pytest tests/test_faults.py -m slow -s
"""

import csv
import multiprocessing
import os
import random
import resource
import runpy
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_run_folder import SETTINGS, assert_equal_runs

import dataset
from dataset import DataError
from segmentation.runs.run_folder import FILES, load_run

# ---------------------------------------------------------------- damaged files


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One of the ways in which a file goes bad."""
    damage = rng.randrange(7)
    data = bytearray(content)
    if damage == 0:
        return bytes(data[: rng.randrange(len(data))])
    if damage == 1:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif damage == 2:
        data[rng.randrange(min(len(data), 64))] = rng.randrange(256)  # the header
    elif damage == 3:
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(1, 200)] = rng.randbytes(rng.randrange(0, 200))
    elif damage == 4 and data[:4] == b"\x89PNG":
        at = rng.choice((16, 20))
        data[at : at + 4] = rng.randrange(2**31).to_bytes(4, "big")  # a huge picture
    elif damage == 5:
        return rng.choice(
            (b"", b"<html>404</html>", rng.randbytes(300), b"\x89PNG\r\n\x1a\n", b"II*\0" + rng.randbytes(60))
        )
    else:
        data += rng.randbytes(50)
    return bytes(data)


def fuzz(folder, phantom_data, count: int, seed: int) -> dict[str, int]:
    """Read `count` damaged pictures and masks: each is loaded, or refused by name."""
    rng = random.Random(seed)
    seeds = []
    for path in sorted(phantom_data.glob("*/*).png"))[:3] + sorted(phantom_data.glob("*/*_mask.png"))[:3]:
        with Image.open(path) as picture:
            small = picture.resize((90, 70))
            for ending, mode in (("png", "L"), ("png", "RGB"), ("png", "1"), ("png", "P"), ("png", "RGBA"),
                                 ("jpg", "L"), ("bmp", "L"), ("tiff", "L"), ("png", "I;16")):  # fmt: skip
                target = folder / f"seed-{mode.replace(';', '')}.{ending}"
                converted = (
                    Image.fromarray(np.asarray(small).astype(np.uint16) * 200)
                    if mode == "I;16"
                    else small.convert(mode)
                )
                converted.save(target)
                seeds.append((ending, target.read_bytes()))
    outcome = {"loaded": 0, "refused": 0}
    for number in range(count):
        ending, content = rng.choice(seeds)
        path = folder / f"fuzz {number % 50}.{ending}"
        path.write_bytes(mutate(content, rng))
        started = time.monotonic()
        try:
            picture = dataset.read_gray(path)
            assert picture.dtype == np.uint8 and picture.ndim == 2 and picture.size <= dataset.MAX_PIXELS
            mask = dataset.read_mask([path], picture.shape)
            assert set(np.unique(mask)) <= {0, 1}
            outcome["loaded"] += 1
        except DataError as error:
            assert path.name in str(error) and "\n" not in str(error)
            outcome["refused"] += 1
        assert time.monotonic() - started < 5
    return outcome


@pytest.mark.parametrize("count", [400, pytest.param(4000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata; that is not a fault of ours
def test_damaged_pictures_are_loaded_or_refused_by_name(phantom_data, tmp_path, count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = fuzz(tmp_path, phantom_data, count, seed=count)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{count} damaged files: {outcome}, memory grew by {grown:.0f} MiB")
    assert outcome["refused"] > count / 5 and outcome["loaded"] > count / 20
    assert grown < 700  # one picture of MAX_PIXELS may be decoded


# ---------------------------------------------------------------- trainings that are begun and ended often

LONGER = [*SETTINGS, "--epochs", "12"]
FORKS = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
FORKS.set_forkserver_preload(["train_model"])  # TensorFlow is imported once, and not for each training


class Training:
    """train_model.py in a process of its own.

    Args:
        data: the folder of data.
        cwd: where it runs.
        largest_file: bytes beyond which every write fails, as on a full disk.
    """

    def __init__(self, data: Path, cwd: Path, largest_file: int = -1):
        self._output, printed = FORKS.Pipe(duplex=False)
        command = [str(REPOSITORY / "train_model.py"), "--data-dir", str(data), *LONGER]
        self._process = FORKS.Process(target=_train, args=(command, cwd, printed, largest_file))
        self._process.start()
        printed.close()

    def has_ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> tuple[int, str]:
        """Exit code, negative for a signal, and what was printed."""
        with open(self._output.fileno(), closefd=False) as output:  # all of it fits into the pipe until then
            text = output.read()
        self._process.join()
        return self._process.exitcode, text


def _train(command: list[str], cwd: Path, printed: Connection, largest_file: int) -> None:
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(printed.fileno(), number)
        setattr(sys, name, open(number, "w", closefd=False))  # what they were may have been files
    printed.close()
    if largest_file > 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, -1))
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def train(data: Path, cwd: Path) -> Path:
    """A training without any fault; its folder."""
    cwd.mkdir(exist_ok=True)
    code, output = Training(data, cwd).wait()
    assert code == 0, output
    return cwd / "models" / "attention_unet"


# ---------------------------------------------------------------- kills


def check_folder(run) -> int:
    """What must hold after a kill at any moment; returns the number of history rows."""
    history = run / "history.csv"
    rows = list(csv.DictReader(history.read_text().splitlines())) if history.exists() else []
    assert [int(row["epoch"]) for row in rows] == list(range(len(rows)))
    if len(rows) > 1:  # the first row is written before the first best network
        load_run(run)
    return len(rows)


def wait_for(process, moment) -> None:
    """Wait until `moment` is true, or the process has ended."""
    deadline = time.monotonic() + 250
    while not process.has_ended() and time.monotonic() < deadline and not moment():
        time.sleep(0.002)


def kill(process, run, rng: random.Random) -> str:
    """Kill a training at a random moment of its beginning, of its epochs or of its end; "" if it ended before that."""
    history = run / "history.csv"
    before = history.stat().st_mtime_ns if history.exists() else 0

    def epochs_done() -> int:
        fresh = history.exists() and history.stat().st_mtime_ns != before
        return len(history.read_text().splitlines()) - 1 if fresh else 0

    if not before and rng.random() < 0.6:  # the first seconds: opened, read, split, config.json, split.json
        phase, opened = "beginning", rng.random() < 0.5
        wait_for(process, lambda: (run / (".lock" if opened else "config.json")).exists())
        time.sleep(rng.uniform(0, 1.5))
    elif rng.random() < 0.5:  # when files are busy
        phase, wanted = "epochs", rng.randrange(1, 6)
        wait_for(process, lambda: epochs_done() >= (wanted if not before else 1))
        time.sleep(rng.uniform(0, 0.3 if rng.random() < 0.7 else 2))
    else:  # decision.json, metrics.json, and the backup removed
        phase = "scoring"
        wait_for(process, lambda: epochs_done() == 12)
        time.sleep(rng.uniform(0, 1.5))
    if process.has_ended():
        return ""
    process.kill()
    return phase


def campaign(data, cwd, kills: int, seed: int) -> Counter:
    """Kill and resume the same training until `kills` is reached; every finished one must equal the first."""
    rng = random.Random(seed)
    count = Counter()
    cwd.mkdir()
    reference = train(data, cwd / "reference")
    while sum(count[phase] for phase in ("beginning", "epochs", "scoring")) < kills:
        folder = cwd / f"run{count['finished']}"
        folder.mkdir()
        run, progress = folder / "models" / "attention_unet", 0
        while not (run / "metrics.json").exists():
            process = Training(data, folder)
            phase = kill(process, run, rng)
            code, output = process.wait()
            assert code in (0, -9), output
            count["resumed"] += "resuming" in output
            count["begun anew"] += "beginning anew" in output
            rows = check_folder(run) if run.exists() else 0
            assert rows >= progress - 1  # at most the epoch whose backup was not yet written is done again
            progress = rows
            if phase:
                count[phase] += 1
                count["left: " + " ".join(name.split(".")[0] for name in FILES if (run / name).exists())] += 1
        assert_equal_runs(reference, run)
        count["finished"] += 1
    return count


@pytest.mark.slow
def test_kill_campaign(phantom_data, tmp_path):
    kills, seed = int(os.environ.get("KILLS", "60")), int(os.environ.get("SEED", "0"))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda k: campaign(phantom_data, tmp_path / str(k), kills // 2, seed + k), range(2)))
    total = sum(results, Counter())
    print(f"\nkill campaign: {dict(sorted(total.items()))}; 0 lost, 0 wrong")


@pytest.mark.slow
def test_full_disk_campaign(phantom_data, tmp_path):
    """The disk is full from some moment on: the previous best loads, and the run goes on when there is room."""
    faults = int(os.environ.get("DISK_FAULTS", "20"))
    reference = train(phantom_data, tmp_path / "reference")
    rng, failed, number = random.Random(int(os.environ.get("SEED", "0"))), 0, 0
    while failed < faults:
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        run, number = folder / "models" / "attention_unet", number + 1
        if number % 3:  # else the disk is full from the first start on
            process = Training(phantom_data, folder)
            while not process.has_ended() and (not (run / "history.csv").exists() or rng.random() < 0.99):
                time.sleep(0.02)
            process.kill()
            process.wait()
        for _ in range(4):
            if (run / "metrics.json").exists():
                break
            before = load_run(run)[0].get_weights() if (run / "best.keras").exists() else None
            code, output = Training(phantom_data, folder, largest_file=int(10 ** rng.uniform(2.5, 5.3))).wait()
            if code == 0:
                break
            assert code == 1 and "File too large" in output and "Traceback" not in output, output
            failed += 1
            if before is not None:
                after = load_run(run)[0].get_weights()  # the same, or a later and better one
                assert len(after) == len(before)
        if not (run / "metrics.json").exists():
            train(phantom_data, folder)
        assert_equal_runs(reference, run)
    print(
        f"\n{failed} full disks over {number} runs: every best network loads, every run ends as if there had been none"
    )
