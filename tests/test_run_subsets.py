"""A run folder is whole or not there: every set of its files, under the same command and others, is right or refused.

The trainings are real up to their first step; that step is not taken, since what it would be taken on is known then.
"""

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from itertools import chain, combinations
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_one_clear_line, run_here
from PIL import Image

import train_model
from dataset import DataError
from segmentation.common.errors import RunError
from segmentation.common.files import read_json
from segmentation.data.splits import hashes_seen
from segmentation.runs import parts, splits
from segmentation.runs.parts import load_data
from segmentation.runs.run_folder import FILES, check_finished, load_run
from train_model import TrainingConfig, main

SUBSETS = list(chain.from_iterable(combinations(FILES, n) for n in range(len(FILES) + 1)))
TINY = {"encoder": "none", "start_from": "random", "image_size": 32, "depth": 2, "base_filters": 2, "batch_size": 8}


class Reached(Exception):
    """The training came to its first step, in this run, at this epoch, on these parts of the data."""

    def __init__(self, run, first_epoch, data):
        super().__init__(run)
        self.run, self.first_epoch, self.data = run, first_epoch, data


@pytest.fixture(scope="module")
def stage(phantom_data, tmp_path_factory):
    """A finished run with the backup that it had, one killed after its first epoch, and three sets of data."""
    folder = tmp_path_factory.mktemp("stage")
    changed = shutil.copytree(phantom_data, folder / "changed")
    picture = min(path for path in changed.glob("*/*.png") if "_mask" not in path.name)
    pixels = np.asarray(Image.open(picture)).copy()
    pixels[::7] = 255 - pixels[::7]
    Image.fromarray(pixels).save(picture)

    config = TrainingConfig(
        **TINY, epochs=3, split="grouped-cv", data_dir=(phantom_data,), models_dir=folder / "models"
    )
    with pytest.MonkeyPatch.context() as patch:
        save = train_model.save
        patch.setattr(train_model, "save", lambda run, *rest: (keep(run, folder / "stopped"), save(run, *rest))[1])
        patch.setattr(train_model, "environment", lambda: {"commit": "test"})
        begin = train_model.RunRecorder.on_epoch_begin
        first = folder / "first"
        patch.setattr(train_model.RunRecorder, "on_epoch_begin", lambda self, epoch, logs=None: (
            keep(self.run, first) if epoch == 1 else None, begin(self, epoch, logs)))  # fmt: skip
        main(config)
        patch.undo()
        main(replace(config, run="other_fold", fold=1))
    whole = shutil.copytree(folder / "stopped", folder / "whole")
    shutil.copy(folder / "models" / "attention_unet" / "metrics.json", whole)
    assert set(FILES) <= {path.name for path in whole.iterdir()}
    data = {"here": load_data((phantom_data,), (), 0), "changed": load_data((changed,), (), 0)}
    return SimpleNamespace(
        config=config,
        whole=whole,
        first=first,
        other_fold=folder / "models" / "other_fold",
        data=data,
        known=({}, {}, {}),
    )


def keep(run, target):
    shutil.copytree(run, target)


@pytest.fixture
def trial(stage, tmp_path, monkeypatch):
    """`trial(files, source, changes)`: how a training of these settings fares in a folder of these files."""
    parts_seen, models, (pairs, folds, limits) = [], {}, stage.known
    split_data, build, compile_model = train_model.split_data, train_model.build, train_model.compile_model
    near_copies, draw_folds, appearance_limits = splits.near_copies, splits._folds, parts.appearance_limits

    def split(*arguments, **settings):
        parts_seen.append(split_data(*arguments, **settings))
        return parts_seen[-1]

    def cached_pairs(pictures):
        key = sum(int(picture.sum()) for picture in pictures)
        return pairs.setdefault(key, pairs.get(key) or near_copies(pictures))

    def cached_folds(samples, groups, seed):
        key = (groups.tobytes(), seed)
        return folds.setdefault(key, folds[key] if key in folds else draw_folds(samples, groups, seed))

    def cached_limits(pictures):
        key = tuple(map(id, pictures))  # the stage keeps them
        return limits.setdefault(key, limits.get(key) or appearance_limits(pictures))

    def cached_model(network, convolutions, start_from):
        if isinstance(start_from, str):
            key = network["base_filters"]
            if key not in models:
                models[key] = build(network, convolutions, start_from)
            return models[key]
        check_finished(start_from)
        return build(network, convolutions, "random")

    def compiled_once(model, *settings):
        if not model.compiled:
            compile_model(model, *settings)

    def stop(model, batches, judged, recorder, first_epoch, *_, **__):
        raise Reached(recorder.run, first_epoch, parts_seen[-1])

    monkeypatch.setattr(train_model, "split_data", split)
    monkeypatch.setattr(splits, "near_copies", cached_pairs)
    monkeypatch.setattr(splits, "_folds", cached_folds)
    monkeypatch.setattr(parts, "appearance_limits", cached_limits)
    monkeypatch.setattr(train_model, "make_dataset", lambda *_, **settings: None)  # no step is taken
    monkeypatch.setattr(train_model, "build", cached_model)
    monkeypatch.setattr(train_model, "compile_model", compiled_once)
    monkeypatch.setattr(train_model, "environment", lambda: {"commit": "test"})
    monkeypatch.setattr(train_model, "fit", stop)

    def run_trial(files=(), source=stage.whole, data="here", resume=False, **changes):
        shutil.rmtree(tmp_path / "models", ignore_errors=True)
        run = tmp_path / "models" / "attention_unet"
        run.mkdir(parents=True)
        for name in files:
            shutil.copy(source / name, run / name)
        config = replace(stage.config, models_dir=tmp_path / "models", **changes)
        if "config.json" in files:  # the folder was moved here; its settings say so
            stored = read_json(run / "config.json")
            stored["config"]["models_dir"] = str(config.models_dir)
            (run / "config.json").write_text(json.dumps(stored))
        monkeypatch.setattr(train_model, "load_data", lambda *_: stage.data[data])
        before = contents(run)
        try:
            main(replace(config, resume=run) if resume else config)
        except Reached as reached:
            return SimpleNamespace(run=run, before=before, after=contents(run), reached=reached, refused=None)
        except (RunError, DataError) as error:
            return SimpleNamespace(run=run, before=before, after=contents(run), reached=None, refused=str(error))
        raise AssertionError("the training ended without a step")

    return run_trial


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}


