"""What the files of a run may hold: what is needed is checked by name, and what somebody added is kept."""

import json
import shutil

import pytest
from conftest import REPOSITORY

from segmentation.common.errors import RunError
from segmentation.runs.finished import check_finished, check_min_score, open_decision
from segmentation.runs.schemas import read_config, read_history, read_metrics, read_split
from segmentation.scoring.decision import Decision
from segmentation.scoring.scores import further_scores, summarise

SHIPPED = REPOSITORY / "models" / "attention_unet_hospitals"
READERS = {"config.json": read_config, "split.json": read_split}
READERS["metrics.json"] = lambda run: read_metrics(run / "metrics.json")


@pytest.fixture
def run(tmp_path):
    """A copy of the repository's run, but for its network."""
    return shutil.copytree(SHIPPED, tmp_path / "run", ignore=shutil.ignore_patterns("*.keras"))


def change(run, name, values):
    content = json.loads((run / name).read_text())
    for key, value in values.items():
        *before, last = key.split(".")
        inside = content
        for part in before:
            inside = inside[int(part) if part.isdigit() else part]
        inside[last] = value
    (run / name).write_text(json.dumps(content))


WRONG = [
    ("config.json", {"network.activation": "lambda x: x"}, '"network.activation" is not known here'),
    ("config.json", {"network.base_filters": "16"}, "\"network.base_filters\" must be a valid integer, got '16'"),
    ("config.json", {"network.input_shape": [32, 32, 3]}, '"network.input_shape.2" must be 1, got 3'),
    ("config.json", {"network": {}}, '"network.input_shape" is missing'),
    ("config.json", {"config.epochs": 10**400}, '"config.epochs" must be a short text, a finite number'),
    ("config.json", {"root": 5}, '"root" is not a valid path'),
    ("split.json", {"images": {"a": {}}}, '"images.a.part" is missing'),
    ("split.json", {"images": {}}, "has no image in the part 'test'"),
    ("split.json", {"added": 1}, "belongs to another config.json"),
    ("metrics.json", {"images": []}, "no scored image with a lesion"),
    ("metrics.json", {"images.7.dice": 1.5}, '"images.7.dice" must be at most 1'),
    ("metrics.json", {"images.7.hd95": float("inf")}, "Infinity is not a finite number"),
    ("metrics.json", {"images.7.width": 0}, "tp, fp, fn and tn are"),
    ("metrics.json", {"images.7.roundness": [[1]]}, '"images.7.roundness" must be a short text'),
]


@pytest.mark.parametrize(("name", "values", "words"), WRONG)
def test_a_wrong_value_is_refused_by_its_name(run, name, values, words):
    change(run, name, values)
    with pytest.raises(RunError) as refused:
        READERS[name](run)
    message = str(refused.value)
    assert message.startswith(str(run / name)) and words in message and "\n" not in message


def test_what_somebody_added_is_kept(run):
    few = [score for score in read_metrics(run / "metrics.json")["images"] if score["label"] != "normal"][:3]
    change(run, "config.json", {"added": "x", "config.own_setting": 3})
    few[0], few[1] = few[0] | {"roundness": 0.5}, few[1] | {"roundness": None}
    change(run, "metrics.json", {"images": few, "added": 4, "summary": {"lesions": {"dice": 0.99}}})
    config, metrics = read_config(run), read_metrics(run / "metrics.json")
    assert (config["added"], config["config"]["own_setting"], metrics["added"]) == ("x", 3, 4)
    assert [score.get("roundness", "none") for score in metrics["images"]] == [0.5, None, "none"]
    assert further_scores(metrics["images"]) == ["roundness"]
    lesions = summarise(metrics["images"])["lesions"]  # made anew from the images: the file's own is not believed
    assert lesions["roundness"] == 0.5 and lesions["dice"] == pytest.approx(sum(s["dice"] for s in few) / 3)
    change(run, "metrics.json", {"images": [few[0], few[0]]})
    with pytest.raises(RunError, match="two images with the same name"):
        read_metrics(run / "metrics.json")


def test_a_history_and_its_further_columns(tmp_path):
    path = tmp_path / "history.csv"
    assert read_history(path) == []
    path.write_text("epoch,learning_rate,loss,my_metric,val_my_metric\n0,0.1,2,0.5,-1e3\n1,0.1,1,0.75,0\n")
    first = {"epoch": 0, "learning_rate": 0.1, "loss": 2, "my_metric": 0.5, "val_my_metric": -1000}
    assert read_history(path) == [first, first | {"epoch": 1, "loss": 1, "my_metric": 0.75, "val_my_metric": 0}]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("0,1,1,nan", '"0.dice" must be a finite number'),
        ("0,1,1", '"0.dice" must be a valid number, got None'),
        ("0,1,1,1,1", "a column without a name"),
        ("0,1,1,1\n7,1,1,1", "row 2 is of epoch 7"),
    ],
)
def test_a_damaged_history(tmp_path, rows, words):
    (tmp_path / "history.csv").write_text(f"epoch,learning_rate,loss,dice\n{rows}\n")
    with pytest.raises(RunError, match=words):
        read_history(tmp_path / "history.csv")


def test_what_may_be_used_of_a_run(run, capsys):
    with pytest.raises(RunError, match=r"best\.keras: no such file. Only a finished run"):
        check_finished(run)
    (run / "best.keras").touch()
    check_finished(run, "decision.json")
    assert open_decision(run) != Decision() and not capsys.readouterr().out
    (run / "metrics.json").unlink()
    assert open_decision(run) == Decision() and "is not finished" in capsys.readouterr().out
    (run / "best.keras").unlink()
    with pytest.raises(RunError, match=r"best\.keras: no such file. A run can be used"):
        open_decision(run)
    stored = read_config(run)
    check_min_score(run, stored, 0.5)
    stored["network"]["lesion_score"] = False
    check_min_score(run, stored, None)
    with pytest.raises(RunError, match="has no lesion score"):
        check_min_score(run, stored, 0.5)
