import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from segmentation.common.errors import RunError
from segmentation.scoring import score_table
from segmentation.scoring.score_table import find_scores, read_scores, write_scores
from segmentation.scoring.scores import score_image

RESULTS = Path(__file__).parent.parent / "results"

# Worked by hand, on pictures of 3 x 4 pixels: a lesion outlined, one missed, a normal image marked, one left alone.
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


def write_lines(path, lines):
    path.write_text("\n".join(lines) + "\n", newline="")
    return path


def test_the_table_is_the_one_worked_by_hand(tmp_path):
    write_scores(tmp_path / "scores.csv", SCORES)
    assert (tmp_path / "scores.csv").read_bytes().decode().split("\r\n") == [*TABLE, ""]


def test_lesion_scores_have_a_column_where_there_are_any(tmp_path):
    write_scores(tmp_path / "scores.csv", [OUTLINED | {"lesion_score": 0.75}, MISSED | {"folder": "b"}])
    header, outlined, missed = (tmp_path / "scores.csv").read_text().splitlines()
    assert header == f"{TABLE[0]},lesion_score,folder" and outlined.endswith(",0.75,") and missed.endswith(",,b")
    one, other = read_scores(tmp_path / "scores.csv")
    assert (one["lesion_score"], one["folder"]) == (0.75, "") and (other["lesion_score"], other["folder"]) == (
        None,
        "b",
    )


def test_the_scores_come_back(tmp_path):
    write_scores(tmp_path / "scores.csv", SCORES)
    rounded = {"hd95": 123.46, "assd": 0.00012346}  # dice and iou are exact again: they follow from the counts
    lesion = {"dice_lesion_given": 0.8, "iou_lesion_given": 0.66667, "diagonal": 5.0}
    assert read_scores(tmp_path / "scores.csv") == [
        OUTLINED | rounded | lesion | {"tn": 6, "precision": 0.75, "recall": 0.6},
        MISSED | lesion | {"tn": 8, "precision": None, "recall": 0.0},
        MARKED | {"tn": 10, "precision": 0.0, "recall": None, "diagonal": 5.0},
        ALONE | {"tn": 12, "precision": 1.0, "recall": 1.0, "diagonal": 5.0},
    ]


def test_scores_of_masks_come_back_with_what_is_left_out_of_the_file(tmp_path):
    draw = np.random.default_rng(0)
    shares = itertools.product((0, 0.1, 0.5), repeat=2)  # of the picture, of reference and prediction
    masks = [[draw.random((13, 17)) < share for share in both] for both in shares]
    picture = {"name": "1", "label": "lesion", "group": 0, "height": 13, "width": 17, "diagonal": math.hypot(13, 17)}
    scores = [picture | score_image(*both) for both in masks]
    write_scores(tmp_path / "scores.csv", scores)
    for score, again in zip(scores, read_scores(tmp_path / "scores.csv"), strict=True):
        for key in ("hd95", "assd"):
            score[key] = score[key] and float(f"{score[key]:.5g}")
        assert again == score | {"run": "", "dice_lesion_given": None, "iou_lesion_given": None}


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1"]
NAMES = ["'quoted'", "a=1", "it's", 'a "b", c', "a\r\nb", " padded ", "\u00e4 \u4e73", "no text \udcff", "0012", "nan"]


@pytest.mark.parametrize("name", FORMULAS + NAMES)
def test_a_name_is_no_formula_and_comes_back(tmp_path, name):
    path = tmp_path / "scores.csv"
    write_scores(path, [OUTLINED | {"name": name, "run": name}])
    with path.open(newline="", errors="surrogateescape") as lines:
        cells = list(csv.reader(lines))[1]
    assert cells[0] == cells[1] and cells[1][0] not in "=+-@\t\r\n"
    assert [(score["name"], score["run"]) for score in read_scores(path)] == [(name, name)]