def same_parts(one, other):
    arrays = [(*data.train, *(data.val or ()), data.groups) for data in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*arrays, strict=True)) and [s.name for s in one.test] == [
        s.name for s in other.test
    ]


def judge(result, fresh, may_go_on, wanted) -> str:
    """What happened: one of "goes on", "begins anew", "new folder", "refused"; fails if it is wrong.

    Args:
        result: of the trial.
        fresh: of a trial of the same settings in an empty folder.
        may_go_on: whether the files are of these settings and this data.
        wanted: what a refusal must name, one of these.
    """
    if result.refused:
        assert result.after == result.before, "refused, but changed"
        assert any(word in result.refused for word in wanted), result.refused
        assert "\n" not in result.refused
        return "refused"
    reached = result.reached
    assert fresh.reached, "the same settings are refused in an empty folder"
    assert same_parts(reached.data, fresh.reached.data), "trains or tests on other images"
    if reached.first_epoch:
        assert reached.run == result.run and may_go_on and result.after == result.before
        assert {"config.json", "split.json", "history.csv", "best.keras", "backup.npz"} <= set(result.before)
        return "goes on"
    written = contents(reached.run)
    if reached.run == result.run:
        assert "metrics.json" not in result.before, "a finished run was replaced"
        assert written == fresh.after, "something of the earlier run is still there"
        return "begins anew"
    assert "metrics.json" in result.before and result.after == result.before, "a finished run was changed"
    assert written["split.json"] == fresh.after["split.json"]
    return "new folder"


VARIANTS = {
    "the same": {},
    "--resume": {"resume": True},
    "another fold": {"fold": 1},
    "other data": {"data": "changed"},
    "another seed": {"seed": 1},
    "another split seed": {"split_seed": 1},
    "another split": {"split": "random-cv"},
    "another network": {"base_filters": 3},
}
SOME = [*list(VARIANTS)[:4], *(pytest.param(variant, marks=pytest.mark.slow) for variant in list(VARIANTS)[4:])]


@pytest.mark.parametrize("variant", SOME)
def test_every_set_of_files_goes_on_rightly_or_is_refused(stage, trial, variant):
    changes, count = VARIANTS[variant], Counter()
    fresh = trial((), **{key: value for key, value in changes.items() if key != "resume"})
    for files in SUBSETS:
        result = trial(files, **changes)
        outcome = judge(result, fresh, variant in ("the same", "--resume"), (str(result.run),))
        if variant == "--resume":
            assert outcome != "new folder" and ("config.json" in files or outcome == "refused")
        if "metrics.json" in files:
            assert outcome == ("refused" if variant == "--resume" else "new folder")
        count[outcome] += 1
    print(f"\n{variant}: {dict(count)} of {len(SUBSETS)} sets of files, 0 wrong")
    assert count["goes on"] == {"the same": 2, "--resume": 2}.get(variant, 0)  # with and without decision.json
    assert sum(count.values()) == 128 and count["refused"] >= 50


