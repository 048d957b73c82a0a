"""The command line of train_model.py: presets, help, and what is refused before anything is read."""

import pytest
import tyro
from conftest import REPOSITORY, assert_one_clear_line, run_here

import train_model
from dataset import DataError
from segmentation.data.splits import Division
from train_model import PRESETS, TrainingConfig


def flat(text: str) -> str:
    """What tyro prints in a box of several lines, in one."""
    return " ".join(text.replace("│", " ").split())


def test_presets_and_the_flags_that_follow(monkeypatch):
    def parsed(*arguments):
        monkeypatch.setattr("sys.argv", ["train_model.py", *arguments])
        return train_model.parse_command_line()

    own = dict(encoder="none", start_from="random", base_filters=16, lesion_score=0, scanners=0)
    own |= dict(image_size=128, learning_rate=1e-3)
    assert parsed() == parsed("default") == TrainingConfig()
    assert parsed("paper") == PRESETS["paper"] == TrainingConfig(**own, epochs=40)
    assert parsed("paper", "--epochs", "5", "--seed", "2") == TrainingConfig(**own, epochs=5, seed=2)
    assert parsed("--run", "paper") == TrainingConfig(run="paper")  # the first word alone is a preset
    starts = [parsed("--start-from", start).start_from for start in ("bus-bra", "imagenet", "random", "models/a")]
    assert list(map(str, starts)) == ["bus-bra", "imagenet", "random", "models/a"]
    division = parsed("--split", "grouped-cv", "--fold", "3", "--split-seed", "7", "--normals", "none").division
    assert division == Division("grouped-cv", 3, "none", "validation", 7)


@pytest.mark.parametrize(("preset", "side"), [([], 224), (["paper"], 128)])
def test_the_reason_of_every_setting_is_in_the_help(tmp_path, monkeypatch, preset, side):
    monkeypatch.setenv("COLUMNS", "200")
    result = run_here("train_model.py", *preset, "--help", cwd=tmp_path)
    shown, source = flat(result.stdout), (REPOSITORY / "train_model.py").read_text()
    source = source[source.index("class TrainingConfig") : source.index("model_validator(mode")]
    reasons = [line.split("  # ")[1] for line in source.splitlines() if "  # " in line and ": " in line.split("#")[0]]
    assert len(reasons) >= 25 and all(flat(reason) in shown for reason in reasons)
    assert "python train_model.py paper" in shown and f"(default: {side})" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--encoder", "none", "--base-filters", "64", "--depth", "6"], "4096 channels; 2048 are allowed"),
        (["--base-filters", "128"], "4096 channels; 2048 are allowed"),
        (["--image-size", "250"], "--image-size must be a multiple of 32"),
        (["--encoder", "none", "--depth", "3", "--image-size", "8"], "a multiple of 8 (2**depth) from 16 on"),
        (["--seed", "4294967296"], "--seed must be at most 4294967295, got 4294967296"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number, got nan"),
        (["--ema", "1"], "--ema must be at most 0.9999, got 1"),
        (["--run", "../x"], "--run is the name of a folder in models/, got '../x'"),
        (["--finish"], "--finish scores a stopped run"),
    ],
)
def test_a_bad_flag_is_named(flags, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        tyro.cli(TrainingConfig, args=["--start-from", "random", *flags])
    assert words in flat(capsys.readouterr().err)


def test_bad_flags_are_one_clear_line_and_change_nothing(tmp_path):
    for flags in (
        ["--epoch-count", "3"],
        ["papper"],
        ["models/attention_unet", "--epochs", "1"],
        ["--encoder", "none"],
    ):
        result = run_here("train_model.py", *flags, cwd=tmp_path)
        assert_one_clear_line(result, "--start-from random" if "none" in flags else flags[0], code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("split", ["nowhere", "p1-9", "nowhere.csv"])
def test_an_unknown_split_is_refused_at_once(tmp_path, split):
    with pytest.raises(DataError, match=f"--split {split}: no such split; there are grouped, .*, curated-0, .*p1-1"):
        TrainingConfig(split=split)
    assert_one_clear_line(run_here("train_model.py", "--split", split, cwd=tmp_path), f"--split {split}: no such split")
    assert not list(tmp_path.iterdir())
