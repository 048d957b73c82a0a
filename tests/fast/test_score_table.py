"""The table of per-image scores, on pictures of 3 x 4 pixels: one lesion outlined, one missed, one normal image marked,
one left alone."""

import csv
import itertools
import json
import math

import numpy as np
import pytest
from conftest import REPOSITORY

from segmentation.common.errors import RunError
from segmentation.scoring import score_table
from segmentation.scoring.score_table import find_scores, is_score_table, read_scores, write_scores
from segmentation.scoring.scores import further_scores, score_image

OUTLINED = {"run": "fold0", "name": "benign (1)", "label": "benign", "group": 7, "height": 3, "width": 4}
OUTLINED |= {"tp": 3, "fp": 1, "fn": 2, "dice": 2 / 3, "iou": 0.5, "hd95": 123.456789, "assd": 0.000123456}
OUTLINED |= {"dice_lesion_given": 0.8, "iou_lesion_given": 2 / 3}
MISSED = {**OUTLINED, "name": "malignant (2)", "label": "malignant", "tp": 0, "fp": 0, "fn": 4, "dice": 0.0, "iou": 0.0}
MISSED |= {"hd95": None, "assd": None}
MARKED = {**MISSED, "name": "normal (3)", "label": "normal", "fp": 2, "fn": 0}
MARKED |= {"dice_lesion_given": None, "iou_lesion_given": None}
ALONE = {**MARKED, "name": "normal (4)", "fp": 0, "dice": 1.0, "iou": 1.0, "hd95": 0.0, "assd": 0.0}
SCORES = [OUTLINED, MISSED, MARKED, ALONE]
TABLE = [
    "run,name,label,group,height,width,tp,fp,fn,dice,iou,hd95,assd,dice_lesion_given,iou_lesion_given",
    "fold0,benign (1),benign,7,3,4,3,1,2,0.66667,0.5,123.46,0.00012346,0.8,0.66667",
    "fold0,malignant (2),malignant,7,3,4,0,0,4,0,0,,,0.8,0.66667",
    "fold0,normal (3),normal,7,3,4,0,2,0,0,0,,,,",
    "fold0,normal (4),normal,7,3,4,0,0,0,1,1,0,0,,",
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.csv"


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", newline="")
    return path


def test_the_table_is_the_one_worked_by_hand_and_comes_back(path):
    write_scores(path, SCORES)
    assert path.read_bytes().decode().split("\r\n") == [*TABLE, ""] and is_score_table(path)
    rounded = {"hd95": 123.46, "assd": 0.00012346}  # dice and iou are exact again: they follow from the counts
    lesion = {"dice_lesion_given": 0.8, "iou_lesion_given": 0.66667, "diagonal": 5.0}
    assert read_scores(path) == [
        OUTLINED | rounded | lesion | {"tn": 6, "precision": 0.75, "recall": 0.6},
        MISSED | lesion | {"tn": 8, "precision": None, "recall": 0.0},
        MARKED | {"tn": 10, "precision": 0.0, "recall": None, "diagonal": 5.0},
        ALONE | {"tn": 12, "precision": 1.0, "recall": 1.0, "diagonal": 5.0},
    ]


def test_further_columns_stand_where_there_are_any_and_come_back(path):
    """The lesion score, the folder, and a score and a text that somebody added."""
    write_scores(path, [OUTLINED | {"lesion_score": 0.75, "roundness": 1.25}, MISSED | {"folder": "b", "note": "=1"}])
    header, outlined, missed = path.read_text().splitlines()
    assert header == f"{TABLE[0]},lesion_score,roundness,folder,note"
    assert outlined.endswith(",0.75,1.25,,") and missed.endswith(",,,b,'=1")
    one, other = again = read_scores(path)
    keys = ("lesion_score", "roundness", "folder", "note")
    assert [[row[key] for key in keys] for row in again] == [[0.75, 1.25, None, None], [None, None, "b", "=1"]]
    assert further_scores(again) == ["roundness"]


def test_scores_of_masks_come_back_with_what_is_left_out_of_the_file(path):
    draw = np.random.default_rng(0)
    shares = itertools.product((0, 0.1, 0.5), repeat=2)  # of the picture, of reference and prediction
    masks = [[draw.random((13, 17)) < share for share in both] for both in shares]
    picture = {"name": "1", "label": "lesion", "group": 0, "height": 13, "width": 17, "diagonal": math.hypot(13, 17)}
    scores = [picture | score_image(*both) for both in masks]
    write_scores(path, scores)
    for score, again in zip(scores, read_scores(path), strict=True):
        for key in ("hd95", "assd"):
            score[key] = score[key] and float(f"{score[key]:.5g}")
        assert again == score | {"run": None, "dice_lesion_given": None, "iou_lesion_given": None}


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1"]
NAMES = ["'quoted'", "a=1", "it's", 'a "b", c', "a\r\nb", " padded ", "\u00e4 \u4e73", "0012", "nan"]


def test_no_name_is_a_formula_and_each_comes_back(path):
    write_scores(path, [OUTLINED | {"name": name, "run": name} for name in FORMULAS + NAMES])
    with path.open(newline="", encoding="utf-8") as lines:
        cells = [row[:2] for row in csv.reader(lines)][1:]
    assert all(run == name and name[0] not in "=+-@\t\r\n" for run, name in cells)
    assert [(row["name"], row["run"]) for row in read_scores(path)] == [(n, n) for n in FORMULAS + NAMES]
    # As another program saves it: with a byte-order mark, another way to write a number, and without the apostrophe.
    saved = ["\ufeff" + TABLE[0], TABLE[1].replace("0.00012346", "1.2346E-04").replace("benign (1)", "=1+1")]
    (row,) = read_scores(write_lines(path, saved))
    assert (row["assd"], row["name"]) == (0.00012346, "=1+1")
    write_scores(path, [OUTLINED | {"name": "no text \udcff"}])
    assert read_scores(path)[0]["name"] == "no text \\udcff"


@pytest.mark.parametrize(
    ("line", "old", "new", "words"),
    [
        (1, "tp,fp", "fp,tp", "the columns must begin with run,name,label,group,"),
        (1, ",iou_lesion_given", "", "line 2 has another number of cells"),
        (5, "normal (4)", '"normal (4)', "unexpected end of data"),
        (3, "0.66667", "0.66667,", "line 3 has another number of cells"),
        (3, ",,,0.8", ",,0.8", "line 3 has another number of cells"),
        (2, "),benign", "),Benign", "line 2: \"0.label\" must be 'benign', 'malignant', 'normal' or 'lesion'"),
        (2, ",7,", ",7.5,", 'line 2: "0.group" must be'),
        (2, ",3,4,", ",3,0,", "line 2: "),  # no pixels
        (2, ",3,1,2,", ",9,1,3,", "line 2: "),  # more than there are
        (4, "0,0,,,,", ",0,,,,", 'line 4: "2.dice" must be'),
        (2, "0.66667,0.5", "0.66667,0.51", "line 2: dice and iou do not follow from tp, fp and fn"),
        (2, "123.46", "nan", 'line 2: "0.hd95" must be a finite number'),
        (2, "123.46", "123.46 px", 'line 2: "0.hd95" must be a valid number'),
    ],
)
def test_a_damaged_table_is_refused_in_one_line_that_names_file_and_line(path, line, old, new, words):
    lines = list(TABLE)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    with pytest.raises(RunError) as refused:
        read_scores(write_lines(path, lines))
    message = str(refused.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message


def test_what_is_no_table_is_refused(path, monkeypatch):
    for text in ("", TABLE[0]):
        path.write_text(text)
        with pytest.raises(RunError, match="scores.csv: is not a table of scores"):
            read_scores(path)
    write_lines(path, TABLE)
    monkeypatch.setattr(score_table, "MAX_CSV_BYTES", path.stat().st_size - 1)
    assert not is_score_table(path) and not is_score_table(path.with_name("none.csv"))
    with pytest.raises(RunError, match="scores.csv: larger than"):
        read_scores(path)
    with pytest.raises(RunError, match="none.csv: no such file"):
        read_scores(path.with_name("none.csv"))


@pytest.mark.parametrize("change", [{"dice": math.nan}, {"hd95": math.inf}, {"roundness": -math.inf}])
def test_a_score_that_is_no_number_is_not_written(path, change):
    write_lines(path, ["the earlier file"])
    with pytest.raises(ValueError, match="score is (nan|-?inf)"):
        write_scores(path, [OUTLINED, OUTLINED | change])
    assert path.read_text() == "the earlier file\n" and list(path.parent.iterdir()) == [path]


def test_scores_are_found_wherever_they_were_left(tmp_path):
    def dice(path):
        return [score["dice"] for score in find_scores(path)]

    run = tmp_path / "run.csv"
    run.mkdir()
    for missing in (run, tmp_path / "none"):
        with pytest.raises(RunError, match=f"{missing.name}/metrics\\.json: no such file"):
            find_scores(missing)
    (run / "metrics.json").write_text(json.dumps({"images": [{"dice": 0.1}]}))
    assert dice(run) == dice(run / "metrics.json") == [0.1]
    write_scores(run / "cross_validation.csv", SCORES)
    assert dice(run) == dice(run / "cross_validation.csv") == [2 / 3, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("content", [{"runs": {}}, {"images": 3}, {"images": [3]}])
def test_a_file_without_scores_says_where_they_are(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"result.json: holds no per-image scores\.$"):
        find_scores(path)
    write_lines(tmp_path / "result.csv", TABLE)
    with pytest.raises(RunError, match="They are in .*result.csv.$"):
        find_scores(path)


def test_the_results_that_come_with_the_repository_belong_together():
    tables = sorted((REPOSITORY / "results").glob("*.csv"))
    assert tables and sum(path.stat().st_size for path in tables) < 3_000_000
    for path in tables:
        made = json.loads(path.with_suffix(".json").read_text())
        assert made["scores"] == path.name and "images" not in made
        lesions = {}  # Dice of each run
        for score in read_scores(path):
            if score["label"] != "normal":
                lesions.setdefault(score["run"], []).append(score["dice"])
        rows = made["runs"] if isinstance(made["runs"], dict) else {"": made["summary"]}
        assert {run or None for run in rows} == set(lesions)
        for run, row in rows.items():
            assert float(f"{np.mean(lesions[run or None]):.5g}") == row["dice"], (path.name, run)