@pytest.mark.parametrize("variant", SOME)
def test_a_run_stopped_in_its_first_epochs_begins_anew(stage, trial, variant):
    """The sets of files that a kill can leave before there is a backup."""
    changes = VARIANTS[variant]
    fresh = trial((), **{key: value for key, value in changes.items() if key != "resume"})
    left = ["config.json", "split.json", "history.csv", "best.keras"]
    assert set(contents(stage.first)) == set(left)
    for number in range(len(left) + 1):
        if variant == "--resume" and not number:
            continue
        result = trial(left[:number], stage.first, **changes)
        outcome = judge(result, fresh, False, ("unfinished run with another",))
        other_settings = variant not in ("the same", "--resume", "other data")
        assert outcome == ("refused" if number > 2 and other_settings else "begins anew"), (number, outcome)


def test_a_split_of_another_run_is_never_used(stage, trial, tmp_path):
    mixed = shutil.copytree(stage.whole, tmp_path / "mixed")
    shutil.copy(stage.other_fold / "split.json", mixed)
    result = trial(FILES[:5], mixed)
    assert result.refused and "split.json: belongs to another config.json" in result.refused
    with pytest.raises(RunError, match="belongs to another config.json"):
        hashes_seen(mixed)
    assert judge(trial(FILES[:2], mixed), trial(), False, ()) == "begins anew"


@pytest.mark.parametrize("flag", ["start_from", "decision_from"])
def test_no_set_of_files_bypasses_the_check_of_what_was_seen(stage, trial, tmp_path, flag):
    """Whatever files the other run has: its images are never tested on, and are known as seen."""
    count, other = Counter(), tmp_path / "other"
    needed = {"config.json", "split.json", "best.keras", "metrics.json"}
    needed |= {"decision.json"} if flag == "decision_from" else set()
    for files in SUBSETS:
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        for name in files:
            shutil.copy(stage.whole / name, other / name)
        for fold in (0, 1):  # its own test images, and some that it was trained on
            result = trial((), fold=fold, **{flag: other})
            if fold or not needed <= set(files):
                assert result.refused and str(other) in result.refused
                assert not fold or not needed <= set(files) or "was trained on" in result.refused
            else:
                assert set(json.loads(result.after["split.json"])["seen_before"]) == hashes_seen(stage.whole)
            count["refused" if result.refused else "goes on"] += 1
    print(f"\n{flag}: {dict(count)} of {2 * len(SUBSETS)}, 0 wrong")
    assert count["goes on"] == 2 ** (len(FILES) - len(needed))


@pytest.mark.parametrize("flag", ["start_from", "decision_from"])
def test_no_split_left_behind_bypasses_it_either(stage, trial, flag):
    """A folder that holds a run without these weights is given a command with them, which would be refused."""
    for files in SUBSETS:
        result = trial(files, fold=1, **{flag: stage.whole})
        assert result.refused and result.after == result.before
        result = trial(files, stage.other_fold if set(files) <= set(contents(stage.other_fold)) else stage.whole,
                       fold=1, **{flag: stage.whole})  # fmt: skip
        assert result.refused and result.after == result.before


# ---------------------------------------------------------------- in processes of their own


@pytest.mark.parametrize(
    ("files", "changes", "code", "words"),
    [
        (("split.json",), [], 1, ("holds split.json but no config.json",)),
        (("config.json", "split.json"), ["--fold", "1"], 0, ("before its first epoch: beginning anew",)),
        (FILES[:5], [], 0, ("going on with it", "resuming")),
        (FILES[:5], ["--fold", "1"], 1, ("unfinished run with another fold (0)",)),
        (FILES[:4], [], 1, ("backup.npz is missing",)),
    ],
)
def test_as_a_user_sees_it(stage, tmp_path, files, changes, code, words):
    run = tmp_path / "models" / "attention_unet"
    run.mkdir(parents=True)
    for name in files:
        shutil.copy(stage.whole / name, run)
    settings = asdict(replace(stage.config, models_dir="models"))
    if "config.json" in files:
        stored = read_json(run / "config.json")
        stored["config"]["models_dir"] = "models"
        (run / "config.json").write_text(json.dumps(stored))
    given = (
        "data_dir",
        "encoder",
        "start_from",
        "image_size",
        "depth",
        "base_filters",
        "batch_size",
        "epochs",
        "split",
    )
    settings["data_dir"] = settings["data_dir"][0]
    flags = [text for name in given for text in (f"--{name.replace('_', '-')}", str(settings[name]))]
    assert_one_clear_line(run_here("train_model.py", *flags, *changes, cwd=tmp_path), *words, code=code)
    if not code:
        finished = max(tmp_path.glob("models/*/metrics.json"), key=lambda path: path.stat().st_mtime).parent
        load_run(finished)
        fold = int(changes[1]) if changes else 0
        assert json.loads((finished / "split.json").read_text())["fold"] == fold
        assert json.loads((finished / "metrics.json").read_text())["fold"] == fold
