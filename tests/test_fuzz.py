"""Files of a stranger's run: whatever they hold, they are read or refused in one line, and soon. The long form:

python -m pytest tests/test_fuzz.py -m slow -s
"""

import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from dataset import DataError, find_samples, read_samples
from segmentation.common.errors import RunError
from segmentation.data.splits import hashes_seen, load_split
from segmentation.reports import figures, run_folder
from segmentation.reports.report import draw_figures, write_report
from segmentation.runs.recorder import RunRecorder
from segmentation.runs.run_folder import goes_on, load_run, settings_of
from segmentation.runs.schemas import read_history, read_metrics
from segmentation.scoring.decision import load_decision, to_mask
from segmentation.scoring.scores import result_line, summarise
from train_model import TrainingConfig, main

TINY = {"encoder": "none", "start_from": "random", "image_size": 32, "depth": 2, "base_filters": 2, "batch_size": 8}
SECONDS = 20  # more than any reading takes; three times as long to build a network and draw
NASTY = [None, True, False, 0, -1, 5, 10**400, -(10**20), 1e308, -1e308, 1e-320, 0.5, float("nan"), float("inf"), "",
         "x", "<script>alert(1)</script>", "\x00", "\ud800", "../../etc/passwd", "/dev/zero", "a" * 5000, [], [[]], {},
         {"a": 1}, [1, 2, 3], [None], "3", "imagenet", "test", "none", 2**31, 2**63, 1.5, [10**9] * 3]  # fmt: skip


