"""Which run visualize_results.py and demo.py use where none is named, and settings that do not work together."""

import os

import pytest
from conftest import REPOSITORY

from segmentation.common.errors import RunError
from segmentation.runs import finished
from visualize_results import VisualizationConfig


def test_the_newest_run_or_the_shipped_network(tmp_path, monkeypatch, capsys):
    for name in ("old", "new", finished.SHIPPED.name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").touch()
    os.utime(tmp_path / "old" / "metrics.json", (0, 0))
    assert finished.newest_run(tmp_path).name == "new"
    assert finished.newest_run(tmp_path / "none") == REPOSITORY / "models" / "attention_unet_hospitals"
    assert "using the network that comes with the repository" in capsys.readouterr().out
    monkeypatch.setattr(finished, "SHIPPED", tmp_path / "nothing")
    with pytest.raises(RunError, match="First: python train_model"):
        finished.newest_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"engine": "onnx"}, "--engine onnx is for --images"),
        ({"spacing": 0.1}, "--spacing and --output are for --images"),
        ({"output": "mine"}, "--spacing and --output are for --images"),
        ({"images": ("x.png",), "data_dir": ("d",)}, "--data-dir is for the report"),
        ({"threshold": 0.5, "lesion_given": True}, "leave --threshold and --min-score out"),
        ({"min_score": 0.5, "lesion_given": True}, "leave --threshold and --min-score out"),
    ],
)
def test_settings_that_cannot_work_together_are_refused(flags, problem):
    with pytest.raises(ValueError, match=problem):
        VisualizationConfig(**flags)