def test_a_name_that_another_program_wrote_without_the_apostrophe_stays_whole(tmp_path):
    path = write_lines(tmp_path / "scores.csv", [TABLE[0], TABLE[1].replace("benign (1)", "=1+1")])
    assert read_scores(path)[0]["name"] == "=1+1"


def test_a_lesion_may_fill_the_picture(tmp_path):
    path = write_lines(tmp_path / "scores.csv", [TABLE[0], TABLE[1].replace(",3,1,2,0.66667,0.5", ",12,0,0,1,1")])
    assert read_scores(path)[0]["tn"] == 0


def test_a_file_that_a_spreadsheet_saved_again_is_read(tmp_path):
    lines = ["\ufeff" + TABLE[0], *TABLE[1:]]
    lines[1] = lines[1].replace("0.00012346", "1.2346E-04")
    assert read_scores(write_lines(tmp_path / "scores.csv", lines))[0]["assd"] == 0.00012346


@pytest.mark.parametrize(
    ("line", "old", "new", "words"),
    [
        (1, "tp,fp", "fp,tp", "the columns must be run,name,label,group,"),
        (1, ",iou_lesion_given", "", "the columns must be run,name,label,group,"),
        (3, ",,,0.8", ",,0.8", "14 cells in place of 15"),
        (3, "0.66667", "0.66667,", "16 cells in place of 15"),
        (4, TABLE[3], "", "0 cells in place of 15"),
        (2, "benign (1)", '"benign" (1)', "expected after"),
        (5, "normal (4)", '"normal (4)', "unexpected end of data"),
        (2, "benign (1)", "", "name is empty"),
        (2, "),benign", "),", "label is empty"),
        (2, "),benign", "),Benign", "label must be one of benign, malignant, normal, lesion, got 'Benign'"),
        (2, ",7,", ",,", "group is empty"),
        (2, ",7,", ",7.0,", "group must be a whole number, 0 or more, got '7.0'"),
        (2, ",7,", ",-7,", "group must be a whole number, 0 or more, got '-7'"),
        (2, ",7,", ",1_0,", "group must be a whole number"),
        (2, ",7,", ",\u0667,", "group must be a whole number"),
        (2, ",7,", f",{10**16},", "group must be a whole number"),
        (2, ",3,1,2,", ",3, 1,2,", "fp must be a whole number"),
        (2, ",3,4,", ",3,0,", "more pixels than 3 x 0"),
        (5, ",3,4,", ",0,4,", "or there are none"),
        (2, ",3,1,2,", ",9,1,3,", "more pixels than 3 x 4"),
        (4, "0,0,,,,", ",0,,,,", "dice is empty"),
        (2, "0.66667,0.5", "0.66,0.5", "dice does not follow from tp, fp and fn, got 0.66 in place of 0.66667"),
        (2, "0.66667,0.5", "0.66667,0.51", "iou does not follow from tp, fp and fn"),
        (2, "123.46", "nan", "hd95 must be a finite number, 0 or more, got 'nan'"),
        (2, "123.46", "inf", "hd95 must be a finite number"),
        (2, "123.46", "1e999", "hd95 must be a finite number"),
        (2, "123.46", "-1", "hd95 must be a finite number"),
        (2, "123.46", "1_0", "hd95 must be a finite number"),
        (2, "123.46", "123.46 px", "hd95 must be a finite number, 0 or more, got '123.46 px'"),
        (2, "123.46", "9" * 1000, f"hd95 must be a finite number, 0 or more, got '{'9' * 40}'."),
        (2, ",0.8,", ",none,", "dice_lesion_given must be a finite number"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line_that_names_file_and_line(tmp_path, line, old, new, words):
    lines = list(TABLE)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path = write_lines(tmp_path / "scores.csv", lines)
    with pytest.raises(RunError) as refused:
        read_scores(path)
    message = str(refused.value)
    assert message.startswith(f"{path}, line {line}: ") and words in message and "\n" not in message


@pytest.mark.parametrize(("text", "words"), [("", "the columns must be"), (TABLE[0], "no scores follow")])
def test_a_table_without_scores_is_refused(tmp_path, text, words):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(RunError, match=f"scores.csv, line 1: {words}"):
        read_scores(path)


def test_a_file_too_large_or_missing_is_refused(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "scores.csv", TABLE)
    monkeypatch.setattr(score_table, "MAX_CSV_BYTES", path.stat().st_size)
    assert len(read_scores(path)) == 4
    monkeypatch.setattr(score_table, "MAX_CSV_BYTES", path.stat().st_size - 1)
    with pytest.raises(RunError, match="scores.csv: larger than"):
        read_scores(path)
    with pytest.raises(RunError, match="none.csv: cannot be read"):
        read_scores(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dice": math.nan}, ValueError),
        ({"hd95": math.inf}, ValueError),
        ({"dice": None}, TypeError),
        ({"tp": 3.5}, ValueError),
        ({"name": None}, TypeError),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path, change, error):
    path = write_lines(tmp_path / "scores.csv", ["the earlier file"])
    with pytest.raises(error):
        write_scores(path, [OUTLINED, OUTLINED | change])
    with pytest.raises(KeyError):
        write_scores(path, [{key: value for key, value in OUTLINED.items() if key != "fn"}])
    assert path.read_text() == "the earlier file\n" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "scores.csv", ["the earlier file"])

    def half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="scores.csv"):
        write_scores(path, SCORES)
    assert path.read_text() == "the earlier file\n" and list(tmp_path.iterdir()) == [path]


def test_scores_are_found_wherever_they_were_left(tmp_path):
    def dice(path):
        return [score["dice"] for score in find_scores(path)]

    run = tmp_path / "run.csv"
    run.mkdir()
    with pytest.raises(RunError, match=r"run\.csv/metrics\.json: no such file"):
        find_scores(run)
    (run / "metrics.json").write_text(json.dumps({"images": [{"dice": 0.1}]}))
    assert dice(run) == dice(run / "metrics.json") == [0.1]
    (run / "cross_validation.json").write_text(json.dumps({"images": [{"dice": 0.2}]}))  # an earlier version's
    assert dice(run) == [0.2]
    write_scores(run / "cross_validation.csv", SCORES)
    assert dice(run) == dice(run / "cross_validation.csv") == [2 / 3, 0.0, 0.0, 1.0]
    with pytest.raises(RunError, match=r"none/metrics\.json: no such file"):
        find_scores(tmp_path / "none")


def test_keys_of_earlier_versions_are_renamed(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"images": [{"dice": 0.1, "dice_known": 0.2, "iou_known": None}]}))
    assert find_scores(path) == [{"dice": 0.1, "dice_lesion_given": 0.2, "iou_lesion_given": None}]


@pytest.mark.parametrize("content", [{"commands": []}, {"images": 3}, {"images": [3]}])
def test_a_file_without_scores_says_where_they_are(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match="result.json: holds no scores of images.$"):
        find_scores(path)
    write_lines(tmp_path / "result.csv", TABLE)
    with pytest.raises(RunError, match="They are in .*result.csv.$"):
        find_scores(path)


def test_the_results_that_come_with_the_repository_belong_together():
    tables = sorted(RESULTS.glob("*.csv"))
    assert tables and sum(path.stat().st_size for path in tables) < 3_000_000
    for path in tables:
        made = json.loads(path.with_suffix(".json").read_text())
        assert made["scores"] == path.name and "images" not in made
        assert all(command.startswith("python ") and "FOLDER" in command for command in made["commands"])
        lesions = {}  # Dice of each run
        for score in read_scores(path):
            if score["label"] != "normal":
                lesions.setdefault(score["run"], []).append(score["dice"])
        rows = made["runs"] if isinstance(made["runs"], dict) else {"": made["summary"]}
        assert set(rows) == set(lesions)
        for run, row in rows.items():
            assert float(f"{np.mean(lesions[run]):.5g}") == row["dice"], (path.name, run)