# ---------------------------------------------------------------- what is done to a file


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def damage_value(content, rng: random.Random):
    """Replace, remove, double, rename or nest something in a JSON value."""
    content = json.loads(json.dumps(content))
    everything = list(places(content))
    few = [path for path in everything if len(path) < 3]  # of a thousand images, not each time one of them
    *before, last = rng.choice(few if rng.random() < 0.5 else everything) or (None,)
    if last is None:
        return rng.choice(NASTY)
    parent = content
    for key in before:
        parent = parent[key]
    what = rng.randrange(6)
    if what == 0:
        del parent[last]
    elif what == 1 and isinstance(parent, dict):
        parent[rng.choice(("", "x", "\ud800", "part", last.upper(), last + " "))] = parent.pop(last)
    elif what == 2:
        nested = parent[last]
        for _ in range(rng.choice((1, 3, 50, 400))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        parent[last] = nested
    elif what == 3 and isinstance(parent[last], (int, float)):
        parent[last] = parent[last] * rng.choice((-1, 0, 1000, 10**12, 0.5))
    else:
        parent[last] = rng.choice(NASTY)
    return content


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite or repeat bytes."""
    data, at = bytearray(data), rng.randrange(len(data))
    what = rng.randrange(6)
    if what == 0:
        return bytes(data[:at])
    if what == 1:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif what == 2:
        data[at : at + rng.randrange(1, 50)] = rng.randbytes(rng.randrange(50))
    elif what == 3:
        data[at:at] = rng.choice(
            (b"[" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b"1e400", b"NaN", b"\0", b"\xff\xfe", b",")
        )
    elif what == 4:
        return rng.choice((b"", b"null", b"[]", b"{}", b"3", b'"x"', b"\xef\xbb\xbf{}", bytes(data) * 2))
    else:
        length = rng.randrange(1, 200)
        data[at:at] = data[at : at + length]
    return bytes(data)


def damage_cell(text: str, rng: random.Random) -> str:
    """Change a cell, a row or a column of a CSV file."""
    rows = [line.split(",") for line in text.splitlines()]
    row = rng.choice(rows)
    column, what = rng.randrange(len(row)), rng.randrange(5)
    if what == 0:
        del row[column]
    elif what == 1:
        row.insert(column, rng.choice(("7", "", "nan")))
    elif what == 2:
        rows.remove(row)
    elif what == 3:
        for line in rows:
            del line[min(column, len(line) - 1)]
    else:
        row[column] = rng.choice(
            ("nan", "inf", "1e400", "9" * 5000, "-1", "x", "", " ", '"', "\0", "=1+1", "٣", "1_0", "0.5")
        )
    return "\n".join(map(",".join, rows)) + "\n"


def damage(name: str, data: bytes, rng: random.Random) -> bytes:
    """One of the ways in which a file of a run goes wrong, or is made to."""
    if rng.random() < 0.3:
        return damage_bytes(data, rng)
    if name.endswith(".csv"):
        return damage_cell(data.decode(), rng).encode()
    return json.dumps(damage_value(json.loads(data), rng)).encode()


# ---------------------------------------------------------------- what is done with it


@contextmanager
def in_time(what, seconds):
    """Fail where something computes for more than so many seconds, or waits for ten times as long, and say what."""

    def late(number, frame):
        raise TimeoutError(f"{what} took more than {seconds} s")

    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of this process alone, however busy the machine is
    signal.alarm(10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


@pytest.fixture(scope="module")
def finished(phantom_data, tmp_path_factory):
    """A finished run, its settings, its data, and the files before any damage."""
    folder = tmp_path_factory.mktemp("fuzz")
    config = TrainingConfig(**TINY, epochs=3, data_dir=(phantom_data,), models_dir=folder)
    main(config)
    run = folder / "attention_unet"
    samples = find_samples(phantom_data)
    test = [samples[i] for i in load_split(run, samples)[0]["test"]]
    whole = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".csv")}
    return SimpleNamespace(run=run, config=config, samples=samples, pictures=read_samples(test), whole=whole)


def use(finished, deep: bool) -> None:
    """Everything that the scripts read of a run, and what they do with it; `deep` builds and draws, which is slow."""
    run = finished.run
    stored = run_folder.read_config(run)
    settings_of(run, TrainingConfig)
    (run / "metrics.json").rename(run / "aside")
    try:
        goes_on(run, finished.config)
    except RunError:
        pass  # as of a run without a backup
    finally:
        (run / "aside").rename(run / "metrics.json")
    hashes_seen(run)
    load_split(run, finished.samples)
    decision = load_decision(run / "decision.json")
    masks = [to_mask(np.full((32, 32), 0.3, np.float32), image.shape, decision) for image, _ in finished.pictures]
    metrics = read_metrics(run / "metrics.json")
    metrics["summary"] = summarise(metrics["images"])
    result_line(metrics["data"], metrics["summary"], metrics["near_copies_in_training"])
    history = read_history(run / "history.csv")
    cases = [
        figures.Case(score, image, reference, mask, np.full((32, 32), 0.3, np.float32))
        for score, (image, reference), mask in zip(metrics["images"], finished.pictures, masks, strict=False)
    ]
    names = []
    if deep:
        model, _ = load_run(run)
        RunRecorder(run, "val_dice", 4).restore(model)
        (run / "figures").mkdir(exist_ok=True)
        for name, figure in draw_figures(model, run, cases, 0.9, decision, metrics):
            figure.savefig(run / "figures" / f"{name}.png", dpi=20)
            names.append(name)
    elif history:
        figures.curves(history, metrics["best_epoch"], 0.9)
    write_report(run, cases, stored, metrics, names)
    assert "<script>alert" not in (run / "report.html").read_text(encoding="utf-8")


def fuzz(finished, count: int, seed: int) -> Counter:
    """Damage one file of the run `count` times: it is read, or refused by name in one line."""
    rng, outcome = random.Random(seed), Counter()
    for number in range(count):
        name = rng.choice(list(finished.whole))
        damaged = damage(name, finished.whole[name], rng)
        path = finished.run / name
        path.write_bytes(damaged)
        started = time.process_time()
        try:
            deep = number % 50 == 0
            with in_time(f"{name}: {damaged[:300]!r}", 3 * SECONDS if deep else SECONDS):
                use(finished, deep)
            outcome[name, "read"] += 1
        except (RunError, DataError) as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
            assert str(finished.run) in str(error), str(error)
            outcome[name, "refused"] += 1
        except Exception:
            (finished.run.parent / "culprit").write_bytes(damaged)
            print(f"{name}, damage {number} of seed {seed}: {finished.run.parent / 'culprit'}")
            raise
        finally:
            path.write_bytes(finished.whole[name])
        outcome["slowest, ms"] = max(outcome["slowest, ms"], int(1000 * (time.process_time() - started)))
    return outcome


@pytest.mark.parametrize("count", [300, pytest.param(int(os.environ.get("FUZZ", "6000")), marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")  # of Matplotlib, about odd numbers
def test_a_strangers_files_are_read_or_refused_in_one_line(finished, count):
    use(finished, deep=True)
    outcome = fuzz(finished, count, seed=count)
    print(f"\n{count} damaged files: {dict(outcome)}; 0 tracebacks, 0 hangs")
    refused = sum(outcome[name, "refused"] for name in finished.whole)
    assert count / 3 < refused < count
